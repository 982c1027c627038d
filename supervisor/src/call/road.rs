//! Which lane a call goes to, and sending it there.

use std::ops::Deref;
use std::sync::Arc;

use menagerie_protocol::Failure;

use super::Contract;
use super::arguments::Encode;
use super::clock::Clock;
use crate::bundle::Route;
use crate::chain;
use crate::counters::SAMPLE_EVERY;
use crate::lane::{Arguments, Lane, LaneContract, Own, Refused};

/// Whether a call was sent at once, and where to.
pub(super) enum Sent {
    Not,
    /// To the lane that its handle knows.
    First,
    /// To the one that serves the bundle now.
    Now(Arc<Lane>),
}

/// The lane that a call goes to.
pub(super) enum Road<'c> {
    /// The one that its handle knows.
    First(&'c Arc<Lane>),
    /// The one that serves the bundle now.
    Now(Arc<Lane>),
}

impl Deref for Road<'_> {
    type Target = Arc<Lane>;

    #[inline]
    fn deref(&self) -> &Arc<Lane> {
        match self {
            Self::First(lane) => lane,
            Self::Now(lane) => lane,
        }
    }
}

/// Why a call was not sent.
pub(super) enum NotSent {
    /// It can be sent later.
    Wait(Wait),
    Failed(Box<Failure>),
}

impl From<Failure> for NotSent {
    #[cold]
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// What a call waits for before it can be sent.
pub(super) enum Wait {
    /// This lane's ring is full.
    Room(Arc<Lane>),
    /// Something has to change.
    Change(Change),
}

/// What has to change before a call can be sent.
pub(super) enum Change {
    /// The bundle's worker comes back, or its reload ends.
    Route,
    /// This lane has ended; its end will change the route.
    After(Arc<Lane>),
}

impl Contract {
    /// Sends the call, if it can be sent now, and its time need not be taken. On a hot lane
    /// `own` has its value then, as nearly always, and where it is is of no matter.
    // Each layer out of line costs a hot call a frame, and moves of what it gives.
    #[inline(always)]
    pub(super) fn sends_at_once<A: Encode>(&self, function: &str, args: &A, own: &mut Own) -> Sent {
        // What a host function calls may close a ring of waits.
        if chain::is_called() {
            return Sent::Not;
        }
        match self.known_road() {
            Some((lane, contract)) if self.sends_to(lane, contract, function, args, own) => {
                Sent::First
            }
            // Replicas have their turns: to ask for the next one is to take one's turn, and a
            // call that is not sent here would take another.
            None if !self.bundle.seats.are_many() => self.sends_by_route(function, args, own),
            Some(_) | None => Sent::Not,
        }
    }

    /// As [`sends_at_once`](Self::sends_at_once), on the lane that serves the bundle now:
    /// the one that the handle knows has ended.
    #[inline(never)]
    fn sends_by_route<A: Encode>(&self, function: &str, args: &A, own: &mut Own) -> Sent {
        let route = self.bundle.route();
        let Route::Up(lane) = &**route else { return Sent::Not };
        let Some(contract) = lane.contract(&self.id) else { return Sent::Not };
        if !self.sends_to(lane, contract, function, args, own) || own.has_value() {
            return Sent::Not;
        }
        Sent::Now(Arc::clone(lane))
    }

    #[inline(always)]
    fn sends_to<A: Encode>(
        &self,
        lane: &Arc<Lane>,
        contract: &LaneContract,
        function: &str,
        args: &A,
        own: &mut Own,
    ) -> bool {
        let Some(id) = contract.function(function) else { return false };
        if lane.samples_next(SAMPLE_EVERY) {
            return false;
        }
        let mut arguments = Arguments::new(lane);
        if args.encode(&mut arguments).is_err() {
            // It is said when they are encoded once more.
            return false;
        }
        own.function = id;
        self.send_arguments(lane, &mut arguments, own).is_ok()
    }

