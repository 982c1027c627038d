//! The program `menagerie-worker-js`: see the library.

use std::process::ExitCode;

use menagerie_protocol::sandbox;
use menagerie_worker_js::JsLoader;

fn main() -> ExitCode {
    keep_bytecode_to_itself();
    let version = menagerie_worker_js::version();
    if std::env::args().any(|argument| argument == "--version") {
        #[allow(clippy::print_stdout, reason = "what --version is for")]
        {
            println!("menagerie-worker-js {} ({version})", env!("CARGO_PKG_VERSION"));
        }
        return ExitCode::SUCCESS;
    }
    // The engine is within the program.
    sandbox::enter(Vec::new);
    menagerie_protocol::serve::serve(JsLoader::new(), || version)
}

/// deno_core's QuickJS would write the bytecode of every module to a folder
/// below `HOME`, or below `/tmp`, and would run what it finds there. Bytecode
/// is not checked when it is loaded, so such a folder must be nobody else's;
/// the supervisor names one, or there is none.
#[allow(clippy::disallowed_methods, reason = "no other thread exists yet")]
fn keep_bytecode_to_itself() {
    if std::env::var_os("V82JSC_BC_CACHE_DIR").is_none() {
        // SAFETY: `main` has started no thread yet, so none reads the
        // environment meanwhile.
        unsafe { std::env::set_var("V82JSC_NO_BC_CACHE", "1") };
    }
}
