//! How it ends, and that nothing is left.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::running::{MENAGERIE, Running, bundles, ended, stderr};

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
    // It was killed, and nobody has waited for its end.
    wait_until_gone(worker);
}

/// A call that is cut off by an end has an outcome, and whoever asked for it is told so.
#[test]
fn c3_a_call_that_an_end_cuts_off_has_an_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("menagerie.toml");
    std::fs::write(&settings, "drain = '50ms'\nterm_timeout = '50ms'\n").unwrap();
    let args = ["--config", settings.to_str().unwrap()];
    let both = [bundles().join("greeter-lua"), bundles().join("probe-lua")];
    let mut running = Running::with(&args, &both, "2 of 2 bundles loaded");
    let socket = running.dir.path().join("s.sock");
    let calls = ["spin", "sleep_ms"].map(|function| {
        let mut command = Command::new(MENAGERIE);
        command.args(["call", "probe@1", function, "--timeout", "1h", "--socket"]).arg(&socket);
        if function == "sleep_ms" {
            command.arg("3600000");
        }
        command.stderr(Stdio::piped()).spawn().unwrap()
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    while running.json(&["bundles", "--json"])[1]["calls"]["in_flight"] != 2 {
        assert!(Instant::now() < deadline, "the calls never begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(i32::try_from(running.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    for call in calls {
        let output = call.wait_with_output().unwrap();
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(!told.contains("does not answer"), "{told}");
    }
    assert!(ended(&mut running).success());
}

/// Nobody reads what it says, and its pipe is full: it does not stand still for that.
#[test]
fn g_it_goes_on_where_nobody_reads_its_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(MENAGERIE)
        .args(["run", "--log", "info", "--bundles"])
        .arg(bundles().join("greeter-lua"))
        .arg("--bundles")
        .arg(bundles().join("probe-lua"))
        .arg("--socket")
        .arg(dir.path().join("s.sock"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running { child, dir };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !running.menagerie(&["call", "probe@1", "inc", "1"]).status.success() {
        assert!(Instant::now() < deadline, "it never answers");
        std::thread::sleep(Duration::from_millis(5));
    }
    // More than the pipe has room for.
    let words = "x".repeat(8000);
    for _ in 0..20 {
        let output = running.menagerie(&["call", "probe@1", "say", &format!("{words:?}")]);
        assert!(output.status.success(), "{output:?}");
    }
    assert!(running.menagerie(&["status"]).status.success());
    kill(Pid::from_raw(i32::try_from(running.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(ended(&mut running).success());
    // What was said first is there, for whoever comes late.
    let mut pipe = running.child.stderr.take().unwrap();
    let mut first = [0; 4096];
    pipe.read_exact(&mut first).unwrap();
    assert!(String::from_utf8_lossy(&first).contains("Starting"));
}

/// A limit on the size of files is one for the memory of lanes as well.
#[test]
fn g_a_limit_on_files_ends_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new("sh")
        .args(["-c", "ulimit -f 0; exec \"$@\"", "sh", MENAGERIE, "run", "--bundles"])
        .arg(bundles().join("greeter-lua"))
        .arg("--socket")
        .arg(dir.path().join("s.sock"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running { child, dir };
    let pipe = running.child.stderr.take().unwrap();
    let lines: Vec<String> = BufReader::new(pipe)
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.contains("0 of 1 bundles loaded"))
        .collect();
    let said = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(said("greeter-lua: ") && said("File too large"), "{lines:?}");
    assert!(running.menagerie(&["status"]).status.success());
    kill(Pid::from_raw(i32::try_from(running.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(ended(&mut running).success());
}

/// Waits until a process has gone.
fn wait_until_gone(pid: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nor one that was started after a crash, by another thread.
#[test]
fn s7_no_worker_outlives_a_host_that_is_killed() {
    let mut running = Running::start();
    let deadline = Instant::now() + Duration::from_secs(30);
    let first = running.worker()["pid"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(first).unwrap()), Signal::SIGKILL).unwrap();
    let worker = loop {
        let worker = running.worker();
        match worker["pid"].as_i64() {
            Some(pid) if pid != first && worker["state"] == "ready" => break pid,
            _ => assert!(Instant::now() < deadline, "it does not come back: {worker}"),
        }
    };
    let socket = running.dir.path().join("s.sock");
    // Busy in a call that nothing stops softly.
    let mut spinning = Command::new(MENAGERIE)
        .args(["call", "probe@1", "spin", "--socket"])
        .arg(socket)
        .spawn()
        .unwrap();
    while running.json(&["bundles", "--json"])[1]["calls"]["in_flight"] != 1 {
        assert!(Instant::now() < deadline, "the call never begins");
    }
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    wait_until_gone(worker);
    drop(spinning.wait());
}

/// Figures take minutes: whoever has seen enough finds no folder.
#[test]
fn g_a_bench_that_is_stopped_leaves_no_folder() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // No sample is built there: it writes its own.
        let (temporary, samples) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = || {
            let entries = temporary.path().read_dir().unwrap().map(|entry| entry.unwrap().path());
            entries.into_iter().find(|path| path.to_string_lossy().contains("menagerie-bench-"))
        };
        let mut child = Command::new(MENAGERIE)
            .args(["bench", "--only", "null", "--bundles"])
            .arg(samples.path())
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        // The last that it makes there.
        while !folder().is_some_and(|folder| folder.join("probe-dotnet").exists()) {
            assert!(child.try_wait().unwrap().is_none(), "it has ended by itself");
            assert!(Instant::now() < deadline, "it never began");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{signal}");
        assert_eq!(folder(), None);
    }
}
