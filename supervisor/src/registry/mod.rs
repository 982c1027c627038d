//! Which bundles there are, and who provides what (`DESIGN.md`, chapter R).

mod graph;
mod needs;
#[cfg(test)]
mod tests;

pub(crate) use graph::Graph;
use graph::Party;

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
    /// What a reload that is under way will make of it, if it succeeds.
    coming: Option<Arc<ManifestData>>,
}

/// A bundle's manifests: what serves, and what a reload is about to bring.
struct Listed<'r> {
    entry: &'r Entry,
    now: Arc<ManifestData>,
}

impl Listed<'_> {
    fn party(&self) -> Party<'_> {
        let coming = self.entry.coming.as_deref();
        Party { now: &self.now, coming, is_there: self.entry.wanted }
    }

    fn name(&self) -> &str {
        &self.entry.bundle.name
    }
}

impl Entry {
    fn listed(&self) -> Listed<'_> {
        Listed { entry: self, now: self.bundle.manifest() }
    }
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
        let entry =
            Entry { bundle: Arc::clone(bundle), order: self.next, wanted: false, coming: None };
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

    /// The one of this name, which may be being loaded for the first time.
    pub(crate) fn of_name(&self, name: &str) -> Option<Arc<Bundle>> {
        self.bundles.get(name).map(|entry| Arc::clone(&entry.bundle))
    }

    /// Whether it is still the one of its name.
    pub(crate) fn holds(&self, bundle: &Arc<Bundle>) -> bool {
        self.bundles.get(&bundle.name).is_some_and(|entry| Arc::ptr_eq(&entry.bundle, bundle))
    }

    /// All bundles, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Bundle>> {
        self.bundles.values().map(|entry| Arc::clone(&entry.bundle)).collect()
    }

    /// The bundles in the order in which they were loaded, with their manifests as they
    /// are now.
    fn in_order(&self) -> Vec<Listed<'_>> {
        let mut entries: Vec<&Entry> = self.bundles.values().collect();
        entries.sort_by_key(|entry| entry.order);
        entries.into_iter().map(Entry::listed).collect()
    }

    fn wanted(&self) -> impl Iterator<Item = &Entry> {
        self.bundles.values().filter(|entry| entry.wanted)
    }

    /// The bundles that a worker should have loaded, providers first (S4).
    /// What depends on what may have changed since they were loaded.
    pub(crate) fn of_worker(&self, worker: &WorkerName) -> Vec<Arc<Bundle>> {
        let entries = self.in_order();
        let graph = Graph::new(entries.iter().map(|listed| &*listed.now), self.rule);
        let order = graph.load_order().unwrap_or_else(|_| (0..entries.len()).collect());
        order
            .into_iter()
            .map(|at| entries[at].entry)
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
        let mut others = self.bundles.values().map(Entry::listed);
        let met = others.find(|other| {
            // At a reload: what it has provided itself so far is gone then.
            let is_its_own = matches!(need, Need::Contract(_)) && other.name() == manifest.name;
            !is_its_own && other.party().meets(need, self.rule)
        });
        match (need, met) {
            (Need::Bundle(dependency), met) => {
                let will_do = |found: &str| version_will_do(&dependency.version, found, self.rule);
                let found = match met.as_ref().map(Listed::party) {
                    None => None,
                    Some(party) => match party.versions().find(|found| !will_do(found)) {
                        None => return Ok(()),
                        unfit => unfit.map(str::to_owned),
                    },
                };
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

    /// A reload begins: from here on nobody counts on what its end may take away, or may
    /// bring, until [`end_reload`](Self::end_reload). It takes as long as an import does,
    /// and others load, reload and unload meanwhile.
    pub(crate) fn begin_reload(
        &mut self,
        bundle: &Arc<Bundle>,
        manifest: &Arc<ManifestData>,
        host: impl Fn(&ContractRequest) -> bool,
    ) -> Result<(), RuntimeError> {
        if !self.holds(bundle) {
            return Err(RuntimeError::BundleNotFound { bundle: bundle.name.clone() });
        }
        self.check_reload(manifest, host)?;
        if let Some(entry) = self.bundles.get_mut(&bundle.name) {
            entry.coming = Some(Arc::clone(manifest));
        }
        Ok(())
    }

    /// A reload has ended, either way. The next one may have begun.
    pub(crate) fn end_reload(&mut self, bundle: &Bundle, manifest: &Arc<ManifestData>) {
        if let Some(entry) = self.bundles.get_mut(&bundle.name) {
            entry.coming.take_if(|coming| Arc::ptr_eq(coming, manifest));
        }
    }

    /// Whether a bundle may be replaced by what its manifest says by now: what
    /// it needs is there, nobody loses what they need, and no ring comes about.
    fn check_reload(
        &self,
        manifest: &ManifestData,
        host: impl Fn(&ContractRequest) -> bool,
    ) -> Result<(), RuntimeError> {
        self.check_dependencies(manifest, host)?;
        let entries = self.in_order();
        let before: Vec<Party<'_>> = entries.iter().map(Listed::party).collect();
        let replaced = |listed: &Listed<'_>| listed.name() == manifest.name;
        let after = entries.iter().zip(&before);
        let after: Vec<Party<'_>> = after
            .map(|(listed, before)| if replaced(listed) { manifest.into() } else { *before })
            .collect();
        let met = |need: Need<'_>, by: &[Party<'_>]| by.iter().any(|by| by.meets(need, self.rule));
        let mut dependents = Vec::new();
        for (listed, party) in entries.iter().zip(&before).filter(|(l, _)| !replaced(l)) {
            let loses = party.needs(self.rule).any(|need| met(need, &before) && !met(need, &after));
            if loses || party.finds_too_old(manifest, self.rule) {
                dependents.push(listed.name().to_owned());
            }
        }
        if !dependents.is_empty() {
            return Err(RuntimeError::DependencyInUse {
                bundle: manifest.name.clone(),
                dependents,
            });
        }
        Graph::new(after, self.rule).load_order().map(drop)
    }

    /// Takes a bundle out that nobody depends on: no new call finds it (L7).
    pub(crate) fn take(&mut self, name: &str) -> Result<Arc<Bundle>, RuntimeError> {
        let bundle = self.get(name)?;
        let entries = self.in_order();
        let graph = Graph::new(entries.iter().map(Listed::party), self.rule);
        let gone: Vec<usize> = position(&entries, name).into_iter().collect();
        let mut dependents: Vec<String> =
            graph.bereft(&gone).into_iter().map(|at| entries[at].name().to_owned()).collect();
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
        let graph = Graph::new(entries.iter().map(Listed::party), self.rule);
        let Some(of) = position(&entries, name) else { return Ok(Vec::new()) };
        let cascade = graph.cascade(of);
        let loading: Vec<String> = cascade
            .iter()
            .filter(|at| !entries[**at].entry.wanted)
            .map(|at| entries[*at].name().to_owned())
            .collect();
        if !loading.is_empty() {
            let bundle = name.to_owned();
            return Err(RuntimeError::DependencyInUse { bundle, dependents: loading });
        }
        let cascade: Cascade =
            cascade.into_iter().map(|at| Arc::clone(&entries[at].entry.bundle)).collect();
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
        let graph = Graph::new(entries.iter().map(|listed| &*listed.now), self.rule);
        let Some(of) = position(&entries, name) else { return Vec::new() };
        let mut marked = vec![of];
        let mut at = 0;
        while let Some(next) = marked.get(at).copied() {
            for user in graph.users(next) {
                let Listed { entry, now } = &entries[user];
                let asks = entry.wanted && now.needs_reinit_on_dep_reload;
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
            .map(|at| entries[at].name().to_owned())
            .collect()
    }
}

fn position(entries: &[Listed<'_>], name: &str) -> Option<usize> {
    entries.iter().position(|listed| listed.name() == name)
}
