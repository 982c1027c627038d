//! `menagerie bench`: what calls cost on this machine, each figure beside what
//! the machine itself allows.
//!
//! Ours and its floor are measured in turns, close together, and compared
//! within each turn: a virtual machine moves its CPUs about, now on one core,
//! now on two, and a floor of one moment says nothing about another.

mod bundles;
mod copy;
mod crashes;
mod idle;
mod in_process;
mod left_out;
mod peer;
mod plot;
#[path = "../../../proc_stat.rs"]
#[allow(dead_code, reason = "the supervisor's own, which reads more of it")]
mod proc_stat;
mod report;
mod rows;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use report::{Report, Row, Unit};

use crate::args::BenchCommand;
use crate::client::CommandError;
use crate::render;

/// What `menagerie bench` was asked for.
#[derive(Debug)]
struct Options {
    quick: bool,
    only: Vec<String>,
    out: Option<PathBuf>,
    bundles: PathBuf,
    worker_dir: Option<PathBuf>,
    json: bool,
}

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub(crate) struct Problem {
    what: String,
    why: String,
}

impl Problem {
    fn new(what: &(impl Display + ?Sized), why: &(impl Display + ?Sized)) -> Self {
        Self { what: what.to_string(), why: why.to_string() }
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::new("the system", &error)
    }
}

/// A program to be started for a floor.
#[allow(
    clippy::disallowed_methods,
    reason = "floors are measured against processes that no supervisor has started"
)]
fn program(path: &Path) -> Command {
    Command::new(path)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

/// What its help ends with.
pub(crate) fn help() -> String {
    let groups = rows::GROUPS.map(|(name, _)| name).join(", ");
    format!(
        "Figures mean something only in a build with optimisation, on a machine that does \
         nothing else.\nGroups: {groups}."
    )
}

/// `bench`, or one of the processes that it starts.
pub(crate) fn execute(command: BenchCommand, json: bool) -> Result<(), CommandError> {
    let failed = |error: &dyn Display| CommandError::Failed(error.to_string());
    match command {
        BenchCommand::Bench { quick, only, out, bundles, worker_dir } => {
            run(&Options { quick, only, out, bundles, worker_dir, json })
        }
        BenchCommand::BenchPeer { memory } => peer::main(&memory).map_err(|error| failed(&error)),
        BenchCommand::BenchIdle { dirs, worker_dir } => {
            idle::main(&dirs, worker_dir).map_err(|error| failed(&error))
        }
    }
}

fn run(options: &Options) -> Result<(), CommandError> {
    let known = rows::GROUPS.map(|(name, _)| name);
    if let Some(unknown) = options.only.iter().find(|only| !known.contains(&only.as_str())) {
        let known = known.join(", ");
        let message = format!("--only {unknown}: there is no such group; there are {known}");
        return Err(CommandError::Usage(message));
    }
    let failed = |error: &dyn Display| CommandError::Failed(error.to_string());
    if cfg!(debug_assertions) {
        render::note("menagerie: built without optimisation: these figures say little");
    }
    let mut report = Report::new(options.quick);
    rows::measure(options, &mut report).map_err(|e| failed(&e))?;
    if report.rows.is_empty() {
        let reasons = report.left_out.join("; ");
        return Err(CommandError::Failed(format!("nothing could be measured: {reasons}")));
    }
    for reason in &report.left_out {
        render::note(&format!("menagerie: left out: {reason}"));
    }
    if let Some(dir) = &options.out {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|e| failed(&format!("{}: {e}", path.display())))
        };
        std::fs::create_dir_all(dir).map_err(|e| failed(&format!("{}: {e}", dir.display())))?;
        let json = serde_json::to_string_pretty(&report).map_err(|e| failed(&e))?;
        write("bench.json", json + "\n")?;
        write("bench.svg", plot::svg(&report.rows))?;
    }
    if options.json {
        render::json(&report);
    } else {
        table(&report);
    }
    Ok(())
}

fn table(report: &Report) {
    let cells = |row: &Row| {
        let limit = row.limit.map(|limit| format!("{limit}")).unwrap_or_default();
        let verdict = match row.holds() {
            Some(true) => "ok",
            Some(false) => "beyond",
            None => "",
        };
        vec![
            row.group.clone(),
            row.name.clone(),
            row.unit.show(row.ours),
            row.unit.show(row.floor),
            row.floor_name.clone(),
            format!("{:.2}", row.ratio),
            format!("{:.2}–{:.2}", row.ratio_min, row.ratio_max),
            limit,
            verdict.to_owned(),
        ]
    };
    let header =
        ["group", "figure", "ours", "floor", "what the floor is", "ratio", "of turns", "limit", ""];
    render::table(&header, report.rows.iter().map(cells));
}
