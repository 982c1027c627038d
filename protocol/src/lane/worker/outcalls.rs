//! Calls of the guest's own, and their answers.

use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::{WorkerLane, corrupt};
use crate::codec;
use crate::error::Failure;
use crate::lane::{INLINE_MAX, MAX_OUTCALLS};
use crate::msgpack::Writer;
use crate::ring::{FLAG_BLOCKS, FLAG_BULK, FLAG_FAILURE, FrameHead, Kind};
use crate::runtime::OnReply;

/// An answer, and what is to be done with it.
pub(super) type Answered = (OnReply, Result<Vec<u8>, Failure>);

impl WorkerLane {
    /// Begins a call of the guest's own; `then` gets the answer as soon as it
    /// is read from the ring. `parent` is the call that is served by it, or 0;
    /// with `blocks` this thread is going to wait for the answer.
    pub(crate) fn call(
        &self,
        (contract, function, args): (&str, &str, &[u8]),
        parent: u64,
        blocks: bool,
        then: OnReply,
    ) -> Result<(), Failure> {
        if self.outcalls.borrow().len() >= MAX_OUTCALLS as usize {
            return Err(Failure::Overloaded { bundle: self.bundle.clone(), limit: MAX_OUTCALLS });
        }
        let mut payload = Vec::with_capacity(args.len() + contract.len() + function.len() + 16);
        let mut writer = Writer::new(&mut payload);
        writer.array(3);
        writer.str(contract);
        writer.str(function);
        writer.raw(args);
        let size = payload.len() as u64;
        if size > self.max_payload {
            return Err(Failure::PayloadTooLarge { size, limit: self.max_payload });
        }
        let head = self.outcall_head(if blocks { FLAG_BLOCKS } else { 0 }, parent);
        self.outcalls.borrow_mut().insert(head.call, then);
        if payload.len() <= INLINE_MAX {
            self.send(head, &[&payload]);
        } else {
            let head = FrameHead { flags: head.flags | FLAG_BULK, ..head };
            self.send_bulk(head, &[&payload], payload.len());
        }
        Ok(())
    }

    /// The head of a call of the guest's own, with an id that none has which is open.
    fn outcall_head(&self, flags: u8, parent: u64) -> FrameHead {
        let outcalls = self.outcalls.borrow();
        loop {
            let number = self.next_outcall.get();
            self.next_outcall.set(number.wrapping_add(1));
            let head = FrameHead::outcall(flags, parent, number);
            if !outcalls.contains_key(&head.call) {
                return head;
            }
        }
    }

    /// As [`call`](Self::call), but `then` is run by the lane's loop, when no
    /// guest code runs.
    pub(crate) fn call_deferred(
        self: &Rc<Self>,
        what: (&str, &str, &[u8]),
        parent: u64,
        then: OnReply,
    ) -> Result<(), Failure> {
        let lane = Rc::downgrade(self);
        let later: OnReply = Box::new(move |result| {
            if let Some(lane) = lane.upgrade() {
                lane.deferred.borrow_mut().push((then, result));
            }
        });
        self.call(what, parent, false, later)
    }

    pub(super) fn run_deferred(&self) {
        // `then` may make further calls, so the list is taken before it runs.
        let deferred = std::mem::take(&mut *self.deferred.borrow_mut());
        for (then, result) in deferred {
            then(result);
        }
    }

    /// Waits for frames while the guest waits for an answer; everything else
    /// that arrives is kept for later.
    pub(crate) fn wait_for_reply(&self) -> Result<(), Failure> {
        loop {
            match self.receive_aside() {
                Some(Kind::Reply) => return Ok(()),
                Some(_) => {}
                None => {
                    let mut rx = self.rx.borrow_mut();
                    if !rx.spin() {
                        rx.sleep(None);
                    }
                }
            }
        }
    }

    /// As [`wait_for_reply`](Self::wait_for_reply), but by `wait`, which may end
    /// without a frame; answers to [`call_deferred`](Self::call_deferred) are handed
    /// over as well.
    pub(crate) fn wait_for_replies(&self, wait: impl FnOnce(BorrowedFd<'_>)) {
        self.wait_on_socket(wait);
        while self.receive_aside().is_some() {}
        self.run_deferred();
    }

    /// Receives a frame while the lane's loop does not: an answer is handed over,
    /// anything else is kept for that loop.
    fn receive_aside(&self) -> Option<Kind> {
        let mut payload = Vec::new();
        let head = self.receive(&mut payload)?;
        if head.kind == Kind::Reply {
            self.resolve(head, &payload, false);
        } else {
            self.stash.borrow_mut().push_back((head, payload));
        }
        Some(head.kind)
    }

    pub(super) fn resolve(&self, head: FrameHead, payload: &[u8], run_deferred: bool) {
        let Some(then) = self.outcalls.borrow_mut().remove(&head.call) else { return };
        let result = if head.flags & FLAG_FAILURE == 0 {
            Ok(payload.to_vec())
        } else {
            Err(codec::decode(payload).unwrap_or_else(|e| corrupt(&e)))
        };
        then(result);
        if run_deferred {
            self.run_deferred();
        }
    }
}
