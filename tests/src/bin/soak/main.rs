//! `make soak`: bundles of every language are loaded, called and unloaded, and
//! reloaded, again and again; their workers' memory must not grow (rule L9).
//! Writes a plot of each and a table; `--help` tells how.

mod args;
mod page;
mod plot;
mod run;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use args::{Args, Asked};

/// How often it is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[allow(clippy::print_stdout, reason = "a program that tells how far it is")]
fn say(text: &str) {
    println!("{text}");
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Asked::Soak(args)) => args,
        Ok(Asked::Help) => {
            say(args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            say(&format!("soak: {problem}; --help tells what there is"));
            return ExitCode::from(2);
        }
    };
    match soak(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("soak: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn soak(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(&args.out)?;
    let mut all_flat = true;
    for language in &args.languages {
        let mut series = Vec::new();
        for what in [run::What::Load, run::What::Reload] {
            let began = Instant::now();
            let mut told = began;
            let found = run::run(*language, what, args, |round| {
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    let (name, what, rounds) = (language.name, what.name(), args.rounds);
                    let took = began.elapsed().as_secs();
                    say(&format!("{name}: {what}: {round} of {rounds} rounds in {took} s"));
                }
            })
            .await?;
            say(found.row(language.name).trim_end());
            all_flat &= found.is_flat();
            series.push(found);
        }
        // After each language: what is done stays, whatever becomes of the rest.
        let file = args.out.join(format!("{}.svg", language.suffix));
        std::fs::write(file, plot::svg(language.name, &series))?;
        page::write(&args.out, language, &series)?;
    }
    Ok(all_flat)
}
