//! Reloading bundles when their files change (`menagerie run --watch`).
//!
//! What the system says of changes only wakes this up. When the files have been
//! quiet for a while they are looked at, and what is not as it was when it was
//! loaded is loaded again. So it does not matter how an editor or a compiler
//! writes (in place, by renaming, a whole folder replaced) or whether a
//! notification was lost in between.

mod fingerprint;
mod quiet;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use menagerie_protocol::{ManifestData, RuntimeError};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::bundle::Place;
use crate::core::Core;
use crate::discovery::bundles_in;
use crate::events::Step;
use crate::lane::lock;
use crate::status::BundleState;
use fingerprint::Fingerprint;
use quiet::Quiet;

/// How a watch waits.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WatchSettings {
    /// How long files have to be at rest before they are looked at.
    pub quiet: Duration,
    /// How long they are waited for, if they never come to rest.
    pub longest: Duration,
    /// How often they are looked at where the system cannot tell of changes.
    pub poll: Duration,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(250),
            longest: Duration::from_secs(5),
            poll: Duration::from_secs(1),
        }
    }
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    pub(crate) fn start(core: &Arc<Core>, paths: &[PathBuf], settings: WatchSettings) -> Self {
        let (changed, changes) = mpsc::unbounded_channel();
        let tell = move |event: notify::Result<notify::Event>| {
            // Reading is no change; an error may hide one.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            let _ = changed.send(());
        };
        let watcher = notify::recommended_watcher(tell);
        if let Err(error) = &watcher {
            tracing::warn!("changes of files are looked for by polling: {error}");
        }
        let mut task = Task {
            core: Arc::clone(core),
            paths: paths.to_vec(),
            settings,
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
            known: BTreeMap::new(),
            wanting: BTreeSet::new(),
        };
        task.watch_all();
        for (dir, files) in task.look() {
            let known = Known::of(&dir, files);
            task.known.insert(dir, known);
        }
        Self(core.runtime.spawn(task.run(changes)).abort_handle())
    }
}

struct Task {
    core: Arc<Core>,
    paths: Vec<PathBuf>,
    settings: WatchSettings,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// The bundles' folders, as they were when they were last loaded.
    known: BTreeMap<PathBuf, Known>,
    /// Loaded bundles whose last reload has failed for want of others.
    wanting: BTreeSet<String>,
}

impl Task {
    async fn run(mut self, mut changes: mpsc::UnboundedReceiver<()>) {
        let mut quiet = Quiet::new(self.settings.quiet, self.settings.longest);
        loop {
            let poll = self.watcher.is_none().then(|| Instant::now() + self.settings.poll);
            let due = quiet.due().or(poll);
            tokio::select! {
                change = changes.recv(), if self.watcher.is_some() => match change {
                    Some(()) => quiet.changed(Instant::now()),
                    None => self.watcher = None,
                },
                () = self.core.sleep_until(due), if due.is_some() => {
                    quiet.over();
                    if *self.core.stopping.borrow() {
                        return;
                    }
                    if !self.settle().await {
                        quiet.changed(Instant::now());
                    }
                }
            }
        }
    }

    /// Watches every path, the bundles that links lead to, and the folders that
    /// the paths stand in: a path may be replaced itself.
    fn watch_all(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted: BTreeMap<PathBuf, RecursiveMode> = BTreeMap::new();
        for path in &self.paths {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            if let Some(parent) = path.parent() {
                wanted.insert(parent.to_owned(), RecursiveMode::NonRecursive);
            }
            for dir in bundles_in(&path).unwrap_or_default() {
                wanted.insert(dir.canonicalize().unwrap_or(dir), RecursiveMode::Recursive);
            }
            wanted.insert(path, RecursiveMode::Recursive);
        }
        // Anew each time: a folder that was replaced is another one.
        for path in std::mem::take(&mut self.watched) {
            drop(watcher.unwatch(&path));
        }
        for (path, mode) in wanted {
            if watcher.watch(&path, mode).is_ok() {
                self.watched.insert(path);
            }
        }
    }

    /// The bundles that are there now, as they are.
    fn look(&self) -> BTreeMap<PathBuf, Fingerprint> {
        let dirs = self.paths.iter().flat_map(|path| bundles_in(path).unwrap_or_default());
        dirs.filter_map(|dir| {
            let dir = dir.canonicalize().ok()?;
            let fingerprint = Fingerprint::of(&dir);
            Some((dir, fingerprint))
        })
        .collect()
    }

