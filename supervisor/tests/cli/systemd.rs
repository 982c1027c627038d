//! What it says as a service of systemd's, and the sample unit.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::running::{MENAGERIE, Running, bundles, ended, stdout};

/// The sample unit starts what there is, and gives it the time that it takes.
#[test]
fn g_the_sample_unit_fits_the_program() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/menagerie.service");
    let unit = std::fs::read_to_string(unit).unwrap().replace("\\\n", " ");
    let setting = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in:\n{unit}")).to_owned()
    };
    assert_eq!(setting("Type"), "notify");
    assert_eq!(setting("KillSignal"), "SIGTERM");
    assert_eq!(setting("ExecReload"), "/bin/kill -HUP $MAINPID");
    assert!(setting("WatchdogSec").parse::<u64>().unwrap() > 0);
    // It may write where the documents put the store of keys, and nowhere else.
    assert_eq!(
        (setting("ProtectSystem"), setting("StateDirectory")),
        ("strict".into(), "menagerie".into())
    );
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for file in ["menagerie.toml", "operating.md"] {
        let text = std::fs::read_to_string(docs.join(file)).unwrap();
        let store = text.lines().find(|line| line.contains("trust_store =")).unwrap();
        assert!(store.contains("\"/var/lib/menagerie/"), "{file}: {store}");
    }
    let config = menagerie_supervisor::Config::default();
    let stop = config.drain + config.term_timeout * 2;
    assert!(setting("TimeoutStopSec").parse::<u64>().unwrap() > stop.as_secs());
    let help = Command::new(MENAGERIE).args(["run", "--help"]).output().unwrap();
    let (help, start) = (stdout(&help), setting("ExecStart"));
    assert!(start.starts_with("/usr/local/bin/menagerie run "), "{start}");
    let options: Vec<&str> = start.split_whitespace().filter(|w| w.starts_with("--")).collect();
    assert!(options.len() > 2, "{options:?}");
    for option in options {
        assert!(help.contains(&format!("{option} ")), "{option} is not in:\n{help}");
    }
}

/// The test plays systemd: a socket, and what has been heard at it.
struct Systemd {
    socket: UnixDatagram,
    heard: String,
}

impl Systemd {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, heard: String::new() }
    }

    /// The next message with this line; those before it are passed over.
    fn wait_for(&mut self, what: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut buffer = [0; 512];
        loop {
            assert!(Instant::now() < deadline, "no {what} in:\n{}", self.heard);
            // A machine that was stopped for a while interrupts a wait with a limit.
            let len = match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                received => received.unwrap(),
            };
            let said = String::from_utf8(buffer[..len].to_vec()).unwrap();
            self.heard.push_str(&said);
            self.heard.push('\n');
            if said.lines().any(|line| line == what) {
                return said;
            }
        }
    }
}

/// Bundles that take their time while they load, one after the other, must not end a
/// start by systemd's own limit on it.
#[test]
fn g_systemd_is_told_to_wait_while_bundles_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    for (name, code) in [("first", "return { exports = {} }"), ("hangs", "while true do end")] {
        let bundle = dir.path().join("bundles").join(name);
        std::fs::create_dir_all(&bundle).unwrap();
        let manifest =
            format!("name = '{name}'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n");
        std::fs::write(bundle.join("manifest.toml"), manifest).unwrap();
        std::fs::write(bundle.join("main.lua"), code).unwrap();
    }
    let mut systemd = Systemd::at(&dir.path().join("notify"));
    let process = Command::new(MENAGERIE)
        .args(["run", "--log", "error", "--bundles"])
        .arg(dir.path().join("bundles"))
        .arg("--socket")
        .arg(dir.path().join("s.sock"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running { child: process, dir };
    for step in ["first (1 of 2)", "hangs (2 of 2)", "hangs (2 of 2)"] {
        let said = systemd.wait_for(&format!("STATUS=loading {step}"));
        let usec = said.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
        assert!(usec.unwrap().parse::<u64>().unwrap() >= 30_000_000, "{said}");
    }
    assert!(!systemd.heard.contains("READY=1"), "{}", systemd.heard);
}

/// What a service of systemd's says (sd_notify(3)): here the test plays systemd.
#[test]
fn g_systemd_is_told_of_the_beginning_the_health_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let mut systemd = Systemd::at(&path);
    let process = Command::new(MENAGERIE)
        .args(["run", "--log", "error", "--isolation", "bundle", "--standby", "1", "--bundles"])
        .arg(bundles().join("greeter-lua"))
        .arg("--socket")
        .arg(dir.path().join("s.sock"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running { child: process, dir };
    let ready = systemd.wait_for("READY=1");
    assert!(ready.contains("STATUS=1 of 1 bundles loaded"), "{ready}");
    systemd.wait_for("WATCHDOG=1");
    systemd.wait_for("WATCHDOG=1");
    // For `systemctl status`, now and then.
    systemd.wait_for("STATUS=1 of 1 bundles ready, 1 workers, 0 restarts");
    let worker = running.worker();
    assert_eq!(worker["name"], "lua/greeter-lua");
    assert_eq!(running.json(&["status", "--json"])["isolation"], "bundle");
    let restart = ["restart", "--rolling", "lua/greeter-lua"];
    assert!(running.menagerie(&restart).status.success());
    assert_ne!(running.worker()["pid"], worker["pid"]);
    let own = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    kill(own, Signal::SIGTERM).unwrap();
    systemd.wait_for("STOPPING=1");
    assert!(ended(&mut running).success());
}
