//! Reloading bundles when their files change (`menagerie run --watch`).
//!
//! What the system says of changes only wakes this up. When the files have been
//! quiet for a while they are looked at, and what is not as it was when it was
//! loaded is loaded again. So it does not matter how an editor or a compiler
//! writes (in place, by renaming, a whole folder replaced) or whether a
//! notification was lost in between.

mod fingerprint;
mod pace;
mod quiet;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use menagerie_protocol::message::LogLevel;
use menagerie_protocol::{ManifestData, RuntimeError};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::blocking::blocking;
use crate::bundle::Place;
use crate::core::Core;
use crate::discovery::{bundles_in, folder_name};
use crate::events::Step;
use crate::lane::lock;
use crate::status::BundleState;
use fingerprint::Fingerprint;
use pace::Pace;
use quiet::Quiet;

/// No wait is longer, whatever is set: clocks have an end.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// How a watch waits. What is longer than a day is a day.
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

impl WatchSettings {
    /// With no wait that a clock cannot add up.
    fn within_limits(mut self) -> Self {
        for wait in [&mut self.quiet, &mut self.longest, &mut self.poll] {
            *wait = LONGEST_WAIT.min(*wait);
        }
        self
    }
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
        let (watcher, lacks) = match notify::recommended_watcher(tell) {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let paths = paths.iter().map(|path| absolute(path)).collect();
        let mut eyes = Eyes { paths, watcher, watched: BTreeSet::new(), lacks };
        let seen = eyes.look();
        let mut task = Task {
            core: Arc::clone(core),
            settings: settings.within_limits(),
            eyes: Arc::new(Mutex::new(eyes)),
            lacks: None,
            known: BTreeMap::new(),
            wanting: BTreeSet::new(),
        };
        task.tell_of_polling();
        task.known = seen
            .into_iter()
            .map(|(dir, seen)| (dir, Known { seen, pace: Pace::default() }))
            .collect();
        Self(core.runtime.spawn(task.run(changes)).abort_handle())
    }
}

/// What looks at files. Reading may take its time, or hang: threads of their own do it.
struct Eyes {
    paths: Vec<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// Why the system does not tell of every change, if it does not.
    lacks: Option<String>,
}

impl Eyes {
    /// The bundles that are there now, as they are, by their folders.
    fn look(&mut self) -> BTreeMap<PathBuf, Seen> {
        // First, so that no change can come in between unseen.
        self.watch_all();
        let mut seen = BTreeMap::new();
        for found in self.paths.iter().flat_map(|path| bundles_in(path).unwrap_or_default()) {
            if let Ok(dir) = found.canonicalize() {
                // Where two paths lead to one, it is loaded by the first.
                seen.entry(dir).or_insert_with_key(|dir| Seen::of(dir, found));
            }
        }
        seen
    }

    /// Watches every path, the bundles that links lead to, and the folders that
    /// the paths stand in: a path may be replaced itself.
    fn watch_all(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted: BTreeMap<PathBuf, RecursiveMode> = BTreeMap::new();
        for path in &self.paths {
            if let Some(parent) = path.parent() {
                wanted.insert(parent.to_owned(), RecursiveMode::NonRecursive);
            }
            for dir in bundles_in(path).unwrap_or_default() {
                wanted.insert(dir.canonicalize().unwrap_or(dir), RecursiveMode::Recursive);
            }
            wanted.insert(path.clone(), RecursiveMode::Recursive);
        }
        // Anew each time: a folder that was replaced is another one.
        for path in std::mem::take(&mut self.watched) {
            drop(watcher.unwatch(&path));
        }
        self.lacks = None;
        for (path, mode) in wanted {
            // A folder comes before what is in it, and tells when that comes.
            let is_told = |path: &Path| {
                let parent = path.parent();
                let comes = path.symlink_metadata().is_err();
                comes && parent.is_some_and(|parent| self.watched.contains(parent))
            };
            match watcher.watch(&path, mode) {
                Ok(()) => drop(self.watched.insert(path)),
                Err(_) if is_told(&path) => {}
                Err(error) => {
                    self.lacks.get_or_insert_with(|| format!("{}: {error}", path.display()));
                }
            }
        }
    }
}

struct Task {
    core: Arc<Core>,
    settings: WatchSettings,
    eyes: Arc<Mutex<Eyes>>,
    /// Why it looks now and then, if it does.
    lacks: Option<String>,
    /// The bundles' folders, as they were when they were last loaded.
    known: BTreeMap<PathBuf, Known>,
    /// Loaded bundles whose last reload has failed for want of others.
    wanting: BTreeSet<String>,
}

