//! Sending calls, and how they end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use menagerie_protocol::Failure;
use menagerie_protocol::codec;
use menagerie_protocol::lane::link::Tx;
use menagerie_protocol::lane::{BulkRef, INLINE_MAX};
use menagerie_protocol::message::LaneCommand;
use menagerie_protocol::ring::{FLAG_BULK, FLAG_FAILURE, FrameHead, Full, Kind, Shape};
use parking_lot::MutexGuard;

use super::bulk::DownSegment;
use super::nap::Nap;
use super::receive::Looks;
use super::slots::Opened;
use super::{DEAD, Lane, Own, Payload, Receiving, Sending, Terms, Violation};

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

/// Why a command or an answer was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    /// Try again when the worker has read.
    #[error("the ring is full")]
    Busy,
    #[error("the lane has ended")]
    Dead,
    /// It is too large for the ring.
    #[error("no memory to share: {0}")]
    Short(#[from] io::Error),
}

impl Lane {
    /// Sends a call of `own.function` whose arguments stand in a segment, and gives it
    /// its ticket.
    #[inline(never)]
    pub(crate) fn send_bulk(
        &self,
        own: &mut Own,
        terms: Terms,
        reference: &[u8],
        segment: DownSegment,
    ) -> Result<(), Refused> {
        let function = (own.function, terms);
        own.ticket = self.send_payload(function, reference, Some(segment))?.0.ticket;
        Ok(())
    }

    /// As [`send_bulk`](Self::send_bulk), with the arguments themselves; and looks for
    /// the answer for the moment that a hot lane takes, if its caller does. If it has
    /// come, and is a small value, `own` has it.
    // All that a hot call does here is one function: each one costs a frame, and moves
    // of what it gives.
    #[inline(never)]
    pub(crate) fn call_small(
        self: &Arc<Self>,
        own: &mut Own,
        terms: Terms,
        arguments: &[u8],
    ) -> Result<(), Refused> {
        let (opened, woken) = self.send_payload((own.function, terms), arguments, None)?;
        own.ticket = opened.ticket;
        own.is_cold = woken;
        if own.looks == Looks::IfAlone && (!self.is_alone() || self.gives_way()) {
            return Ok(());
        }
        let Some(mut receiving) = self.rx.take() else { return Ok(()) };
        receiving.disarm();
        if woken && let Looks::Always(nap) = own.looks {
            own.slept = self.sleep_at_once(&mut receiving, nap);
        }
        self.answered_soon(&mut receiving, opened, own);
        if self.step_down(receiving) && own.looks != Looks::IfAlone {
            self.call_next_leader();
        }
        Ok(())
    }

    /// Sleeps until the worker, which has just been woken, has answered, or for so long.
    /// Returns how long that was.
    ///
    /// Whoever is woken is most often put on the CPU of the waker, and does not always
    /// stop it: a spin would keep the worker from running. To yield instead would be to
    /// let everybody else run as well, and to spin later is to execute more code before
    /// that no cache has, while the worker waits.
    #[cold]
    fn sleep_at_once(&self, receiving: &mut Receiving, nap: Nap) -> Duration {
        if !receiving.rx.is_empty() {
            // It has run already, here.
            return Duration::ZERO;
        }
        self.sleep_leading(receiving, Some(nap.time()))
    }

    /// Returns whether the worker had to be woken, too.
    // Each time with what its caller knows of the segment.
    #[inline(always)]
    fn send_payload(
        &self,
        (function, terms): (u32, Terms),
        payload: &[u8],
        segment: Option<DownSegment>,
    ) -> Result<(Opened<'_>, bool), Refused> {
        let flags = if segment.is_some() { FLAG_BULK } else { 0 };
        let mut sending = self.tx.lock();
        // `end` and `close` set this before they lock `tx`: a call that is sent
        // is seen by them, and one that comes later sees this.
        if !self.is_open() {
            return Err(Refused::Dead);
        }
        // Before a slot is taken: what stands in a slot can be answered, even by
        // a worker that has not seen it yet and guesses.
        let has_slot = sending.tx.has_slot(payload.len()) && self.room.is_empty();
        if !has_slot {
            self.check_turn(&mut sending.tx, payload.len())?;
        }
        let number = self.sent.load(Ordering::Relaxed);
        let Some(opened) = self.slots.open(number, (function, terms), segment) else {
            return Err(Refused::Overloaded);
        };
        // Whoever sends holds `tx`, so nobody else writes the count.
        self.sent.store(number + 1, Ordering::Release);
        let call = opened.ticket.wire();
        let woken = if has_slot {
            sending.tx.send_one(FrameHead { kind: Kind::Call, flags, function, call }, payload)
        } else {
            self.send_slowly(sending, flags, function, call, payload);
            false
        };
        Ok((opened, woken))
    }

