//! One fault: a supervisor, a guilty bundle, an innocent one beside it, one in
//! another worker, and what became of them.

use std::fmt::Display;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use menagerie_supervisor::{Config, Contract, EventKind, NextEvent, RestartPolicy, Supervisor};
use menagerie_tests::Language;

use crate::bundles::Guilty;
use crate::deeds;

/// Long enough for any machine: a row that takes longer has failed.
const ALL_PATIENCE: Duration = Duration::from_secs(200);
/// And one step of it, well before: so a row that hangs says where.
const PATIENCE: Duration = Duration::from_secs(60);
/// What time is counted in.
const TICK: Duration = Duration::from_millis(100);

/// What came of a fault.
pub(crate) struct Row {
    pub(crate) outcome: String,
    pub(crate) death: String,
    /// Calls that failed, of all.
    pub(crate) innocent: (u64, u64),
    pub(crate) others: (u64, u64),
    pub(crate) noticed: Option<Duration>,
    pub(crate) recovered: Duration,
}

fn config() -> Config {
    let mut config = Config::default();
    config.worker_dir =
        std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    config.restart = RestartPolicy {
        limit: 1000,
        initial_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(10),
        ..RestartPolicy::default()
    };
    config.bundle_crash_limit = 1000;
    config.heartbeat = Duration::from_millis(100);
    // Long after anybody who is alive has answered, on however busy a machine.
    config.heartbeat_kill = 50;
    // The guilty calls have their own, and the others none: what is lost is
    // found by a step that does not end, and a machine that stands still is no
    // fault.
    config.deadline = Duration::ZERO;
    config.start_timeout = PATIENCE;
    config.slow_start_timeout = PATIENCE;
    config.load_timeout = PATIENCE;
    config.term_timeout = Duration::from_millis(500);
    config.memory_limit = Some(1 << 30);
    config
}

pub(crate) type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Commits a fault.
pub(crate) async fn commit(guilty: &Guilty, fault: &str) -> Result<Row, Problem> {
    let outcome = within(ALL_PATIENCE, play(guilty, fault)).await;
    outcome.unwrap_or_else(|| Err(format!("it took longer than {ALL_PATIENCE:?}").into()))
}

/// Waits for a future, but not longer than so many ticks: `None`. A machine that
/// stands still, and stops all of us, makes one tick long, and no more.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = limit.as_millis() / TICK.as_millis();
    loop {
        if let Ok(outcome) = tokio::time::timeout(TICK, &mut future).await {
            return Some(outcome);
        }
        left = left.checked_sub(1)?;
    }
}

