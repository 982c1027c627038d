//! The worker for native bundles.

use std::process::ExitCode;

use menagerie_worker_native::NativeLoader;

fn main() -> ExitCode {
    let runtime = NativeLoader::runtime_version();
    if std::env::args().any(|argument| argument == "--version") {
        #[allow(clippy::print_stdout, reason = "this is what --version is for")]
        {
            println!("menagerie-worker-native {} ({runtime})", env!("CARGO_PKG_VERSION"));
        }
        return ExitCode::SUCCESS;
    }
    menagerie_protocol::serve::serve(NativeLoader::new(), runtime)
}
