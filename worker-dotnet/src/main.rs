//! `menagerie-worker-dotnet`: started by the supervisor.

use std::process::ExitCode;

use menagerie_protocol::message::{ENV_SOCKET, ENV_STANDBY};
use menagerie_protocol::sandbox;
use menagerie_worker_dotnet::{DotnetLoader, Search};

/// Settings that the runtime reads from the environment only, unless they are
/// there already.
const SETTINGS: [(&str, &str); 4] = [
    // How much is allocated between two collections of young objects, in
    // hexadecimal bytes. .NET takes what the processor's cache can hold, tens
    // of megabytes on a server: too much for one of many small workers.
    ("DOTNET_GCgen0size", "400000"),
    // No socket and thread that wait for a debugger or profiler.
    ("DOTNET_EnableDiagnostics", "0"),
    // No W^X: compiled code is written where it runs, and not by way of a second
    // mapping of shared memory for each piece (".NET 6: What's new in the runtime"
    // gives its price as a tenth of the start; it is the default since .NET 7).
    // Without it the kernel has 3 MB of shared memory less to give back when the
    // process ends, before which no bundle is loaded again.
    // W^X makes it harder to turn a bug of native code into an attacker's own code.
    // Here that would be within a process whose bundles run any native code that
    // they like: what holds them is the process. Who has bundles that read hostile
    // data by native libraries may set it to 1 (`worker_env`).
    ("DOTNET_EnableWriteXorExecute", "0"),
    // The thread that compiles in the background stays, where .NET ends it after
    // four seconds: the first load of a standby would wait until it had started
    // another one. In hexadecimal milliseconds; this number means for ever.
    ("DOTNET_TC_BackgroundWorkerTimeoutMs", "ffffffff"),
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
    sandbox::enter(|| search.files());
    let loader = DotnetLoader::new(search);
    // Under a supervisor the runtime starts while the worker says hello, so
    // that the first load, or a standby's, finds it running.
    if std::env::var_os(ENV_SOCKET).is_some() {
        let rehearse = std::env::var_os(ENV_STANDBY).is_none();
        loader.warm_up(rehearse);
    }
    menagerie_protocol::serve::serve(loader, || runtime)
}