impl Task {
    async fn run(mut self, mut changes: mpsc::UnboundedReceiver<()>) {
        let mut quiet = Quiet::new(self.settings.quiet, self.settings.longest);
        let (mut again, mut is_told) = (None, true);
        loop {
            let poll = self.lacks.is_some().then(|| Instant::now() + self.settings.poll);
            let due = [quiet.due().or(poll), again].into_iter().flatten().min();
            tokio::select! {
                change = changes.recv(), if is_told => match change {
                    Some(()) => quiet.changed(Instant::now()),
                    None => {
                        is_told = false;
                        self.lacks.get_or_insert_with(|| "its watcher has ended".to_owned());
                    }
                },
                () = self.core.sleep_until(due), if due.is_some() => {
                    quiet.over();
                    if *self.core.stopping.borrow() {
                        return;
                    }
                    again = self.settle().await;
                }
            }
        }
    }

    /// Looks at what is there, on another thread; `None` if there is none to be had.
    async fn look(&mut self) -> Option<BTreeMap<PathBuf, Seen>> {
        let eyes = Arc::clone(&self.eyes);
        let seen = blocking(move || lock(&eyes).look()).await.ok();
        self.tell_of_polling();
        seen
    }

    /// Says so, once for each reason, if the system does not tell of every change.
    fn tell_of_polling(&mut self) {
        let lacks = lock(&self.eyes).lacks.clone();
        if let Some(why) = lacks.as_ref().filter(|_| lacks != self.lacks) {
            let text = format!("changes of files are looked for by polling: {why}");
            tracing::warn!("{text}");
            self.core.events.logs.push(LogLevel::Warn, None, None, "supervisor", &text);
        }
        self.lacks = lacks;
    }

    /// Brings what is loaded to what is there. Returns when to look again, if there is
    /// something left that has to wait.
    async fn settle(&mut self) -> Option<Instant> {
        let Some(now) = self.look().await else {
            return Some(Instant::now() + self.settings.quiet);
        };
        let mut again = None;
        let (mut changed, mut fresh) = (BTreeMap::new(), Vec::new());
        for (dir, seen) in &now {
            let mut pace = Pace::default();
            if let Some(before) = self.known.get_mut(dir) {
                before.seen.found.clone_from(&seen.found);
                if before.seen.files == seen.files {
                    continue;
                }
                let due = before.pace.due(Instant::now());
                if due > Instant::now() {
                    again = earlier(again, due);
                    self.tell_of_pause(dir, &seen.files);
                    continue;
                }
                pace = before.pace;
            }
            let known = Known { seen: seen.clone(), pace };
            match self.loaded(dir) {
                Loaded::Coming => {
                    again = earlier(again, Instant::now() + self.settings.quiet);
                    continue;
                }
                Loaded::Yes(name) => drop(changed.insert(name, dir.clone())),
                // One that was unloaded by hand stays so.
                Loaded::No
                    if self.known.get(dir).is_some_and(|before| !self.has_failed(dir, before)) => {}
                Loaded::No => match self.moved(dir, &known, &now) {
                    Some(name) => drop(changed.insert(name, dir.clone())),
                    None => {
                        self.pardon(&known);
                        fresh.push(dir.clone());
                    }
                },
            }
            self.known.insert(dir.clone(), known);
        }
        self.tell_who_has_gone(&now);
        let mut mended = self.reload(changed.keys().cloned().collect()).await;
        mended |= self.load(&fresh).await;
        self.note_loads(changed.values().chain(&fresh).cloned().collect()).await;
        // What failed for want of others may load now.
        let mut tried = &fresh[..];
        while mended {
            let wanting = self.wanting.clone();
            mended = self.reload(wanting).await;
            if mended {
                tried = &[];
            }
            mended |= self.try_the_broken(tried).await;
            tried = &[];
        }
        again
    }

    /// Loads of these have come to their ends, and may have changed the bundles' files.
    async fn note_loads(&mut self, dirs: Vec<PathBuf>) {
        let ended = Instant::now();
        let look = || {
            let files = |dir: PathBuf| (Fingerprint::of(&dir), dir);
            dirs.into_iter().map(files).collect::<Vec<_>>()
        };
        for (files, dir) in blocking(look).await.unwrap_or_default() {
            let Some(known) = self.known.get_mut(&dir) else { continue };
            known.pace.loaded(ended);
            if files != known.seen.files {
                known.pace.due(Instant::now());
            }
        }
    }

    /// Forgets the bundles that are found no more, and says so of those that are loaded.
    fn tell_who_has_gone(&mut self, now: &BTreeMap<PathBuf, Seen>) {
        let gone: Vec<PathBuf> =
            self.known.keys().filter(|dir| !now.contains_key(*dir)).cloned().collect();
        for dir in gone {
            self.known.remove(&dir);
            lock(&self.core.broken).remove(&dir);
            if let Loaded::Yes(bundle) = self.loaded(&dir) {
                let at = dir.display();
                let what = if bundles_in(&dir).is_ok() {
                    format!("nothing that is watched leads to {at} any more")
                } else {
                    format!("{at} is gone")
                };
                self.tell(&bundle, &format!("{what}; what is loaded goes on"));
            }
        }
    }

