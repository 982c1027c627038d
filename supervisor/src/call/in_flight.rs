//! Waiting for a call's end in a task.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop;

use super::Contract;
use super::clock::{Clock, TimedOut};
use crate::counters::Ended;
use crate::lane::{Lane, Look, Own, PATIENCE};
use crate::timer::Timer;

/// A call that was sent, as a future; dropped early, it is cancelled (C7).
pub(super) struct InFlight<'c> {
    contract: &'c Contract,
    lane: &'c Arc<Lane>,
    own: &'c mut Own,
    clock: &'c mut Clock,
    /// Whether the task lets others run before it looks.
    gives_way: bool,
    patience: u32,
    timer: Option<Pin<Box<Timer>>>,
    timed_out: bool,
}

impl<'c> InFlight<'c> {
    /// The call that `own` has the ticket of.
    #[inline]
    pub(super) fn new(
        contract: &'c Contract,
        lane: &'c Arc<Lane>,
        own: &'c mut Own,
        clock: &'c mut Clock,
    ) -> Self {
        Self {
            contract,
            lane,
            own,
            clock,
            gives_way: lane.gives_way(),
            patience: PATIENCE,
            timer: None,
            timed_out: false,
        }
    }
}

impl Future for InFlight<'_> {
    type Output = Result<(), TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if std::mem::take(&mut this.gives_way) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // The call is on its way when the task yields, so that tasks on one lane get
        // in step, and the worker has several calls at a time.
        let Poll::Ready(progress) = coop::poll_proceed(cx) else { return Poll::Pending };
        match this.lane.poll_wait(cx, this.own, &mut this.patience) {
            Look::Done => {
                progress.made_progress();
                this.contract.count(this.lane, this.own, this.clock);
                return Poll::Ready(Ok(()));
            }
            // No time has passed that a timer would notice.
            Look::Again => return Poll::Pending,
            Look::Later | Look::Asleep => {}
        }
        if this.timer.is_none() {
            let deadline = this.clock.deadline();
            if let Some(started) = this.clock.started {
                this.lane.sent_at(this.own.ticket, started, deadline);
            }
            let Some(deadline) = deadline else { return Poll::Pending };
            this.timer = Some(this.contract.core.timers.at(deadline));
        }
        if let Some(timer) = &mut this.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            this.timed_out = true;
            this.contract.give_up(this.lane, this.own.ticket, Some(Duration::ZERO));
            this.lane.pump();
            return Poll::Ready(Err(TimedOut));
        }
        Poll::Pending
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.own.outcome.is_none() && !self.timed_out {
            let left = self.clock.left();
            self.contract.give_up(self.lane, self.own.ticket, left);
            if let Some(counters) = self.lane.counters(self.own.function) {
                counters.failed(Ended::Cancelled);
            }
            // This task may have been the one that read for all.
            self.lane.pump();
        }
    }
}
