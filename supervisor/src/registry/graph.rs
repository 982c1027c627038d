//! Who depends on whom: the order in which bundles are loaded and unloaded
//! (R3, R4). Pure: manifests in, positions out.

use menagerie_protocol::{Compatibility, ManifestData, RuntimeError};

use super::needs::{self, Need};

/// A bundle as others have to reckon with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party<'m> {
    /// What serves.
    pub(crate) now: &'m ManifestData,
    /// What may serve soon, or may not: a reload is under way.
    pub(crate) coming: Option<&'m ManifestData>,
    /// Whether it is there for others. One that is being loaded may yet fail.
    pub(crate) is_there: bool,
}

impl<'m> From<&'m ManifestData> for Party<'m> {
    fn from(now: &'m ManifestData) -> Self {
        Self { now, coming: None, is_there: true }
    }
}

impl<'m> Party<'m> {
    fn manifests(self) -> impl Iterator<Item = &'m ManifestData> {
        std::iter::once(self.now).chain(self.coming)
    }

    /// Its version, and the one that it may have soon.
    pub(super) fn versions(self) -> impl Iterator<Item = &'m str> {
        self.manifests().map(|manifest| manifest.version.as_str())
    }

    /// What it needs, and may need soon.
    pub(super) fn needs(self, rule: Compatibility) -> impl Iterator<Item = Need<'m>> {
        self.manifests().flat_map(move |manifest| needs::of(manifest, rule))
    }

    /// Whether it meets a need, whatever comes of its reload.
    pub(super) fn meets(self, need: Need<'_>, rule: Compatibility) -> bool {
        self.is_there && self.manifests().all(|manifest| need.is_met_by(manifest, rule))
    }

    /// Whether a version of a bundle that it needs will not do.
    pub(super) fn finds_too_old(self, other: &ManifestData, rule: Compatibility) -> bool {
        self.manifests().flat_map(|manifest| &manifest.bundle_dependencies).any(|dependency| {
            dependency.bundle == other.name
                && !needs::version_will_do(&dependency.version, &other.version, rule)
        })
    }
}

/// A set of bundles, with who meets which need of whom.
#[derive(Debug)]
pub(crate) struct Graph<'m> {
    parties: Vec<Party<'m>>,
    /// For each bundle, for each of its needs, who of the set meets it. A need
    /// that nobody in the set meets is left out.
    needs: Vec<Vec<Vec<usize>>>,
}

impl<'m> Graph<'m> {
    pub(crate) fn new(
        parties: impl IntoIterator<Item = impl Into<Party<'m>>>,
        rule: Compatibility,
    ) -> Self {
        let parties: Vec<Party<'_>> = parties.into_iter().map(Into::into).collect();
        let needs = parties
            .iter()
            .map(|party| {
                party
                    .needs(rule)
                    .map(|need| {
                        (0..parties.len())
                            .filter(|at| parties[*at].meets(need, rule))
                            .collect::<Vec<usize>>()
                    })
                    .filter(|candidates| !candidates.is_empty())
                    .collect()
            })
            .collect();
        Self { parties, needs }
    }

    /// The order in which each bundle comes after what it depends on: after
    /// everybody who could serve it where that is possible, after one who can
    /// where bundles serve each other. Otherwise the set's own order is kept.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::DependencyCycle`] with the first ring that no order can
    /// break (R3).
    pub(crate) fn load_order(&self) -> Result<Vec<usize>, RuntimeError> {
        let count = self.parties.len();
        let mut loaded = vec![false; count];
        let mut order = Vec::with_capacity(count);
        while order.len() < count {
            let left = || (0..count).filter(|at| !loaded[*at]);
            let all_there = |at: &usize| {
                self.needs[*at].iter().flatten().all(|other| loaded[*other] || other == at)
                    && !self.needs_itself(*at)
            };
            let enough_there = |at: &usize| {
                self.needs[*at].iter().all(|need| need.iter().any(|other| loaded[*other]))
            };
            let next = left().find(all_there).or_else(|| left().find(enough_there));
            let Some(next) = next else {
                let participants = self.ring(&loaded);
                return Err(RuntimeError::DependencyCycle { participants });
            };
            loaded[next] = true;
            order.push(next);
        }
        Ok(order)
    }

