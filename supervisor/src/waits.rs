//! Which bundle waits for which, and whether one more wait could ever end
//! (`DESIGN.md` rule C5).
//!
//! A bundle that calls another one waits for it. Two things are refused:
//!
//! - a call chain that comes back: the bundle that is to be called waits, some
//!   calls up, for this very call. That holds for bundles that could go on
//!   while they wait as well.
//! - a standstill of several chains: bundles whose threads wait for each other,
//!   so that none of the calls that they wait for can begin.
//!
//! Two chains that merely touch the same bundles are neither.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::lane::lock;

/// A wait's number; never 0.
pub(crate) type WaitId = u64;

/// Which of a bundle's calls is served by a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// One that the host made, or none at all.
    None,
    /// The one that this wait of another bundle is for.
    Wait(WaitId),
    /// The worker cannot say: it may be any that the bundle runs.
    Unknown,
}

/// A bundle waits for another one.
#[derive(Clone, Debug)]
pub(crate) struct Wait {
    pub(crate) from: Arc<str>,
    pub(crate) to: Arc<str>,
    pub(crate) parent: Parent,
    /// Whether `from`'s thread does nothing else meanwhile.
    pub(crate) blocks: bool,
}

/// Waits, by something that several of them have in common.
#[derive(Debug)]
struct Index<K>(BTreeMap<K, BTreeSet<WaitId>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Index<K> {
    fn add(&mut self, key: K, id: WaitId) {
        self.0.entry(key).or_default().insert(id);
    }

    fn remove(&mut self, key: &K, id: WaitId) {
        if let Some(waits) = self.0.get_mut(key) {
            waits.remove(&id);
            if waits.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn of(&self, key: &K) -> impl Iterator<Item = WaitId> {
        self.0.get(key).into_iter().flatten().copied()
    }
}

/// All waits of this moment. Pure. What it costs to enter one is linear in the number
/// of those that hang together with it: a guest may have a thousand, and all bundles'
/// calls come by here.
#[derive(Debug, Default)]
struct Graph {
    waits: BTreeMap<WaitId, Wait>,
    last: WaitId,
    /// By the bundle that is waited for.
    to: Index<Arc<str>>,
    /// By the bundle that waits: those that keep its thread.
    blocking: Index<Arc<str>>,
    /// By the bundle that waits: those that may serve any of its calls.
    vague: Index<Arc<str>>,
    /// By the wait that they say they serve.
    serving: Index<WaitId>,
}

/// A search along waits: each is looked at once, with the one that it was found from.
#[derive(Debug, Default)]
struct Search {
    seen: BTreeSet<WaitId>,
    path: Vec<(WaitId, Option<usize>)>,
    open: Vec<(WaitId, Option<usize>)>,
}

impl Search {
    /// Found from the one that was looked at last, or from none.
    fn find(&mut self, waits: impl Iterator<Item = WaitId>) {
        let from = self.path.len().checked_sub(1);
        self.open.extend(waits.map(|id| (id, from)));
    }

    fn next(&mut self) -> Option<WaitId> {
        let (id, from) =
            std::iter::from_fn(|| self.open.pop()).find(|(id, _)| self.seen.insert(*id))?;
        self.path.push((id, from));
        Some(id)
    }

    /// The way to the one that was looked at last, from there to the first.
    fn way_back(&self) -> impl Iterator<Item = WaitId> {
        let mut at = self.path.last();
        std::iter::from_fn(move || {
            let (id, from) = at?;
            at = from.and_then(|from| self.path.get(from));
            Some(*id)
        })
    }
}

impl Graph {
    /// Adds a wait; or says along which bundles it would close a ring.
    fn enter(&mut self, wait: Wait) -> Result<WaitId, Vec<String>> {
        if let Some(chain) = self.coming_back(&wait).or_else(|| self.standstill(&wait)) {
            return Err(chain.iter().map(ToString::to_string).collect());
        }
        self.last += 1;
        let (id, from) = (self.last, &wait.from);
        self.to.add(Arc::clone(&wait.to), id);
        if wait.blocks {
            self.blocking.add(Arc::clone(from), id);
        }
        match wait.parent {
            Parent::None => {}
            Parent::Wait(parent) => self.serving.add(parent, id),
            Parent::Unknown => self.vague.add(Arc::clone(from), id),
        }
        self.waits.insert(id, wait);
        Ok(id)
    }

    fn leave(&mut self, id: WaitId) {
        let Some(wait) = self.waits.remove(&id) else { return };
        self.to.remove(&wait.to, id);
        self.blocking.remove(&wait.from, id);
        self.vague.remove(&wait.from, id);
        if let Parent::Wait(parent) = wait.parent {
            self.serving.remove(&parent, id);
        }
    }

    /// The waits for `wait.from` that may be those that `wait` serves.
    fn served_by(&self, wait: &Wait) -> impl Iterator<Item = WaitId> {
        let (said, any) = match wait.parent {
            Parent::None => (None, None),
            Parent::Wait(parent) => (Some(parent), None),
            Parent::Unknown => (None, Some(self.to.of(&wait.from))),
        };
        let is_it = |id: &WaitId| self.waits.get(id).is_some_and(|other| other.to == wait.from);
        said.filter(is_it).into_iter().chain(any.into_iter().flatten())
    }

    /// The chain from `wait.to` down to itself, if it waits for this call.
    fn coming_back(&self, wait: &Wait) -> Option<Vec<Arc<str>>> {
        let end = [Arc::clone(&wait.from), Arc::clone(&wait.to)];
        if wait.from == wait.to {
            return Some(end.to_vec());
        }
        let mut search = Search::default();
        // Bundles any of whose calls may be meant, and are looked at already.
        let mut vague = BTreeSet::new();
        let mut further = |search: &mut Search, wait: &Wait| {
            if wait.parent != Parent::Unknown || vague.insert(Arc::clone(&wait.from)) {
                search.find(self.served_by(wait));
            }
        };
        further(&mut search, wait);
        while let Some(id) = search.next() {
            let Some(above) = self.waits.get(&id) else { continue };
            if above.from == wait.to {
                let chain = search.way_back().filter_map(|id| self.waits.get(&id));
                return Some(chain.map(|above| Arc::clone(&above.from)).chain(end).collect());
            }
            further(&mut search, above);
        }
        None
    }

    /// The chain along threads that wait, if this wait could not end before it
    /// has ended itself.
    fn standstill(&self, wait: &Wait) -> Option<Vec<Arc<str>>> {
        let served: BTreeSet<WaitId> = self.served_by(wait).collect();
        let mut search = Search::default();
        // Bundles that are looked at already.
        let mut seen = BTreeSet::from([&wait.to]);
        // What has to end before a call of this bundle can begin.
        search.find(self.blocking.of(&wait.to));
        let mut vague = BTreeSet::new();
        while let Some(id) = search.next() {
            let Some(next) = self.waits.get(&id) else { continue };
            // The thread of `from` will be busy with waiting; or it is the very
            // call that this wait serves.
            if (wait.blocks && next.to == wait.from) || served.contains(&id) {
                let mut chain: Vec<_> = search
                    .way_back()
                    .filter_map(|id| self.waits.get(&id))
                    .map(|next| Arc::clone(&next.to))
                    .collect();
                chain.extend([Arc::clone(&wait.to), Arc::clone(&wait.from)]);
                chain.reverse();
                return Some(chain);
            }
            if seen.insert(&next.to) {
                search.find(self.blocking.of(&next.to));
            }
            // What has to end before the call of this wait can end.
            let is_there = |id: &WaitId| self.waits.get(id).is_some_and(|it| it.from == next.to);
            search.find(self.serving.of(&id).filter(is_there));
            if vague.insert(&next.to) {
                search.find(self.vague.of(&next.to));
            }
        }
        None
    }
}

/// Who waits for whom at this moment.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<Graph>);

impl Waits {
    /// Takes note of a wait until the guard is dropped.
    ///
    /// # Errors
    ///
    /// The ring that it would close: the bundles, outermost first.
    pub(crate) fn enter(&self, wait: Wait) -> Result<Guard<'_>, Vec<String>> {
        lock(&self.0).enter(wait).map(|id| Guard { waits: self, id })
    }
}

/// A wait that goes on.
#[derive(Debug)]
pub(crate) struct Guard<'w> {
    waits: &'w Waits,
    id: WaitId,
}

impl Guard<'_> {
    pub(crate) const fn id(&self) -> WaitId {
        self.id
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        lock(&self.waits.0).leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(from: &str, to: &str, parent: Parent, blocks: bool) -> Wait {
        Wait { from: from.into(), to: to.into(), parent, blocks }
    }

    /// A graph in which waits are entered one by one.
    #[derive(Default)]
    struct Chains(Graph);

    impl Chains {
        fn blocking(&mut self, from: &str, to: &str, parent: Parent) -> Parent {
            Parent::Wait(self.0.enter(wait(from, to, parent, true)).unwrap())
        }

        fn awaiting(&mut self, from: &str, to: &str, parent: Parent) -> Parent {
            Parent::Wait(self.0.enter(wait(from, to, parent, false)).unwrap())
        }

        fn refused(&mut self, from: &str, to: &str, parent: Parent, blocks: bool) -> Vec<String> {
            self.0.enter(wait(from, to, parent, blocks)).unwrap_err()
        }
    }

    #[test]
    fn c5_a_chain_that_comes_back_names_its_members() {
        for blocks in [true, false] {
            let mut chains = Chains::default();
            let enter = |chains: &mut Chains, from, to, parent| {
                Parent::Wait(chains.0.enter(wait(from, to, parent, blocks)).unwrap())
            };
            let ab = enter(&mut chains, "a", "b", Parent::None);
            let bc = enter(&mut chains, "b", "c", ab);
            assert_eq!(chains.refused("c", "a", bc, blocks), ["a", "b", "c", "a"]);
            assert_eq!(chains.refused("c", "b", bc, blocks), ["b", "c", "b"]);
            assert_eq!(chains.refused("c", "c", bc, blocks), ["c", "c"]);
            enter(&mut chains, "c", "d", bc);
        }
    }

    #[test]
    fn c5_two_chains_that_touch_the_same_async_bundles_are_no_cycle() {
        let mut chains = Chains::default();
        chains.awaiting("a", "b", Parent::None);
        // Another call of the host's to b, which calls a: a goes on while it
        // waits, and so does b.
        chains.awaiting("b", "a", Parent::None);
        // Or b blocks: a is not blocked, answers, and b goes on.
        chains.blocking("b", "a", Parent::None);
    }

    #[test]
    fn c5_threads_that_wait_for_each_other_are_a_cycle() {
        let mut chains = Chains::default();
        chains.blocking("a", "b", Parent::None);
        assert_eq!(chains.refused("b", "a", Parent::None, true), ["b", "a", "b"]);
        // A thread that is not blocked can still serve what it is waited for.
        chains.awaiting("b", "a", Parent::None);
    }

    #[test]
    fn c5_a_standstill_over_several_chains_is_found() {
        let mut chains = Chains::default();
        chains.blocking("a", "b", Parent::None);
        chains.blocking("b", "c", Parent::None);
        chains.blocking("x", "a", Parent::None);
        assert_eq!(chains.refused("c", "a", Parent::None, true), ["c", "a", "b", "c"]);
        chains.blocking("c", "d", Parent::None);
        // c waits for d only, and d for nobody.
        assert_eq!(chains.refused("d", "x", Parent::None, true), ["d", "x", "a", "b", "c", "d"]);
    }

    #[test]
    fn c5_an_await_in_the_middle_does_not_hide_a_standstill() {
        let mut chains = Chains::default();
        // a blocks for b, whose async function awaits c.
        let ab = chains.blocking("a", "b", Parent::None);
        chains.awaiting("b", "c", ab);
        // c, in another call, would block for a: the await of b could never end.
        assert_eq!(chains.refused("c", "a", Parent::None, true), ["c", "a", "b", "c"]);
    }

    #[test]
    fn c5_where_the_worker_cannot_say_any_call_may_be_meant() {
        let mut chains = Chains::default();
        chains.awaiting("a", "b", Parent::None);
        assert_eq!(chains.refused("b", "a", Parent::Unknown, false), ["a", "b", "a"]);
        chains.awaiting("b", "c", Parent::Unknown);
        // A number that is none of the bundle's own calls means nothing.
        chains.awaiting("b", "a", Parent::Wait(77));
    }

    #[test]
    fn c5_a_wait_that_has_ended_is_forgotten() {
        let waits = Waits::default();
        let ab = waits.enter(wait("a", "b", Parent::None, true)).unwrap();
        assert!(waits.enter(wait("b", "a", Parent::Wait(ab.id()), true)).is_err());
        drop(ab);
        drop(waits.enter(wait("b", "a", Parent::None, true)).unwrap());
        let graph = lock(&waits.0);
        assert!(graph.waits.is_empty() && graph.serving.0.is_empty());
        assert!(graph.to.0.is_empty() && graph.blocking.0.is_empty() && graph.vague.0.is_empty());
    }

    #[test]
    fn c5_many_waits_are_looked_at_once_each() {
        /// What would take hours if each were looked at for each other.
        const MANY: u32 = 20_000;
        let name = |n: u32| format!("b{n}");
        let mut chains = Chains::default();
        for n in 0..MANY {
            chains.blocking(&name(n), &name(n + 1), Parent::None);
        }
        let ring = chains.refused(&name(MANY), &name(0), Parent::None, true);
        assert_eq!(ring.len(), MANY as usize + 2);
        // Calls that many wait for, and none of which is said to be meant.
        let mut chains = Chains::default();
        for n in 0..MANY {
            chains.awaiting(&name(n), "hub", Parent::None);
        }
        for n in 0..50 {
            chains.awaiting("hub", &format!("c{n}"), Parent::Unknown);
        }
        assert_eq!(chains.refused("hub", "b7", Parent::Unknown, false), ["b7", "hub", "b7"]);
    }

    proptest::proptest! {
        /// What is let in can always end: there is some wait whose callee is
        /// neither blocked nor waiting, again and again until none is left.
        #[test]
        fn c5_whatever_is_let_in_can_end(
            steps in proptest::collection::vec((0..5_usize, 0..5_usize, 0..8_usize, proptest::bool::ANY), 1..24)
        ) {
            let mut graph = Graph::default();
            for (from, to, parent, blocks) in steps {
                let name = |n: usize| format!("b{n}");
                let (from, to) = (name(from), name(to));
                // A thread that waits makes no further calls.
                if graph.waits.values().any(|w| w.blocks && *w.from == *from) {
                    continue;
                }
                let served: Vec<WaitId> =
                    graph.waits.iter().filter(|(_, w)| *w.to == *from).map(|(id, _)| *id).collect();
                let parent = match served.get(parent) {
                    Some(id) => Parent::Wait(*id),
                    None => Parent::None,
                };
                drop(graph.enter(wait(&from, &to, parent, blocks)));
            }
            while !graph.waits.is_empty() {
                let ended = graph.waits.iter().find(|(id, w)| {
                    let blocked = graph.waits.values().any(|o| o.blocks && o.from == w.to);
                    let waits = graph.waits.values().any(|o| o.parent == Parent::Wait(**id));
                    !blocked && !waits
                });
                let id = ended.map(|(id, _)| *id);
                let Some(id) = id else { panic!("a standstill: {:?}", graph.waits) };
                graph.leave(id);
            }
        }
    }
}
