//! A bundle's places in its workers: one, or one for each replica, and which of
//! them a call goes to (`DESIGN.md`, rule S9).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use arc_swap::{ArcSwap, Guard};
use menagerie_protocol::Failure;
use tokio::sync::{MutexGuard, watch};

use crate::bundle::{Route, Serving};
use crate::core::Core;
use crate::lane::{Lane, lock};
use crate::placement::WorkerName;
use crate::status::BundleState;

/// A bundle in one of its workers.
#[derive(Debug)]
pub(crate) struct Seat {
    route: ArcSwap<Route>,
    /// Counts the changes of the routes of all the bundle's seats.
    changed: watch::Sender<u64>,
    /// The worker that it is in.
    home: Mutex<WorkerName>,
    /// Whether its worker has stopped because somebody asked for it, or nobody
    /// had called it: it comes back when it is needed.
    asleep: AtomicBool,
    /// The generation that serves it, or that did last; 0 before the first. Here
    /// as well, as the status does not wait for [`serving`](Self::serving).
    generation: AtomicU32,
    /// Whether it is tried again to load it here. Changed with
    /// [`serving`](Self::serving) locked.
    pub(crate) tried_again: AtomicBool,
    /// Whether that is done at this moment.
    trying: AtomicBool,
    /// What serves it. Locked while the bundle is loaded, reloaded, restored or
    /// unloaded here: one at a time. Who locks several does so in their order.
    pub(crate) serving: tokio::sync::Mutex<Option<Serving>>,
}

/// See [`Seat::try_now`].
struct TryingNow<'s>(&'s Seat);

impl Drop for TryingNow<'_> {
    fn drop(&mut self) {
        self.0.trying.store(false, Ordering::Relaxed);
    }
}

impl Seat {
    fn new(home: WorkerName, changed: watch::Sender<u64>) -> Self {
        Self {
            route: ArcSwap::from_pointee(Route::Waiting(BundleState::Loading)),
            changed,
            home: Mutex::new(home),
            asleep: AtomicBool::new(false),
            generation: AtomicU32::new(0),
            tried_again: AtomicBool::new(false),
            trying: AtomicBool::new(false),
            serving: tokio::sync::Mutex::new(None),
        }
    }

    pub(crate) fn route(&self) -> Guard<Arc<Route>> {
        self.route.load()
    }

    pub(crate) fn set_route(&self, route: Route) {
        if matches!(route, Route::Up(_)) {
            self.asleep.store(false, Ordering::Relaxed);
        }
        self.route.store(Arc::new(route));
        self.changed.send_modify(|count| *count += 1);
    }

    /// Whether calls fail because it could not be loaded here, or its worker cannot be had.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(&**self.route(), Route::Down(BundleState::Failed, _))
    }

    /// Says that it is being tried to load it here again, until what is returned is dropped.
    pub(crate) fn try_now(&self) -> impl Drop + use<'_> {
        self.trying.store(true, Ordering::Relaxed);
        TryingNow(self)
    }

    /// Whether it is being tried to load it here again: nobody has asked for that.
    pub(crate) fn is_being_tried(&self) -> bool {
        self.trying.load(Ordering::Relaxed)
    }

    /// Sets the route if calls go to `lane` now; whether they did.
    pub(crate) fn replace_lane(&self, lane: &Arc<Lane>, route: Route) -> bool {
        let is_it = matches!(&**self.route(), Route::Up(up) if Arc::ptr_eq(up, lane));
        if is_it {
            self.set_route(route);
        }
        is_it
    }

    /// From now on calls go to this generation. `slot` is what
    /// [`serving`](Self::serving) guards; what was in it is returned.
    pub(crate) fn serve(&self, slot: &mut Option<Serving>, new: Serving) -> Option<Serving> {
        let (process, lane) = (Arc::clone(&new.process), Arc::clone(&new.loaded.lane));
        self.generation.store(lane.generation, Ordering::Relaxed);
        let before = slot.replace(new);
        let waiting = Route::Waiting(BundleState::Waiting);
        if !process.is_closed() {
            self.set_route(Route::Up(Arc::clone(&lane)));
            // Its end, if it came in between, has found nothing to take away.
            if process.is_closed() {
                self.replace_lane(&lane, waiting);
            }
        } else if matches!(&**self.route(), Route::Up(_)) {
            self.set_route(waiting);
        }
        before
    }

    /// Its worker stops: calls wait until it is needed and comes back, or fail if
    /// that will not be.
    pub(crate) fn retire(&self, comes_back: bool) {
        if comes_back {
            self.set_route(Route::Waiting(BundleState::Waiting));
            self.asleep.store(true, Ordering::Relaxed);
        } else {
            let failure = Box::new(Failure::ShuttingDown);
            self.set_route(Route::Down(BundleState::Unloading, failure));
        }
    }

    /// The worker that it is in.
    pub(crate) fn home(&self) -> WorkerName {
        lock(&self.home).clone()
    }

    pub(crate) fn is_in(&self, worker: &WorkerName) -> bool {
        *lock(&self.home) == *worker
    }

    /// It is in another worker from its next load on.
    pub(crate) fn move_to(&self, home: WorkerName) {
        *lock(&self.home) = home;
    }
}