    /// A need that only the bundle itself could meet: a ring of one.
    fn needs_itself(&self, at: usize) -> bool {
        self.needs[at].iter().any(|need| need.iter().all(|other| *other == at))
    }

    /// The names of a ring among those that are left, the first one again at
    /// its end. Each of them has a need that only others that are left meet.
    fn ring(&self, loaded: &[bool]) -> Vec<String> {
        let unmet = |at: usize| {
            let need = self.needs[at].iter().find(|need| need.iter().all(|other| !loaded[*other]));
            need.and_then(|need| need.first().copied())
        };
        let mut path: Vec<usize> = Vec::new();
        let mut next = loaded.iter().position(|loaded| !loaded);
        while let Some(at) = next {
            if let Some(start) = path.iter().position(|other| *other == at) {
                path.drain(..start);
                path.push(at);
                break;
            }
            path.push(at);
            next = unmet(at);
        }
        path.into_iter().map(|at| self.parties[at].now.name.clone()).collect()
    }

    /// Who could not do without those that are `gone`: of one need of theirs
    /// nobody would be left.
    pub(crate) fn bereft(&self, gone: &[usize]) -> Vec<usize> {
        (0..self.parties.len())
            .filter(|at| !gone.contains(at))
            .filter(|at| {
                self.needs[*at].iter().any(|need| need.iter().all(|other| gone.contains(other)))
            })
            .collect()
    }

    /// A bundle with all that could not do without it, and without those:
    /// dependents first, the bundle itself last.
    pub(crate) fn cascade(&self, of: usize) -> Vec<usize> {
        let mut gone = vec![of];
        loop {
            let more = self.bereft(&gone);
            if more.is_empty() {
                break;
            }
            gone.extend(more);
        }
        // A ring cannot be: what is loaded was loaded in some order.
        let order = self.load_order().unwrap_or_else(|_| (0..self.parties.len()).collect());
        let mut cascade: Vec<usize> = order.into_iter().filter(|at| gone.contains(at)).collect();
        cascade.reverse();
        // What the bundle itself depends on is no part of it, so it is last.
        cascade.retain(|at| *at != of);
        cascade.push(of);
        cascade
    }

