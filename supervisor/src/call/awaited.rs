//! A call as a future, whose first poll sends it.

use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll};

use menagerie_protocol::Failure;
use pin_project_lite::pin_project;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Contract;
use super::arguments::Tuple;
use super::road::Sent;
use crate::lane::{Looks, Own, decode};

pin_project! {
    /// What an `async fn` would be that sends and then waits. A hot call is answered in
    /// its first poll, and to go through the states of the whole future costs it a tenth
    /// of its time.
    #[project = Step]
    #[project_replace = Taken]
    pub(super) enum Awaited<'c, A, W, F> {
        Begin { contract: &'c Contract, function: &'c str, args: A, wait: W },
        Waits { #[pin] call: F },
        Ended,
    }
}

impl<'c, A, W, F> Awaited<'c, A, W, F> {
    /// A call that `wait` goes on with if it has not ended at once.
    #[inline]
    pub(super) const fn new(contract: &'c Contract, function: &'c str, args: A, wait: W) -> Self {
        Self::Begin { contract, function, args, wait }
    }
}

impl<'c, A, R, W, F> Awaited<'c, A, W, F>
where
    W: FnOnce(&'c Contract, &'c str, A, Own, Sent) -> F,
    F: Future<Output = Result<R, Failure>>,
{
    /// Goes on with what its first poll has not ended.
    // Out of line, so that the first poll is small enough to be compiled into its caller.
    #[inline(never)]
    fn wait(
        mut self: Pin<&mut Self>,
        own: ManuallyDrop<Own>,
        sent: Sent,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        if let Taken::Begin { contract, function, args, wait } =
            self.as_mut().project_replace(Self::Ended)
        {
            let call = wait(contract, function, args, ManuallyDrop::into_inner(own), sent);
            self.set(Self::Waits { call });
        }
        self.poll_again(cx)
    }

    #[inline(never)]
    fn poll_again(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            Step::Waits { call } => call.poll(cx),
            // Polled again after its end.
            Step::Begin { .. } | Step::Ended => Poll::Pending,
        }
    }
}

impl<'c, A, R, W, F> Future for Awaited<'c, A, W, F>
where
    A: Serialize,
    R: DeserializeOwned,
    W: FnOnce(&'c Contract, &'c str, A, Own, Sent) -> F,
    F: Future<Output = Result<R, Failure>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Step::Begin { contract, function, args, .. } = self.as_mut().project() else {
            return self.poll_again(cx);
        };
        let mut own = ManuallyDrop::new(Own::new(Looks::IfAlone));
        let sent = contract.sends_at_once(function, &Tuple(&*args), &mut own);
        if let Some(value) = own.small_value() {
            self.set(Self::Ended);
            // It owns nothing: not to drop it spares the code that would. Each case by
            // itself, or what the value is not would be copied as well.
            return match decode(value) {
                Ok(value) => Poll::Ready(Ok(value)),
                Err(failure) => Poll::Ready(Err(failure)),
            };
        }
        self.wait(own, sent, cx)
    }
}
