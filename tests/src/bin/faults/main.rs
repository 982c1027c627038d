//! `make faults`: every fault, in every language that can commit it, under a
//! load of calls on an innocent bundle in the same worker and on another one,
//! and a table of what came of it.
//!
//! ```text
//! faults [--quick] [LANGUAGE[:FAULT]]...
//! ```
//!
//! Its exit status is 1 if no row was chosen, or any row is not as it has to be: the host lives (or
//! nothing is printed), the guilty call has a typed outcome, the bundle answers
//! again, and no call on another worker fails. A row that hangs says at which step,
//! and what the supervisor's state is then. Faults are the bundles' own, but
//! for `killed` and `stopped`, which come from outside in languages that cannot
//! signal themselves, and those of `deeds.rs`.

mod bundles;
mod deeds;
mod stage;

use std::process::ExitCode;
use std::time::Instant;

use bundles::{Guilty, LANGUAGES};
use comfy_table::{ContentArrangement, Table};
use stage::{Row, commit};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |language: &str, fault: Option<&str>| {
        let is_it = |name: &&String| match (name.split_once(':'), fault) {
            (Some((of, one)), Some(fault)) => of == language && one == fault,
            (Some((of, _)), None) => of == language,
            (None, _) => *name == language,
        };
        only.is_empty() || only.iter().any(is_it)
    };
    let languages = LANGUAGES.into_iter().filter(|language| chosen(language.name, None));
    let (mut table, mut count, mut bad) = (Table::new(), 0, 0);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "language",
        "fault",
        "the guilty call",
        "the worker",
        "same worker: failed of calls",
        "others: failed of calls",
        "noticed",
        "recovered",
    ]);
    for language in languages {
        let guilty = match Guilty::make(language) {
            Ok(guilty) => guilty,
            Err(problem) => {
                // The set-up brings what it takes: that it lacks is no success.
                say(&format!("{}: skipped: {problem}", language.name));
                bad += 1;
                continue;
            }
        };
        let step = if quick { 5 } else { 1 };
        let faults = language.faults.iter().step_by(step);
        for fault in faults.filter(|fault| chosen(language.name, Some(fault))) {
            let begun = Instant::now();
            let problem = match commit(&guilty, fault).await {
                Ok(row) => {
                    add(&mut table, language.name, fault, &row);
                    row.breaks().map(|problem| format!("BROKEN: {problem}"))
                }
                Err(problem) => Some(format!("FAILED: {problem}")),
            };
            count += 1;
            let seconds = begun.elapsed().as_secs_f64();
            // At once: whoever ends a run that hangs has what came before.
            let outcome = problem.as_deref().unwrap_or("done");
            say(&format!("{}: {fault}: {outcome} ({seconds:.1} s)", language.name));
            if let Some(problem) = problem {
                bad += 1;
                let first = problem.lines().next().unwrap_or_default();
                table.add_row([language.name, fault, first]);
            }
        }
    }
    say(&table.to_string());
    let host = std::process::id();
    say(&format!("The host, process {host}, is alive. {count} rows, {bad} failures."));
    // Of none nothing has been shown.
    if bad == 0 && count > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn add(table: &mut Table, language: &str, fault: &str, row: &Row) {
    let ms = |time: Option<std::time::Duration>| {
        time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1000.0))
    };
    table.add_row([
        language.to_owned(),
        fault.to_owned(),
        row.outcome.clone(),
        row.death.clone(),
        format!("{} of {}", row.innocent.0, row.innocent.1),
        format!("{} of {}", row.others.0, row.others.1),
        ms(row.noticed),
        ms(Some(row.recovered)),
    ]);
}

#[allow(clippy::print_stdout, reason = "a table for people")]
fn say(text: &str) {
    println!("{text}");
}
