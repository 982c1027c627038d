//! Short forms of what `make faults` and `make chaos` do at length.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program of ours, killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[allow(clippy::disallowed_methods, clippy::zombie_processes, reason = "waited for on drop")]
fn succeeds(program: &str, arguments: &[&str], variables: &[(&str, &str)]) {
    let told = tempfile::NamedTempFile::new().unwrap();
    let child = Command::new(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(told.reopen().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let deadline = Instant::now() + Duration::from_secs(240);
    let status = loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "{program} does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    let told = std::fs::read_to_string(told.path()).unwrap();
    assert!(status.success(), "{status}:\n{told}");
}

#[test]
fn s2_every_fifth_fault_of_two_languages_is_survived() {
    succeeds(env!("CARGO_BIN_EXE_faults"), &["--quick", "c", "lua"], &[]);
}

#[test]
fn c3_the_books_are_right_after_a_little_chaos() {
    succeeds(env!("CARGO_BIN_EXE_chaos"), &[], &[("SECONDS", "3"), ("SEED", "1")]);
}
