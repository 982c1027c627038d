use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const MENAGERIE: &str = env!("CARGO_BIN_EXE_menagerie");

/// For everything that does not come at once. Machines are slow, and may stand
/// still for a minute.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles").join(name)
}

pub(crate) fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// A program whose output is read as it comes; ended with the test.
pub(crate) struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// What it has written by now, on both outputs.
    pub(crate) said: String,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = mpsc::channel();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        for output in [Box::new(stdout) as Box<dyn Read + Send>, Box::new(stderr)] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    drop(sender.send(line));
                }
            });
        }
        Self { child, lines, said: String::new() }
    }

    /// The next line that contains `what`; those before it are passed over. Lines
    /// of one output come in their order, those of two in any.
    pub(crate) fn wait_for(&mut self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|e| panic!("{what:?} never came ({e}): {}", self.said));
            self.said.push_str(&line);
            self.said.push('\n');
            if line.contains(what) {
                return line;
            }
        }
    }

    /// How many times it has written that by now.
    pub(crate) fn times(&mut self, what: &str) -> usize {
        for line in self.lines.try_iter() {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        self.said.matches(what).count()
    }

    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `menagerie run`, ended with the test.
pub(crate) struct Running {
    pub(crate) program: Program,
    pub(crate) dir: tempfile::TempDir,
    /// What it wrote before it was ready.
    pub(crate) said: String,
}

impl Running {
    /// With further settings.
    pub(crate) fn start(settings: &str) -> Self {
        Self::with(tempfile::tempdir().unwrap(), settings)
    }

    pub(crate) fn with(dir: tempfile::TempDir, settings: &str) -> Self {
        let file = dir.path().join("menagerie.toml");
        let bundles = [sample("greeter-lua"), sample("probe-lua")];
        let status = if settings.contains("[status]") { "" } else { "[status]" };
        let text = format!("bundles = {bundles:?}\nlog = \"warn\"\n{settings}\n{status}\n");
        std::fs::write(&file, text).unwrap();
        let (program, said) = Self::run(dir.path());
        Self { program, dir, said }
    }

    /// Starts it, and waits until it is ready.
    fn run(dir: &Path) -> (Program, String) {
        let mut program = Program::start(
            Command::new(MENAGERIE)
                .args(["run", "--config"])
                .arg(dir.join("menagerie.toml"))
                .arg("--socket")
                .arg(dir.join("s.sock"))
                .env_remove("RUST_LOG"),
        );
        program.wait_for("ready at");
        let said = program.said.clone();
        assert!(said.contains("2 of 2 bundles loaded"), "{said}");
        (program, said)
    }

    /// Kills it, so that it cannot say farewell.
    pub(crate) fn kill(&mut self) {
        self.program.kill();
    }

    /// Another one at the same socket.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        (self.program, self.said) = Self::run(self.dir.path());
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    pub(crate) fn menagerie(&self, args: &[&str]) -> Output {
        Command::new(MENAGERIE).args(args).arg("--socket").arg(self.socket()).output().unwrap()
    }

    /// What a command writes, if it succeeds.
    pub(crate) fn text(&self, args: &[&str]) -> String {
        let output = self.menagerie(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that goes on.
    pub(crate) fn following(&self, args: &[&str]) -> Program {
        Program::start(Command::new(MENAGERIE).args(args).arg("--socket").arg(self.socket()))
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.text(args)).unwrap()
    }

    /// One JSON value in each line.
    pub(crate) fn lines(&self, args: &[&str]) -> Vec<Value> {
        self.text(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        exchange(self.connect(), "GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Response {
        exchange(self.connect(), "POST", path, &[], body.as_bytes())
    }

    pub(crate) fn kill_worker(&self) {
        use nix::sys::signal::{Signal, kill};
        let pid = self.json(&["workers", "--json"])[0]["pid"].as_i64().unwrap();
        kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
        until(|| self.json(&["workers", "--json"])[0]["pid"].as_i64().is_some_and(|p| p != pid));
    }
}

/// Waits for a condition.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) trait Stream: Read + Write {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

/// Sends a request and reads the answer to its end.
pub(crate) fn exchange(
    mut stream: impl Stream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    // Who refuses a body need not read it: then writing fails, and reading not.
    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
    read_response(stream)
}

pub(crate) fn read_response(mut stream: impl Read) -> Response {
    let mut bytes = Vec::new();
    // A connection that is closed with a body unread is reset after the answer.
    drop(stream.read_to_end(&mut bytes));
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Response { status, head: head.to_lowercase(), body }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}
