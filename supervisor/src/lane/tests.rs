//! A lane whose worker is the test itself: what it publishes, and when, is settled
//! step by step.

use std::os::fd::AsFd;
use std::task::{Context, Waker};

use futures_util::FutureExt;
use menagerie_protocol::Failure;
use menagerie_protocol::lane::wait::drain_wakes;
use menagerie_protocol::ring::{FrameHead, Kind, Memory};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

const LIMITS: LaneLimits = LaneLimits { ring_slots: 256, max_in_flight: 64, max_payload: 64 << 20 };

/// What a lane has asked of its worker's side.
#[derive(Default)]
struct Peer {
    violations: Mutex<Vec<Violation>>,
    outcalls: Mutex<Vec<(OpenOutcall, OutcallHead, Vec<u8>)>>,
}

impl LanePeer for Peer {
    fn send(&self, _: ToWorker, _: Vec<OwnedFd>) {}

    fn violation(&self, _: LaneId, what: Violation) {
        lock(&self.violations).push(what);
    }

    fn overdue(&self, _: &Arc<Lane>, _: Ticket, _: Option<Duration>) {}

    fn stuck(&self, _: &Arc<Lane>) {}

    fn read_on(&self, _: &Arc<Lane>) {}

    fn outcall(&self, open: OpenOutcall, head: OutcallHead, payload: Vec<u8>) {
        lock(&self.outcalls).push((open, head, payload));
    }
}

/// A lane and both of its sides.
struct Rig {
    lane: Arc<Lane>,
    peer: Arc<Peer>,
    /// The worker's.
    memory: LaneMemory,
    tx: Tx,
}

impl Rig {
    fn new() -> Self {
        let shape = Shape::new(LIMITS.ring_slots.into());
        let mut draft = Draft::new(LIMITS).unwrap();
        let fds = draft.take_descriptors();
        let memory = LaneMemory::open(&fds[0], &fds[1], shape).unwrap();
        let wakes_us = Arc::new(fds[2].try_clone().unwrap());
        let tx = Tx::new(&memory, shape, Side::Worker, wakes_us);
        let peer = Arc::new(Peer::default());
        let lane = draft.finish(1, 1, Arc::clone(&peer) as Arc<dyn LanePeer>);
        Self { lane, peer, memory, tx }
    }

    /// Sends a call as a task does, and sleeps on it.
    fn sleeping_task(&self) -> Own {
        let mut own = Own::new(Looks::IfAlone);
        self.lane.call_small(&mut own, 0, &[0x90]).unwrap();
        let cx = Context::from_waker(Waker::noop());
        let mut patience = PATIENCE;
        while !matches!(self.lane.poll_wait(&cx, &mut own, &mut patience), Look::Asleep) {}
        own
    }

    fn answer(&mut self, own: &Own) {
        let call = own.ticket.wire();
        self.tx
            .send(FrameHead { kind: Kind::Reply, flags: 0, function: 0, call }, &[&[0xc0]])
            .unwrap();
    }

    /// Whether the pump would be woken; it is, then.
    fn wakes_pump(&self) -> bool {
        let mut fds = [PollFd::new(self.lane.event.as_fd(), PollFlags::POLLIN)];
        let readable = poll(&mut fds, PollTimeout::ZERO).unwrap() > 0;
        drain_wakes(&self.lane.event);
        readable
    }

    fn has_ended(&self, own: &Own) -> bool {
        self.lane.slots.take(own.ticket).is_some()
    }
}

#[test]
fn lead_that_comes_back_leaves_nobody_asleep() {
    let mut rig = Rig::new();
    let lane = Arc::clone(&rig.lane);
    let (x, b) = (rig.sleeping_task(), rig.sleeping_task());
    // Somebody leads and is about to leave when the worker has answered x: the pump
    // is woken, and finds the lead taken.
    let led = lane.rx.take().unwrap();
    rig.answer(&x);
    assert!(rig.wakes_pump());
    lane.pump();
    // The lead comes back to who leaves, as the pump wanted it.
    lane.step_down(led);
    assert!(rig.has_ended(&x));
    // Nobody looks by itself any more: the answer to b has to wake the pump.
    rig.answer(&b);
    assert!(rig.wakes_pump(), "nobody is woken for the last answer");
    lane.pump();
    assert!(rig.has_ended(&b));
}

