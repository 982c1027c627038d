//! Waiting for replies, and who reads them for all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use menagerie_protocol::lane::hand_over::Led;

use super::receive::{Own, Read};
use super::slots::Waiter;
use super::{Lane, Receiving, Ticket};

/// How often a task that shares its lane with others would rather be polled
/// again at once than woken: enough for the others to send and the worker to
/// answer, and bounded, so that a slow call does not burn a CPU.
pub(crate) const PATIENCE: u32 = 64;

/// How long a leader sleeps without a look at whether its lane has ended. What wakes
/// it is memory that the worker can reach as well, who could requeue the sleeper to
/// another word (`FUTEX_REQUEUE`), where nobody wakes it.
const MAX_SLEEP: Duration = Duration::from_millis(100);

/// What a look from a task has found.
#[derive(Debug)]
pub(crate) enum Look {
    /// The call's end.
    Done,
    /// Nothing yet; the task is woken at once, for another look.
    Again,
    /// As `Again`, after so much reading that time has passed.
    Later,
    /// Nothing yet; the task is woken when the call has ended.
    Asleep,
}

impl Lane {
    /// Gives leadership up. While calls are pending whose callers do not look by
    /// themselves, the wake socket stays armed, so that the pump is woken for
    /// them. Returns whether somebody else is at work on the lane.
    #[inline]
    pub(super) fn step_down<'l>(self: &'l Arc<Self>, receiving: Led<'l, Receiving>) -> bool {
        // Nearly always nobody sleeps, and nobody wants the lead.
        if self.slots.any_unattended() {
            self.step_down_for_others(receiving, false);
        } else if let Some(receiving) = self.rx.leave(receiving) {
            self.step_down_for_others(receiving, true);
        } else {
            return false;
        }
        true
    }

    /// As [`step_down`](Self::step_down); `wanted` says that somebody wanted to
    /// lead meanwhile.
    #[cold]
    fn step_down_for_others<'l>(
        self: &'l Arc<Self>,
        mut receiving: Led<'l, Receiving>,
        mut wanted: bool,
    ) {
        loop {
            if wanted {
                // Who wanted to lead may have been woken for what is there, and is woken
                // for a position once only: there has to be word of the next one.
                receiving.disarm();
                if let Read::More = self.read(&mut receiving, None) {
                    drop(receiving);
                    self.tell(|peer| peer.read_on(self));
                    return;
                }
            }
            if !self.cover(&mut receiving) {
                drop(receiving);
                self.tell(|peer| peer.read_on(self));
                return;
            }
            match self.rx.leave(receiving) {
                None => return,
                Some(again) => receiving = again,
            }
            wanted = true;
        }
    }

    /// Makes sure that somebody is woken for the calls that are pending.
    /// Returns false if the worker sends so much that this cannot be done now.
    #[inline]
    fn cover(self: &Arc<Self>, receiving: &mut Receiving) -> bool {
        /// Frames may come in between a few times, from a worker that is at it.
        const TRIES: u32 = 16;
        for _ in 0..TRIES {
            if !self.slots.any_unattended() || receiving.broken || receiving.armed {
                return true;
            }
            if receiving.rx.arm() {
                receiving.armed = true;
                return true;
            }
            if let Read::More = self.read(receiving, None) {
                return false;
            }
        }
        false
    }

    /// Waits on this thread until the call has ended, or until `deadline`. Returns
    /// whether it has ended.
    #[cold]
    pub(crate) fn wait_blocking(
        self: &Arc<Self>,
        own: &mut Own,
        deadline: &mut impl FnMut(Ticket) -> Option<Instant>,
    ) -> bool {
        let ticket = own.ticket;
        loop {
            let led = if self.is_dead() { None } else { self.rx.take() };
            if let Some(mut receiving) = led {
                receiving.disarm();
                let done = self.lead(&mut receiving, own, deadline);
                let broken = receiving.broken;
                self.step_down(receiving);
                if done {
                    self.call_next_leader();
                    return true;
                }
                if broken {
                    // The worker is being killed; its end ends the call.
                    self.park(ticket, deadline(ticket));
                }
            } else {
                self.park(ticket, deadline(ticket));
            }
            if self.look(own) {
                return true;
            }
            if deadline(ticket).is_some_and(|deadline| Instant::now() >= deadline) {
                return self.look(own);
            }
        }
    }

    /// Takes the call's outcome if somebody else has read it.
    #[inline]
    fn look(&self, own: &mut Own) -> bool {
        let Some((outcome, segment)) = self.slots.take(own.ticket) else { return false };
        own.put(outcome, segment);
        true
    }

    /// Sleeps until somebody has ended the call, or calls this thread to lead.
    #[cold]
    fn park(self: &Arc<Self>, ticket: Ticket, deadline: Option<Instant>) {
        if !self.slots.wait(ticket, Waiter::Thread(std::thread::current())) {
            return;
        }
        // Whoever leads sees this call now; if nobody does, it is for us.
        if !self.is_dead()
            && let Some(receiving) = self.rx.take_or_ask()
        {
            let broken = receiving.broken;
            // In the orderly way: somebody may have wanted the lead meanwhile.
            self.step_down(receiving);
            if !broken {
                return;
            }
        }
        match deadline {
            None => std::thread::park(),
            Some(deadline) => {
                std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            }
        }
    }

    /// Reads until the call has ended, the deadline has passed, or the lane is
    /// no more. Returns whether it has ended.
    fn lead(
        self: &Arc<Self>,
        receiving: &mut Receiving,
        own: &mut Own,
        deadline: &mut impl FnMut(Ticket) -> Option<Instant>,
    ) -> bool {
        // Whoever led before may have read the answer.
        if self.look(own) {
            return true;
        }
        // Whom we have woken may be at work on this CPU.
        let mut spins = !std::mem::take(&mut own.is_cold);
        loop {
            match self.read(receiving, Some(own)) {
                Read::Own => return true,
                Read::All if receiving.broken || self.is_dead() => return false,
                Read::All => {
                    if spins && receiving.rx.spin() {
                        continue;
                    }
                    spins = true;
                }
                Read::More => {}
            }
            let left = deadline(own.ticket).map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return false;
            }
            self.sleep_leading(receiving, left);
        }
    }

    /// Sleeps until a frame is there, or for so long, or until it is time to look
    /// around. Returns how long that was.
    pub(super) fn sleep_leading(
        &self,
        receiving: &mut Receiving,
        time: Option<Duration>,
    ) -> Duration {
        self.leader_at.store(receiving.rx.position(), Ordering::SeqCst);
        // The end of the lane sets `dead`, then wakes who sleeps here,
        // again and again until it has the lead.
        receiving.rx.sleep(Some(time.map_or(MAX_SLEEP, |time| time.min(MAX_SLEEP))))
    }

    /// A blocking leader that leaves hands over to another one that is parked:
    /// it reads sooner than the pump.
    #[cold]
    pub(super) fn call_next_leader(&self) {
        if self.slots.any_unattended()
            && let Some(thread) = self.slots.any_thread()
        {
            thread.unpark();
        }
    }

    /// Whether a task lets others run while the call is on its way that was sent last.
    /// One whose calls are answered at once would never do so; tokio's own budget is
    /// as large.
    #[inline]
    pub(crate) fn gives_way(&self) -> bool {
        const EVERY: u64 = 128;
        self.sent.load(Ordering::Relaxed) % EVERY == EVERY / 2
    }

    /// Looks for the call's end from a task. `patience` is how often the task
    /// would rather be polled again at once than woken.
    #[inline]
    pub(crate) fn poll_wait(
        self: &Arc<Self>,
        cx: &Context<'_>,
        own: &mut Own,
        patience: &mut u32,
    ) -> Look {
        if *patience == PATIENCE {
            *patience -= 1;
            if !self.is_alone() {
                if self.look(own) {
                    return Look::Done;
                }
                // Others are at work on this lane: their tasks send first, and
                // then one of them reads for all.
                cx.waker().wake_by_ref();
                return Look::Again;
            }
        }
        self.poll_longer(cx, own, patience)
    }

    #[inline(never)]
    fn poll_longer(self: &Arc<Self>, cx: &Context<'_>, own: &mut Own, patience: &mut u32) -> Look {
        if self.look(own) {
            return Look::Done;
        }
        let Some(mut receiving) = self.rx.take() else {
            let slept = self.sleep(cx, own);
            // Whoever leads sees this call now; if nobody does, it is for us.
            if matches!(slept, Look::Asleep)
                && let Some(receiving) = self.rx.take_or_ask()
            {
                self.step_down(receiving);
            }
            return slept;
        };
        receiving.disarm();
        let mut read = self.read(&mut receiving, Some(own));
        let alone = self.is_alone();
        if matches!(read, Read::All) {
            // The leader before may have read it between our look and our lead.
            if self.look(own) {
                read = Read::Own;
            } else if alone && !receiving.broken && receiving.rx.spin() {
                read = self.read(&mut receiving, Some(own));
            }
        }
        match read {
            Read::Own => {
                self.step_down(receiving);
                return Look::Done;
            }
            Read::More => {
                drop(receiving);
                self.tell(|peer| peer.read_on(self));
                cx.waker().wake_by_ref();
                return Look::Later;
            }
            Read::All => {}
        }
        // Others are at work on this lane: let their tasks run, which send
        // and read as well, before anybody goes to sleep.
        if !alone && *patience > 0 && !receiving.broken {
            *patience -= 1;
            self.step_down(receiving);
            cx.waker().wake_by_ref();
            return Look::Again;
        }
        let slept = self.sleep(cx, own);
        self.step_down(receiving);
        slept
    }

    /// Whether nobody but one caller is at work on this lane. Who has not come
    /// yet for an outcome is about to send the next call.
    pub(super) fn is_alone(&self) -> bool {
        self.in_flight() + u64::from(self.slots.unclaimed()) <= 1
    }

    /// Leaves word with the call of the task that waits for it.
    fn sleep(&self, cx: &Context<'_>, own: &mut Own) -> Look {
        let waits = self.slots.wait(own.ticket, Waiter::Task(cx.waker().clone()));
        if !waits && self.look(own) { Look::Done } else { Look::Asleep }
    }

    /// The pump was woken: reads what is there.
    pub(crate) fn pump(self: &Arc<Self>) {
        if let Some(mut receiving) = self.rx.take_or_ask() {
            receiving.disarm();
            if let Read::More = self.read(&mut receiving, None) {
                drop(receiving);
                self.tell(|peer| peer.read_on(self));
                return;
            }
            self.step_down(receiving);
        }
        // Otherwise somebody leads, and looks again when leaving.
    }
}
