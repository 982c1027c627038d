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