    #[inline(never)]
    fn send_slowly(
        &self,
        mut sending: MutexGuard<'_, Sending>,
        flags: u8,
        function: u32,
        call: u64,
        payload: &[u8],
    ) {
        let head = FrameHead { kind: Kind::Call, flags, function, call };
        if let Err(full) = sending.tx.send(head, &[payload]) {
            // It had room. A worker that takes that back is being killed, and the
            // lane's end ends the call.
            drop(sending);
            let _dead = self.is_busy(full);
        }
    }

    /// Whether there is room for a call. The last of it is for those who wait for room: else
    /// they would stand there as long as others call on and on.
    #[inline(never)]
    fn check_turn(&self, tx: &mut Tx, len: usize) -> Result<(), Refused> {
        self.check_room(tx, len)?;
        if !self.room.is_taken() {
            return Ok(());
        }
        // As much as the largest frame takes is enough for all.
        self.check_room(tx, Shape::new(self.limits.ring_slots.into()).max_payload())
    }

    fn check_room(&self, tx: &mut Tx, len: usize) -> Result<(), Refused> {
        match self.has_room(tx, len) {
            Some(true) => Ok(()),
            Some(false) => Err(Refused::Busy),
            None => Err(Refused::Dead),
        }
    }

    /// Whether there is room for a frame; `None` if the worker writes nonsense.
    #[inline(never)]
    fn has_room(&self, tx: &mut Tx, len: usize) -> Option<bool> {
        tx.has_room(len).inspect_err(|corrupt| self.violated(Violation::Ring(*corrupt))).ok()
    }

    /// Whether it takes calls, and has no room for any.
    pub(crate) fn is_full(&self) -> bool {
        let mut sending = self.tx.lock();
        self.is_open()
            && matches!(self.check_room(&mut sending.tx, BulkRef::BYTES), Err(Refused::Busy))
    }

    /// Whether it is only that the worker has not read yet; else it writes nonsense.
    #[cold]
    fn is_busy(&self, full: Full) -> bool {
        match full {
            Full::Busy => true,
            Full::Corrupt(corrupt) => {
                self.violated(Violation::Ring(corrupt));
                false
            }
        }
    }

    /// Sends a command; it follows the calls that were sent before it.
    pub(crate) fn send_command(&self, command: &LaneCommand) -> Result<(), Undelivered> {
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
    ) -> Result<(), Undelivered> {
        let head = FrameHead { kind: Kind::Reply, flags: 0, function: 0, call };
        match result {
            Ok(value) => self.send_frame(head, value),
            Err(failure) => {
                let bytes = codec::encode(failure).unwrap_or_default();
                self.send_frame(FrameHead { flags: FLAG_FAILURE, ..head }, &bytes)
            }
        }
    }

    fn send_frame(&self, head: FrameHead, payload: &[u8]) -> Result<(), Undelivered> {
        let segment = if payload.len() <= INLINE_MAX {
            None
        } else {
            // A worker that reads nothing would have it copied with each try.
            if !self.has_room(&mut self.tx.lock().tx, BulkRef::BYTES).ok_or(Undelivered::Dead)? {
                return Err(Undelivered::Busy);
            }
            Some(self.down_copy(payload)?)
        };
        let mut sending = self.tx.lock();
        if self.is_dead() {
            return Err(Undelivered::Dead);
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
            return Err(if self.is_busy(full) { Undelivered::Busy } else { Undelivered::Dead });
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
    /// then every call that was begun fails with `failure`, and its segments are given back.
    /// Returns the functions that were running.
    pub(crate) fn end(
        self: &Arc<Self>,
        failure: impl Fn() -> Failure,
    ) -> Vec<super::slots::Running> {
        self.closed.fetch_or(DEAD, Ordering::SeqCst);
        // Whoever is sending now has sent when we have had the lock.
        drop(self.tx.lock());
        let failed = self.read_what_is_left(|begun| {
            self.slots.fail_all(begun, |started| {
                if started { Outcome::Failed(Box::new(failure())) } else { Outcome::NotBegun }
            })
        });
        self.give_segments_back();
        Self::wake_all(failed.waiters);
        failed.running
    }
}
