//! What it says as a service of systemd's, and the sample unit.

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

/// What a service of systemd's says (sd_notify(3)): here the test plays systemd.
#[test]
fn g_systemd_is_told_of_the_beginning_the_health_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
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
    let mut heard = String::new();
    let mut wait_for = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut buffer = [0; 512];
        loop {
            assert!(Instant::now() < deadline, "no {what} in:\n{heard}");
            // A machine that was stopped for a while interrupts a wait with a limit.
            let len = match systemd.recv(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                received => received.unwrap(),
            };
            let said = String::from_utf8(buffer[..len].to_vec()).unwrap();
            heard.push_str(&said);
            heard.push('\n');
            if said.lines().any(|line| line == what) {
                return said;
            }
        }
    };
    let ready = wait_for("READY=1");
    assert!(ready.contains("STATUS=1 of 1 bundles loaded"), "{ready}");
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");
    // For `systemctl status`, now and then.
    wait_for("STATUS=1 of 1 bundles ready, 1 workers, 0 restarts");
    let worker = running.worker();
    assert_eq!(worker["name"], "lua/greeter-lua");
    assert_eq!(running.json(&["status", "--json"])["isolation"], "bundle");
    let restart = ["restart", "--rolling", "lua/greeter-lua"];
    assert!(running.menagerie(&restart).status.success());
    assert_ne!(running.worker()["pid"], worker["pid"]);
    let own = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    kill(own, Signal::SIGTERM).unwrap();
    wait_for("STOPPING=1");
    assert!(ended(&mut running).success());
}
