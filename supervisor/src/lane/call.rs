//! Sending calls, and how they end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use menagerie_protocol::Failure;
use menagerie_protocol::codec;
use menagerie_protocol::lane::{BulkRef, INLINE_MAX};
use menagerie_protocol::message::LaneCommand;
use menagerie_protocol::ring::{FLAG_BULK, FLAG_FAILURE, FrameHead, Full, Kind};

use super::bulk::DownSegment;
use super::{Arguments, DEAD, Lane, Own, Payload, Violation, lock};

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With a value.
    Value(Payload),
    /// With a failure.
    Failed(Box<Failure>),
    /// The worker died before it had begun it: it may be sent again (C4).
    NotBegun,
}

/// Why a call was not sent.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The ring is full: try again when the worker has read.
    Busy,
    /// As many calls are in flight as may be.
    Overloaded,
    /// The lane has ended, or takes no calls for now.
    Dead,
}

impl Lane {
    /// Sends a call of `own.function`, and gives it its ticket. `origin` is the
    /// wait of another bundle that it is made for, 0 for none.
    #[inline]
    pub(crate) fn send_call(
        &self,
        own: &mut Own,
        origin: u64,
        args: &mut Arguments<'_>,
    ) -> Result<(), Refused> {
        match args.bulk() {
            None => self.send_small(own, origin, args.small()),
            Some(bulk) => self.send_bulk(own, origin, &bulk, args.take_segment()),
        }
    }

    #[inline(never)]
    fn send_small(&self, own: &mut Own, origin: u64, payload: &[u8]) -> Result<(), Refused> {
        self.send_payload(own, origin, payload, None)
    }

    #[inline(never)]
    fn send_bulk(
        &self,
        own: &mut Own,
        origin: u64,
        payload: &[u8],
        segment: Option<DownSegment>,
    ) -> Result<(), Refused> {
        self.send_payload(own, origin, payload, segment)
    }

    // Each time with what its caller knows of the segment.
    #[inline(always)]
    fn send_payload(
        &self,
        own: &mut Own,
        origin: u64,
        payload: &[u8],
        segment: Option<DownSegment>,
    ) -> Result<(), Refused> {
        let flags = if segment.is_some() { FLAG_BULK } else { 0 };
        let function = own.function;
        let mut sending = lock(&self.tx);
        // `end` and `close` set this before they lock `tx`: a call that is sent
        // is seen by them, and one that comes later sees this.
        if !self.is_open() {
            return Err(Refused::Dead);
        }
        // Before a slot is taken: what stands in a slot can be answered, even by
        // a worker that has not seen it yet and guesses.
        match sending.tx.has_room(payload.len()) {
            Ok(true) => {}
            Ok(false) => return Err(Refused::Busy),
            Err(corrupt) => return Err(self.full(Full::Corrupt(corrupt))),
        }
        let number = self.sent.load(Ordering::Relaxed);
        let Some(ticket) = self.slots.open(number, (function, origin), segment) else {
            return Err(Refused::Overloaded);
        };
        own.ticket = ticket;
        // Whoever sends holds `tx`, so nobody else writes the count.
        self.sent.store(number + 1, Ordering::Release);
        let head = FrameHead { kind: Kind::Call, flags, function, call: ticket.wire() };
        match sending.tx.send(head, &[payload]) {
            Ok(()) => Ok(()),
            // It had room. A worker that takes that back is being killed, and the
            // lane's end ends the call.
            Err(full) => {
                drop(sending);
                let _dead = self.full(full);
                Ok(())
            }
        }
    }

    #[cold]
    fn full(&self, full: Full) -> Refused {
        match full {
            Full::Busy => Refused::Busy,
            Full::Corrupt(corrupt) => {
                self.violated(Violation::Ring(corrupt));
                Refused::Dead
            }
        }
    }

    /// Sends a command; it follows the calls that were sent before it.
    pub(crate) fn send_command(&self, command: &LaneCommand) -> Result<(), Refused> {
        // Encoding a value of our own types cannot fail.
        let bytes = codec::encode(command).unwrap_or_default();
        let head = FrameHead { kind: Kind::Command, flags: 0, function: 0, call: 0 };
        self.send_frame(head, &bytes)
    }

    /// Answers a call that the guest made.
    pub(crate) fn send_answer(
        &self,
        call: u64,
        result: &Result<Vec<u8>, Failure>,
    ) -> Result<(), Refused> {
        let head = FrameHead { kind: Kind::Reply, flags: 0, function: 0, call };
        match result {
            Ok(value) => self.send_frame(head, value),
            Err(failure) => {
                let bytes = codec::encode(failure).unwrap_or_default();
                self.send_frame(FrameHead { flags: FLAG_FAILURE, ..head }, &bytes)
            }
        }
    }

    fn send_frame(&self, head: FrameHead, payload: &[u8]) -> Result<(), Refused> {
        let segment = if payload.len() <= INLINE_MAX {
            None
        } else {
            Some(self.down_copy(payload).map_err(|_| Refused::Busy)?)
        };
        let mut sending = lock(&self.tx);
        if self.is_dead() {
            return Err(Refused::Dead);
        }
        let sent = match &segment {
            None => sending.tx.send(head, &[payload]),
            Some(segment) => {
                let len = payload.len() as u64;
                let bulk = BulkRef { segment: segment.id(), offset: 0, len };
                let head = FrameHead { flags: head.flags | FLAG_BULK, ..head };
                sending.tx.send(head, &[&bulk.to_bytes()])
            }
        };
        if let Err(full) = sent {
            drop(sending);
            return Err(self.full(full));
        }
        if let Some(segment) = segment {
            // The worker copies it before it reads a later frame.
            let position = sending.tx.position();
            sending.lent.push((position, segment));
        }
        if !sending.lent.is_empty() {
            match sending.tx.consumed() {
                Ok(consumed) => sending.lent.retain(|(position, _)| *position >= consumed),
                Err(corrupt) => self.violated(Violation::Ring(corrupt)),
            }
        }
        Ok(())
    }

    /// Ends the lane: everything that the worker had still published is read,
    /// then every call that was begun fails with `failure`. Returns the
    /// functions that were running.
    pub(crate) fn end(
        self: &Arc<Self>,
        failure: impl Fn() -> Failure,
    ) -> Vec<super::slots::Running> {
        self.closed.fetch_or(DEAD, Ordering::SeqCst);
        // Whoever is sending now has sent when we have had the lock.
        drop(lock(&self.tx));
        let failed = self.read_what_is_left(|begun| {
            self.slots.fail_all(begun, |started| {
                if started { Outcome::Failed(Box::new(failure())) } else { Outcome::NotBegun }
            })
        });
        Self::wake_all(failed.waiters);
        failed.running
    }
}