#[tokio::test]
async fn c7_a_call_that_nobody_waits_for_ends_what_is_made_for_it() {
    let mut rig = Rig::new();
    let lane = Arc::clone(&rig.lane);
    let (gone, stays) = (rig.sleeping_task(), rig.sleeping_task());
    for (number, own) in (5..).zip([&gone, &stays, &gone]) {
        let head = FrameHead::outcall(0, own.ticket.wire(), number);
        rig.tx.send(head, &[&[0x93]]).unwrap();
    }
    lane.pump();
    lane.abandon(gone.ticket);
    // Made for a call that is abandoned already.
    rig.tx.send(FrameHead::outcall(0, gone.ticket.wire(), 8), &[&[0x93]]).unwrap();
    lane.pump();
    let made = std::mem::take(&mut *lock(&rig.peer.outcalls));
    assert_eq!(lane.outcalls.count(), 4);
    let [mut first, mut second, mut third, mut fourth] = made.try_into().unwrap();
    first.0.abandoned().await;
    third.0.abandoned().await;
    fourth.0.abandoned().await;
    assert!(second.0.abandoned().now_or_never().is_none());
    drop((first, second, third, fourth));
    assert_eq!(lane.outcalls.count(), 0);
    // The slot has another call now, which has nothing to do with the first one's.
    rig.answer(&gone);
    lane.pump();
    let next = rig.sleeping_task();
    assert_eq!(next.ticket.index, gone.ticket.index);
    rig.tx.send(FrameHead::outcall(0, gone.ticket.wire(), 9), &[&[0x93]]).unwrap();
    lane.pump();
    let (_, head, _) = lock(&rig.peer.outcalls).pop().unwrap();
    assert_eq!(head.origin, None);
}

/// Moves whoever sleeps on the frame at the ring's beginning to another word of the
/// same memory, by a mapping of the worker's. Returns how many those were.
fn requeue(memory: &LaneMemory) -> i64 {
    let ring = memory.up_ring(Shape::new(LIMITS.ring_slots.into()));
    let (from, to) = (ring.ring()[0].as_ptr(), ring.ring()[8].as_ptr());
    // SAFETY: both words are mapped for as long as `ring` lives; FUTEX_REQUEUE takes
    // their addresses only, and wakes none of those that it moves.
    unsafe { libc::syscall(libc::SYS_futex, from, libc::FUTEX_REQUEUE, 0, i64::from(i32::MAX), to) }
}

#[test]
fn s2_a_worker_that_moves_its_sleepers_does_not_outlive_its_end() {
    let rig = Rig::new();
    let asleep = {
        let lane = Arc::clone(&rig.lane);
        std::thread::spawn(move || {
            let mut own = Own::new(Looks::Always(Nap::SHORT));
            lane.call_small(&mut own, 0, &[0x90]).unwrap();
            assert!(lane.wait_blocking(&mut own, &mut |_| None));
            matches!(own.outcome, Some(Outcome::NotBegun))
        })
    };
    wait_for("a sleeper", || requeue(&rig.memory) == 1);
    let ending = std::thread::spawn(move || rig.lane.end(|| Failure::Cancelled));
    wait_for("the end of the lane", || ending.is_finished());
    wait_for("the end of the call", || asleep.is_finished());
    assert!(asleep.join().unwrap());
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_there() {
        assert!(Instant::now() < until, "no sign of {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn contract_finds_functions_by_their_whole_names() {
    let functions: Vec<String> =
        ["greet", "greet_all", "greet_allo", "g", ""].map(str::to_owned).to_vec();
    let id = "greeter@1".parse().unwrap();
    let contract = LaneContract::new(id, functions, 10);
    for (at, name) in (10..).zip(["greet", "greet_all", "greet_allo", "g", ""]) {
        assert_eq!(contract.function(name), Some(at), "{name}");
    }
    for none in ["gree", "greeting", "greet_alm", "greet_all_", "h", "\0"] {
        assert_eq!(contract.function(none), None, "{none}");
    }
}
