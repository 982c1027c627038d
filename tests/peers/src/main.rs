//! Calls of Menagerie beside what a user would pick instead, in one run and on
//! the same functions: one that does nothing, and one that returns its bytes.
//!
//!     menagerie-peers --worker-dir DIR --bundles DIR [--out DIR] [--quick]
//!
//! The program starts itself again as each peer's server (`serve`).

mod contest;
mod peers;
mod remote;
mod report;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

/// A program's own errors: they are told, and it ends.
type Outcome<T> = Result<T, Box<dyn Error>>;

/// What was asked for.
#[derive(Debug, Default)]
struct Options {
    quick: bool,
    out: Option<PathBuf>,
    worker_dir: PathBuf,
    bundles: PathBuf,
}

fn options(mut args: impl Iterator<Item = String>) -> Outcome<Options> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        let mut value =
            || args.next().map(PathBuf::from).ok_or(format!("{arg}: a value is missing"));
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--out" => options.out = Some(value()?),
            "--worker-dir" => options.worker_dir = value()?,
            "--bundles" => options.bundles = value()?,
            _ => return Err(format!("{arg}: unknown option").into()),
        }
    }
    Ok(options)
}

fn run() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    if first.as_deref() == Some("serve") {
        let (kind, address) = args.next().zip(args.next()).ok_or("serve KIND ADDRESS")?;
        return remote::serve(&kind, &address);
    }
    let options = options(first.into_iter().chain(args))?;
    let report = contest::run(&options)?;
    print!("{}", report.table());
    if let Some(dir) = &options.out {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("peers.json"), serde_json::to_string_pretty(&report)? + "\n")?;
        std::fs::write(dir.join("peers.md"), report.page())?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("menagerie-peers: {error}");
            ExitCode::FAILURE
        }
    }
}
