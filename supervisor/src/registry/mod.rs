//! Which bundles there are, and who provides what (`DESIGN.md`, chapter R).

mod graph;
mod needs;
#[cfg(test)]
mod tests;

pub(crate) use graph::Graph;

use std::collections::BTreeMap;
use std::sync::Arc;

use menagerie_protocol::contract::{ContractId, ContractRequest};
use menagerie_protocol::loader::manifest::DependencyKind;
use menagerie_protocol::{Compatibility, Failure, ManifestData, RuntimeError};

use crate::bundle::Bundle;
use crate::placement::WorkerName;
use needs::{Need, version_will_do};

/// The bundles by name, and the order in which they were loaded.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    bundles: BTreeMap<String, Entry>,
    next: u64,
    pub(crate) rule: Compatibility,
}

#[derive(Debug)]
struct Entry {
    bundle: Arc<Bundle>,
    order: u64,
    /// Whether it has been loaded once: it should be loaded from then on.
    wanted: bool,
}

/// Whether a bundle needs another one.
pub(crate) fn depends_on(bundle: &ManifestData, other: &ManifestData, rule: Compatibility) -> bool {
    needs::of(bundle, rule).any(|need| need.is_met_by(other, rule))
}

/// The bundles that a cascade takes away, dependents first.
pub(crate) type Cascade = Vec<Arc<Bundle>>;

impl Registry {
    pub(crate) fn new(rule: Compatibility) -> Self {
        Self { rule, ..Self::default() }
    }

    /// Reserves a bundle's name while it is being loaded.
    pub(crate) fn reserve(&mut self, bundle: &Arc<Bundle>) -> Result<(), RuntimeError> {
        if self.bundles.contains_key(&bundle.name) {
            return Err(RuntimeError::AlreadyLoaded { bundle: bundle.name.clone() });
        }
        self.next += 1;
        let entry = Entry { bundle: Arc::clone(bundle), order: self.next, wanted: false };
        self.bundles.insert(bundle.name.clone(), entry);
        Ok(())
    }