    /// Brings what is loaded to what is there. Returns false if there is
    /// something left that has to wait.
    async fn settle(&mut self) -> bool {
        // First, so that no change can come in between unseen.
        self.watch_all();
        let now = self.look();
        let mut wait = false;
        let (mut changed, mut fresh) = (BTreeSet::new(), Vec::new());
        for (dir, fingerprint) in &now {
            let before = self.known.get(dir);
            if before.is_some_and(|before| before.files == *fingerprint) {
                continue;
            }
            let known = Known::of(dir, fingerprint.clone());
            match self.loaded(dir) {
                Loaded::Coming => {
                    wait = true;
                    continue;
                }
                Loaded::Yes(name) => drop(changed.insert(name)),
                // One that was unloaded by hand stays so.
                Loaded::No if before.is_some_and(|before| !self.has_failed(dir, before)) => {}
                Loaded::No => match self.moved(dir, &known) {
                    Some(name) => drop(changed.insert(name)),
                    None => {
                        self.pardon(&known);
                        fresh.push(dir.clone());
                    }
                },
            }
            self.known.insert(dir.clone(), known);
        }
        let gone: Vec<PathBuf> =
            self.known.keys().filter(|dir| !now.contains_key(*dir)).cloned().collect();
        for dir in gone {
            self.known.remove(&dir);
            lock(&self.core.broken).remove(&dir);
            if let Loaded::Yes(bundle) = self.loaded(&dir) {
                let reason = format!("{} is gone; what is loaded goes on", dir.display());
                self.core.events.bundle_failed_as(&bundle, Step::Watch, &reason);
            }
        }
        let mut mended = self.reload(changed).await;
        mended |= self.load(&fresh).await;
        // What failed for want of others may load now.
        let mut tried = &fresh[..];
        while mended {
            let wanting = self.wanting.clone();
            mended = self.reload(wanting).await;
            if mended {
                tried = &[];
            }
            mended |= self.try_the_broken(tried).await;
        }
        !wait
    }

    /// What is about to be loaded is not what has killed its workers (S5).
    fn pardon(&self, known: &Known) {
        if let Some(name) = &known.name
            && lock(&self.core.registry).get(name).is_err()
        {
            lock(&self.core.blame).forget(name);
        }
    }

    /// Reloads bundles; whether that went well with any.
    async fn reload(&mut self, names: BTreeSet<String>) -> bool {
        let mut mended = false;
        for name in names {
            let outcome = self.core.reload(&name).await;
            mended |= outcome.is_ok();
            match outcome {
                Err(error) if is_for_want_of_others(&error) => drop(self.wanting.insert(name)),
                _ => drop(self.wanting.remove(&name)),
            }
        }
        mended
    }

    /// Loads bundles; whether that went well with any.
    async fn load(&self, dirs: &[PathBuf]) -> bool {
        let outcomes = self.core.load_all(dirs).await;
        outcomes.iter().any(|(_, outcome)| outcome.is_ok())
    }

    /// The name of the bundle that is in this folder now, and is loaded from one where it
    /// is no more.
    fn moved(&self, dir: &Path, known: &Known) -> Option<String> {
        let bundle = lock(&self.core.registry).get(known.name.as_ref()?).ok()?;
        let has_gone = bundles_in(&bundle.path()?).is_err();
        has_gone.then(|| {
            bundle.move_to(Place::of(dir.to_owned(), dir));
            bundle.name.clone()
        })
    }

    async fn try_the_broken(&self, tried: &[PathBuf]) -> bool {
        let broken: Vec<PathBuf> = lock(&self.core.broken)
            .keys()
            .filter(|dir| self.known.contains_key(*dir) && !tried.contains(dir))
            .filter(|dir| self.waits_for_others(dir))
            .cloned()
            .collect();
        self.load(&broken).await
    }

    /// Whether a broken bundle may have failed for want of others only.
    fn waits_for_others(&self, dir: &Path) -> bool {
        ManifestData::read(dir).is_ok_and(|parsed| {
            let ManifestData { dependencies, bundle_dependencies, .. } = &parsed.manifest;
            !dependencies.is_empty() || !bundle_dependencies.is_empty()
        })
    }

    /// Whether a folder's bundle, as it was before, could not be loaded: it was broken, or
    /// had the name of one that is loaded from another folder, as every copy has at first.
    fn has_failed(&self, dir: &Path, before: &Known) -> bool {
        let is_loaded = |name| lock(&self.core.registry).get(name).is_ok();
        lock(&self.core.broken).contains_key(dir) || before.name.as_deref().is_some_and(is_loaded)
    }

    fn loaded(&self, dir: &Path) -> Loaded {
        let bundles = lock(&self.core.registry).all();
        let Some(bundle) = bundles.iter().find(|bundle| bundle.path().as_deref() == Some(dir))
        else {
            return Loaded::No;
        };
        let found = lock(&self.core.registry).get(&bundle.name);
        match found {
            Err(RuntimeError::BundleNotFound { .. }) => Loaded::Coming,
            _ if bundle.status().state == BundleState::Loading => Loaded::Coming,
            _ => Loaded::Yes(bundle.name.clone()),
        }
    }
}

/// A bundle's folder, as it was.
struct Known {
    files: Fingerprint,
    /// The bundle's name, if its manifest could be read.
    name: Option<String>,
}

impl Known {
    fn of(dir: &Path, files: Fingerprint) -> Self {
        let name = ManifestData::read(dir).ok().map(|parsed| parsed.manifest.name);
        Self { files, name }
    }
}

/// Whether a reload may go well once another bundle is loaded.
const fn is_for_want_of_others(error: &RuntimeError) -> bool {
    matches!(
        error,
        RuntimeError::DependencyNotFound { .. } | RuntimeError::UnsatisfiedCapability { .. }
    )
}

/// Whether a folder's bundle is loaded.
enum Loaded {
    Yes(String),
    /// It is being loaded at this moment.
    Coming,
    No,
}
