//! Waiting for replies, and who reads them for all.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::receive::{Done, Read};
use super::slots::Waiter;
use super::{Lane, Receiving, Ticket};

impl Lane {
    /// Gives leadership up. While calls are pending the wake socket stays
    /// armed, so that the pump is woken for them.
    #[inline]
    fn step_down<'l>(self: &'l Arc<Self>, mut receiving: MutexGuard<'l, Receiving>) {
        loop {
            if !self.cover(&mut receiving) {
                drop(receiving);
                self.peer.read_on(self);
                return;
            }
            match self.rx.leave(receiving) {
                None => return,
                Some(again) => receiving = again,
            }
            // Who wanted to lead may have been woken for what is there.
            if let Read::More = self.read(&mut receiving, None) {
                drop(receiving);
                self.peer.read_on(self);
                return;
            }
        }
    }

    /// Makes sure that somebody is woken for the calls that are pending.
    /// Returns false if the worker sends so much that this cannot be done now.
    #[inline]
    fn cover(self: &Arc<Self>, receiving: &mut Receiving) -> bool {
        /// Frames may come in between a few times, from a worker that is at it.
        const TRIES: u32 = 16;
        for _ in 0..TRIES {
            if self.in_flight() == 0 || receiving.broken || receiving.armed {
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

    /// Waits on this thread until the call has ended, or until `deadline`, which
    /// is asked for only when the call does not end at once.
    #[inline]
    pub(crate) fn wait_blocking(
        self: &Arc<Self>,
        ticket: Ticket,
        deadline: &mut impl FnMut() -> Option<Instant>,
    ) -> Option<Done> {
        loop {
            if !self.is_dead()
                && let Some(mut receiving) = self.rx.take()
            {
                receiving.disarm();
                let done = self.lead(&mut receiving, ticket, deadline);
                let broken = receiving.broken;
                self.step_down(receiving);
                if done.is_some() {
                    self.call_next_leader();
                    return done;
                }
                if broken {
                    // The worker is being killed; its end ends the call.
                    self.park(ticket, deadline());
                }
            } else {
                self.park(ticket, deadline());
            }
            if let Some(done) = self.slots.take(ticket) {
                return Some(done);
            }
            if deadline().is_some_and(|deadline| Instant::now() >= deadline) {
                return self.slots.take(ticket);
            }
        }
    }

    /// Sleeps until somebody has ended the call, or calls this thread to lead.
    #[cold]
    fn park(&self, ticket: Ticket, deadline: Option<Instant>) {
        if !self.slots.wait(ticket, Waiter::Thread(std::thread::current())) {
            return;
        }
        match deadline {
            None => std::thread::park(),
            Some(deadline) => {
                std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            }
        }
    }

    /// Reads until the call has ended, the deadline has passed, or the lane is
    /// no more.
    #[inline]
    fn lead(
        self: &Arc<Self>,
        receiving: &mut Receiving,
        ticket: Ticket,
        deadline: &mut impl FnMut() -> Option<Instant>,
    ) -> Option<Done> {
        // Whoever led before may have read the answer.
        if let Some(done) = self.slots.take(ticket) {
            return Some(done);
        }
        loop {
            match self.read(receiving, Some(ticket)) {
                Read::Own(done) => return Some(done),
                Read::All if receiving.broken || self.is_dead() => return None,
                Read::All => {
                    if receiving.rx.spin() {
                        continue;
                    }
                }
                Read::More => {}
            }
            let left = deadline().map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            self.leader_at.store(receiving.rx.position(), Ordering::SeqCst);
            // The end of the lane sets `dead`, then wakes who sleeps here,
            // again and again until it has the lead.
            receiving.rx.sleep(left);
        }
    }

    /// A blocking leader that leaves hands over to another one that is parked:
    /// it reads sooner than the pump.
    #[inline]
    fn call_next_leader(&self) {
        if self.in_flight() > 0
            && let Some(thread) = self.slots.any_thread()
        {
            thread.unpark();
        }
    }

    /// Looks for the call's end from a task. `patience` is how often the task
    /// would rather be polled again at once than woken.
    #[inline]
    pub(crate) fn poll_wait(
        self: &Arc<Self>,
        cx: &Context<'_>,
        ticket: Ticket,
        patience: &mut u32,
    ) -> Poll<Done> {
        if let Some(done) = self.slots.take(ticket) {
            return Poll::Ready(done);
        }
        let Some(mut receiving) = self.rx.take() else { return self.sleep(cx, ticket) };
        receiving.disarm();
        let mut read = self.read(&mut receiving, Some(ticket));
        let alone = self.in_flight() <= 1;
        if matches!(read, Read::All) {
            // The leader before may have read it between our look and our lead.
            if let Some(done) = self.slots.take(ticket) {
                read = Read::Own(done);
            } else if alone && !receiving.broken && receiving.rx.spin() {
                read = self.read(&mut receiving, Some(ticket));
            }
        }
        match read {
            Read::Own(done) => {
                self.step_down(receiving);
                return Poll::Ready(done);
            }
            Read::More => {
                drop(receiving);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Read::All => {}
        }
        // Others are at work on this lane: let their tasks run, which send
        // and read as well, before anybody goes to sleep.
        if !alone && *patience > 0 && !receiving.broken {
            *patience -= 1;
            drop(receiving);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let slept = self.sleep(cx, ticket);
        self.step_down(receiving);
        slept
    }

    /// Leaves word with the call of the task that waits for it.
    fn sleep(&self, cx: &Context<'_>, ticket: Ticket) -> Poll<Done> {
        if self.slots.wait(ticket, Waiter::Task(cx.waker().clone())) {
            return Poll::Pending;
        }
        match self.slots.take(ticket) {
            Some(done) => Poll::Ready(done),
            None => Poll::Pending,
        }
    }

    /// The pump was woken: reads what is there.
    pub(crate) fn pump(self: &Arc<Self>) {
        if let Some(mut receiving) = self.rx.take() {
            receiving.disarm();
            if let Read::More = self.read(&mut receiving, None) {
                drop(receiving);
                self.peer.read_on(self);
                return;
            }
            self.step_down(receiving);
        }
        // Otherwise somebody leads, and looks again when leaving.
    }
}
