//! A lane whose worker is the test itself: what it publishes, and when, is settled
//! step by step.

use std::os::fd::AsFd;
use std::task::{Context, Waker};

use futures_util::FutureExt;
use menagerie_protocol::Failure;
use menagerie_protocol::lane::BulkRef;
use menagerie_protocol::lane::wait::drain_wakes;
use menagerie_protocol::ring::{FLAG_BULK, FrameHead, Kind, Memory};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

const LIMITS: LaneLimits = LaneLimits { ring_slots: 256, max_in_flight: 64, max_payload: 1 << 20 };

/// A call that the guest has made.
type Made = (OpenOutcall, OutcallHead, Option<Vec<u8>>);

/// What a lane has asked of its worker's side.
#[derive(Default)]
struct Peer {
    sent: Mutex<Vec<(ToWorker, Vec<OwnedFd>)>>,
    violations: Mutex<Vec<Violation>>,
    outcalls: Mutex<Vec<Made>>,
    /// Whether they end at once instead.
    ends_outcalls: AtomicBool,
    /// How often it was asked to read on.
    read_on: AtomicU32,
    /// Segments that could not be made.
    owed: Mutex<Vec<usize>>,
}

impl LanePeer for Peer {
    fn send(&self, message: ToWorker, fds: Vec<OwnedFd>) {
        lock(&self.sent).push((message, fds));
    }

    fn violation(&self, _: LaneId, what: Violation) {
        lock(&self.violations).push(what);
    }

    fn overdue(&self, _: &Arc<Lane>, _: Ticket, _: Option<Duration>) {}

    fn stuck(&self, _: &Arc<Lane>) {}

    fn read_on(&self, _: &Arc<Lane>) {
        self.read_on.fetch_add(1, Ordering::Relaxed);
    }

    fn grant_later(&self, _: &Arc<Lane>, len: usize) {
        lock(&self.owed).push(len);
    }

    fn outcall(&self, open: OpenOutcall, head: OutcallHead, payload: Option<Vec<u8>>) {
        if self.ends_outcalls.load(Ordering::Relaxed) {
            return;
        }
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
    rx: Rx,
}

impl Rig {
    fn new() -> Self {
        let shape = Shape::new(LIMITS.ring_slots.into());
        let mut draft = Draft::new(LIMITS).unwrap();
        let fds = draft.take_descriptors();
        let memory = LaneMemory::open(&fds[0], &fds[1], shape).unwrap();
        let wakes_us = Arc::new(fds[2].try_clone().unwrap());
        let tx = Tx::new(&memory, shape, Side::Worker, wakes_us);
        let wakes_lane = Arc::new(fds[3].try_clone().unwrap());
        let rx = Rx::new(&memory, shape, Side::Worker, wakes_lane);
        let peer = Arc::new(Peer::default());
        let weak: Weak<Peer> = Arc::downgrade(&peer);
        let lane = draft.finish(1, 1, weak);
        Self { lane, peer, memory, tx, rx }
    }

    /// The worker takes so many frames.
    fn reads(&mut self, frames: u32) {
        for _ in 0..frames {
            let frame = self.rx.peek().unwrap().unwrap();
            self.rx.release(frame);
        }
    }

