//! `menagerie run` at SIGHUP, with the Lua worker; the test plays systemd, and
//! so knows when a reload begins and ends (sd_notify(3)).

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const MENAGERIE: &str = env!("CARGO_BIN_EXE_menagerie");
const PATIENCE: Duration = Duration::from_secs(60);

/// `menagerie run` with a file of settings, ended with the test.
struct Running {
    child: Child,
    systemd: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    /// Starts it in a folder that `prepare` has filled; it is ready.
    fn start(settings: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let systemd = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        std::fs::write(dir.path().join("menagerie.toml"), settings).unwrap();
        let child = Command::new(MENAGERIE)
            .args(["run", "--config"])
            .arg(dir.path().join("menagerie.toml"))
            .arg("--socket")
            .arg(dir.path().join("s.sock"))
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let running = Self { child, systemd, dir };
        running.wait_for("READY=1");
        running
    }

    /// What is said next, without the lines for `systemctl status`.
    fn wait_for(&self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        loop {
            assert!(Instant::now() < deadline, "no {what}; it says:\n{}", self.stderr());
            let len = self.systemd.recv(&mut buffer).unwrap();
            let said = String::from_utf8(buffer[..len].to_vec()).unwrap();
            if said.lines().any(|line| line == what) {
                return said;
            }
            assert!(said.starts_with("STATUS="), "{said} comes before {what}");
        }
    }

