//! A worker that misbehaves, one fault for each run. `MISBEHAVE` names the
//! fault, as `NAME` or `NAME:ARGUMENT`; `MISBEHAVE_TIMES` says how many
//! incarnations commit it (all, if it is not set), so that a test can watch the
//! recovery: those after it are honest.
//!
//! Where the point of a fault is its bytes, they are written by hand, after
//! `docs/protocol.md`, and not by our types.

mod control;
mod death;
mod greeting;
mod honest;
mod lane;
mod random;
mod ring;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use control::Control;
use greeting::Greeting;
use nix::sys::signal::{SigHandler, Signal, signal};

fn main() -> ExitCode {
    let times = variable("MISBEHAVE_TIMES").parse().unwrap_or(u64::MAX);
    if incarnation() > times {
        return honest::serve();
    }
    let fault = variable("MISBEHAVE");
    let (name, argument) = fault.split_once(':').unwrap_or((&fault, ""));
    commit(name, argument);
    hang()
}

/// Commits the fault. Afterwards the process hangs about, if it is still alive.
fn commit(name: &str, argument: &str) {
    match name {
        // No hello, or one that is to be refused.
        "exit" => std::process::exit(argument.parse().unwrap_or(1)),
        "stderr" => greeting::complain_and_die(),
        "no-hello" => {}
        "silent" => hold(greeting::connect()),
        "wrong-magic" => Greeting { magic: 0xdead_beef, ..Greeting::honest() }.say(),
        "wrong-version" => Greeting { version: (9, 3), ..Greeting::honest() }.say(),
        "later-minor-version" => {
            Greeting { version: (1, 200), ..Greeting::honest() }.say();
        }
        "wrong-token" => Greeting { token: "0".repeat(32), ..Greeting::honest() }.say(),
        "wrong-loader" => Greeting { loader: "python", ..Greeting::honest() }.say(),
        "half-a-frame" => greeting::say(&Greeting::honest().frame()[..20]),
        "huge-length" => greeting::say(&[0xff; 4]),
        "garbage" => greeting::say(&greeting::framed(&[0xee; 100])),
        "another-message" => greeting::say(&greeting::framed(&[8, 1])),
        "descriptors" => greeting::say_with_descriptors(argument.parse().unwrap_or(1)),
        "hello-by-proxy" => greeting::by_proxy(),
        "crowd" => greeting::crowd(),
        // An honest hello, then faults on the control channel.
        "second-hello" => hold(control::second_hello(Control::open())),
        "close" => drop(Control::open()),
        "first-load" => control::ends_of_first_load(),
        "control" => hold(control::say(Control::open(), argument)),
        "on-load" => hold(control::on_load(Control::open(), argument)),
        "loaded" => control::once_loaded(Control::open(), argument),
        "deaf" => {
            ignore_signals();
            control::deaf(Control::open());
        }
        // An honest load, then faults in the lane's memory, at its first call.
        "ring" => ring::commit(lane::serve_first_call(Control::open()), argument),
        "die" => death::meet(lane::serve_first_call(Control::open()), argument),
        // Honest until SIGUSR1 ends its control thread, and nothing else; `nameless`: what
        // lives on has a name that is no text.
        "half-dead" => {
            end_a_thread_at_sigusr1();
            let _: ExitCode = honest::serve_panicking(argument);
        }
        // Honest, but for a bug of its loader.
        "panic" => drop(honest::serve_panicking(argument)),
        "early" => drop(honest::serve_early(argument)),
        "random" => random::scribble(lane::serve_first_call(Control::open()), incarnation()),
        _ => std::process::exit(97),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Which start of the worker this is: each leaves a byte in a file in the
/// supervisor's folder, where the scratch folders are.
fn incarnation() -> u64 {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    *NUMBER.get_or_init(|| {
        let scratch = PathBuf::from(variable("MENAGERIE_SCRATCH"));
        let Some(folder) = scratch.parent() else { return 1 };
        let file = OpenOptions::new().create(true).append(true).open(folder.join("misbehaved"));
        let mut file = file.expect("the supervisor's folder is there");
        file.write_all(b".").expect("it can be written");
        file.metadata().expect("it is open").len()
    })
}

/// What a polite request to go meets.
fn ignore_signals() {
    for which in [Signal::SIGTERM, Signal::SIGABRT] {
        // SAFETY: ignoring a signal installs no handler.
        let ignored = unsafe { signal(which, SigHandler::SigIgn) };
        assert!(ignored.is_ok());
    }
}

/// The thread that meets the signal is gone, and the process stays.
fn end_a_thread_at_sigusr1() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: exit(2) ends the calling thread only, and takes an integer.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    // SAFETY: the handler makes one system call, which may be made in one.
    let handled = unsafe { signal(Signal::SIGUSR1, SigHandler::Handler(end)) };
    assert!(handled.is_ok());
}

/// Keeps something open for as long as the process lives.
fn hold<T>(what: T) {
    std::mem::forget(what);
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
