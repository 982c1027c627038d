//! What people see.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};
use menagerie_supervisor::doctor::Report;
use menagerie_supervisor::{
    BundleStatus, CrashReport, Event, LogEntry, ReplicaStatus, Status, WorkerStatus,
};
use serde::{Serialize, Serializer};

use crate::check::Findings;
use crate::client::CommandError;
use crate::foreign::readable;
use crate::moment::moment;
use crate::new::Made;
use crate::voice;

/// Why something that should have been written has not been: the first reason.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Writes something that people read to standard output: a line, as [`readable`] as it has
/// to be. Returns false if there is no use in more of them.
pub(crate) fn line(text: &str) -> bool {
    verbatim(&readable(text))
}

/// Writes to standard output what is for programs, or made up of lines already.
/// Returns false if there is no use in more of it. That nobody reads it any more is no
/// error: `menagerie events | head -1` is done then. What else may be, [`written`] tells.
pub(crate) fn verbatim(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = &written
        && error.kind() != ErrorKind::BrokenPipe
    {
        UNWRITTEN.get_or_init(|| error.to_string());
    }
    written.is_ok()
}

/// Whether everything that somebody could have read has been written.
pub(crate) fn written() -> Result<(), CommandError> {
    UNWRITTEN.get().map_or(Ok(()), |why| {
        Err(CommandError::Failed(format!("standard output cannot be written: {why}")))
    })
}

/// Writes one line to standard error.
pub(crate) fn complain(error: &CommandError) {
    note(&format!("menagerie: {}", error.to_string().replace('\n', " ")));
}

/// Writes a line to standard error, as [`line`] does.
pub(crate) fn note(text: &str) {
    voice::say(format!("{}\n", readable(text)).as_bytes());
}

pub(crate) fn json<T: Serialize>(value: &T) {
    show_json(serde_json::to_string_pretty(value));
}

/// As [`json`], in one line.
pub(crate) fn json_line<T: Serialize>(value: &T) {
    show_json(serde_json::to_string(value));
}

fn show_json(text: serde_json::Result<String>) {
    match text {
        Ok(text) => drop(verbatim(&text)),
        Err(error) => drop(UNWRITTEN.get_or_init(|| error.to_string())),
    }
}

/// What is wrong at a path. Some errors begin with it, or with a file in it.
pub(crate) fn at(path: &Path, error: &impl ToString) -> String {
    let (path, error) = (path.display().to_string(), error.to_string());
    let is_named = error.strip_prefix(&path).is_some_and(|rest| rest.starts_with([':', '/']));
    if is_named { error } else { format!("{path}: {error}") }
}

/// A path as JSON has it: what is no UTF-8 in it is replaced.
pub(crate) fn path<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

/// A spinner on standard error that shows itself when the step takes longer
/// than a second, and only on a terminal.
pub(crate) async fn patiently<T>(what: &str, step: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return step.await;
    }
    tokio::pin!(step);
    tokio::select! {
        done = &mut step => return done,
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    let done = step.await;
    spinner.finish_and_clear();
    done
}

/// The terminal's width, if standard output is one; `COLUMNS` wins.
pub(crate) fn width() -> Option<u16> {
    let said = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    said.filter(|width| *width > 0).or_else(|| {
        let terminal = std::io::stdout().is_terminal();
        terminal.then(|| ratatui::crossterm::terminal::size().ok().map(|(width, _)| width))?
    })
}

/// Shows rows of cells.
pub(crate) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = new_table(header);
    for cells in rows {
        add_row(&mut table, cells);
    }
    verbatim(&table.to_string());
}

/// A table that fits the terminal; as wide as need be where there is none.
fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width() {
        table.set_width(width);
    }
    table.set_header(header);
    table
}

fn add_row(table: &mut Table, cells: impl IntoIterator<Item = String>) {
    table.add_row(cells.into_iter().map(|cell| readable(&cell).into_owned()));
}

fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn lower<T: std::fmt::Debug>(value: T) -> String {
    format!("{value:?}").to_lowercase()
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Microseconds, in the unit that suits them.
pub(crate) fn micros(value: f64) -> String {
    match value {
        ..1000.0 => format!("{value:.1} µs"),
        1000.0..1_000_000.0 => format!("{:.1} ms", value / 1000.0),
        _ => format!("{:.1} s", value / 1_000_000.0),
    }
}

pub(crate) fn uptime(ms: u64) -> String {
    time(Duration::from_millis(ms))
}

pub(crate) fn status(status: &Status) {
    let Status { version, pid, uptime_ms, isolation, .. } = status;
    line(&format!(
        "supervisor {version}, process {pid}, up {}, isolation {isolation}",
        uptime(*uptime_ms)
    ));
    workers(&status.workers);
    bundles(&status.bundles);
}

fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

pub(crate) fn workers(workers: &[WorkerStatus]) {
    if workers.is_empty() {
        line("no workers: none has been needed yet");
        return;
    }
    let mut table =
        new_table(&["worker", "state", "pid", "runtime", "memory", "cpu", "restarts", "bundles"]);
    for worker in workers {
        let state = match &worker.problem {
            Some(problem) => format!("{}: {problem}", lower(worker.state)),
            None => lower(worker.state),
        };
        add_row(
            &mut table,
            [
                worker.name.clone(),
                state,
                dash(worker.pid),
                dash(worker.runtime.as_ref()),
                dash(worker.rss_bytes.map(mebibytes)),
                dash(worker.cpu_seconds.map(|seconds| format!("{seconds:.1} s"))),
                worker.restarts.to_string(),
                worker.bundles.join(", "),
            ],
        );
    }
    verbatim(&table.to_string());
}

pub(crate) fn bundles(bundles: &[BundleStatus]) {
    if bundles.is_empty() {
        line("no bundles: load one with: menagerie load DIR");
        return;
    }
    let mut table =
        new_table(&["bundle", "state", "provides", "generation", "calls", "failed", "p50", "p99"]);
    for bundle in bundles {
        let provides: Vec<String> = bundle
            .contracts
            .iter()
            .map(|contract| {
                let major = contract.version.split('.').next().unwrap_or_default();
                format!("{}@{major}", contract.name)
            })
            .collect();
        let state = match bundle.replicas {
            ReplicaStatus { ready, wanted: 2.. } => {
                format!("{} ({ready} of {})", lower(bundle.state), bundle.replicas.wanted)
            }
            _ => lower(bundle.state),
        };
        let state = match &bundle.problem {
            Some(problem) => format!("{state}: {problem}"),
            None => state,
        };
        let state = match &bundle.signature {
            Some(signature) => format!("{state}, signature {signature}"),
            None => state,
        };
        let micros = |value: Option<f64>| dash(value.map(micros));
        add_row(
            &mut table,
            [
                bundle.name.clone(),
                state,
                provides.join(", "),
                bundle.generation.to_string(),
                (bundle.calls.ok + bundle.calls.failed).to_string(),
                bundle.calls.failed.to_string(),
                micros(bundle.calls.p50_us),
                micros(bundle.calls.p99_us),
            ],
        );
    }
    verbatim(&table.to_string());
}

pub(crate) fn crashes(crashes: &[CrashReport], verbose: bool) {
    if crashes.is_empty() {
        line("no crashes");
    }
    for crash in crashes {
        line(&format!(
            "{}: worker {} (process {}, start {}) died of {}, after {}",
            moment(crash.time_ms),
            crash.worker,
            crash.pid,
            crash.incarnation,
            crash.cause,
            time(Duration::from_millis(crash.uptime_ms)),
        ));
        for call in &crash.running {
            let age = call.age_ms.map(|ms| format!(", for {ms} ms")).unwrap_or_default();
            let contract = match call.contract.as_str() {
                "" => String::new(),
                contract => format!("/{contract}"),
            };
            line(&format!("  running: {}{contract} {}{age}", call.bundle, call.function));
        }
        if let Some(suspect) = &crash.suspect {
            line(&format!("  suspect: {suspect}"));
        }
        if let Some(condition) = crash.condition {
            let answered = match crash.missed_heartbeats {
                0 => "while heartbeats were answered".to_owned(),
                missed => format!("and {missed} heartbeats were missed"),
            };
            line(&format!("  before: {condition}, {answered}"));
        }
        if let Some(usage) = &crash.usage {
            line(&format!(
                "  used: {} of memory at most, {:.2} s in its code, {:.2} s in the kernel",
                mebibytes(usage.max_rss_bytes),
                usage.user_seconds,
                usage.system_seconds,
            ));
        }
        let (shown, left) = match verbose {
            true => (&crash.stderr[..], 0),
            false => last_words(&crash.stderr),
        };
        for text in shown {
            line(&format!("  stderr: {text}"));
        }
        if left > 0 {
            line(&format!("  stderr: … and {left} more; --verbose shows all"));
        }
    }
}

/// How a runtime begins to tell what it dies of: Python, .NET, the native worker, C++.
/// What comes first after that is what matters, as others' stacks may follow.
const HEADS: [&str; 8] = [
    "Fatal Python error",
    "Unhandled exception",
    "Fatal error",
    "Stack overflow",
    "Process terminated",
    "terminate called",
    ": the stack of the thread that got it",
    "' panicked at ",
];
/// Where Python tells a stack with no reason before it.
const PYTHON_STACK: &str = "Current thread 0x";

/// The lines of a standard error that tell best why its process has died, and how many
/// follow them.
fn last_words(stderr: &[String]) -> (&[String], usize) {
    let last = |heads: &[&str]| {
        stderr.iter().rposition(|line| heads.iter().any(|head| line.contains(head)))
    };
    match last(&HEADS).or_else(|| last(&[PYTHON_STACK])) {
        Some(head) => {
            let words = &stderr[head..];
            words.split_at_checked(10).map_or((words, 0), |(shown, left)| (shown, left.len()))
        }
        None => (&stderr[stderr.len().saturating_sub(5)..], 0),
    }
}

pub(crate) fn event(event: &Event) -> bool {
    line(&format!("{}: {}", moment(event.time_ms), event.kind))
}

pub(crate) fn log_entry(entry: &LogEntry) -> bool {
    let LogEntry { time_ms, level, worker, bundle, source, message, .. } = entry;
    let who = match (worker, bundle) {
        (_, Some(bundle)) => format!(" {bundle}"),
        (Some(worker), None) => format!(" {worker}"),
        (None, None) => String::new(),
    };
    let level = lower(level);
    line(&format!("{} {level:5}{who} {source}: {message}", moment(*time_ms)))
}

pub(crate) fn made(made: &Made) {
    for file in &made.files {
        line(&format!("  {file}"));
    }
    if made.ready {
        line(&format!("made {}; try it: menagerie check {}", made.name, shell(&made.dir)));
    } else {
        line(&format!("made {}; compile it: {}", made.name, shell(&made.dir.join("build.sh"))));
    }
}

/// A path as a shell reads it.
fn shell(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%:=".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

pub(crate) fn findings(findings: &Findings, verbose: bool) {
    let name = findings.name.as_deref().unwrap_or("-");
    line(&format!("{name} in {}", findings.dir.display()));
    let say = |mark: &str, text: &str| {
        line(&format!("  {mark:5} {text}"));
    };
    if let Some(signature) = &findings.signature {
        say("", &format!("signature: {signature}"));
    }
    for warning in &findings.warnings {
        say("warn", warning);
    }
    for problem in &findings.problems {
        say("wrong", problem);
    }
    let stack = |text: &Option<String>| {
        for text in text.iter().flat_map(|text| text.lines()) {
            line(&format!("          {text}"));
        }
    };
    stack(&findings.stack);
    for contract in &findings.contracts {
        let functions = contract.functions.join(", ");
        say("ok", &format!("{}@{}: {functions}", contract.name, contract.version));
    }
    for test in &findings.tests {
        match &test.detail {
            None => say("ok", &test.call),
            Some(detail) => say("wrong", &format!("{}: {detail}", test.call)),
        }
        if verbose {
            stack(&test.stack);
        }
    }
    if !findings.crashes.is_empty() {
        crashes(&findings.crashes, verbose);
    }
}

pub(crate) fn report(report: &Report) {
    let mut workers = new_table(&["worker", "", "version or problem", "remedy"]);
    for worker in &report.workers {
        let mark = if worker.problem.is_none() { "ok" } else { "lacks" };
        let text = worker.problem.as_ref().or(worker.version.as_ref());
        add_row(
            &mut workers,
            [
                worker.loader.clone(),
                mark.to_owned(),
                dash(text),
                worker.remedy.clone().unwrap_or_default(),
            ],
        );
    }
    verbatim(&workers.to_string());
    let mut features = new_table(&["feature", "", "what it is for", "remedy"]);
    for feature in &report.features {
        let mark = match (feature.present, feature.required) {
            (true, _) => "ok",
            (false, true) => "lacks",
            (false, false) => "absent",
        };
        add_row(
            &mut features,
            [
                feature.feature.clone(),
                mark.to_owned(),
                feature.purpose.clone(),
                feature.remedy.clone().unwrap_or_default(),
            ],
        );
    }
    verbatim(&features.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stderr: &[&str]) -> (Vec<String>, usize) {
        let lines: Vec<String> = stderr.iter().map(ToString::to_string).collect();
        let (shown, left) = last_words(&lines);
        (shown.to_vec(), left)
    }

    #[test]
    fn s2_a_crash_is_shown_from_where_its_runtime_tells_it() {
        let python = [
            "a line",
            "Fatal Python error: Aborted",
            "",
            "Current thread 0x1 (most recent call first):",
            "  File \"main.py\", line 2 in <module>",
            "",
            "Thread 0x2 (most recent call first):",
            "  File \"threading.py\", line 1 in wait",
            "  File \"threading.py\", line 2 in wait",
            "  File \"threading.py\", line 3 in wait",
            "",
            "Extension modules: a",
        ];
        let (lines, left) = shown(&python);
        assert_eq!((lines[0].as_str(), lines.len(), left), (python[1], 10, 1));
        let (lines, _) = shown(&python[2..]);
        assert_eq!(lines[0], python[3]);
        let native = ["a", "SIGSEGV: the stack of the thread that got it, innermost first:", "  b"];
        assert_eq!(shown(&native), (vec![native[1].to_owned(), native[2].to_owned()], 0));
    }

    #[test]
    fn s2_without_a_head_the_last_lines_are_shown() {
        let (lines, left) = shown(&["1", "2", "3", "4", "5", "6"]);
        assert_eq!((lines.join(""), left), ("23456".to_owned(), 0));
        assert_eq!(shown(&[]), (Vec::new(), 0));
    }

    #[test]
    fn g_a_path_is_named_once() {
        for (error, shown) in [
            ("No such file", "a: No such file"),
            ("a: No such file", "a: No such file"),
            ("a/manifest.toml:1:1: no", "a/manifest.toml:1:1: no"),
            ("and so on", "a: and so on"),
        ] {
            assert_eq!(at(Path::new("a"), &error), shown);
        }
    }

    #[test]
    fn g_a_path_is_written_as_a_shell_reads_it() {
        for (path, written) in [
            ("/a/b-c_1.so", "/a/b-c_1.so"),
            ("/a/My Plugin", "'/a/My Plugin'"),
            ("a'b", r"'a'\''b'"),
        ] {
            assert_eq!(shell(Path::new(path)), written);
        }
    }
}
