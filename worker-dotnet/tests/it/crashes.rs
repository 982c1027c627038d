use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use crate::support::{harness, load, sample};

const SIGABRT: i32 = 6;

#[allow(clippy::disallowed_methods, reason = "no worker is started, but this very test program")]
/// Runs one of this file's ignored tests in a process of its own.
fn run_in_child(test: &str) -> Output {
    // What it leaves there goes with this.
    let temp = tempfile::tempdir().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", &format!("crashes::{test}")])
        .env("TMPDIR", temp.path())
        .stdout(Stdio::null())
        .output()
        .unwrap()
}

fn assert_aborted(output: &Output, words: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(SIGABRT), "{}: {stderr}", output.status);
    assert!(stderr.contains(words), "{stderr}");
}

#[test]
fn crash_ends_the_process_with_a_message() {
    let _harness = harness!();
    assert_aborted(&run_in_child("child_crashes"), "crash() was called");
}

#[test]
#[ignore = "ends the process; another test runs it"]
fn child_crashes() {
    let probe = sample(&harness!(), "probe-dotnet");
    probe.call::<_, ()>("probe@1", "crash", ()).unwrap();
}

#[test]
fn a_stack_overflow_ends_the_process_with_a_message() {
    let _harness = harness!();
    assert_aborted(&run_in_child("child_overflows"), "Stack overflow");
}

#[test]
#[ignore = "ends the process; another test runs it"]
fn child_overflows() {
    let bundle = load(&harness!(), "failures", &["failures@1"]);
    bundle.call::<_, i32>("failures@1", "overflow", (0,)).unwrap();
}

#[test]
fn an_exception_in_a_bundles_own_thread_ends_the_process() {
    let _harness = harness!();
    assert_aborted(&run_in_child("child_throws_in_thread"), "Failures+CustomException: astray");
}

#[test]
#[ignore = "ends the process; another test runs it"]
fn child_throws_in_thread() {
    let bundle = load(&harness!(), "failures", &["failures@1"]);
    bundle.call::<_, i32>("failures@1", "throw_in_thread", ()).unwrap();
}

#[test]
fn an_abort_by_the_supervisor_is_an_abort() {
    let _harness = harness!();
    assert_aborted(&run_in_child("child_is_aborted"), "");
}

#[test]
#[ignore = "ends the process; another test runs it"]
fn child_is_aborted() {
    let _greeter = sample(&harness!(), "greeter-dotnet");
    // SAFETY: both take and return numbers only. The signal goes to the
    // process, and so to its main thread, which is none of .NET's.
    let pid = unsafe { libc::getpid() };
    // SAFETY: as above.
    unsafe { libc::kill(pid, SIGABRT) };
    std::thread::park();
}