    /// Who may call `of`, directly: it is one of those that meet a need.
    pub(crate) fn users(&self, of: usize) -> Vec<usize> {
        (0..self.parties.len())
            .filter(|at| *at != of && self.needs[*at].iter().flatten().any(|other| *other == of))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::manifest;
    use super::*;

    fn set(texts: &[&str]) -> Vec<ManifestData> {
        texts.iter().map(|text| manifest(text)).collect()
    }

    fn order(texts: &[&str]) -> Result<Vec<usize>, Vec<String>> {
        let manifests = set(texts);
        Graph::new(&manifests, Compatibility::Strict).load_order().map_err(|error| match error {
            RuntimeError::DependencyCycle { participants } => participants,
            other => panic!("{other:?}"),
        })
    }

    const NEEDS_C: &str = "[[dependency]]\ncontract = \"c@1\"";

    #[test]
    fn r3_load_order_follows_dependencies() {
        let found = order(&[
            "name = \"a\"\nbundle_dependencies = [\"b\"]",
            &format!("name = \"b\"\n{NEEDS_C}"),
            "name = \"c\"\nprovides = [\"c@1\"]",
        ]);
        assert_eq!(found.unwrap(), [2, 1, 0]);
    }

    #[test]
    fn r3_load_order_puts_all_providers_first() {
        let found = order(&[
            &format!("name = \"user\"\n{NEEDS_C}"),
            "name = \"p1\"\nprovides = [\"c@1\"]",
            "name = \"p2\"\nprovides = [\"c@1.2\"]",
            "name = \"other\"\nprovides = [\"c@2\"]",
        ]);
        assert_eq!(found.unwrap(), [1, 2, 0, 3]);
    }

    #[test]
    fn r3_a_ring_is_a_dependency_cycle() {
        let found = order(&[
            "name = \"a\"\nbundle_dependencies = [\"b\"]",
            "name = \"b\"\nbundle_dependencies = [\"c\"]",
            "name = \"c\"\nbundle_dependencies = [\"b\"]",
        ]);
        assert_eq!(found.unwrap_err(), ["b", "c", "b"]);
        let found = order(&["name = \"a\"\nbundle_dependencies = [\"a\"]"]);
        assert_eq!(found.unwrap_err(), ["a", "a"]);
    }

    #[test]
    fn r3_a_ring_of_contracts_is_one_only_if_nobody_else_serves() {
        let x = "name = \"x\"\nprovides = [\"x@1\"]\n[[dependency]]\ncontract = \"c@1\"";
        let y = "name = \"y\"\nprovides = [\"c@1\"]\n[[dependency]]\ncontract = \"x@1\"";
        assert_eq!(order(&[x, y]).unwrap_err(), ["x", "y", "x"]);
        let z = "name = \"z\"\nprovides = [\"c@1\"]";
        assert_eq!(order(&[x, y, z]).unwrap(), [2, 0, 1]);
    }

    #[test]
    fn r4_a_cascade_takes_who_could_not_do_without_dependents_first() {
        let manifests = set(&[
            "name = \"p1\"\nprovides = [\"c@1\"]",
            "name = \"p2\"\nprovides = [\"c@1\"]\nbundle_dependencies = [\"p1\"]",
            &format!("name = \"user\"\n{NEEDS_C}"),
            "name = \"top\"\nbundle_dependencies = [\"user\"]",
            "name = \"apart\"",
        ]);
        let graph = Graph::new(&manifests, Compatibility::Strict);
        // The user is served by p2 as well, but p2 goes with p1.
        assert_eq!(graph.bereft(&[0]), [1]);
        assert_eq!(graph.cascade(0), [3, 2, 1, 0]);
        assert_eq!(graph.cascade(1), [1]);
        assert_eq!(graph.cascade(4), [4]);
        assert_eq!(graph.users(0), [1, 2]);
    }

    proptest::proptest! {
        /// Whatever the dependencies are, an order respects them, or a ring is
        /// one.
        #[test]
        fn r3_an_order_respects_every_dependency(
            edges in proptest::collection::vec((0..8_usize, 0..8_usize), 0..16)
        ) {
            let name = |at: usize| format!("b{at}");
            let manifests: Vec<ManifestData> = (0..8)
                .map(|at| {
                    let on: Vec<String> = edges
                        .iter()
                        .filter(|(from, _)| *from == at)
                        .map(|(_, to)| format!("\"{}\"", name(*to)))
                        .collect();
                    let on = on.join(", ");
                    manifest(&format!("name = \"{}\"\nbundle_dependencies = [{on}]", name(at)))
                })
                .collect();
            match Graph::new(&manifests, Compatibility::Strict).load_order() {
                Ok(order) => {
                    let at = |of: usize| order.iter().position(|at| *at == of).unwrap();
                    for (from, to) in &edges {
                        assert!(at(*from) > at(*to), "{edges:?}: {order:?}");
                    }
                }
                Err(RuntimeError::DependencyCycle { participants }) => {
                    assert!(participants.len() > 1);
                    assert_eq!(participants.first(), participants.last());
                    for pair in participants.windows(2) {
                        let is_edge = |edge: &&(usize, usize)| {
                            (name(edge.0), name(edge.1)) == (pair[0].clone(), pair[1].clone())
                        };
                        assert!(edges.iter().find(is_edge).is_some(), "{participants:?}");
                    }
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