    /// It has been loaded: it can be found, and is loaded again after a
    /// restart.
    pub(crate) fn publish(&mut self, name: &str) {
        if let Some(entry) = self.bundles.get_mut(name) {
            entry.wanted = true;
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<Bundle>> {
        self.bundles.remove(name).map(|entry| entry.bundle)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<Bundle>, RuntimeError> {
        match self.bundles.get(name) {
            Some(entry) if entry.wanted => Ok(Arc::clone(&entry.bundle)),
            _ => Err(RuntimeError::BundleNotFound { bundle: name.to_owned() }),
        }
    }

    /// Whether it is still the one of its name.
    pub(crate) fn holds(&self, bundle: &Arc<Bundle>) -> bool {
        self.bundles.get(&bundle.name).is_some_and(|entry| Arc::ptr_eq(&entry.bundle, bundle))
    }

    /// All bundles, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Bundle>> {
        self.bundles.values().map(|entry| Arc::clone(&entry.bundle)).collect()
    }

    /// The entries in the order in which they were loaded, with their
    /// manifests as they are now.
    fn in_order(&self) -> Vec<(&Entry, Arc<ManifestData>)> {
        let mut entries: Vec<&Entry> = self.bundles.values().collect();
        entries.sort_by_key(|entry| entry.order);
        entries.into_iter().map(|entry| (entry, entry.bundle.manifest())).collect()
    }

    fn wanted(&self) -> impl Iterator<Item = &Entry> {
        self.bundles.values().filter(|entry| entry.wanted)
    }

    /// The bundles that a worker should have loaded, providers first (S4).
    /// What depends on what may have changed since they were loaded.
    pub(crate) fn of_worker(&self, worker: &WorkerName) -> Vec<Arc<Bundle>> {
        let entries = self.in_order();
        let graph = Graph::new(entries.iter().map(|(_, manifest)| &**manifest), self.rule);
        let order = graph.load_order().unwrap_or_else(|_| (0..entries.len()).collect());
        order
            .into_iter()
            .map(|at| entries[at].0)
            .filter(|entry| entry.wanted && entry.bundle.is_in(worker))
            .map(|entry| Arc::clone(&entry.bundle))
            .collect()
    }

    /// Whether a worker has bundles, or one is being loaded into it.
    pub(crate) fn is_inhabited(&self, worker: &WorkerName) -> bool {
        self.bundles.values().any(|entry| entry.bundle.is_in(worker))
    }

    /// Who serves a request: the newest version that will do, ties by name
    /// (R1); only `bundle`, if one is named.
    pub(crate) fn resolve(
        &self,
        request: &ContractRequest,
        bundle: Option<&str>,
    ) -> Result<(Arc<Bundle>, ContractId), Failure> {
        let mut best: Option<(Arc<Bundle>, ContractId)> = None;
        for entry in self.wanted() {
            if bundle.is_some_and(|name| name != entry.bundle.name) {
                continue;
            }
            for provided in &entry.bundle.manifest().provides {
                let version = |id: &ContractId| (id.major, id.minor, id.patch);
                // Names come in order, so the first of equal versions stays.
                let better =
                    best.as_ref().is_none_or(|(_, best)| version(provided) > version(best));
                if better && self.rule.serves(provided, request) {
                    best = Some((Arc::clone(&entry.bundle), provided.clone()));
                }
            }
        }
        best.ok_or_else(|| Failure::NoSuchContract {
            contract: match bundle {
                Some(bundle) => format!("{bundle}/{request}"),
                None => request.to_string(),
            },
        })
    }

    /// Whether everything that a bundle needs is there (R3); `host` says what
    /// the host provides.
    pub(crate) fn check_dependencies(
        &self,
        manifest: &ManifestData,
        host: impl Fn(&ContractRequest) -> bool,
    ) -> Result<(), RuntimeError> {
        for need in needs::of(manifest, self.rule) {
            self.check_need(manifest, need)?;
        }
        let missing = manifest
            .dependencies
            .iter()
            .find(|d| d.kind == DependencyKind::Host && !host(&d.contract));
        match missing {
            None => Ok(()),
            Some(dependency) => Err(RuntimeError::UnsatisfiedCapability {
                bundle: manifest.name.clone(),
                contract: dependency.contract.to_string(),
                kind: DependencyKind::Host,
                provider: None,
            }),
        }
    }

    fn check_need(&self, manifest: &ManifestData, need: Need<'_>) -> Result<(), RuntimeError> {
        let mut others = self.wanted().map(|entry| entry.bundle.manifest());
        let met = others.find(|other| need.is_met_by(other, self.rule));
        match (need, met) {
            (Need::Bundle(dependency), met) => {
                let found = met.map(|met| met.version.clone());
                let will_do = found
                    .as_ref()
                    .is_some_and(|found| version_will_do(&dependency.version, found, self.rule));
                if will_do {
                    return Ok(());
                }
                Err(RuntimeError::DependencyNotFound {
                    bundle: manifest.name.clone(),
                    dependency: match (&found, dependency.version.as_str()) {
                        (None, _) | (_, "") => dependency.bundle.clone(),
                        (_, version) => format!("{}@{version}", dependency.bundle),
                    },
                    found,
                })
            }
            (Need::Contract(_), Some(_)) => Ok(()),
            (Need::Contract(dependency), None) => Err(RuntimeError::UnsatisfiedCapability {
                bundle: manifest.name.clone(),
                contract: dependency.contract.to_string(),
                kind: DependencyKind::Guest,
                provider: dependency.bundle.clone(),
            }),
        }
    }

    /// Whether a bundle may be replaced by what its manifest says by now: what
    /// it needs is there, nobody loses what they need, and no ring comes about.
    pub(crate) fn check_reload(
        &self,
        manifest: &ManifestData,
        host: impl Fn(&ContractRequest) -> bool,
    ) -> Result<(), RuntimeError> {
        self.check_dependencies(manifest, host)?;
        let before = self.in_order();
        let others = |at: usize| before[at].0.bundle.name != manifest.name;
        let after = |at: usize| if others(at) { &*before[at].1 } else { manifest };
        let met = |need: Need<'_>, by: &ManifestData| need.is_met_by(by, self.rule);
        let everybody = 0..before.len();
        let mut dependents = Vec::new();
        for at in everybody.clone().filter(|at| others(*at)) {
            let loses = needs::of(&before[at].1, self.rule).any(|need| {
                everybody.clone().any(|other| met(need, &before[other].1))
                    && !everybody.clone().any(|other| met(need, after(other)))
            });
            let too_old = before[at].1.bundle_dependencies.iter().any(|d| {
                d.bundle == manifest.name
                    && !version_will_do(&d.version, &manifest.version, self.rule)
            });
            if loses || too_old {
                dependents.push(before[at].0.bundle.name.clone());
            }
        }
        if !dependents.is_empty() {
            return Err(RuntimeError::DependencyInUse {
                bundle: manifest.name.clone(),
                dependents,
            });
        }
        Graph::new(everybody.map(after), self.rule).load_order().map(drop)
    }

    /// Takes a bundle out that nobody depends on: no new call finds it (L7).
    pub(crate) fn take(&mut self, name: &str) -> Result<Arc<Bundle>, RuntimeError> {
        let bundle = self.get(name)?;
        let entries = self.in_order();
        let graph = Graph::new(entries.iter().map(|(_, manifest)| &**manifest), self.rule);
        let gone: Vec<usize> = self.position(&entries, name).into_iter().collect();
        let mut dependents: Vec<String> =
            graph.bereft(&gone).into_iter().map(|at| entries[at].1.name.clone()).collect();
        if !dependents.is_empty() {
            dependents.sort();
            return Err(RuntimeError::DependencyInUse { bundle: name.to_owned(), dependents });
        }
        self.remove(name);
        Ok(bundle)
    }

    /// Takes a bundle out together with everybody who could not do without it
    /// (R4). One that is being loaded cannot be taken: it is in the way.
    pub(crate) fn take_cascade(&mut self, name: &str) -> Result<Cascade, RuntimeError> {
        self.get(name)?;
        let entries = self.in_order();
        let graph = Graph::new(entries.iter().map(|(_, manifest)| &**manifest), self.rule);
        let Some(of) = self.position(&entries, name) else { return Ok(Vec::new()) };
        let cascade = graph.cascade(of);
        let loading: Vec<String> = cascade
            .iter()
            .filter(|at| !entries[**at].0.wanted)
            .map(|at| entries[*at].1.name.clone())
            .collect();
        if !loading.is_empty() {
            let bundle = name.to_owned();
            return Err(RuntimeError::DependencyInUse { bundle, dependents: loading });
        }
        let cascade: Cascade =
            cascade.into_iter().map(|at| Arc::clone(&entries[at].0.bundle)).collect();
        for bundle in &cascade {
            self.remove(&bundle.name);
        }
        Ok(cascade)
    }

    /// Who is to be initialised again after a reload of `name`, in this order:
    /// those who ask for it and use it, those who ask for it and use those …
    /// (R4).
    pub(crate) fn to_reinitialise(&self, name: &str) -> Vec<String> {
        let entries = self.in_order();
        let graph = Graph::new(entries.iter().map(|(_, manifest)| &**manifest), self.rule);
        let Some(of) = self.position(&entries, name) else { return Vec::new() };
        let mut marked = vec![of];
        let mut at = 0;
        while let Some(next) = marked.get(at).copied() {
            for user in graph.users(next) {
                let asks = entries[user].0.wanted && entries[user].1.needs_reinit_on_dep_reload;
                if asks && !marked.contains(&user) {
                    marked.push(user);
                }
            }
            at += 1;
        }
        let order = graph.load_order().unwrap_or_else(|_| (0..entries.len()).collect());
        order
            .into_iter()
            .filter(|at| *at != of && marked.contains(at))
            .map(|at| entries[at].1.name.clone())
            .collect()
    }

    fn position(&self, entries: &[(&Entry, Arc<ManifestData>)], name: &str) -> Option<usize> {
        entries.iter().position(|(entry, _)| entry.bundle.name == name)
    }
}
