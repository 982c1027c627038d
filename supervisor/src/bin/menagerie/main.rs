//! `menagerie`: runs a supervisor, and looks at and acts on one that runs.

mod args;
mod bench;
mod check;
mod client;
mod command;
mod ending;
mod follow;
mod generate;
mod hangup;
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

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // clap ends the process itself with 2 for usage, and 0 for help.
    let args = args::Args::parse_from(args::plain(std::env::args_os()));
    match command::execute(args).and_then(|()| render::written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            render::complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