    /// Says, once, that a bundle's reloads wait from now on.
    fn tell_of_pause(&mut self, dir: &Path, files: &Fingerprint) {
        let Some(known) = self.known.get_mut(dir) else { return };
        if !known.pace.is_to_be_told() {
            return;
        }
        let file = known.seen.files.difference(files).unwrap_or(dir).display();
        let reason = format!(
            "its files change with each load of it ({file}), so its reloads wait more and \
             more, for {} s at most; what it writes itself belongs into another folder",
            pace::LONGEST.as_secs()
        );
        let bundle = known.seen.name.clone().unwrap_or_else(|| folder_name(dir));
        self.tell(&bundle, &reason);
    }

    fn tell(&self, bundle: &str, reason: &str) {
        self.core.events.bundle_failed_as(bundle, Step::Watch, &reason);
    }

    /// What is about to be loaded is not what has killed its workers (S5).
    fn pardon(&self, known: &Known) {
        if let Some(name) = &known.seen.name
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

    /// Loads bundles by the paths where they were found; whether that went well with any.
    async fn load(&self, dirs: &[PathBuf]) -> bool {
        let found = dirs.iter().filter_map(|dir| Some(self.known.get(dir)?.seen.found.clone()));
        let outcomes = self.core.load_all(&found.collect::<Vec<_>>()).await;
        outcomes.iter().any(|(_, outcome)| outcome.is_ok())
    }

    /// The name of the bundle that is in this folder now, and is loaded from one where it
    /// is no more: it was moved, or the link to it was set anew.
    fn moved(&self, dir: &Path, known: &Known, now: &BTreeMap<PathBuf, Seen>) -> Option<String> {
        let bundle = lock(&self.core.registry).get(known.seen.name.as_ref()?).ok()?;
        let before = bundle.place()?;
        let has_gone = bundles_in(&before.dir).is_err();
        // It was watched as well, or is one that somebody has loaded by a link to it.
        let is_ours = self.known.contains_key(&before.dir)
            || now.iter().any(|(dir, seen)| seen.place(dir).found_in == before.found_in);
        let is_left = is_ours && !now.contains_key(&before.dir);
        (has_gone || is_left).then(|| {
            bundle.move_to(known.seen.place(dir));
            bundle.name.clone()
        })
    }

    async fn try_the_broken(&self, tried: &[PathBuf]) -> bool {
        let broken: Vec<PathBuf> = lock(&self.core.broken)
            .keys()
            .filter(|dir| !tried.contains(dir))
            .filter(|dir| self.known.get(*dir).is_some_and(|known| known.seen.needs_others))
            .cloned()
            .collect();
        self.load(&broken).await
    }

    /// Whether a folder's bundle, as it was before, could not be loaded: it was broken, or
    /// had the name of one that is loaded from another folder, as every copy has at first.
    fn has_failed(&self, dir: &Path, before: &Known) -> bool {
        let is_loaded = |name| lock(&self.core.registry).get(name).is_ok();
        lock(&self.core.broken).contains_key(dir)
            || before.seen.name.as_deref().is_some_and(is_loaded)
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

/// A bundle's folder, as it is.
#[derive(Clone)]
struct Seen {
    /// The path by which it was found: a link, perhaps.
    found: PathBuf,
    files: Fingerprint,
    /// The bundle's name, if its manifest can be read.
    name: Option<String>,
    /// Whether it may fail for want of others.
    needs_others: bool,
}

impl Seen {
    fn of(dir: &Path, found: PathBuf) -> Self {
        // First: whatever changes in between is another change.
        let files = Fingerprint::of(dir);
        let manifest = ManifestData::read(dir).ok().map(|parsed| parsed.manifest);
        let needs_others = manifest.as_ref().is_some_and(|manifest| {
            !manifest.dependencies.is_empty() || !manifest.bundle_dependencies.is_empty()
        });
        Self { found, files, name: manifest.map(|manifest| manifest.name), needs_others }
    }

    fn place(&self, dir: &Path) -> Place {
        Place::of(dir.to_owned(), &self.found)
    }
}

/// A bundle's folder, as it was.
struct Known {
    /// When it was last loaded; the path is the one by which it was found last.
    seen: Seen,
    pace: Pace,
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The earlier of two times, one of which may be none.
fn earlier(time: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(time.map_or(other, |time| time.min(other)))
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
