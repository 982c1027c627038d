//! SIGHUP: the settings are read again, and what can change while everything
//! runs does: the bundles, and what is logged. A file that is wrong changes
//! nothing.

use std::path::PathBuf;

use menagerie_supervisor::{ConfigFile, RuntimeError, Supervisor, Watch, WatchSettings};
use tracing_subscriber::EnvFilter;

use crate::render;
use crate::run::{DEFAULT_LOG, Request, log_filter};

/// What runs, and where it was read.
pub(crate) struct Hangup {
    request: Request,
    /// As they are in effect: what needs a restart keeps its value.
    running: ConfigFile,
    /// Folders of bundles that should have gone and were needed: they go when
    /// nobody needs them any more.
    left_over: Vec<PathBuf>,
    watch: Option<Watch>,
    set_log: Box<dyn Fn(EnvFilter) -> bool>,
}

impl Hangup {
    pub(crate) fn new(
        request: Request,
        running: ConfigFile,
        watch: Option<Watch>,
        set_log: impl Fn(EnvFilter) -> bool + 'static,
    ) -> Self {
        let (left_over, set_log) = (Vec::new(), Box::new(set_log));
        Self { request, running, left_over, watch, set_log }
    }

    /// Reads the settings again and applies them; what came of it, in a line. After an
    /// error nothing has changed.
    pub(crate) async fn apply(&mut self, supervisor: &Supervisor) -> Result<String, String> {
        let new = self.request.settings().map_err(|error| error.to_string())?;
        let filter = log_filter(new.log.as_deref().unwrap_or(DEFAULT_LOG))?;
        if new.log != self.running.log && (self.set_log)(filter) {
            self.running.log.clone_from(&new.log);
        }
        for name in self.running.differences(&new) {
            let what = "has changed, which takes a restart: it is left as it is";
            render::note(&format!("menagerie: warning: the setting `{name}` {what}"));
        }
        let mut before = std::mem::replace(&mut self.running.bundles, new.bundles);
        let after = &self.running.bundles;
        if self.watch.is_some() && before != *after {
            // Before anything is loaded: what changes from here on is seen.
            self.watch = Some(supervisor.watch(after, WatchSettings::default()));
        }
        before.append(&mut self.left_over);
        let done = supervisor.reconcile(&before, after).await;
        let needed = |error: &RuntimeError| matches!(error, RuntimeError::DependencyInUse { .. });
        let left_over = done.failed.iter().filter(|(_, error)| needed(error));
        self.left_over = left_over.map(|(path, _)| path.clone()).collect();
        for (path, error) in &done.failed {
            render::note(&format!("menagerie: {}", render::at(path, error)));
        }
        let (loaded, unloaded) = (done.loaded.len(), done.unloaded.len());
        let problems = done.failed.len();
        Ok(format!("bundles: {loaded} loaded, {unloaded} unloaded, {problems} failed"))
    }
}
