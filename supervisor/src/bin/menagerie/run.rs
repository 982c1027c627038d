//! `menagerie run`: a supervisor as a program.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use menagerie_supervisor::{
    BundleState, BundleStatus, ConfigFile, FileError, LoadStep, RuntimeError, StartError, Status,
    StatusSocket, Supervisor, WatchSettings, check_log,
};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::args::Run;
use crate::client::CommandError;
use crate::command::socket_of_environment;
use crate::ending::Ending;
use crate::hangup::Hangup;
use crate::notify::Notifier;
use crate::render;
use crate::voice::{self, Voiced};

/// What is logged if nobody says anything else.
pub(crate) const DEFAULT_LOG: &str = "info";

/// How often systemd is told how we are.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// How long those who wait for an answer may take to read it, when everything has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A line for `systemctl status`; `failed` is why the last reload has changed nothing.
fn summary(status: &Status, failed: Option<&str>) -> String {
    let ready = status.bundles.iter().filter(|b| b.state == BundleState::Ready).count();
    let restarts: u64 = status.workers.iter().map(|worker| worker.restarts).sum();
    let (bundles, workers) = (status.bundles.len(), status.workers.len());
    let failed = failed.map(|why| format!("; the last reload failed: {why}")).unwrap_or_default();
    format!("{ready} of {bundles} bundles ready, {workers} workers, {restarts} restarts{failed}")
}

/// What the command line says. It wins over the file of settings.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) args: Run,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) json: bool,
}

/// What `--json` prints when everything is loaded.
#[derive(Debug, Serialize)]
struct Ready {
    socket: String,
    tcp: Option<SocketAddr>,
    token_file: Option<String>,
    loaded: Vec<String>,
    failed: Vec<FailedLoad>,
}

/// A bundle that could not be loaded.
#[derive(Debug, Serialize)]
struct FailedLoad {
    path: String,
    problem: String,
}

impl Request {
    /// The settings of both.
    pub(crate) fn settings(&self) -> Result<ConfigFile, FileError> {
        let mut settings = match &self.args.config {
            Some(file) => ConfigFile::read(file)?,
            None => ConfigFile::default(),
        };
        settings.bundles.extend(self.args.bundles.iter().cloned());
        settings.log = self.args.log.clone().or(settings.log);
        let socket = self.socket.clone().or(settings.status.socket);
        settings.status.socket = socket.or_else(socket_of_environment);
        settings.config.worker_dir = self.args.worker_dir.clone().or(settings.config.worker_dir);
        settings.config.sandbox = self.args.sandbox.unwrap_or(settings.config.sandbox);
        settings.config.isolation = self.args.isolation.unwrap_or(settings.config.isolation);
        settings.config.standby = self.args.standby.unwrap_or(settings.config.standby);
        settings.config.replicas.extend(self.args.replicas.iter().cloned());
        Ok(settings)
    }
}

/// What to log. The text of a file was checked when it was read, with its line.
pub(crate) fn log_filter(text: &str) -> Result<EnvFilter, String> {
    check_log(text).map_err(|error| format!("--log, or RUST_LOG: {error}"))?;
    EnvFilter::try_new(text).map_err(|error| format!("log {text:?}: {error}"))
}

/// Loads the bundles. systemd is told whose turn it is, and that it has to wait: each of
/// the loads may take its time.
async fn load(
    supervisor: &Supervisor,
    bundles: &[PathBuf],
    notifier: &Notifier,
) -> Vec<(PathBuf, Result<BundleStatus, RuntimeError>)> {
    let step = RefCell::new("loading bundles".to_owned());
    let loading =
        supervisor.load_all_with(bundles, |LoadStep { bundle, number, count, .. }| {
            *step.borrow_mut() = format!("loading {bundle} ({number} of {count})");
            notifier.starting(&step.borrow());
        });
    tokio::pin!(loading);
    loop {
        tokio::select! {
            outcomes = &mut loading => return outcomes,
            () = tokio::time::sleep(STATUS_EVERY) => notifier.starting(&step.borrow()),
        }
    }
}

