//! One generation of a bundle, as its lane sees it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::GuestError;
use crate::runtime::Reply;
use crate::shm::Segment;

/// The index of a function among all that a generation registered, in the
/// order of registration: the first contract's functions first.
pub type FunctionId = u32;

/// A contract with its functions' names, as a bundle exports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractInterface {
    /// The contract as the bundle writes it: `greeter@1` or `greeter@1.2.0`.
    pub contract: String,
    /// The functions' names, snake_case (B3), in the order of their ids.
    pub functions: Vec<String>,
}

/// A call's arguments: one MessagePack array.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// The MessagePack array. Valid until [`Instance::call`] returns; if
    /// `segment` is given, until the call's [`Reply`] is used or dropped.
    pub bytes: &'a [u8],
    /// The shared segment that `bytes` lies in, when the payload was too large
    /// for the ring. A guest-side view of a bytes argument may point into it
    /// for as long as it keeps a clone of this `Arc`; the *content* is only
    /// meaningful until the reply.
    pub segment: Option<&'a Arc<Segment>>,
}

/// A loaded generation of a bundle. It lives on its lane's thread and is
/// dropped there; it need not be `Send`.
pub trait Instance {
    /// Runs, or for an `async` function begins, one call, and answers through
    /// `reply`, now or later from [`poll`](Self::poll) or [`wait`](Self::wait).
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply);

    /// The bundle's `on_load(context)` hook; `state` is the MessagePack value
    /// that the previous generation's `on_unload` returned, at a reload.
    ///
    /// # Errors
    ///
    /// What the hook threw.
    fn on_load(&mut self, state: Option<&[u8]>) -> Result<(), GuestError> {
        let _ = state;
        Ok(())
    }

    /// The bundle's `on_unload()` hook, and its result as a MessagePack value
    /// (`None` for nothing). It runs once, on the lane's thread, when no call
    /// is running; at a reload that fails afterwards `on_load` is called again
    /// with the state.
    ///
    /// # Errors
    ///
    /// What the hook threw. The generation goes on as it is then, without
    /// `on_load`; it may be asked again.
    fn on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        Ok(None)
    }

    /// Runs whatever of this bundle's asynchronous work is ready, without
    /// waiting; true while any of it is left. Called again and again while
    /// the lane is awake, so it must be cheap when there is none.
    fn poll(&mut self) -> bool {
        false
    }

    /// Runs the VM's own event loop until `wake` is readable or no
    /// asynchronous work is left. Called only after [`poll`](Self::poll)
    /// returned true. The lane drains `wake` itself.
    ///
    /// Once a blocking [`Host::call`](crate::Host::call) was made in there, `wake`
    /// says nothing any more, and what came meanwhile is kept by the lane: this
    /// has to return.
    fn wait(&mut self, wake: BorrowedFd<'_>) {
        let _ = wake;
    }
}

/// Asks a generation that is busy on its lane's thread to stop (S6). Called
/// from the worker's control thread, so it touches the VM only by what its
/// engine documents as callable from other threads.
pub trait Interrupt: Send + Sync {
    /// Makes `call`, which [`Instance::call`] is running now, fail with
    /// [`Failure::Cancelled`](crate::Failure::Cancelled). May be called before any of
    /// the bundle's code runs for it, and when none does any more, which must have no
    /// effect on later calls.
    fn interrupt(&self, call: u64);

    /// As [`interrupt`](Self::interrupt), for a call that has begun and has
    /// returned from [`Instance::call`]: its code runs from
    /// [`Instance::poll`] or [`Instance::wait`], or waits there. `call` is what
    /// [`Reply::call_id`] says; it may have ended meanwhile.
    fn cancel(&self, call: u64) {
        let _ = call;
    }
}