    /// The next line for `systemctl status`.
    fn status(&self) -> String {
        let mut buffer = [0; 2048];
        let len = self.systemd.recv(&mut buffer).unwrap();
        let said = String::from_utf8(buffer[..len].to_vec()).unwrap();
        said.strip_prefix("STATUS=").unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    /// Sends SIGHUP with these settings, and waits until they are applied.
    /// Returns the status that systemd is told.
    fn hangup(&self, settings: &str) -> String {
        std::fs::write(self.dir.path().join("menagerie.toml"), settings).unwrap();
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGHUP).unwrap();
        let reloading = self.wait_for("RELOADING=1");
        let usec = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(usec.unwrap().parse::<u64>().unwrap() > 0, "{reloading}");
        let ready = self.wait_for("READY=1");
        ready.lines().find_map(|line| line.strip_prefix("STATUS=")).unwrap().to_owned()
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut command = Command::new(MENAGERIE);
        command.args(args).arg("--socket").arg(self.dir.path().join("s.sock"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The bundles, by name and state.
    fn bundles(&self) -> Vec<String> {
        let bundles = self.json(&["bundles", "--json"]);
        let shown = |bundle: &Value| {
            format!("{} {}", bundle["name"].as_str().unwrap(), bundle["state"].as_str().unwrap())
        };
        bundles.as_array().unwrap().iter().map(shown).collect()
    }

    fn worker(&self) -> u64 {
        self.json(&["status", "--json"])["workers"][0]["pid"].as_u64().unwrap()
    }
}

/// Writes a bundle that answers with its name.
fn bundle(folder: &Path, name: &str, more: &str) -> PathBuf {
    let dir = folder.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
         provides = ['{name}@1']\n{more}"
    );
    std::fs::write(dir.join("manifest.toml"), manifest).unwrap();
    let code = format!("return {{ ['{name}@1'] = {{ say = function() return '{name}' end }} }}");
    std::fs::write(dir.join("main.lua"), code).unwrap();
    dir
}

/// In the folder `bundles`, where the second needs the first; and one beside it.
fn two_and_one(dir: &Path) {
    bundle(&dir.join("bundles"), "base", "");
    bundle(&dir.join("bundles"), "user", "[[dependency]]\ncontract = 'base@1'\n");
    bundle(dir, "alone", "");
}

#[test]
fn g_at_sighup_bundles_come_and_go_and_the_others_go_on() {
    let running = Running::start("bundles = ['bundles']", two_and_one);
    assert_eq!(running.bundles(), ["base ready", "user ready"]);
    let worker = running.worker();
    let told = running.hangup("bundles = ['bundles', 'alone']");
    assert_eq!(told, "bundles: 1 loaded, 0 unloaded, 0 failed");
    assert_eq!(running.bundles(), ["alone ready", "base ready", "user ready"]);
    // What is needed goes after those that need it.
    let told = running.hangup("bundles = ['alone']");
    assert_eq!(told, "bundles: 0 loaded, 2 unloaded, 0 failed");
    assert_eq!(running.bundles(), ["alone ready"]);
    assert_eq!(running.json(&["call", "alone@1", "say"]), "alone");
    // One that has come new into a folder that was there before, and one that
    // has gone out of it.
    running.hangup("bundles = ['bundles', 'alone']");
    bundle(&running.dir.path().join("bundles"), "late", "");
    std::fs::remove_dir_all(running.dir.path().join("bundles/user")).unwrap();
    let told = running.hangup("bundles = ['bundles', 'alone']");
    assert_eq!(told, "bundles: 1 loaded, 1 unloaded, 0 failed");
    assert_eq!(running.bundles(), ["alone ready", "base ready", "late ready"]);
    assert_eq!(running.worker(), worker, "nothing else was disturbed");
}

/// One that SIGHUP itself has loaded, by a link, goes with the link.
#[test]
fn g_at_sighup_a_link_that_has_gone_unloads_what_it_led_to() {
    let running = Running::start("bundles = ['alone']", two_and_one);
    let (bundles, elsewhere) =
        (running.dir.path().join("bundles"), running.dir.path().join("elsewhere"));
    let link = bundles.join("late");
    symlink(bundle(&elsewhere, "late", ""), &link).unwrap();
    running.hangup("bundles = ['alone', 'bundles']");
    assert_eq!(running.bundles(), ["alone ready", "base ready", "late ready", "user ready"]);
    std::fs::remove_file(link).unwrap();
    running.hangup("bundles = ['alone', 'bundles']");
    assert_eq!(running.bundles(), ["alone ready", "base ready", "user ready"]);
}

/// As releases are made: `current` leads to the new one.
#[test]
fn g_at_sighup_a_link_on_the_list_that_leads_elsewhere_is_followed() {
    let running = Running::start("bundles = ['current', 'single']", |dir| {
        for (release, more) in [("first", "old"), ("second", "new")] {
            bundle(&dir.join(release), "same", "");
            bundle(&dir.join(release), more, "");
            bundle(&dir.join(format!("{release}-single")), "only", "");
        }
        symlink("first", dir.join("current")).unwrap();
        symlink("first-single/only", dir.join("single")).unwrap();
    });
    assert_eq!(running.bundles(), ["old ready", "only ready", "same ready"]);
    for (link, to) in [("current", "second"), ("single", "second-single/only")] {
        let link = running.dir.path().join(link);
        std::fs::remove_file(&link).unwrap();
        symlink(to, link).unwrap();
    }
    let told = running.hangup("bundles = ['current', 'single']");
    assert_eq!(told, "bundles: 3 loaded, 3 unloaded, 0 failed");
    assert_eq!(running.bundles(), ["new ready", "only ready", "same ready"]);
    running.hangup("bundles = []");
    assert!(running.bundles().is_empty());
}

#[test]
fn g_at_sighup_what_is_needed_or_came_by_hand_stays() {
    let running = Running::start("bundles = ['bundles/base', 'bundles/user']", two_and_one);
    let alone = running.dir.path().join("alone");
    running.json(&["load", "--json", alone.to_str().unwrap()]);
    let told = running.hangup("bundles = ['bundles/user']");
    assert_eq!(told, "bundles: 0 loaded, 0 unloaded, 1 failed");
    assert_eq!(running.bundles(), ["alone ready", "base ready", "user ready"]);
    assert!(
        running.stderr().contains("base: bundle 'base' is in use by user"),
        "{}",
        running.stderr()
    );
    // A bundle that is broken is tried again, and forgotten with its path.
    std::fs::write(running.dir.path().join("bundles/user/main.lua"), "error('broken')").unwrap();
    running.hangup("");
    assert_eq!(running.bundles(), ["alone ready"]);
    running.hangup("bundles = ['bundles']");
    assert_eq!(running.bundles(), ["alone ready", "base ready", "user failed"]);
    running.hangup("bundles = ['bundles/base', 'nowhere']");
    assert_eq!(running.bundles(), ["alone ready", "base ready"]);
    assert!(running.stderr().contains("nowhere: "), "{}", running.stderr());
}

/// It was loaded, its worker has died since, and its code is broken at that time.
#[test]
fn g_at_sighup_what_could_not_be_loaded_again_is_tried() {
    let slowly = "initial_delay = '20m'\nmax_delay = '20m'\nwindow = '2h'\nlimit = 1\n";
    let settings = format!("bundles = ['alone']\n[restart]\n{slowly}");
    let running = Running::start(&settings, two_and_one);
    let code = running.dir.path().join("alone/main.lua");
    let good = std::fs::read_to_string(&code).unwrap();
    std::fs::write(&code, "this is no Lua").unwrap();
    kill(Pid::from_raw(i32::try_from(running.worker()).unwrap()), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while running.bundles() != ["alone failed"] {
        assert!(Instant::now() < deadline, "{:?}", running.bundles());
        std::thread::sleep(Duration::from_millis(5));
    }
    let told = running.hangup(&settings);
    assert_eq!(told, "bundles: 0 loaded, 0 unloaded, 1 failed");
    std::fs::write(&code, good).unwrap();
    let told = running.hangup(&settings);
    assert_eq!(told, "bundles: 1 loaded, 0 unloaded, 0 failed");
    assert_eq!(running.json(&["call", "alone@1", "say"]), "alone");
    assert_eq!(running.hangup(&settings), "bundles: 0 loaded, 0 unloaded, 0 failed");
}

#[test]
fn g_at_sighup_a_broken_file_changes_nothing_and_is_told_with_its_line() {
    let running = Running::start("bundles = ['bundles']", two_and_one);
    for (settings, place) in [
        ("bundles = []\ndeadline = 5", "menagerie.toml:2:12: invalid type"),
        ("bundles = []\n\nheartbeet = '1s'", "menagerie.toml:3:1: there is no setting `heartbeet`"),
        ("bundles = [\n", "menagerie.toml:"),
        ("bundles = []\nlog = 'a=b=c'", "menagerie.toml:2:1: log: 'b=c' is no level"),
        ("bundles = []\nlog = 'inf'", "menagerie.toml:2:1: log: 'inf' is no level"),
    ] {
        let told = running.hangup(settings);
        assert!(told.contains(place) && told.ends_with("nothing has changed"), "{told}");
        assert_eq!(running.bundles(), ["base ready", "user ready"]);
    }
    // `systemctl status` has it until a reload succeeds, whatever is said in between.
    for _ in 0..2 {
        let status = running.status();
        assert!(status.starts_with("2 of 2 bundles ready"), "{status}");
        let failed = "; the last reload failed: ";
        assert!(status.contains(failed) && status.contains("menagerie.toml:2:1: log"), "{status}");
    }
    let told = running.hangup("bundles = ['bundles', 'alone']");
    assert_eq!(told, "bundles: 1 loaded, 0 unloaded, 0 failed");
    assert_eq!(running.status(), "3 of 3 bundles ready, 1 workers, 0 restarts");
}

#[test]
fn g_at_sighup_what_takes_a_restart_is_named_and_left() {
    let running = Running::start("bundles = ['alone']\nlog = 'error'", two_and_one);
    let worker = running.worker();
    running.hangup("bundles = ['alone']\nlog = 'info'\nisolation = 'bundle'\n[restart]\nlimit = 3");
    let stderr = running.stderr();
    for name in ["isolation", "restart.limit"] {
        assert!(stderr.contains(&format!("the setting `{name}` has changed")), "{stderr}");
    }
    assert!(!stderr.contains("`log`") && !stderr.contains("`bundles`"), "{stderr}");
    let status = running.json(&["status", "--json"]);
    assert_eq!((&status["isolation"], running.worker()), (&"shared".into(), worker));
    // What is logged has changed: loading says so from now on.
    assert!(!stderr.contains(" INFO "), "{stderr}");
    running.hangup("bundles = ['alone', 'bundles']\nlog = 'info'");
    let deadline = Instant::now() + PATIENCE;
    while !running.stderr().contains(" INFO ") {
        assert!(Instant::now() < deadline, "{}", running.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
}