/// Waits until `condition` says something.
pub(crate) async fn until<T>(
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, Problem> {
    let found = async {
        loop {
            if let Some(found) = condition() {
                return found;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    Ok(within(PATIENCE, found).await.ok_or_else(|| format!("waited in vain for {what}"))?)
}

/// A step of a row, which ends in time or says what it was, and what the
/// supervisor's state was then.
pub(crate) async fn step<T, E: Into<Problem>>(
    supervisor: &Supervisor,
    what: impl Display,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, Problem> {
    match within(PATIENCE, step).await {
        Some(outcome) => outcome.map_err(Into::into),
        None => Err(format!(
            "'{what}' took longer than {PATIENCE:?}: {:#?}\n{}",
            supervisor.status(),
            last_words(supervisor)
        )
        .into()),
    }
}

/// The last of the supervisor's log.
fn last_words(supervisor: &Supervisor) -> String {
    let logs = supervisor.logs();
    let last = logs.iter().rev().take(20).rev();
    last.map(|entry| format!("{entry:?}\n")).collect()
}

/// What a fault is committed on.
pub(crate) struct Stage<'g> {
    pub(crate) supervisor: Supervisor,
    pub(crate) guilty: &'g Guilty,
    pub(crate) culprit: Contract,
    /// The worker program of the guilty, a copy that may come to harm.
    pub(crate) program: PathBuf,
}

async fn play(guilty: &Guilty, fault: &str) -> Result<Row, Problem> {
    let mut config = config();
    let loader = guilty.language.loader;
    let copies = tempfile::tempdir()?;
    let program = copies.path().join("worker");
    if deeds::harms_the_program(fault) {
        std::fs::copy(menagerie_supervisor::worker_program(&config, loader)?, &program)?;
        // What lies beside a worker is looked for beside its copy.
        if let Some(dotnet) = config.worker_dir.as_ref().map(|dir| dir.join("../dotnet")) {
            std::os::unix::fs::symlink(dotnet, copies.path().join("dotnet"))?;
        }
        config.worker_programs.insert(loader.to_owned(), program.clone());
    }
    if fault == "loop" {
        config.bundle_crash_limit = 3;
    }
    let supervisor = Supervisor::builder().config(config).start()?;
    let innocent = Load::on(&supervisor, guilty.language.innocent).await?;
    step(&supervisor, "load the guilty", supervisor.load(&guilty.path)).await?;
    let culprit = supervisor.contract(&guilty.contract())?;
    // Somebody in another worker.
    let other = if loader == "lua" { "js" } else { "lua" };
    let others = Load::on(&supervisor, other).await?;
    let before = incarnation(&supervisor, loader);
    let mut events = supervisor.events();
    let begun = Instant::now();
    let watch = tokio::spawn(async move {
        while let Some(next) = events.next().await {
            if let NextEvent::Event(event) = next
                && let EventKind::WorkerCrashed(report) = event.kind
            {
                return Some((begun.elapsed(), report.cause));
            }
        }
        None
    });
    let stage = Stage { supervisor, guilty, culprit, program };
    let outcome = deeds::play(&stage, fault).await?;
    let Stage { supervisor, culprit, .. } = stage;
    let last_failure = Mutex::new(None);
    let recovery = async {
        loop {
            match culprit.call::<_, i64>("inc", (1,)).await {
                Ok(2) => return Ok::<_, Problem>(begun.elapsed()),
                Ok(other) => return Err(format!("inc(1) is {other}").into()),
                Err(failure) => {
                    if let Ok(mut last) = last_failure.lock() {
                        *last = Some(failure);
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    };
    let recovered: Result<Duration, Problem> = step(&supervisor, "recover", recovery).await;
    let recovered = recovered.map_err(|problem| match last_failure.into_inner() {
        Ok(Some(failure)) => format!("{problem}\nthe last failure: {failure}").into(),
        _ => problem,
    })?;
    // Who has come back has died, and there is a report of it, perhaps not yet;
    // one who lives could still be found dead a moment later.
    if incarnation(&supervisor, loader) == before {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (noticed, death) = if incarnation(&supervisor, loader) > before {
        let report = step(&supervisor, "the report of its death", watch).await?;
        report.map_or((None, String::new()), |(when, cause)| (Some(when), cause))
    } else {
        watch.abort();
        (None, "lives".to_owned())
    };
    let innocent = step(&supervisor, "the innocent's last call", innocent.end()).await?;
    let others = step(&supervisor, "the others' last call", others.end()).await?;
    // It has a limit of its own.
    supervisor.shutdown().await;
    Ok(Row { outcome, death, innocent, others, noticed, recovered })
}

/// How often a loader's worker has been started.
fn incarnation(supervisor: &Supervisor, loader: &str) -> u64 {
    let workers = supervisor.status().workers;
    workers.iter().find(|worker| worker.loader == loader).map_or(0, |worker| worker.incarnation)
}

/// Calls on somebody who has done nothing.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(u64, u64)>,
}

impl Load {
    async fn on(supervisor: &Supervisor, suffix: &str) -> Result<Self, Problem> {
        let name = format!("greeter-{suffix}");
        if !supervisor.status().bundles.iter().any(|bundle| bundle.name == name) {
            let greeter = Language::of(suffix).bundle("greeter");
            step(supervisor, format_args!("load {name}"), supervisor.load(greeter)).await?;
        }
        let greeter = supervisor.contract(&format!("{name}/greeter@1"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(calls(greeter, Arc::clone(&stop)));
        Ok(Self { stop, task })
    }

    async fn end(self) -> Result<(u64, u64), Problem> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

async fn calls(greeter: Contract, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut failed, mut all) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let answer = greeter.call::<_, String>("greet", ("Ada",)).await;
        failed += u64::from(!matches!(answer.as_deref(), Ok("Hello, Ada")));
        all += 1;
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    (failed, all)
}

impl Row {
    /// How it is not as it has to be, if so.
    pub(crate) fn breaks(&self) -> Option<String> {
        let (failed, all) = self.others;
        if failed > 0 {
            return Some(format!("{failed} of {all} calls on another worker have failed"));
        }
        // Without any, nothing has been shown.
        (all == 0).then(|| "nobody has called another worker".to_owned())
    }
}
