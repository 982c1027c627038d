//! A lane whose worker is the test itself: what it publishes, and when, is settled
//! step by step.

use std::os::fd::AsFd;
use std::task::{Context, Waker};

use menagerie_protocol::lane::wait::drain_wakes;
use menagerie_protocol::ring::{FrameHead, Kind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

const LIMITS: LaneLimits = LaneLimits { ring_slots: 256, max_in_flight: 64, max_payload: 64 << 20 };

/// What a lane has asked of its worker's side.
#[derive(Default)]
struct Peer {
    violations: Mutex<Vec<Violation>>,
    outcalls: Mutex<Vec<(OutcallHead, Vec<u8>)>>,
}

impl LanePeer for Peer {
    fn send(&self, _: ToWorker, _: Vec<OwnedFd>) {}

    fn violation(&self, _: LaneId, what: Violation) {
        lock(&self.violations).push(what);
    }

    fn overdue(&self, _: &Arc<Lane>, _: Ticket, _: Option<Duration>) {}

    fn stuck(&self, _: &Arc<Lane>) {}

    fn read_on(&self, _: &Arc<Lane>) {}

    fn outcall(&self, _: &Arc<Lane>, head: OutcallHead, payload: Vec<u8>) {
        lock(&self.outcalls).push((head, payload));
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
