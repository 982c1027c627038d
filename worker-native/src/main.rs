//! The worker for native bundles.

use std::process::ExitCode;

use menagerie_protocol::sandbox;
use menagerie_worker_native::{NativeLoader, tell_stacks};

fn main() -> ExitCode {
    let runtime = NativeLoader::runtime_version();
    if std::env::args().any(|argument| argument == "--version") {
        #[allow(clippy::print_stdout, reason = "this is what --version is for")]
        {
            println!("menagerie-worker-native {} ({runtime})", env!("CARGO_PKG_VERSION"));
        }
        return ExitCode::SUCCESS;
    }
    // C and Rust have no runtime but the system's libraries.
    sandbox::enter(Vec::new);
    write_lines_at_once();
    tell_stacks();
    menagerie_protocol::serve::serve(NativeLoader::new(), || runtime)
}

/// C's standard output is a pipe here, which the library would gather for
/// kilobytes: a bundle's lines would come late, and those before a crash never.
fn write_lines_at_once() {
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
    }
    // SAFETY: the C library sets it before `main`, and nobody else assigns it.
    let stream = unsafe { stdout };
    // SAFETY: the stream is open and nothing was written to it yet; without a
    // buffer of ours the library takes its own.
    unsafe { libc::setvbuf(stream, std::ptr::null_mut(), libc::_IOLBF, 0) };
}
