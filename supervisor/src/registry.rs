//! Which bundles there are, and who provides what (`DESIGN.md`, chapter R).

use std::collections::BTreeMap;
use std::sync::Arc;

use menagerie_protocol::contract::{ContractId, ContractRequest};
use menagerie_protocol::loader::manifest::DependencyKind;
use menagerie_protocol::{Failure, ManifestData, RuntimeError};

use crate::bundle::Bundle;
use crate::placement::WorkerName;

/// The bundles by name, in the order in which they were loaded.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    bundles: BTreeMap<String, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    bundle: Arc<Bundle>,
    order: u64,
    /// Whether it has been loaded once: it should be loaded from then on.
    wanted: bool,
}

impl Registry {
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

    /// All bundles that can be found, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Bundle>> {
        self.bundles.values().map(|entry| Arc::clone(&entry.bundle)).collect()
    }

    /// The bundles that a worker should have loaded, providers first.
    pub(crate) fn of_worker(&self, worker: &WorkerName) -> Vec<Arc<Bundle>> {
        let mut found: Vec<&Entry> = self
            .bundles
            .values()
            .filter(|entry| entry.wanted && entry.bundle.home() == *worker)
            .collect();
        found.sort_by_key(|entry| entry.order);
        found.into_iter().map(|entry| Arc::clone(&entry.bundle)).collect()
    }

    /// Whether a worker has bundles, or one is being loaded into it.
    pub(crate) fn is_inhabited(&self, worker: &WorkerName) -> bool {
        self.bundles.values().any(|entry| entry.bundle.home() == *worker)
    }

    /// Who serves a request: the newest version that will do, ties by name
    /// (R1); only `bundle`, if one is named.
    pub(crate) fn resolve(
        &self,
        request: &ContractRequest,
        bundle: Option<&str>,
    ) -> Result<(Arc<Bundle>, ContractId), Failure> {
        let mut best: Option<(Arc<Bundle>, ContractId)> = None;
        for entry in self.bundles.values().filter(|entry| entry.wanted) {
            if bundle.is_some_and(|name| name != entry.bundle.name) {
                continue;
            }
            for provided in &entry.bundle.manifest.load().provides {
                let version = |id: &ContractId| (id.major, id.minor, id.patch);
                // Names come in order, so the first of equal versions stays.
                let better =
                    best.as_ref().is_none_or(|(_, best)| version(provided) > version(best));
                if request.is_served_by(provided) && better {
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

    /// Whether everything that a bundle needs is there (R3).
    pub(crate) fn check_dependencies(&self, manifest: &ManifestData) -> Result<(), RuntimeError> {
        for dependency in &manifest.bundle_dependencies {
            if self.get(&dependency.bundle).is_err() {
                return Err(RuntimeError::DependencyNotFound {
                    bundle: manifest.name.clone(),
                    dependency: dependency.bundle.clone(),
                });
            }
        }
        for dependency in &manifest.dependencies {
            let own = manifest.provides.iter().any(|id| dependency.contract.is_served_by(id));
            if dependency.kind == DependencyKind::Guest
                && !own
                && self.resolve(&dependency.contract, dependency.bundle.as_deref()).is_err()
            {
                return Err(RuntimeError::UnsatisfiedCapability {
                    bundle: manifest.name.clone(),
                    contract: dependency.contract.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The bundles that could not do without `name`.
    pub(crate) fn dependents(&self, name: &str) -> Vec<String> {
        let mut dependents = Vec::new();
        for entry in self.bundles.values().filter(|entry| entry.bundle.name != name) {
            let manifest = entry.bundle.manifest.load();
            let by_name = manifest.bundle_dependencies.iter().any(|d| d.bundle == name);
            let by_contract = manifest.dependencies.iter().any(|dependency| {
                dependency.kind == DependencyKind::Guest
                    && self.only_provider(&dependency.contract, dependency.bundle.as_deref(), name)
            });
            if by_name || by_contract {
                dependents.push(entry.bundle.name.clone());
            }
        }
        dependents
    }

    fn only_provider(&self, request: &ContractRequest, bundle: Option<&str>, name: &str) -> bool {
        let mut providers = self.bundles.values().filter(|entry| {
            entry.wanted
                && bundle.is_none_or(|bundle| bundle == entry.bundle.name)
                && entry.bundle.manifest.load().provides.iter().any(|id| request.is_served_by(id))
        });
        let first = providers.next().map(|entry| entry.bundle.name.as_str());
        first == Some(name) && providers.next().is_none()
    }
}

/// Orders manifests so that each comes after what it depends on; what is not
/// among them is ignored.
///
/// # Errors
///
/// [`RuntimeError::DependencyCycle`] with the ring (R3).
pub(crate) fn load_order(manifests: &[ManifestData]) -> Result<Vec<usize>, RuntimeError> {
    fn visit(
        at: usize,
        manifests: &[ManifestData],
        marks: &mut [u8],
        path: &mut Vec<usize>,
        order: &mut Vec<usize>,
    ) -> Result<(), RuntimeError> {
        match marks[at] {
            2 => return Ok(()),
            1 => {
                let start = path.iter().position(|other| *other == at).unwrap_or(0);
                let names = path[start..].iter().chain([&at]);
                let participants = names.map(|i| manifests[*i].name.clone()).collect();
                return Err(RuntimeError::DependencyCycle { participants });
            }
            _ => {}
        }
        marks[at] = 1;
        path.push(at);
        for (other, manifest) in manifests.iter().enumerate() {
            if other != at && depends_on(&manifests[at], manifest) {
                visit(other, manifests, marks, path, order)?;
            }
        }
        path.pop();
        marks[at] = 2;
        order.push(at);
        Ok(())
    }
    let mut marks = vec![0; manifests.len()];
    let mut order = Vec::new();
    for at in 0..manifests.len() {
        visit(at, manifests, &mut marks, &mut Vec::new(), &mut order)?;
    }
    Ok(order)
}

/// Whether a bundle needs another one.
pub(crate) fn depends_on(bundle: &ManifestData, other: &ManifestData) -> bool {
    bundle.bundle_dependencies.iter().any(|dependency| dependency.bundle == other.name)
        || bundle.dependencies.iter().any(|dependency| {
            dependency.kind == DependencyKind::Guest
                && dependency.bundle.as_ref().is_none_or(|name| *name == other.name)
                && !bundle.provides.iter().any(|id| dependency.contract.is_served_by(id))
                && other.provides.iter().any(|id| dependency.contract.is_served_by(id))
        })
}

#[cfg(test)]
mod tests {
    use menagerie_protocol::BundleSource;

    use super::*;

    fn manifest(text: &str) -> ManifestData {
        ManifestData::parse(&format!("loader = \"lua\"\n{text}")).unwrap().manifest
    }

    fn add(registry: &mut Registry, text: &str) {
        let bundle = Bundle::new(manifest(text), BundleSource::Code(String::new()));
        registry.reserve(&bundle).unwrap();
        registry.publish(&bundle.name);
    }

    fn resolve(registry: &Registry, request: &str, bundle: Option<&str>) -> Option<String> {
        let (bundle, _) = registry.resolve(&request.parse().unwrap(), bundle).ok()?;
        Some(bundle.name.clone())
    }

    #[test]
    fn r1_the_newest_version_wins_and_ties_go_by_name() {
        let mut registry = Registry::default();
        add(&mut registry, "name = \"b\"\nprovides = [\"c@1.2\"]");
        add(&mut registry, "name = \"a\"\nprovides = [\"c@1.2\"]");
        add(&mut registry, "name = \"d\"\nprovides = [\"c@2.0\"]");
        add(&mut registry, "name = \"e\"\nprovides = [\"c@1.1\"]");
        assert_eq!(resolve(&registry, "c", None).as_deref(), Some("d"));
        assert_eq!(resolve(&registry, "c@1", None).as_deref(), Some("a"));
        assert_eq!(resolve(&registry, "c@1", Some("e")).as_deref(), Some("e"));
        assert_eq!(resolve(&registry, "c@1.3", None), None);
        assert_eq!(resolve(&registry, "x", None), None);
    }

    #[test]
    fn r3_what_is_missing_is_named() {
        let mut registry = Registry::default();
        let needy = manifest("name = \"a\"\nbundle_dependencies = [\"b@1.0\"]");
        assert!(matches!(
            registry.check_dependencies(&needy),
            Err(RuntimeError::DependencyNotFound { dependency, .. }) if dependency == "b"
        ));
        let needy = manifest("name = \"a\"\n[[dependency]]\ncontract = \"c@1\"");
        assert!(matches!(
            registry.check_dependencies(&needy),
            Err(RuntimeError::UnsatisfiedCapability { contract, .. }) if contract == "c@1"
        ));
        add(&mut registry, "name = \"b\"\nprovides = [\"c@1\"]");
        registry.check_dependencies(&needy).unwrap();
    }

    #[test]
    fn r3_load_order_follows_dependencies() {
        let manifests = [
            manifest("name = \"a\"\nbundle_dependencies = [\"b\"]"),
            manifest("name = \"b\"\n[[dependency]]\ncontract = \"c@1\""),
            manifest("name = \"c\"\nprovides = [\"c@1\"]"),
        ];
        assert_eq!(load_order(&manifests).unwrap(), [2, 1, 0]);
    }

    #[test]
    fn r3_a_ring_is_a_dependency_cycle() {
        let manifests = [
            manifest("name = \"a\"\nbundle_dependencies = [\"b\"]"),
            manifest("name = \"b\"\nbundle_dependencies = [\"c\"]"),
            manifest("name = \"c\"\nbundle_dependencies = [\"b\"]"),
        ];
        let Err(RuntimeError::DependencyCycle { participants }) = load_order(&manifests) else {
            panic!()
        };
        assert_eq!(participants, ["b", "c", "b"]);
    }

    #[test]
    fn r4_dependents_are_those_that_could_not_do_without() {
        let mut registry = Registry::default();
        add(&mut registry, "name = \"p1\"\nprovides = [\"c@1\"]");
        add(&mut registry, "name = \"user\"\n[[dependency]]\ncontract = \"c@1\"");
        assert_eq!(registry.dependents("p1"), ["user"]);
        add(&mut registry, "name = \"p2\"\nprovides = [\"c@1\"]");
        assert!(registry.dependents("p1").is_empty());
        add(&mut registry, "name = \"named\"\nbundle_dependencies = [\"p1\"]");
        assert_eq!(registry.dependents("p1"), ["named"]);
    }
}