    /// The road that the call is on if it was [sent at once](Self::sends_at_once).
    /// Otherwise sends it, if it can be sent now.
    pub(super) fn road<A: Encode + ?Sized>(
        &self,
        sent: Sent,
        function: &str,
        args: &A,
        clock: &mut Clock,
        own: &mut Own,
    ) -> Result<Road<'_>, NotSent> {
        match (sent, &self.first) {
            (Sent::First, Some((lane, _))) => Ok(Road::First(lane)),
            (Sent::Now(lane), _) => Ok(Road::Now(lane)),
            (Sent::First | Sent::Not, _) => self.send(function, args, clock, own),
        }
    }

    /// Sends the call, if it can be sent now. On a hot lane `own` has its value then.
    pub(super) fn send<A: Encode + ?Sized>(
        &self,
        function: &str,
        args: &A,
        clock: &mut Clock,
        own: &mut Own,
    ) -> Result<Road<'_>, NotSent> {
        if let Some((lane, contract)) = self.known_road() {
            self.send_on(lane, contract, function, args, clock, own)?;
            return Ok(Road::First(lane));
        }
        self.send_by_route(function, args, clock, own).map(Road::Now)
    }

    /// The lane that the handle knows, and the contract there, if it takes calls.
    #[inline]
    fn known_road(&self) -> Option<(&Arc<Lane>, &LaneContract)> {
        let (lane, contract) = self.first.as_ref()?;
        lane.is_open().then_some((lane, contract))
    }

    /// Sends the call on the lane that serves the bundle now.
    fn send_by_route<A: Encode + ?Sized>(
        &self,
        function: &str,
        args: &A,
        clock: &mut Clock,
        own: &mut Own,
    ) -> Result<Arc<Lane>, NotSent> {
        let route = self.bundle.route();
        let lane = match &**route {
            Route::Up(lane) => lane,
            Route::Waiting(_) => return Err(NotSent::Wait(Wait::Change(Change::Route))),
            Route::Down(_, failure) => return Err(NotSent::Failed(failure.clone())),
        };
        let contract = lane
            .contract(&self.id)
            .ok_or_else(|| Failure::NoSuchContract { contract: self.id.to_string() })?;
        self.send_on(lane, contract, function, args, clock, own)?;
        Ok(Arc::clone(lane))
    }

    fn send_on<A: Encode + ?Sized>(
        &self,
        lane: &Arc<Lane>,
        contract: &LaneContract,
        function: &str,
        args: &A,
        clock: &mut Clock,
        own: &mut Own,
    ) -> Result<(), NotSent> {
        let Some(id) = contract.function(function) else {
            return Err(self.no_such_function(contract, function));
        };
        let mut arguments = Arguments::new(lane);
        args.encode(&mut arguments)?;
        if lane.samples_next(SAMPLE_EVERY) {
            clock.sample();
        }
        own.function = id;
        self.send_arguments(lane, &mut arguments, own)
            .map_err(|refused| self.refused(refused, lane))
    }

    #[inline(always)]
    fn send_arguments(
        &self,
        lane: &Arc<Lane>,
        arguments: &mut Arguments<'_>,
        own: &mut Own,
    ) -> Result<(), Refused> {
        match arguments.take_segment() {
            None => lane.call_small(own, self.terms, arguments.small()),
            Some((segment, reference)) => lane.send_bulk(own, self.terms, &reference, segment),
        }
    }

    #[cold]
    fn no_such_function(&self, contract: &LaneContract, function: &str) -> NotSent {
        NotSent::from(Failure::NoSuchFunction {
            contract: self.id.to_string(),
            function: function.to_owned(),
            available: contract.functions.clone(),
        })
    }

    #[cold]
    pub(super) fn refused(&self, refused: Refused, lane: &Arc<Lane>) -> NotSent {
        match refused {
            Refused::Busy => NotSent::Wait(Wait::Room(Arc::clone(lane))),
            Refused::Dead => NotSent::Wait(Wait::Change(Change::After(Arc::clone(lane)))),
            Refused::Overloaded => NotSent::from(Failure::Overloaded {
                bundle: self.bundle.name.clone(),
                limit: lane.limits.max_in_flight,
            }),
        }
    }
}
