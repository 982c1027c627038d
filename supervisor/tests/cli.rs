//! The `menagerie` program, as a person uses it: against a supervisor of its
//! own, with the Lua worker, which is built with the workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const MENAGERIE: &str = env!("CARGO_BIN_EXE_menagerie");

fn bundles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles")
}

/// `menagerie run`, ended with the test.
struct Running {
    child: Child,
    dir: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let both = [bundles().join("greeter-lua"), bundles().join("probe-lua")];
        Self::with(&[], &both, "2 of 2 bundles loaded")
    }

    /// With further arguments and these bundles; until it says that it is
    /// ready, and `expected`.
    fn with(args: &[&str], bundles: &[PathBuf], expected: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        #[allow(clippy::zombie_processes, reason = "waited for when `Running` is dropped")]
        let mut child = Command::new(MENAGERIE)
            .args(["run", "--log", "warn"])
            .args(args)
            .args(bundles.iter().flat_map(|dir| [Path::new("--bundles"), dir]))
            .arg("--socket")
            .arg(dir.path().join("s.sock"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            seen.push_str(&line);
            seen.push('\n');
            if line.contains("ready at") {
                assert!(line.contains(expected), "{seen}");
                return Self { child, dir };
            }
        }
        panic!("it was never ready:\n{seen}");
    }

    fn menagerie(&self, args: &[&str]) -> Output {
        menagerie(&self.dir.path().join("s.sock"), args)
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.menagerie(args);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn worker(&self) -> Value {
        self.json(&["status", "--json"])["workers"][0].clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn menagerie(socket: &Path, args: &[&str]) -> Output {
    Command::new(MENAGERIE).args(args).arg("--socket").arg(socket).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn g_with_no_supervisor_it_is_3_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["status"][..], &["call", "a@1", "b"], &["reload", "x"]] {
        let output = menagerie(&dir.path().join("nobody.sock"), args);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn g_usage_is_2() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    assert_eq!(menagerie(&socket, &["fly"]).status.code(), Some(2));
    let output = menagerie(&socket, &["call", "greeter@1", "greet", "Ada"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("quotes of its own"), "{output:?}");
}

#[test]
fn s9_replicas_by_the_command_line() {
    let bundle = [bundles().join("greeter-lua")];
    let running =
        Running::with(&["--replicas", "python=2", "--replicas", "lua=3"], &bundle, "1 of 1");
    let workers = running.json(&["workers", "--json"]);
    let names: Vec<&str> =
        workers.as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["lua#1", "lua#2", "lua#3"]);
    assert_eq!(running.json(&["call", "greeter@1", "greet", "\"Ada\""]), "Hello, Ada");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    for (wrong, told) in [
        ("lua", "LANGUAGE=COUNT"),
        ("lua=many", "'many'"),
        ("lua=65", "from 1 to 64"),
        ("lua=0", "from 1 to 64"),
        ("cobol=2", "no loader 'cobol'; there are "),
    ] {
        let output = menagerie(&socket, &["run", "--replicas", wrong]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(told), "{output:?}");
    }
}

#[test]
fn g_calls_answer_in_json_and_failures_in_one_line() {
    let running = Running::start();
    let output = running.menagerie(&["call", "greeter@1", "greet", "\"Ada\""]);
    assert_eq!((output.status.code(), stdout(&output).trim()), (Some(0), "\"Hello, Ada\""));
    let echoed = running.json(&["call", "probe@1", "echo", "{\"$bytes\":\"AAH/\"}"]);
    assert_eq!(echoed, serde_json::json!({ "$bytes": "AAH/" }));
    let output = running.menagerie(&["call", "probe@1", "fail", "\"the reason\""]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the reason") && stderr(&output).lines().count() == 1);
    for (args, told) in [
        (&["call", "nothing@1", "f"][..], "no loaded bundle provides"),
        (&["call", "probe@1", "nothing"], "has no function"),
        (&["call", "probe@1", "inc"], "bad arguments"),
        (&["call", "--timeout", "50ms", "probe@1", "sleep_ms", "60000"], "within its deadline"),
        (&["reload", "nobody"], "no bundle named"),
        (&["load", "/nonexistent"], "does not exist"),
        (&["load", "../tests/bundles/greeter-lua"], "loaded already"),
        (&["restart", "cobol"], "no loader is named"),
        (&["unload", "greeter-lua"], "in use by probe-lua"),
    ] {
        let output = running.menagerie(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert!(stderr(&output).contains(told), "{args:?}: {output:?}");
    }
}

#[test]
fn s3_a_killed_worker_is_ready_again_with_the_counts_one_higher() {
    let running = Running::start();
    let before = running.worker();
    assert_eq!((&before["state"], &before["loader"]), (&"ready".into(), &"lua".into()));
    let pid = i32::try_from(before["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let after = loop {
        let worker = running.worker();
        if worker["state"] == "ready" && worker["pid"] != before["pid"] {
            break worker;
        }
        assert!(Instant::now() < deadline, "{worker}");
    };
    for count in ["incarnation", "restarts"] {
        assert_eq!(after[count].as_u64(), before[count].as_u64().map(|n| n + 1), "{count}");
    }
    assert_eq!(running.json(&["call", "greeter@1", "greet", "\"Ada\""]), "Hello, Ada");
    let crashes = running.json(&["crashes", "--json"]);
    assert_eq!(crashes[0]["signal"], 9, "{crashes}");
}

#[test]
fn g_bundles_come_and_go() {
    let running = Running::start();
    assert!(running.menagerie(&["reload", "greeter-lua"]).status.success());
    let output = running.menagerie(&["unload", "--cascade", "greeter-lua"]);
    assert_eq!(stdout(&output).trim(), "unloaded probe-lua, greeter-lua");
    assert_eq!(running.json(&["bundles", "--json"]), serde_json::json!([]));
    let dir = bundles().join("greeter-lua");
    assert!(running.menagerie(&["load", dir.to_str().unwrap()]).status.success());
    let bundles = running.json(&["bundles", "--json"]);
    assert_eq!(bundles[0]["state"], "ready");
    assert!(running.menagerie(&["restart", "lua"]).status.success());
    assert_eq!(running.worker()["restarts"], 0, "a restart by hand is none");
    for command in ["status", "workers", "bundles", "crashes"] {
        let output = running.menagerie(&[command]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn g_a_live_socket_is_refused_and_sigterm_ends_in_order() {
    let mut running = Running::start();
    let second = running.menagerie(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("running there already"), "{second:?}");
    let worker = running.worker()["pid"].as_i64().unwrap();
    let own = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    kill(own, Signal::SIGTERM).unwrap();
    assert!(running.child.wait().unwrap().success());
    assert!(!Path::new(&format!("/proc/{worker}")).exists());
    assert!(!running.dir.path().join("s.sock").exists());
}

/// Ctrl-C is as good, and nothing is left: no worker, no socket, no folder.
#[test]
fn s7_sigint_ends_in_order_and_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut running = Running::start();
        let worker = running.worker()["pid"].as_i64().unwrap();
        let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
        let folder = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"MENAGERIE_SCRATCH="))
            .map(|path| PathBuf::from(String::from_utf8(path.to_vec()).unwrap()))
            .unwrap();
        let folder = folder.parent().unwrap();
        assert!(folder.exists());
        kill(Pid::from_raw(i32::try_from(running.child.id()).unwrap()), signal).unwrap();
        assert!(ended(&mut running).success(), "{signal}");
        assert!(!Path::new(&format!("/proc/{worker}")).exists());
        assert!(!running.dir.path().join("s.sock").exists());
        assert!(!folder.exists(), "{}", folder.display());
    }
}

/// Waits for its end.
fn ended(running: &mut Running) -> std::process::ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = running.child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A bundle that never ends loading keeps nobody from stopping.
#[test]
fn s6_sigterm_ends_what_is_not_ready_yet() {
    let dir = tempfile::tempdir().unwrap();
    let stuck = dir.path().join("stuck");
    std::fs::create_dir(&stuck).unwrap();
    let manifest = "name = 'stuck'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                    provides = ['stuck@1']\n";
    std::fs::write(stuck.join("manifest.toml"), manifest).unwrap();
    std::fs::write(stuck.join("main.lua"), "while true do end").unwrap();
    let child = Command::new(MENAGERIE)
        .args(["run", "--log", "error", "--bundles"])
        .arg(&stuck)
        .arg("--socket")
        .arg(dir.path().join("s.sock"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running { child, dir };
    let deadline = Instant::now() + Duration::from_secs(60);
    let worker = loop {
        let status = running.menagerie(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if let Some(pid) = status["workers"][0]["pid"].as_i64() {
            break pid;
        }
        assert!(Instant::now() < deadline, "no worker is started");
        std::thread::sleep(Duration::from_millis(5));
    };
    kill(Pid::from_raw(i32::try_from(running.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(ended(&mut running).success());
    assert!(!Path::new(&format!("/proc/{worker}")).exists());
}

/// What a person reads of a crash.
#[test]
fn s2_crashes_are_shown_with_what_ran_and_how_it_ended() {
    let running = Running::start();
    assert_eq!(stdout(&running.menagerie(&["crashes"])), "no crashes\n");
    assert_eq!(running.menagerie(&["call", "probe@1", "crash"]).status.code(), Some(1));
    let deadline = Instant::now() + Duration::from_secs(60);
    let shown = loop {
        let shown = stdout(&running.menagerie(&["crashes"]));
        if shown.contains("worker lua") {
            break shown;
        }
        assert!(Instant::now() < deadline, "{shown}");
        std::thread::sleep(Duration::from_millis(5));
    };
    for part in ["SIGABRT", "running: probe-lua/probe@1 crash", "used: ", "of memory at most"] {
        assert!(shown.contains(part), "no {part} in:\n{shown}");
    }
}

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

#[test]
fn g_doctor_tells_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let output = menagerie(&dir.path().join("s.sock"), &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lua = report["workers"].as_array().unwrap().iter().find(|w| w["loader"] == "lua").unwrap();
    assert!(lua["version"].as_str().unwrap().contains("Lua"), "{report}");
    assert!(output.status.success(), "{report}");
}

/// Waits until a process has gone.
fn wait_until_gone(pid: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn s7_no_worker_outlives_a_host_that_is_killed() {
    let mut running = Running::start();
    let worker = running.worker()["pid"].as_i64().unwrap();
    let socket = running.dir.path().join("s.sock");
    // Busy in a call that nothing stops softly.
    let mut spinning = Command::new(MENAGERIE)
        .args(["call", "probe@1", "spin", "--socket"])
        .arg(socket)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while running.json(&["bundles", "--json"])[1]["calls"]["in_flight"] != 1 {
        assert!(Instant::now() < deadline, "the call never begins");
    }
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    wait_until_gone(worker);
    drop(spinning.wait());
}

#[test]
fn s2_a_stranger_on_the_control_socket_is_turned_away() {
    use std::io::{Read, Write};
    let running = Running::start();
    let pid = running.worker()["pid"].as_i64().unwrap();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let path = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"MENAGERIE_CONTROL_SOCKET="))
        .unwrap();
    let path = PathBuf::from(String::from_utf8(path.to_vec()).unwrap());
    for nonsense in
        [&b"\xff\xff\xff\xff"[..], b"\x03\x00\x00\x00\xfa\xfa\xfa", b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut stranger = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stranger.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stranger.write_all(nonsense).unwrap();
        // Closed, not answered; a reset is as good.
        assert!(matches!(stranger.read(&mut [0; 16]), Ok(0) | Err(_)));
        assert_eq!(running.json(&["call", "greeter@1", "greet", "\"Ada\""]), "Hello, Ada");
    }
    assert_eq!(running.worker()["pid"].as_i64(), Some(pid));
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

/// A folder with one bundle in Lua, and one that is broken.
fn folder_of_two() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, code) in [("good", GOOD_ONE), ("broken", "error('it is broken')")] {
        let dir = folder.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let manifest = format!(
            "name = '{name}'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['{name}@1']\n"
        );
        std::fs::write(dir.join("manifest.toml"), manifest).unwrap();
        std::fs::write(dir.join("main.lua"), code).unwrap();
    }
    folder
}

const GOOD_ONE: &str = "return { ['good@1'] = { say = function() return 'one' end } }";

#[test]
fn r3_a_broken_bundle_is_listed_with_its_reason() {
    let folder = folder_of_two();
    let running = Running::with(&[], &[folder.path().to_owned()], "1 of 2 bundles loaded");
    assert_eq!(running.json(&["call", "good@1", "say"]), "one");
    let bundles = running.json(&["bundles", "--json"]);
    let broken = bundles.as_array().unwrap().iter().find(|b| b["name"] == "broken").unwrap();
    assert_eq!(broken["state"], "failed");
    assert!(broken["problem"].as_str().unwrap().contains("it is broken"), "{broken}");
    for command in ["status", "bundles"] {
        let output = running.menagerie(&[command]);
        assert!(stdout(&output).contains("broken"), "{output:?}");
    }
    std::fs::write(
        folder.path().join("broken/main.lua"),
        "return { ['broken@1'] = { say = function() return 'mended' end } }",
    )
    .unwrap();
    assert!(running.menagerie(&["reload", "broken"]).status.success());
    assert_eq!(running.json(&["call", "broken@1", "say"]), "mended");
}

#[test]
fn l6_run_watch_reloads_what_was_edited() {
    let folder = folder_of_two();
    let bundles = [folder.path().to_owned()];
    let running = Running::with(&["--watch"], &bundles, "1 of 2 bundles loaded");
    assert_eq!(running.json(&["call", "good@1", "say"]), "one");
    std::fs::write(folder.path().join("good/main.lua"), GOOD_ONE.replace("one", "two")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while running.json(&["call", "good@1", "say"]) != "two" {
        assert!(Instant::now() < deadline, "the edited bundle is never reloaded");
    }
}

/// A folder with a bundle in Lua, a key of `menagerie keygen`, and settings
/// that require its signature.
struct Signing {
    folder: tempfile::TempDir,
    key: String,
}

impl Signing {
    fn new() -> Self {
        let folder = folder_of_two();
        std::fs::remove_dir_all(folder.path().join("broken")).unwrap();
        let mut this = Self { folder, key: String::new() };
        this.key = this.keygen("key");
        let settings =
            format!("[signatures]\npolicy = 'required'\ntrusted_keys = ['{}']\n", this.key);
        std::fs::write(this.path("menagerie.toml"), settings).unwrap();
        this
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str]) -> Output {
        menagerie(&self.folder.path().join("nobody.sock"), args)
    }

    fn keygen(&self, name: &str) -> String {
        let output = self.run(&["keygen", "--out", &self.path(name)]);
        assert!(output.status.success(), "{output:?}");
        stdout(&output).trim().to_owned()
    }

    fn sign(&self, key: &str) -> Output {
        self.run(&["sign", &self.path("good"), "--key", &self.path(key)])
    }

    /// What `menagerie check` says, with the settings or without.
    fn check(&self, settings: bool) -> (Option<i32>, Value) {
        let (good, config) = (self.path("good"), self.path("menagerie.toml"));
        let mut args = vec!["check", &good, "--json"];
        if settings {
            args.extend(["--config", &config]);
        }
        let output = self.run(&args);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

#[test]
fn r5_keygen_makes_keys_that_sign() {
    use std::os::unix::fs::PermissionsExt;
    let signing = Signing::new();
    assert!(signing.key.starts_with("ed25519:") && signing.key.len() == 72, "{}", signing.key);
    let file = signing.path("key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // It is never overwritten, and no two are the same.
    let secret = std::fs::read(&file).unwrap();
    assert_eq!(signing.run(&["keygen", "--out", &file]).status.code(), Some(1));
    assert_eq!(std::fs::read(&file).unwrap(), secret);
    assert_ne!(signing.keygen("other"), signing.key);
    let output = signing.run(&["keygen", "--json", "--out", &signing.path("third")]);
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["file"], signing.path("third"));

    let output = signing.sign("key");
    assert!(output.status.success(), "{output:?}");
    let told = format!("signed good: 2 files, key {}\n", &signing.key[8..24]);
    assert_eq!(stdout(&output), told);
    let output = signing.run(&["sign", &signing.path("good"), "--key", &file, "--json"]);
    let signed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&signed["key"], &signed["files"]), (&signing.key.as_str().into(), &2.into()));

    // A key that is none, one that all may read, and one that would be published.
    assert_eq!(signing.sign("menagerie.toml").status.code(), Some(1));
    assert_eq!(signing.sign("nothing").status.code(), Some(1));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = signing.sign("key");
    assert!(output.status.code() == Some(1) && stderr(&output).contains("chmod 600"), "{output:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::copy(&file, signing.path("good/key")).unwrap();
    let output = signing.sign("good/key");
    assert!(stderr(&output).contains("would be published"), "{output:?}");
}

#[test]
fn r5_check_says_whether_the_signature_holds() {
    let signing = Signing::new();
    let (code, found) = signing.check(false);
    assert_eq!((code, &found["signature"]["state"]), (Some(0), &"unsigned".into()), "{found}");
    let (code, found) = signing.check(true);
    assert_eq!((code, &found["signature"]["state"]), (Some(1), &"unsigned".into()), "{found}");
    assert!(found["problems"][0].as_str().unwrap().contains("menagerie sign"), "{found}");

    assert!(signing.sign("key").status.success());
    for settings in [false, true] {
        let (code, found) = signing.check(settings);
        assert_eq!((code, &found["signature"]["state"]), (Some(0), &"valid".into()), "{found}");
        assert_eq!(found["signature"]["key"], signing.key[8..24], "{found}");
    }
    let output = signing.run(&["check", &signing.path("good")]);
    assert!(stdout(&output).contains("signature: valid ("), "{output:?}");

    // Signed by another: whole, but nobody that the settings trust.
    signing.keygen("other");
    assert!(signing.sign("other").status.success());
    assert_eq!(signing.check(false).0, Some(0));
    let (code, found) = signing.check(true);
    assert_eq!((code, &found["signature"]["state"]), (Some(1), &"untrusted".into()), "{found}");

    // What is not what was signed is a problem whatever the policy, and not run.
    std::fs::write(signing.path("good/more.lua"), "").unwrap();
    for settings in [false, true] {
        let (code, found) = signing.check(settings);
        assert_eq!((code, &found["signature"]["state"]), (Some(1), &"invalid".into()), "{found}");
        assert!(found["problems"][0].as_str().unwrap().contains("more.lua"), "{found}");
        assert_eq!(found["contracts"], serde_json::json!([]), "{found}");
    }
}

#[test]
fn r5_check_remembers_no_key() {
    let signing = Signing::new();
    let store = signing.path("trusted.toml");
    // Relative to the settings' folder.
    let settings = "[signatures]\npolicy = 'required'\ntrust_store = 'trusted.toml'\n";
    std::fs::write(signing.path("menagerie.toml"), settings).unwrap();
    assert!(signing.sign("key").status.success());
    let (code, found) = signing.check(true);
    assert_eq!(code, Some(0), "{found}");
    assert!(!Path::new(&store).exists());
}

#[test]
fn r5_run_loads_what_is_signed_and_shows_it() {
    let signing = Signing::new();
    let config = signing.path("menagerie.toml");
    let args = ["--config", config.as_str()];
    let bundles = [PathBuf::from(signing.path("good"))];
    let running = Running::with(&args, &bundles, "0 of 1 bundles loaded");
    let status = running.json(&["status", "--json"]);
    assert_eq!(status["bundles"][0]["signature"]["state"], "unsigned", "{status}");
    assert!(signing.sign("key").status.success());
    assert!(running.menagerie(&["reload", "good"]).status.success());
    assert_eq!(running.json(&["call", "good@1", "say"]), "one");
    let status = running.json(&["status", "--json"]);
    let expected = serde_json::json!({ "state": "valid", "key": signing.key[8..24] });
    assert_eq!(status["bundles"][0]["signature"], expected, "{status}");
    assert!(stdout(&running.menagerie(&["bundles"])).contains("valid"));
}