pub(crate) async fn run(request: Request) -> Result<(), CommandError> {
    let (json, watch) = (request.json, request.args.watch);
    let settings = request.settings().map_err(|e| CommandError::Usage(e.to_string()))?;
    if watch && settings.bundles.is_empty() {
        let text = "--watch: there are no bundles to watch, neither in --bundles nor in a file";
        return Err(CommandError::Usage(text.to_owned()));
    }
    let log = settings.log.as_deref().unwrap_or(DEFAULT_LOG);
    let filter = log_filter(log).map_err(CommandError::Usage)?;
    voice::begin();
    let logging = tracing_subscriber::fmt()
        .with_writer(|| Voiced)
        // Whoever read our standard error may be gone: that is no reason to fail.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(filter)
        .with_filter_reloading();
    let filter = logging.reload_handle();
    logging.init();
    let failed = |error: &dyn std::error::Error| CommandError::Failed(error.to_string());
    // From here on the signals end us in an orderly way, whenever they come.
    let mut ending = Ending::new().map_err(|e| failed(&e))?;
    let mut hangups = signal(SignalKind::hangup()).map_err(|e| failed(&e))?;
    // It ends nobody either: what goes beyond a limit on files (RLIMIT_FSIZE), a lane of
    // memory for example, is an error like any other.
    let too_large = SignalKind::from_raw(nix::sys::signal::Signal::SIGXFSZ as i32);
    let _too_large = signal(too_large).map_err(|e| failed(&e))?;
    let builder = Supervisor::builder().config(settings.config.clone());
    let supervisor = builder.start().map_err(|error| match error {
        // The file's own were found when it was read: this is of the command line.
        StartError::Config(error) => CommandError::Usage(error.to_string()),
        error => failed(&error),
    })?;
    let status =
        StatusSocket::serve(supervisor.clone(), &settings.status).map_err(|e| failed(&e))?;
    if let (Some(address), Some(token)) = (status.tcp_address(), status.token_file()) {
        render::note(&format!("menagerie: http://{address}/ (token in {})", token.display()));
    }
    let notifier = Notifier::from_environment();
    let watchdog = async {
        let Some(beat) = notifier.beat() else { return std::future::pending::<()>().await };
        let mut beats = tokio::time::interval(beat);
        loop {
            beats.tick().await;
            notifier.alive();
        }
    };
    // Before anything is loaded: what changes from here on is seen.
    let watch = watch.then(|| supervisor.watch(&settings.bundles, WatchSettings::default()));
    let bundles = settings.bundles.clone();
    let mut hangup = Hangup::new(request, settings, watch, move |new| filter.reload(new).is_ok());
    let loading = async {
        let load = load(&supervisor, &bundles, &notifier);
        let outcomes = render::patiently("loading bundles", load).await;
        let count = outcomes.len();
        let mut ready = Ready {
            socket: status.path().display().to_string(),
            tcp: status.tcp_address(),
            token_file: status.token_file().map(|file| file.display().to_string()),
            loaded: Vec::new(),
            failed: Vec::new(),
        };
        for (path, outcome) in outcomes {
            match outcome {
                Ok(bundle) => ready.loaded.push(bundle.name),
                Err(error) => {
                    render::note(&format!("menagerie: {}", render::at(&path, &error)));
                    let (path, problem) = (path.display().to_string(), error.to_string());
                    ready.failed.push(FailedLoad { path, problem });
                }
            }
        }
        let what = format!("{} of {count} bundles loaded", ready.loaded.len());
        render::note(&format!("menagerie: ready at {} ({what})", status.path().display()));
        if json {
            render::json_line(&ready);
            // Who waits for this line learns why it does not come.
            if let Err(error) = render::written() {
                render::complain(&error);
            }
        }
        notifier.ready(&what);
        let mut failed = None;
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => {
                    notifier.reloading();
                    let outcome = hangup.apply(&supervisor).await;
                    failed = outcome.as_ref().err().cloned();
                    let what = outcome.unwrap_or_else(|why| format!("{why}; nothing has changed"));
                    render::note(&format!("menagerie: SIGHUP: {what}"));
                    notifier.ready(&what);
                }
                () = tokio::time::sleep(STATUS_EVERY) => {
                    notifier.status(&summary(&supervisor.status(), failed.as_deref()));
                }
            }
        }
    };
    let name = tokio::select! {
        name = ending.name() => name,
        () = loading => "",
        () = watchdog => "",
    };
    notifier.stopping();
    render::note(&format!("menagerie: {name}: stopping"));
    render::patiently("waiting for the workers", supervisor.shutdown()).await;
    status.finish(LAST_ANSWERS).await;
    Ok(())
}
