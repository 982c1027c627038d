//! `menagerie run`: a supervisor as a program.

use std::path::{Path, PathBuf};

use menagerie_supervisor::{Access, StatusSocket, Supervisor, WatchSettings};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::client::CommandError;
use crate::render;

pub(crate) async fn run(
    socket: &Path,
    bundles: &[PathBuf],
    watch: bool,
    worker_dir: Option<PathBuf>,
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
    let mut builder = Supervisor::builder();
    if let Some(dir) = worker_dir {
        builder = builder.worker_dir(dir);
    }
    let supervisor = builder.start().map_err(|e| failed(&e))?;
    let status = StatusSocket::bind(supervisor.clone(), socket, Access::default())
        .map_err(|e| failed(&e))?;
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    tokio::pin!(signalled);
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
    };
    let name = tokio::select! {
        name = &mut signalled => name,
        () = loading => signalled.await,
    };
    render::note(&format!("menagerie: {name}: stopping"));
    render::patiently("waiting for the workers", supervisor.shutdown()).await;
    Ok(())
}
