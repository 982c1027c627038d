//! `menagerie`: runs a supervisor, and looks at and acts on one that runs.

mod args;
mod bench;
mod check;
mod client;
mod command;
mod ending;
mod follow;
mod foreign;
mod generate;
mod hangup;
mod moment;
mod new;
mod notify;
mod query;
mod render;
mod run;
mod scratch;
mod sign;
mod sse;
mod told;
mod top;
mod voice;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// How long the end waits for whoever should read standard error.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // clap ends the process itself with 2 for usage, and 0 for help.
    let args = args::Args::parse_from(args::plain(std::env::args_os()));
    let code = match command::execute(args).and_then(|()| render::written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            render::complain(&error);
            ExitCode::from(error.exit_code())
        }
    };
    voice::finish(LAST_WORDS);
    code
}
