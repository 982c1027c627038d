//! `menagerie-worker-dotnet`: started by the supervisor.

use std::process::ExitCode;

use menagerie_worker_dotnet::{DotnetLoader, Search};

/// Settings that the runtime reads from the environment only, unless they are
/// there already.
const SETTINGS: [(&str, &str); 2] = [
    // How much is allocated between two collections of young objects, in
    // hexadecimal bytes. .NET takes what the processor's cache can hold, tens
    // of megabytes on a server: too much for one of many small workers.
    ("DOTNET_GCgen0size", "400000"),
    // No socket and thread that wait for a debugger or profiler.
    ("DOTNET_EnableDiagnostics", "0"),
];

#[allow(clippy::disallowed_methods, reason = "no other thread exists yet; see the SAFETY comment")]
fn main() -> ExitCode {
    for (name, value) in SETTINGS {
        if std::env::var_os(name).is_none() {
            // SAFETY: this is the first thing that the program does, so no
            // other thread exists that could read the environment meanwhile.
            unsafe { std::env::set_var(name, value) };
        }
    }
    let search = Search::from_environment();
    let runtime = search.runtime_version();
    if std::env::args().any(|argument| argument == "--version") {
        let name = env!("CARGO_PKG_NAME");
        let version = env!("CARGO_PKG_VERSION");
        #[allow(clippy::print_stdout, reason = "--version is asked for by a person")]
        {
            println!("{name} {version} ({runtime})");
        }
        return ExitCode::SUCCESS;
    }
    let loader = DotnetLoader::new(search);
    // Under a supervisor the runtime starts while the worker says hello, so
    // that the first load, or a standby's, finds it running.
    if std::env::var_os(menagerie_protocol::message::ENV_SOCKET).is_some() {
        loader.warm_up();
    }
    menagerie_protocol::serve::serve(loader, runtime)
}
