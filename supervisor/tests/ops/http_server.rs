use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::{MENAGERIE, PATIENCE, Program, Response, docs, exchange, until};

/// A handler, and how it is changed.
struct Handler {
    name: &'static str,
    loader: &'static str,
    /// What it answers to `/NAME/Ada`, in part, before the change and after.
    answers: [&'static str; 2],
    source: &'static str,
    /// What is replaced in the source by what.
    change: [&'static str; 2],
}

const HANDLERS: [Handler; 5] = [
    Handler {
        name: "hello-lua",
        loader: "lua",
        answers: ["Hello, Ada", "Good day, Ada"],
        source: "main.lua",
        change: ["Hello", "Good day"],
    },
    Handler {
        name: "time-py",
        loader: "python",
        answers: ["Ada: it is ", "Ada: the clock says "],
        source: "main.py",
        change: ["it is", "the clock says"],
    },
    Handler {
        name: "count-js",
        loader: "js",
        answers: ["Ada: request 1", "Ada: number 2"],
        source: "main.js",
        change: ["request", "number"],
    },
    Handler {
        name: "upper-c",
        loader: "native",
        answers: ["ADA!", "ADA?"],
        source: "upper.c",
        change: ["'!'", "'?'"],
    },
    Handler {
        name: "runtime-dotnet",
        loader: "dotnet",
        answers: ["Ada: served by .NET", "Ada: at your service, .NET"],
        source: "Handler.cs",
        change: ["served by", "at your service,"],
    },
];

impl Handler {
    /// Compiles what has to be, into another file that takes the library's place
    /// in one step: as `scripts/build-native-bundles` and `setup-dotnet` do.
    fn compile(&self, folder: &Path) {
        let root = docs().parent().unwrap().to_owned();
        let program = Path::new(MENAGERIE);
        let (library, mut command) = match self.loader {
            "native" => {
                let mut command = Command::new("cc");
                command.args(["-std=c99", "-shared", "-fPIC", "-o", "new", "upper.c", "-I"]);
                command.arg(root.join("worker-native/guest/include"));
                ("libupper_c.so", command)
            }
            "dotnet" => {
                let guest = program.parent().unwrap().parent().unwrap();
                let guest = guest.join("dotnet/Menagerie.Guest.dll");
                let mut command = Command::new("mcs");
                command.args(["-target:library", "-out:staging/handler.dll", "Handler.cs"]);
                command.arg(format!("-r:{}", guest.display()));
                ("handler.dll", command)
            }
            _ => return,
        };
        let folder = folder.join(self.name);
        let staging = folder.join("staging");
        std::fs::create_dir_all(&staging).unwrap();
        let output = command.current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", self.name);
        let made = match self.loader {
            "native" => folder.join("new"),
            _ => staging.join(library),
        };
        std::fs::rename(made, folder.join(library)).unwrap();
        std::fs::remove_dir_all(staging).unwrap();
    }

    fn edit(&self, folder: &Path) {
        let file = folder.join(self.name).join(self.source);
        let code = std::fs::read_to_string(&file).unwrap();
        assert!(code.contains(self.change[0]), "{code}");
        std::fs::write(&file, code.replace(self.change[0], self.change[1])).unwrap();
        self.compile(folder);
    }
}

/// The example's handlers, where they may be changed.
fn copy_of_the_handlers(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/handlers");
    for handler in &HANDLERS {
        let folder = to.join(handler.name);
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["manifest.toml", handler.source] {
            std::fs::copy(from.join(handler.name).join(file), folder.join(file)).unwrap();
        }
        handler.compile(to);
    }
    assert_eq!(std::fs::read_dir(from).unwrap().count(), HANDLERS.len());
}

struct Server {
    program: Program,
    address: String,
    socket: PathBuf,
}

impl Server {
    fn start(dir: &Path, handlers: &Path) -> Self {
        let example = Path::new(MENAGERIE).parent().unwrap().join("examples/http_server");
        assert!(
            example.exists(),
            "build it: cargo build --package menagerie-supervisor --examples"
        );
        let socket = dir.join("s.sock");
        let mut program = Program::start(
            Command::new(example)
                .args(["--listen", "127.0.0.1:0", "--socket"])
                .arg(&socket)
                .arg("--handlers")
                .arg(handlers),
        );
        let line = program.wait_for("http://");
        let address = line.trim_start_matches("http://").trim_end_matches('/').to_owned();
        for handler in &HANDLERS {
            let there = format!("{} is there, in {}", handler.name, handler.loader);
            assert!(program.said.contains(&there), "{}", program.said);
        }
        Self { program, address, socket }
    }

    fn get(&self, path: &str) -> Response {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, "GET", path, &[], b"")
    }

    /// Whether a handler answers so.
    fn answers(&self, handler: &Handler, told: &str) -> bool {
        let response = self.get(&format!("/{}/Ada", handler.name));
        response.status == 200 && response.body.contains(told)
    }

    fn pid(&self, loader: &str) -> Option<i32> {
        let output = Command::new(MENAGERIE)
            .args(["workers", "--json", "--socket"])
            .arg(&self.socket)
            .output();
        let workers: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        let worker =
            workers.as_array().unwrap().iter().find(|worker| worker["loader"] == loader)?;
        i32::try_from(worker["pid"].as_i64()?).ok()
    }
}

/// Five handlers answer; each is changed while it serves; each one's worker is
/// killed, and it answers again.
#[test]
fn g_handlers_in_five_languages_are_changed_and_killed_while_they_serve() {
    let dir = tempfile::tempdir().unwrap();
    let handlers = dir.path().join("handlers");
    copy_of_the_handlers(&handlers);
    let server = Server::start(dir.path(), &handlers);
    for handler in &HANDLERS {
        let response = server.get(&format!("/{}/Ada", handler.name));
        assert_eq!(response.status, 200, "{}: {response:?}", handler.name);
        assert!(response.body.contains(handler.answers[0]), "{}: {response:?}", handler.name);
    }
    assert_eq!(server.get("/nobody/Ada").status, 404);
    for handler in &HANDLERS {
        handler.edit(&handlers);
    }
    for handler in &HANDLERS {
        // The count goes on after the change: each question is one more.
        let told = match handler.loader {
            "js" => "Ada: number ",
            _ => handler.answers[1],
        };
        until(|| server.answers(handler, told));
    }
    let response = server.get("/count-js/Ada");
    let count: u32 = response.body.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count >= 3, "the count was lost at the change: {response:?}");
    for handler in &HANDLERS {
        let pid = server.pid(handler.loader).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        let told = handler.answers[1].trim_end_matches('2');
        until(|| server.answers(handler, told));
        until(|| server.pid(handler.loader).is_some_and(|now| now != pid));
    }
}

#[test]
fn g_a_change_that_does_not_load_leaves_the_old_handler_serving() {
    let dir = tempfile::tempdir().unwrap();
    let handlers = dir.path().join("handlers");
    copy_of_the_handlers(&handlers);
    let mut server = Server::start(dir.path(), &handlers);
    std::fs::write(handlers.join("time-py/main.py"), "def get(:\n").unwrap();
    let told = server.program.wait_for("time-py");
    assert!(told.contains("reload"), "{told}");
    assert!(server.answers(&HANDLERS[1], HANDLERS[1].answers[0]));
}
