//! `menagerie run`: a supervisor as a program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use menagerie_supervisor::{
    Access, BundleState, Isolation, Status, StatusSocket, Supervisor, WatchSettings,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::client::CommandError;
use crate::notify::Notifier;
use crate::render;

/// How often systemd is told how we are.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// A line for `systemctl status`.
fn summary(status: &Status) -> String {
    let ready = status.bundles.iter().filter(|b| b.state == BundleState::Ready).count();
    let restarts: u64 = status.workers.iter().map(|worker| worker.restarts).sum();
    let (bundles, workers) = (status.bundles.len(), status.workers.len());
    format!("{ready} of {bundles} bundles ready, {workers} workers, {restarts} restarts")
}

pub(crate) async fn run(
    socket: &Path,
    bundles: &[PathBuf],
    watch: bool,
    worker_dir: Option<PathBuf>,
    isolation: Isolation,
    standby: u32,
    log: &str,
) -> Result<(), CommandError> {
    let filter = EnvFilter::try_new(log)
        .map_err(|error| CommandError::Usage(format!("--log {log}: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Whoever read our standard error may be gone: that is no reason to fail.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let failed = |error: &dyn std::error::Error| CommandError::Failed(error.to_string());
    // From here on the signals end us in an orderly way, whenever they come.
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| failed(&e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| failed(&e))?;
    let mut builder = Supervisor::builder().isolation(isolation).standby(standby);
    if let Some(dir) = worker_dir {
        builder = builder.worker_dir(dir);
    }
    let supervisor = builder.start().map_err(|e| failed(&e))?;
    let status = StatusSocket::bind(supervisor.clone(), socket, Access::default())
        .map_err(|e| failed(&e))?;
    let notifier = Notifier::from_environment();
    let watchdog = async {
        let Some(beat) = notifier.beat() else { return std::future::pending::<()>().await };
        let mut beats = tokio::time::interval(beat);
        loop {
            beats.tick().await;
            notifier.alive();
        }
    };
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    // Before anything is loaded: what changes from here on is seen.
    let _watch = watch.then(|| supervisor.watch(bundles, WatchSettings::default()));
    let loading = async {
        let outcomes = render::patiently("loading bundles", supervisor.load_all(bundles)).await;
        let count = outcomes.len();
        let mut loaded = 0;
        for (path, outcome) in outcomes {
            match outcome {
                Ok(_) => loaded += 1,
                Err(error) => render::note(&format!("menagerie: {}: {error}", path.display())),
            }
        }
        let what = format!("{loaded} of {count} bundles loaded");
        render::note(&format!("menagerie: ready at {} ({what})", status.path().display()));
        notifier.ready(&what);
        loop {
            tokio::time::sleep(STATUS_EVERY).await;
            notifier.status(&summary(&supervisor.status()));
        }
    };
    let name = tokio::select! {
        name = signalled => name,
        () = loading => "",
        () = watchdog => "",
    };
    notifier.stopping();
    render::note(&format!("menagerie: {name}: stopping"));
    render::patiently("waiting for the workers", supervisor.shutdown()).await;
    Ok(())
}