/// All seats of a bundle.
#[derive(Debug)]
pub(crate) struct Seats {
    /// The only one, as a rule: it lies here, so that the way to it is short.
    first: Seat,
    others: Box<[Seat]>,
    changed: watch::Sender<u64>,
    /// Calls that were spread so far: who is the first of equals.
    turn: AtomicUsize,
    /// Who wakes a worker that sleeps.
    core: Weak<Core>,
}

impl Seats {
    /// One in each of these workers.
    pub(crate) fn new(first: WorkerName, others: Vec<WorkerName>, core: Weak<Core>) -> Self {
        let changed = watch::Sender::new(0);
        let seat = |home| Seat::new(home, changed.clone());
        Self {
            first: seat(first),
            others: others.into_iter().map(seat).collect(),
            changed,
            turn: AtomicUsize::new(0),
            core,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Seat> + Clone {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The one in the replica of this index; the first, if there is no such
    /// replica.
    pub(crate) fn at(&self, index: usize) -> &Seat {
        let other = index.checked_sub(1).and_then(|at| self.others.get(at));
        other.unwrap_or(&self.first)
    }

    /// The generation that serves, or that did last: of several the youngest, as
    /// each replica has one of its own. 0 before the first.
    pub(crate) fn generation(&self) -> u32 {
        self.iter().map(|seat| seat.generation.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    pub(crate) fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// Whether there are several.
    pub(crate) fn are_many(&self) -> bool {
        !self.others.is_empty()
    }

    /// Learns of every change of a route.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What serves the bundle, locked everywhere.
    pub(crate) async fn lock_all(&self) -> Vec<MutexGuard<'_, Option<Serving>>> {
        let mut locked = Vec::with_capacity(self.count());
        for seat in self.iter() {
            locked.push(seat.serving.lock().await);
        }
        locked
    }

    /// Where the next call goes: the only route, or that of the replica which
    /// is up with the fewest calls in flight. Calls wait only where none is up,
    /// and fail only where none will be.
    #[inline]
    pub(crate) fn route(&self) -> Guard<Arc<Route>> {
        if self.others.is_empty() { self.first.route.load() } else { self.choose() }
    }

    fn choose(&self) -> Guard<Arc<Route>> {
        let (turn, count) = (self.turn.fetch_add(1, Ordering::Relaxed), self.count());
        let mut best = self.first.route.load();
        let mut best_key = Rank::of(&best).key(0, turn, count);
        let mut sleeper = None;
        for (at, seat) in self.iter().enumerate() {
            let route = seat.route.load();
            let rank = Rank::of(&route);
            if rank == Rank::Waiting && seat.asleep.load(Ordering::Relaxed) {
                sleeper = Some(seat);
            }
            let key = rank.key(at, turn, count);
            if key < best_key {
                (best, best_key) = (route, key);
            }
        }
        // Everybody is at work: one that sleeps could help.
        if let (Rank::Open(1..), Some(seat)) = (best_key.0, sleeper)
            && seat.asleep.swap(false, Ordering::Relaxed)
            && let Some(core) = self.core.upgrade()
        {
            core.wake(&seat.home());
        }
        best
    }
}

/// How good a route is for a call; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It takes calls, and has so many in flight.
    Open(u64),
    /// It takes none at this moment.
    Closed,
    Waiting,
    Down,
}

impl Rank {
    fn of(route: &Route) -> Self {
        match route {
            Route::Up(lane) if lane.is_open() => Self::Open(lane.in_flight()),
            Route::Up(_) => Self::Closed,
            Route::Waiting(_) => Self::Waiting,
            Route::Down(..) => Self::Down,
        }
    }

    /// The least key is chosen. Equals that take calls have turns; of the
    /// others it is always the first, so that who waits for it to change is not
    /// told of another one each time.
    fn key(self, at: usize, turn: usize, count: usize) -> (Self, usize) {
        let place = match self {
            Self::Open(_) => (at + count - turn % count) % count,
            Self::Closed | Self::Waiting | Self::Down => at,
        };
        (self, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(ranks: &[Rank], turn: usize) -> usize {
        let keys = ranks.iter().enumerate().map(|(at, rank)| rank.key(at, turn, ranks.len()));
        let best = keys.clone().min().unwrap();
        keys.clone().position(|key| key == best).unwrap()
    }

    #[test]
    fn s9_a_call_goes_where_the_fewest_are_in_flight() {
        let ranks = [Rank::Open(3), Rank::Open(1), Rank::Open(2)];
        for turn in 0..7 {
            assert_eq!(chosen(&ranks, turn), 1);
        }
    }

    #[test]
    fn s9_equals_have_turns() {
        let all = [Rank::Open(0); 3];
        let turns: Vec<usize> = (0..6).map(|turn| chosen(&all, turn)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        let two = [Rank::Open(1), Rank::Open(0), Rank::Open(0)];
        let turns: Vec<usize> = (0..6).map(|turn| chosen(&two, turn)).collect();
        assert_eq!(turns.iter().filter(|at| **at == 0).count(), 0);
        assert!(turns.contains(&1) && turns.contains(&2), "{turns:?}");
        // Also where the count of calls begins anew.
        assert!(chosen(&all, usize::MAX) < 3);
    }

    #[test]
    fn s9_calls_wait_where_none_is_up_and_fail_where_none_will_be() {
        for turn in 0..4 {
            assert_eq!(chosen(&[Rank::Waiting, Rank::Down, Rank::Open(9)], turn), 2);
            assert_eq!(chosen(&[Rank::Waiting, Rank::Closed, Rank::Open(9)], turn), 2);
            assert_eq!(chosen(&[Rank::Down, Rank::Waiting, Rank::Waiting], turn), 1);
            assert_eq!(chosen(&[Rank::Down, Rank::Closed, Rank::Closed], turn), 1);
            assert_eq!(chosen(&[Rank::Down, Rank::Down], turn), 0);
        }
    }

    fn three() -> Seats {
        let name = |number| WorkerName::shared("lua").numbered(number);
        Seats::new(name(1), vec![name(2), name(3)], Weak::new())
    }

    #[test]
    fn s9_the_seat_of_a_worker_is_that_of_its_number() {
        let seats = three();
        assert_eq!((seats.count(), seats.are_many()), (3, true));
        for number in 1..=3 {
            let name = WorkerName::shared("lua").numbered(number);
            assert!(seats.at(name.seat()).is_in(&name));
        }
        let one = Seats::new(WorkerName::shared("lua"), Vec::new(), Weak::new());
        assert_eq!((one.count(), one.are_many()), (1, false));
        assert!(one.at(WorkerName::shared("lua").seat()).is_in(&WorkerName::shared("lua")));
    }

    #[test]
    fn s9_a_change_anywhere_is_told() {
        let seats = three();
        let mut changed = seats.subscribe();
        changed.mark_unchanged();
        for at in 0..3 {
            let failure = Box::new(Failure::ShuttingDown);
            seats.at(at).set_route(Route::Down(BundleState::Failed, failure));
            assert!(changed.has_changed().unwrap());
            changed.mark_unchanged();
            let waits = matches!(&**seats.route(), Route::Waiting(_));
            assert_eq!(waits, at < 2, "after {at}");
        }
    }
}
