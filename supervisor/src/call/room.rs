//! Calls that their lane's ring has no room for.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use super::Contract;
use super::arguments::Encode;
use super::clock::{Clock, TimedOut};
use super::road::{NotSent, Road, Wait};
use crate::lane::{Lane, Own, Place, Refused, block_on};

/// A call that is sent, or why it is not.
type Sending<'c> = Result<Road<'c>, NotSent>;

impl Contract {
    /// Sends the call when it is its turn and there is room.
    pub(super) async fn send_in_turn<A: Encode>(
        &self,
        lane: &Arc<Lane>,
        function: &str,
        args: &A,
        clock: &mut Clock,
        own: &mut Own,
    ) -> Result<Sending<'_>, TimedOut> {
        let Some(place) = lane.queue() else { return Ok(Err(self.no_place(lane))) };
        let (mut turn, mut first) = (pin!(place.first()), None);
        let mut pause = Place::pause();
        loop {
            match first {
                None => {
                    first = tokio::select! {
                        biased;
                        first = &mut turn => Some(first),
                        () = self.core.sleep_until(Some(patience(clock))) => None,
                    }
                }
                Some(_) => self.core.sleep_until(Some(Instant::now() + pause.next())).await,
            }
            if let Some(sent) = self.try_room(&place, lane, function, args, clock, own) {
                return Ok(sent);
            }
            self.goes_on(clock)?;
        }
    }

    /// As [`send_in_turn`](Self::send_in_turn), on this thread.
    pub(super) fn send_in_turn_blocking(
        &self,
        lane: &Arc<Lane>,
        function: &str,
        args: &dyn Encode,
        clock: &mut Clock,
        own: &mut Own,
    ) -> Result<Sending<'_>, TimedOut> {
        let Some(place) = lane.queue() else { return Ok(Err(self.no_place(lane))) };
        let (mut turn, mut first) = (pin!(place.first()), None);
        let mut pause = Place::pause();
        own.hurry();
        loop {
            match first {
                None => first = block_on(turn.as_mut(), Some(patience(clock))),
                Some(_) => std::thread::sleep(pause.next()),
            }
            if let Some(sent) = self.try_room(&place, lane, function, args, clock, own) {
                return Ok(sent);
            }
            self.goes_on(clock)?;
        }
    }

    /// Sends the call, unless there is no room for it. It may have been another lane that had
    /// none, as replicas have their turns: as long as its own lane takes calls it stays in
    /// this queue, where it looks at the clock, and asks for the route each time that it
    /// tries. To go from one full lane's queue to another's would never come to an end.
    fn try_room<A: Encode + ?Sized>(
        &self,
        place: &Place<'_>,
        lane: &Arc<Lane>,
        function: &str,
        args: &A,
        clock: &mut Clock,
        own: &mut Own,
    ) -> Option<Sending<'_>> {
        if self.waits_for(lane) {
            return None;
        }
        match place.sends(|| self.send(function, args, clock, own)) {
            Err(NotSent::Wait(Wait::Room(_))) if lane.is_open() => None,
            sent => Some(sent),
        }
    }

    /// Whether there is no need to try: large arguments would be copied each time. With
    /// replicas another lane may have room.
    fn waits_for(&self, lane: &Lane) -> bool {
        !self.bundle.seats.are_many() && lane.is_full()
    }

    /// Whether there is time left, and anybody who keeps it: a pause ends at once where the
    /// supervisor's runtime has gone.
    fn goes_on(&self, clock: &mut Clock) -> Result<(), TimedOut> {
        if self.core.timers.are_over() { Err(TimedOut) } else { clock.check() }
    }

    fn no_place(&self, lane: &Arc<Lane>) -> NotSent {
        self.refused(Refused::Overloaded, lane)
    }
}

/// Until when a call waits for its turn, before it looks by itself.
fn patience(clock: &mut Clock) -> Instant {
    let patience = Instant::now() + Place::PATIENCE;
    clock.deadline().map_or(patience, |deadline| deadline.min(patience))
}
