//! The Lua worker's program; the supervisor starts it.

use std::process::ExitCode;

use menagerie_protocol::sandbox;
use menagerie_worker_lua::{LuaLoader, runtime_version};

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|arg| arg == "--version") {
        let runtime = runtime_version();
        #[allow(clippy::print_stdout, reason = "what --version is for")]
        {
            println!("menagerie-worker-lua {} ({runtime})", env!("CARGO_PKG_VERSION"));
        }
        return ExitCode::SUCCESS;
    }
    // Lua is within the program.
    sandbox::enter(Vec::new);
    menagerie_protocol::serve::serve(LuaLoader::new(), runtime_version)
}