    /// Sends a call as a task does, and sleeps on it.
    fn sleeping_task(&self) -> Own {
        let mut own = Own::new(Looks::IfAlone);
        self.lane.call_small(&mut own, Terms::default(), &[0x90]).unwrap();
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
    assert!(lane.outcalls.are_due());
    let [mut first, mut second, mut third, mut fourth] = made.try_into().unwrap();
    first.0.abandoned().await;
    third.0.abandoned().await;
    fourth.0.abandoned().await;
    // It is said once.
    assert!(first.0.abandoned().now_or_never().is_none());
    assert!(second.0.abandoned().now_or_never().is_none());
    drop((first, second, third, fourth));
    assert!(!lane.outcalls.are_due());
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

/// Fills the ring to the worker, which reads nothing, to the last slot.
fn fill(lane: &Lane) {
    while lane.send_answer(0, &Ok(vec![0; 8])).is_ok() {}
}

#[test]
fn s6_a_large_answer_without_room_is_not_copied() {
    let rig = Rig::new();
    fill(&rig.lane);
    for _ in 0..3 {
        let sent = rig.lane.send_answer(7, &Ok(vec![0; 1 << 20]));
        assert!(matches!(sent, Err(Undelivered::Busy)), "{sent:?}");
    }
    assert!(lock(&rig.peer.sent).is_empty(), "a segment was made");
}

#[test]
fn s6_a_worker_that_takes_no_answers_begins_nothing() {
    let mut rig = Rig::new();
    let lane = Arc::clone(&rig.lane);
    let _waits = rig.sleeping_task();
    assert_eq!(lane.begins_nothing(), Some(0));
    // A call of its own, for none of ours.
    rig.tx.send(FrameHead::outcall(0, 0, 1), &[&[0x93]]).unwrap();
    lane.pump();
    assert_eq!(lane.begins_nothing(), None);
    let (mut open, ..) = lock(&rig.peer.outcalls).pop().unwrap();
    open.is_answered();
    open.is_answered();
    assert_eq!(lane.begins_nothing(), Some(0));
    drop(open);
    assert_eq!(lane.begins_nothing(), Some(0));
}

impl Rig {
    /// Makes a call whose arguments are the whole of a segment.
    fn call_with(&mut self, number: u32, segment: u32) {
        let head = FrameHead::outcall(FLAG_BULK, 0, number);
        let bulk = BulkRef { segment, offset: 0, len: LIMITS.max_payload };
        self.tx.send(head, &[&bulk.to_bytes()]).unwrap();
    }
}

#[test]
fn c7_arguments_beyond_what_a_lane_may_hold_are_not_copied() {
    let mut rig = Rig::new();
    let lane = Arc::clone(&rig.lane);
    lane.grant_up_segment(LIMITS.max_payload).unwrap();
    for number in 0..6 {
        rig.call_with(number, 1);
    }
    lane.pump();
    let mut made = std::mem::take(&mut *lock(&rig.peer.outcalls));
    let copied: Vec<_> = made.iter().map(|(.., payload)| payload.is_some()).collect();
    assert_eq!(copied, [true, true, true, true, false, false]);
    // Those that hold nothing make no room when they end.
    made.truncate(4);
    rig.call_with(6, 1);
    lane.pump();
    assert!(lock(&rig.peer.outcalls).pop().unwrap().2.is_none());
    made.pop();
    rig.call_with(7, 1);
    lane.pump();
    assert!(lock(&rig.peer.outcalls).pop().unwrap().2.is_some());
    assert!(lock(&rig.peer.violations).is_empty());
}

#[test]
fn s6_reading_pauses_after_so_many_bytes() {
    let mut rig = Rig::new();
    let lane = Arc::clone(&rig.lane);
    rig.peer.ends_outcalls.store(true, Ordering::Relaxed);
    lane.grant_up_segment(LIMITS.max_payload).unwrap();
    for number in 0..100 {
        rig.call_with(number, 1);
    }
    lane.pump();
    assert_eq!(rig.peer.read_on.load(Ordering::Relaxed), 1);
    lane.pump();
    assert_eq!(rig.peer.read_on.load(Ordering::Relaxed), 1);
    assert!(lock(&rig.peer.violations).is_empty());
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
            lane.call_small(&mut own, Terms::default(), &[0x90]).unwrap();
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

#[test]
fn c7_those_that_wait_for_room_are_counted_with_those_in_flight() {
    let rig = Rig::new();
    let lane = &rig.lane;
    // Nine slots each.
    let mut sent = 0;
    let refused = loop {
        let mut own = Own::new(Looks::IfAlone);
        match lane.call_small(&mut own, Terms::default(), &[0; 500]) {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refused::Busy), "{refused:?}");
    let mut places: Vec<_> = std::iter::from_fn(|| lane.queue()).collect();
    assert_eq!(sent + places.len(), LIMITS.max_in_flight as usize);
    assert!(lane.queue().is_none());
    places.pop();
    places.extend(lane.queue());
    assert!(lane.queue().is_none());
}

#[tokio::test]
async fn c7_who_waits_for_room_has_it_in_turn() {
    let rig = Rig::new();
    let places: Vec<_> = (0..3).map(|_| rig.lane.queue().unwrap()).collect();
    let first = places[0].first().await;
    let mut second = Box::pin(places[1].first());
    assert!(second.as_mut().now_or_never().is_none());
    let mut third = Box::pin(places[2].first());
    assert!(block_on(third.as_mut(), Some(Instant::now())).is_none());
    drop(first);
    drop(second.await);
    let thread = std::thread::spawn(|| std::thread::sleep(Duration::from_millis(1)));
    assert!(block_on(third.as_mut(), Some(Instant::now() + HOUR)).is_some());
    thread.join().unwrap();
}

#[test]
fn c7_who_comes_later_leaves_the_last_room_to_those_who_wait() {
    let mut rig = Rig::new();
    let lane = Arc::clone(&rig.lane);
    let call = || lane.call_small(&mut Own::new(Looks::IfAlone), Terms::default(), &[0; 500]);
    while call().is_ok() {}
    let place = lane.queue().unwrap();
    rig.reads(1);
    assert!(matches!(call(), Err(Refused::Busy)));
    // Nor has it room for calls of one slot each, as many as would fit.
    let small = || lane.call_small(&mut Own::new(Looks::IfAlone), Terms::default(), &[0x90]);
    assert!(matches!(small(), Err(Refused::Busy)));
    assert!(matches!(small(), Err(Refused::Busy)));
    place.sends(call).unwrap();
    rig.reads(1);
    drop(place);
    small().unwrap();
    rig.reads(1);
    call().unwrap();
    // There is plenty for all.
    let _place = lane.queue().unwrap();
    rig.reads(15);
    call().unwrap();
}

impl Rig {
    /// A call that a task sleeps on, with its deadline.
    fn sleeping_until(&self, deadline: Option<Instant>) -> Own {
        let own = self.sleeping_task();
        self.lane.sent_at(own.ticket, Instant::now(), deadline);
        own
    }

    /// The worker says that it has begun so many calls, and left so many to await.
    fn says(&self, begun: u64, left: u64) {
        self.memory.begun().store(begun, Ordering::Relaxed);
        self.memory.left().store(left, Ordering::Relaxed);
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn s6_who_awaits_is_late_when_nobody_else_has_the_thread() {
    let mut rig = Rig::new();
    let lane = Arc::clone(&rig.lane);
    let leave = Leave { grace: HOUR, endless: Duration::from_millis(20) };
    let in_an_hour = Some(Instant::now() + HOUR);
    let (early, late) = (rig.sleeping_until(in_an_hour), rig.sleeping_task());
    lane.abandon(late.ticket);
    // It is the one that was begun last, and its thread has done nothing else since.
    rig.says(2, 1);
    assert!(!lane.another_may_run(late.ticket, leave).await);
    // It awaits, and an earlier one may go on now.
    rig.says(2, 2);
    assert!(lane.another_may_run(late.ticket, leave).now_or_never().is_none());
    // One that came later has been begun, and has all the time in the world.
    let after = rig.sleeping_until(None);
    rig.says(3, 0);
    let waits = {
        let lane = Arc::clone(&lane);
        tokio::spawn(async move { lane.another_may_run(late.ticket, leave).await })
    };
    tokio::time::sleep(leave.endless * 2).await;
    assert!(!waits.is_finished());
    rig.answer(&after);
    lane.pump();
    assert!(waits.await.unwrap());
    // All await, and one of them for ever.
    let endless = rig.sleeping_until(None);
    rig.says(4, 4);
    let waits = {
        let lane = Arc::clone(&lane);
        tokio::spawn(async move { lane.another_may_run(late.ticket, leave).await })
    };
    tokio::task::yield_now().await;
    lane.abandon(early.ticket);
    assert!(waits.await.unwrap());
    lane.abandon(endless.ticket);
    assert!(!lane.another_may_run(late.ticket, leave).await);
    // A word for more than there is helps nobody.
    rig.says(u64::MAX, u64::MAX);
    assert!(!lane.another_may_run(late.ticket, leave).await);
    // One that is late itself has no time to give, nor one that nobody looks after.
    let _over = rig.sleeping_until(Some(Instant::now()));
    let _nobodys = rig.sleeping_task();
    lane.another_may_run(late.ticket, Leave { grace: leave.endless, ..leave }).await;
    assert!(lane.is_running(late.ticket));
}

#[tokio::test]
async fn s6_a_segment_that_the_host_cannot_make_is_made_later() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let rig = Rig::new();
    let lane = &rig.lane;
    let waits = rig.sleeping_task();
    let late = rig.sleeping_task();
    lane.abandon(late.ticket);
    rig.memory.begun().store(2, Ordering::Relaxed);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    for _ in 0..16 {
        lane.grant_up_segment(70_000).unwrap();
    }
    // It piles up no more than the segments would.
    assert!(lane.grant_up_segment(70_000).is_err());
    let owed = std::mem::take(&mut *lock(&rig.peer.owed));
    let leave = Leave { grace: Duration::ZERO, endless: Duration::ZERO };
    assert_eq!(owed, [128 << 10; 16]);
    assert!(!lane.grant_owed(owed[0]));
    assert!(lane.another_may_run(late.ticket, leave).now_or_never().is_none());
    rig.memory.begun().store(0, Ordering::Relaxed);
    assert_eq!(lane.begins_nothing(), None);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    for len in owed {
        assert!(lane.grant_owed(len));
    }
    assert_eq!(lane.begins_nothing(), Some(0));
    assert_eq!(lock(&rig.peer.sent).len(), 16);
    drop(waits);
}

/// A caller's handle may keep it for ever.
#[test]
fn s7_a_lane_that_has_ended_keeps_no_segment_and_no_process() {
    let Rig { lane, peer, .. } = Rig::new();
    lane.grant_up_segment(70_000).unwrap();
    let (kept, used) = (lane.down_copy(&[1; 70_000]).unwrap(), lane.down_copy(&[2; 70_000]));
    drop(used.unwrap());
    let segments = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_one = |line: &&str| line.contains("menagerie-args") || line.contains("-result");
        maps.lines().filter(is_one).count()
    };
    assert_eq!(segments(), 3);
    lane.end(|| Failure::Cancelled);
    // A call that is at it reads its own to the end.
    assert_eq!((segments(), kept.with_bytes(0, 1, |bytes| bytes[0])), (1, 1));
    drop(kept);
    assert_eq!(segments(), 0);
    assert_eq!(Arc::strong_count(&peer), 1);
}

#[test]
fn s6_a_task_that_has_read_for_long_looks_at_the_clock() {
    let mut rig = Rig::new();
    let lane = Arc::clone(&rig.lane);
    rig.peer.ends_outcalls.store(true, Ordering::Relaxed);
    lane.grant_up_segment(LIMITS.max_payload).unwrap();
    let mut own = rig.sleeping_task();
    for number in 0..100 {
        rig.call_with(number, 1);
    }
    let cx = Context::from_waker(Waker::noop());
    let look = lane.poll_wait(&cx, &mut own, &mut { 0 });
    assert!(matches!(look, Look::Later), "{look:?}");
}

/// The descriptor stays readable from then on.
#[tokio::test]
async fn pump_ends_with_the_workers_end_when_the_last_answer_is_read() {
    let mut rig = Rig::new();
    let own = rig.sleeping_task();
    let pump = rig.lane.start_pump(&tokio::runtime::Handle::current()).unwrap();
    rig.reads(1);
    rig.answer(&own);
    let Rig { lane, tx, rx, .. } = rig;
    drop((tx, rx));
    while !pump.has_ended() {
        tokio::task::yield_now().await;
    }
    assert!(lane.slots.take(own.ticket).is_some(), "the answer was not read");
}
