//! The program `menagerie-worker-python`.

use std::io::Write as _;
use std::process::ExitCode;

use menagerie_protocol::message::ENV_STANDBY;
use menagerie_protocol::sandbox;
use menagerie_protocol::serve::serve;
use menagerie_worker_python::{PythonLoader, runtime_version};

fn main() -> ExitCode {
    let runtime = runtime_version();
    if std::env::args().any(|argument| argument == "--version") {
        let version = env!("CARGO_PKG_VERSION");
        let said = writeln!(std::io::stdout(), "menagerie-worker-python {version} ({runtime})");
        return if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    // CPython takes the thread that initialises it for its main thread, so it
    // has to be this one.
    let loader = PythonLoader::new();
    // What it imports from is known now, and no other thread runs yet.
    sandbox::enter(|| loader.runtime_files());
    if std::env::var_os(ENV_STANDBY).is_some() {
        // Nobody waits for it: if there is no thread to spare, nothing is lost.
        drop(loader.warm_up());
    }
    serve(loader, || runtime)
}
