use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};

use super::common::{MENAGERIE, Program, Running, sample};

fn run(args: &[&str]) -> Output {
    Command::new(MENAGERIE).arg("run").args(args).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn g_a_supervisor_that_hangs_is_told_from_one_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    // The kernel connects them; nobody answers.
    let _listener = UnixListener::bind(&socket).unwrap();
    let commands = [
        &["status"][..],
        &["top", "--once"],
        &["logs"],
        &["reload", "a"],
        &["call", "a@1", "b", "--timeout", "1s"],
    ];
    let mut waiting: Vec<Program> = commands
        .iter()
        .map(|args| {
            Program::start(Command::new(MENAGERIE).args(*args).arg("--socket").arg(&socket))
        })
        .collect();
    for program in &mut waiting {
        program.wait_for("does not answer: it has said nothing for 15 s");
    }
}

#[test]
fn g_watch_takes_the_bundles_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    std::fs::write(&file, format!("bundles = [{:?}]", sample("greeter-lua"))).unwrap();
    let socket = dir.path().join("s.sock");
    let mut program = Program::start(
        Command::new(MENAGERIE)
            .args(["run", "--watch", "--config"])
            .arg(&file)
            .arg("--socket")
            .arg(&socket),
    );
    program.wait_for("1 of 1 bundles loaded");
    let output = run(&["--watch", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("no bundles to watch"));
}

#[test]
fn g_a_filter_for_logs_that_is_none_is_told_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    std::fs::write(&file, "log = \"a=b=c\"").unwrap();
    let output = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("m.toml: log = \"a=b=c\": "), "{told}");
}
