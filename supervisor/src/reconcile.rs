//! Bringing what is loaded into line with a list of bundles that has changed,
//! as `menagerie run` does at SIGHUP.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use menagerie_protocol::RuntimeError;

use crate::blocking::blocking;
use crate::bundle::Place;
use crate::core::Core;
use crate::discovery::bundles_in;
use crate::lane::lock;

/// What [`Supervisor::reconcile`](crate::Supervisor::reconcile) has done.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Reconciled {
    /// Bundles that came, by name, in the order in which they were loaded; and those that
    /// had failed after a restart, and serve now.
    pub loaded: Vec<String>,
    /// Bundles that went, dependents first.
    pub unloaded: Vec<String>,
    /// What could not be loaded, or not be unloaded, and why.
    pub failed: Vec<(PathBuf, RuntimeError)>,
}

/// The bundles that a list of paths asks for.
struct Wanted {
    /// Their folders, as loaded bundles have theirs, and as they were found.
    dirs: BTreeMap<PathBuf, PathBuf>,
    /// Paths in which no bundle can be found. What was loaded from them stays:
    /// a folder that is not mounted today is no reason to end everything.
    unreadable: Vec<(PathBuf, RuntimeError)>,
    /// The same, as loaded bundles have their paths.
    kept: Vec<PathBuf>,
}

impl Wanted {
    /// Reads folders.
    fn of(paths: &[PathBuf]) -> Self {
        let mut wanted = Self { dirs: BTreeMap::new(), unreadable: Vec::new(), kept: Vec::new() };
        for path in paths {
            match bundles_in(path) {
                Ok(dirs) => wanted.dirs.extend(dirs.into_iter().map(|dir| (canonical(&dir), dir))),
                Err(error) => {
                    wanted.kept.push(canonical(path));
                    wanted.unreadable.push((path.clone(), error.into()));
                }
            }
        }
        wanted
    }

    fn has(&self, place: &Place) -> bool {
        self.dirs.contains_key(&place.dir) || self.kept.iter().any(|path| covers(path, place))
    }
}

/// A path as loaded bundles have theirs, also if nothing is there any more.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// Whether a path of the list, as loaded bundles have theirs, asks for a bundle: it is its
/// folder, or has it, itself or by a link that may have gone since.
fn covers(path: &Path, Place { dir, found_in, .. }: &Place) -> bool {
    dir == path || dir.parent() == Some(path) || found_in == path
}

/// Whether a path of the list, as it was written, asked for a bundle when that was found: a
/// link in the path may lead elsewhere since.
fn asked_for(path: &Path, Place { asked, .. }: &Place) -> bool {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    *asked == path || asked.parent() == Some(&path)
}

impl Core {
    /// Unloads what `before` asked for and `after` does not, and loads what
    /// `after` asks for and is not loaded, or could not be loaded again after a restart.
    /// What came by other ways stays.
    pub(crate) async fn reconcile(&self, before: &[PathBuf], after: &[PathBuf]) -> Reconciled {
        let (listed, after) = (before.to_vec(), after.to_vec());
        let read = move || {
            let led_to = listed.iter().map(|path| canonical(path)).collect::<Vec<_>>();
            (led_to, Wanted::of(&after))
        };
        // Without a thread for it, here.
        let (led_to, wanted) = match blocking(read.clone()).await {
            Ok(found) => found,
            Err(_) => read(),
        };
        let was_wanted = |place: &Place| {
            before.iter().any(|path| asked_for(path, place))
                || led_to.iter().any(|path| covers(path, place))
        };
        let goes = |place: &Place| was_wanted(place) && !wanted.has(place);
        lock(&self.broken).retain(|dir, status| {
            let asked = status.path.as_ref().map_or(dir.as_path(), Path::new);
            !goes(&Place::of(dir.clone(), asked))
        });
        let mut done = Reconciled::default();
        // First what goes: a bundle that has moved has the same name.
        let mut refused = self.unload_those(&goes, &mut done).await;
        let loaded: BTreeSet<PathBuf> =
            lock(&self.registry).all().iter().filter_map(|bundle| bundle.path()).collect();
        let lacking = wanted.dirs.iter().filter(|(dir, _)| !loaded.contains(*dir));
        let lacking: Vec<PathBuf> = lacking.map(|(_, found)| found.clone()).collect();
        for (path, outcome) in self.load_all(&lacking).await {
            match outcome {
                Ok(status) => done.loaded.push(status.name),
                Err(error) => done.failed.push((path, error)),
            }
        }
        self.mend_those(&wanted, &mut done).await;
        // Who was in use may have somebody in its place by now.
        if !refused.is_empty() {
            refused = self.unload_those(&goes, &mut done).await;
        }
        done.failed.extend(refused);
        done.failed.extend(wanted.unreadable);
        done
    }

    /// Tries those that could not be loaded again; one may need another of them.
    async fn mend_those(&self, wanted: &Wanted, done: &mut Reconciled) {
        loop {
            let (mut failed, mut progress) = (Vec::new(), false);
            let bundles = lock(&self.registry).all();
            for (bundle, place) in bundles.iter().filter_map(|b| Some((b, b.place()?))) {
                if !wanted.has(&place) {
                    continue;
                }
                match self.mend(bundle).await {
                    Ok(false) => {}
                    Ok(true) => {
                        progress = true;
                        done.loaded.push(bundle.name.clone());
                    }
                    Err(error) => failed.push((place.dir, error)),
                }
            }
            if !progress || failed.is_empty() {
                return done.failed.extend(failed);
            }
        }
    }

    /// Unloads bundles by their folders. One that others need goes when these
    /// have gone; what is left over is needed by some that stay.
    async fn unload_those(
        &self,
        goes: &(impl Fn(&Place) -> bool + Sync),
        done: &mut Reconciled,
    ) -> Vec<(PathBuf, RuntimeError)> {
        loop {
            let (mut refused, mut progress) = (Vec::new(), false);
            let bundles = lock(&self.registry).all();
            let those = bundles.iter().filter_map(|bundle| Some((&bundle.name, bundle.place()?)));
            for (name, place) in those.filter(|(_, place)| goes(place)) {
                match self.unload(name).await {
                    Ok(()) => {
                        progress = true;
                        done.unloaded.push(name.clone());
                    }
                    // It is being loaded or unloaded by somebody else.
                    Err(RuntimeError::BundleNotFound { .. }) => {}
                    Err(error) => refused.push((place.dir, error)),
                }
            }
            if !progress || refused.is_empty() {
                return refused;
            }
        }
    }
}
