//! `make demo`: every language answers, is killed in the middle of its work,
//! and answers again, while this program goes on.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use comfy_table::Table;
use menagerie_supervisor::{Failure, Supervisor, WorkerState, WorkerStatus};
use menagerie_tests::{LANGUAGES, Language};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing_subscriber::EnvFilter;

/// Long enough for any machine: what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// One row of the table.
struct Row {
    language: &'static str,
    runtime: String,
    pid_before: u32,
    pid_after: u32,
    first: String,
    again: String,
    recovered: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            // The crashes are wanted, and told on standard output.
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off")),
        )
        .with_writer(std::io::stderr)
        .init();
    match demo().await {
        Ok(table) => {
            say(&format!("\n{table}\n\nThe host, process {}, never stopped.", std::process::id()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("the demo failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "a demo talks")]
fn say(text: &str) {
    println!("{text}");
}

async fn demo() -> Outcome<Table> {
    let mut builder = Supervisor::builder();
    // The workers lie beside this program; Cargo's test runner has its own copy.
    if let Some(beside) = std::env::current_exe()?.parent().map(Path::to_owned) {
        builder = builder.worker_dir(beside);
    }
    let supervisor = builder.start()?;
    let mut table = Table::new();
    table.set_header([
        "language",
        "runtime",
        "pid before",
        "pid after",
        "first answer",
        "answer after recovery",
        "time to recover",
    ]);
    for language in LANGUAGES {
        let row = show(&supervisor, language)
            .await
            .map_err(|error| format!("{}: {error}", language.name))?;
        table.add_row([
            row.language.to_owned(),
            row.runtime,
            row.pid_before.to_string(),
            row.pid_after.to_string(),
            row.first,
            row.again,
            format!("{:.1} ms", row.recovered.as_secs_f64() * 1000.0),
        ]);
    }
    supervisor.shutdown().await;
    Ok(table)
}

async fn show(supervisor: &Supervisor, language: Language) -> Outcome<Row> {
    say(&format!(
        "{}: loading greeter-{suffix} and probe-{suffix}",
        language.name,
        suffix = language.suffix
    ));
    supervisor.load(language.bundle("greeter")).await?;
    supervisor.load(language.bundle("probe")).await?;
    let greeter = supervisor.contract(&format!("greeter-{}/greeter@1", language.suffix))?;
    let probe = supervisor.contract(&format!("probe-{}/probe@1", language.suffix))?;
    let first: String = greeter.call("greet", ("Ada",)).await?;
    say(&format!("{}: it says \"{first}\"", language.name));

    let before = worker(supervisor, language)?;
    let pid_before = before.pid.ok_or("the worker has no process")?;
    // A call that no worker has begun is carried to the next one, and ends
    // well; the kill is to come in the middle of one.
    let deadline = Instant::now() + PATIENCE;
    let (pid_before, killed) = loop {
        let pid = worker(supervisor, language)?.pid.unwrap_or(pid_before);
        let working = {
            let probe = probe.clone();
            tokio::spawn(async move { probe.call::<_, ()>("sleep_ms", (1000,)).await })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        say(&format!("{}: kill -9 {pid}, in the middle of a call", language.name));
        let killed = Instant::now();
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        let again = greeter.call::<_, String>("greet", ("Grace",)).await?;
        let recovered = killed.elapsed();
        match working.await? {
            Err(Failure::WorkerCrashed { cause, .. }) => {
                say(&format!("{}: the call in flight ended with: died of {cause}", language.name));
                break (pid, (again, recovered));
            }
            Ok(()) if Instant::now() < deadline => {}
            other => return Err(format!("the call that was killed ended with {other:?}").into()),
        }
    };
    let (again, recovered) = killed;
    say(&format!("{}: it says \"{again}\"", language.name));
    let after = loop {
        let worker = worker(supervisor, language)?;
        if worker.state == WorkerState::Ready && worker.pid != Some(pid_before) {
            break worker;
        }
        if Instant::now() > deadline {
            return Err(format!("the worker is {:?}", worker.state).into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    Ok(Row {
        language: language.name,
        runtime: after.runtime.unwrap_or_default(),
        pid_before,
        pid_after: after.pid.unwrap_or_default(),
        first,
        again,
        recovered,
    })
}

fn worker(supervisor: &Supervisor, language: Language) -> Outcome<WorkerStatus> {
    let workers = supervisor.status().workers;
    let found = workers.into_iter().find(|worker| worker.loader == language.loader);
    found.ok_or_else(|| format!("there is no worker '{}'", language.loader).into())
}
