//! One fault: a supervisor, a guilty bundle, an innocent one beside it, one in
//! another worker, and what became of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use menagerie_supervisor::{
    Config, Contract, EventKind, Failure, NextEvent, RestartPolicy, Supervisor,
};
use menagerie_tests::Language;

use crate::bundles::Guilty;

/// Long enough for any machine: what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(200);
/// How long the guilty call may take.
const DEADLINE: Duration = Duration::from_millis(500);

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
    config.heartbeat_kill = 20;
    config.term_timeout = Duration::from_millis(500);
    config.memory_limit = Some(1 << 30);
    config
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Commits a fault.
pub(crate) async fn commit(guilty: &Guilty, fault: &str) -> Result<Row, Problem> {
    let outcome = tokio::time::timeout(PATIENCE, play(guilty, fault)).await;
    outcome.map_err(|_| format!("it took longer than {PATIENCE:?}"))?
}

async fn play(guilty: &Guilty, fault: &str) -> Result<Row, Problem> {
    let supervisor = Supervisor::builder().config(config()).start()?;
    let loader = guilty.language.loader;
    let innocent = Load::on(&supervisor, guilty.language.innocent).await?;
    supervisor.load(&guilty.path).await?;
    let culprit = supervisor.contract(&guilty.contract())?;
    // Somebody in another worker.
    let other = if loader == "lua" { "js" } else { "lua" };
    let others = Load::on(&supervisor, other).await?;
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
    let call = culprit.clone().with_timeout(DEADLINE);
    let (function, arguments) = guilty.call(fault);
    let outcome = call.call_value(function, &arguments).await;
    let deadline = Instant::now() + PATIENCE;
    let recovered = loop {
        match culprit.call::<_, i64>("inc", (1,)).await {
            Ok(2) => break begun.elapsed(),
            Ok(other) => return Err(format!("inc(1) is {other}").into()),
            Err(failure) if Instant::now() > deadline => return Err(failure.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    // What is noticed late, by heartbeats, is noticed by now or never.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (noticed, death) = if watch.is_finished() {
        watch.await?.map_or((None, String::new()), |(when, cause)| (Some(when), cause))
    } else {
        watch.abort();
        (None, "lives".to_owned())
    };
    let (innocent, others) = (innocent.end().await?, others.end().await?);
    supervisor.shutdown().await;
    let outcome = match outcome {
        Ok(_) => "a value".to_owned(),
        Err(Failure::Guest(error)) => format!("its error: {}", error.type_name),
        Err(Failure::DeadlineExceeded { .. }) => "deadline exceeded".to_owned(),
        Err(Failure::WorkerCrashed { .. }) => "worker crashed".to_owned(),
        Err(failure) => failure.to_string(),
    };
    Ok(Row { outcome, death, innocent, others, noticed, recovered })
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
            supervisor.load(Language::of(suffix).bundle("greeter")).await?;
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
