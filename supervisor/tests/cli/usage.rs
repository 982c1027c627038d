//! What needs no supervisor, and what is no command.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use serde_json::Value;

use super::running::{MENAGERIE, Running, bundles, menagerie, stderr};

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
fn g_doctor_tells_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let output = menagerie(&dir.path().join("s.sock"), &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lua = report["workers"].as_array().unwrap().iter().find(|w| w["loader"] == "lua").unwrap();
    assert!(lua["version"].as_str().unwrap().contains("Lua"), "{report}");
    assert!(output.status.success(), "{report}");
}

/// It is told where the workers are as `run` is.
#[test]
fn g_doctor_looks_where_the_settings_say() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("s.sock"), dir.path().join("menagerie.toml"));
    std::fs::write(&file, "[worker_programs]\nlua = \"nothing\"\n").unwrap();
    let doctor = || menagerie(&socket, &["doctor", "--json", "--config", file.to_str().unwrap()]);
    let output = doctor();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lua = report["workers"].as_array().unwrap().iter().find(|w| w["loader"] == "lua").unwrap();
    let nothing = dir.path().join("nothing");
    assert!(lua["problem"].as_str().unwrap().contains(nothing.to_str().unwrap()), "{lua}");
    std::fs::write(&file, "nonsense = 1\n").unwrap();
    assert_eq!(doctor().status.code(), Some(2));
}

/// All groups are known to whoever asks for help.
#[test]
fn g_bench_names_its_groups() {
    let output = Command::new(MENAGERIE).args(["bench", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let wrong = Command::new(MENAGERIE).args(["bench", "--only", "x"]).output().unwrap();
    let wrong = stderr(&wrong);
    let groups = wrong.split_once("there are ").unwrap().1.trim();
    assert!(groups.contains("crash") && help.contains(&format!("Groups: {groups}.")), "{help}");
}

/// A mistyped level would be taken for the name of a module, and nothing be logged.
#[test]
fn g_a_log_that_names_no_level_is_2_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("s.sock"), dir.path().join("menagerie.toml"));
    for (log, told) in [
        ("inf", "'inf' is no level; did you mean 'info'?"),
        ("warning", "'warning' is no level; did you mean 'warn'?"),
        ("loud", "'loud' is no level; there are error, warn, info, debug, trace and off"),
        ("info,hyper=wran", "'wran' is no level; did you mean 'warn'?"),
        ("nonsense=[", "'[' is no level"),
        ("info, hyper=warn", "' hyper=warn' has a blank beside it"),
    ] {
        let output = menagerie(&socket, &["run", "--log", log]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(&format!("--log, or RUST_LOG: {told}")), "{output:?}");
        std::fs::write(&file, format!("deadline = '1s'\nlog = '{log}'\n")).unwrap();
        let output = menagerie(&socket, &["run", "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = format!("menagerie.toml:2:1: log: {told}");
        assert!(stderr(&output).contains(&told), "{told}: {output:?}");
    }
}

/// What a path is called that is no UTF-8 can be shown, though not sent.
#[test]
fn g_paths_that_are_no_text_are_told_and_nothing_panics() {
    let running = Running::start();
    let socket = running.dir.path().join("s.sock");
    let odd = running.dir.path().join(OsStr::from_bytes(b"x\xff"));
    std::fs::create_dir(&odd).unwrap();
    let run = |args: &[&str], socket: &std::path::Path| {
        let mut command = Command::new(MENAGERIE);
        command.args(args).arg(&odd).arg("--socket").arg(socket).output().unwrap()
    };
    let output = run(&["load"], &socket);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("x\u{fffd}: the path is no UTF-8"), "{output:?}");
    let output = run(&["check", "--json"], &socket);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(findings["dir"].as_str().unwrap().ends_with("x\u{fffd}"), "{findings}");
    let output = run(&["new", "lua", "--json"], &odd.join("s.sock"));
    assert!(output.status.success(), "{output:?}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(made["dir"].as_str().unwrap().ends_with("x\u{fffd}"), "{made}");
    let mut keygen = Command::new(MENAGERIE);
    let output = keygen.args(["keygen", "--json", "--out"]).arg(odd.join("key")).output().unwrap();
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(made["file"].as_str().unwrap().ends_with("x\u{fffd}/key"), "{made}");
}

/// A reader that has gone is no error; a full disk is one.
#[test]
fn g_output_that_cannot_be_written_is_1_and_told() {
    let running = Running::start();
    let socket = running.dir.path().join("s.sock");
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["events", "--since", "1h"],
        &["logs"],
        &["call", "greeter@1", "greet", "\"Ada\""],
        &["doctor", "--json"],
        &["completions", "bash"],
    ] {
        let mut command = Command::new(MENAGERIE);
        command.args(args).arg("--socket").arg(&socket).stdout(full());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        let told = "standard output cannot be written: No space left on device";
        assert_eq!(stderr(&output).matches(told).count(), 1, "{args:?}: {output:?}");
    }
    let mut command = Command::new(MENAGERIE);
    command.args(["events", "--since", "1h"]).arg("--socket").arg(&socket);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// `run` prefers what is closest to it: its argument, its file, the environment.
#[test]
fn g_the_files_socket_wins_over_the_environments() {
    let dir = tempfile::tempdir().unwrap();
    let named = |name: &str| dir.path().join(name);
    std::fs::write(named("with.toml"), "[status]\nsocket = 'file.sock'\n").unwrap();
    std::fs::write(named("without.toml"), "").unwrap();
    for (file, args, expected) in [
        ("with.toml", None, "file.sock"),
        ("without.toml", None, "environment.sock"),
        ("with.toml", Some("argument.sock"), "argument.sock"),
    ] {
        let mut command = Command::new(MENAGERIE);
        command.args(["run", "--log", "error", "--config"]).arg(named(file));
        if let Some(socket) = args {
            command.arg("--socket").arg(named(socket));
        }
        command.env("MENAGERIE_SOCKET", named("environment.sock"));
        let mut program = super::running::Running::ready(&mut command, "ready at");
        assert!(named(expected).exists(), "{file}: no {expected}");
        program.kill().unwrap();
        program.wait().unwrap();
        std::fs::remove_file(named(expected)).unwrap();
    }
    // Who looks finds it by the variable.
    let output = Command::new(MENAGERIE)
        .arg("status")
        .env("MENAGERIE_SOCKET", named("nobody.sock"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(stderr(&output).contains("nobody.sock"), "{output:?}");
}
