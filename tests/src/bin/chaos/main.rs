//! `make chaos SECONDS=… SEED=…`: workers are killed and stopped, bundles
//! reloaded, workers restarted in both ways, at random, under a load of calls;
//! then the books are checked: each call has exactly one outcome, no function
//! that is not idempotent has run twice for one call, and every bundle is back.
//!
//! A seed fixes the operations and the pauses between them; what the machine
//! makes of them, it cannot.

mod books;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use books::{Books, Ledger};
use menagerie_supervisor::{BundleState, Config, RestartPolicy, Supervisor};
use menagerie_tests::random::Random;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing_subscriber::EnvFilter;

/// Long enough for any machine: what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(200);
/// Callers of each bundle.
const CALLERS: u64 = 4;

type Problem = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            // What breaks is wanted.
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off")),
        )
        .with_writer(std::io::stderr)
        .init();
    let seconds = number("SECONDS", 30);
    let seed = number("SEED", u64::from(std::process::id()));
    say(&format!("chaos: SECONDS={seconds} SEED={seed}"));
    match chaos(Duration::from_secs(seconds), seed).await {
        Ok(told) => {
            say(&told);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            say(&format!("chaos FAILED with SEED={seed}: {problem}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "for people")]
fn say(text: &str) {
    println!("{text}");
}

fn config() -> Config {
    let mut config = Config::default();
    config.worker_dir =
        std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    config.restart = RestartPolicy {
        limit: u32::MAX,
        initial_delay: Duration::ZERO,
        max_delay: Duration::ZERO,
        ..RestartPolicy::default()
    };
    config.bundle_crash_limit = u32::MAX;
    config.heartbeat = Duration::from_millis(100);
    config.heartbeat_kill = 10;
    config.term_timeout = Duration::from_millis(200);
    config.standby = 1;
    // Nobody waits for ever for a worker that was stopped.
    config.deadline = Duration::from_secs(20);
    config
}

async fn chaos(duration: Duration, seed: u64) -> Result<String, Problem> {
    let supervisor = Supervisor::builder().config(config()).start()?;
    let mut ledgers = Vec::new();
    for name in ["one", "two", "three"] {
        ledgers.push(Ledger::open(&supervisor, "lua", name).await?);
    }
    for name in ["four", "five"] {
        ledgers.push(Ledger::open(&supervisor, "python", name).await?);
    }
    let books: Vec<Books> = ledgers.iter().map(|ledger| ledger.call(CALLERS)).collect();
    let mut random = Random::new(seed);
    let (end, mut operations) = (Instant::now() + duration, [0_u32; 5]);
    while Instant::now() < end {
        let which = usize::try_from(random.below(5))?;
        operations[which] += 1;
        disturb(&supervisor, which, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.below(100))).await;
    }
    let mut told = format!(
        "{} kills, {} stops, {} reloads, {} restarts, {} rolling restarts\n",
        operations[0], operations[1], operations[2], operations[3], operations[4]
    );
    let deadline = Instant::now() + PATIENCE;
    for (ledger, books) in ledgers.iter().zip(books) {
        told.push_str(&ledger.settle(books, deadline).await?);
        told.push('\n');
    }
    loop {
        let status = supervisor.status();
        let back = |state| state == BundleState::Ready;
        if status.bundles.len() == ledgers.len() && status.bundles.iter().all(|b| back(b.state)) {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("not every bundle is back: {:?}", status.bundles).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    supervisor.shutdown().await;
    Ok(told)
}

/// One thing that goes wrong, or that an operator does.
async fn disturb(supervisor: &Supervisor, which: usize, random: &mut Random) {
    let status = supervisor.status();
    let pick = |random: &mut Random, len: usize| {
        usize::try_from(random.below(u64::try_from(len.max(1)).unwrap_or(1))).unwrap_or(0)
    };
    // The same numbers are drawn whatever the state is, so that a seed means
    // the same operations.
    let worker = status.workers.get(pick(random, status.workers.len()));
    let bundle = status.bundles.get(pick(random, status.bundles.len()));
    let (Some(worker), Some(bundle)) = (worker, bundle) else { return };
    tracing::info!(which, worker = worker.name, bundle = bundle.name, "chaos");
    let send = |signal| {
        if let Some(pid) = worker.pid.and_then(|pid| i32::try_from(pid).ok()) {
            // It may have gone since.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    };
    let supervisor = supervisor.clone();
    match which {
        0 => send(Signal::SIGKILL),
        1 => send(Signal::SIGSTOP),
        2 => {
            let name = bundle.name.clone();
            tokio::spawn(async move { drop(supervisor.reload(&name).await) });
        }
        3 => {
            let name = worker.name.clone();
            tokio::spawn(async move { drop(supervisor.restart(&name).await) });
        }
        _ => {
            let name = worker.name.clone();
            tokio::spawn(async move { drop(supervisor.restart_rolling(&name).await) });
        }
    }
}
