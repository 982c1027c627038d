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
    pub(super) enum Awaited<'c, A, W, F> {
        Begin {
            contract: &'c Contract,
            function: &'c str,
            // Both are taken when it is sent.
            args: Option<A>,
            wait: Option<W>,
        },
        Waits { #[pin] call: F },
    }
}

impl<'c, A, W, F> Awaited<'c, A, W, F> {
    /// A call that `wait` goes on with if it has not ended at once.
    #[inline]
    pub(super) const fn new(contract: &'c Contract, function: &'c str, args: A, wait: W) -> Self {
        Self::Begin { contract, function, args: Some(args), wait: Some(wait) }
    }
}

impl<'c, A, R, W, F> Future for Awaited<'c, A, W, F>
where
    A: Serialize,
    R: DeserializeOwned,
    W: FnOnce(A, Own, Sent) -> F,
    F: Future<Output = Result<R, Failure>>,
{
    type Output = F::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if let Step::Begin { contract, function, args, wait } = self.as_mut().project() {
            let (Some(arguments), Some(wait)) = (args.as_ref(), wait.take()) else {
                // Polled again after its end.
                return Poll::Pending;
            };
            let mut own = ManuallyDrop::new(Own::new(Looks::IfAlone));
            let sent = contract.sends_at_once(function, &Tuple(arguments), &mut own);
            if let Some(value) = own.small_value() {
                *args = None;
                // It owns nothing: not to drop it spares the code that would. Each case by
                // itself, or what the value is not would be copied as well.
                return match decode(value) {
                    Ok(value) => Poll::Ready(Ok(value)),
                    Err(failure) => Poll::Ready(Err(failure)),
                };
            }
            let Some(args) = args.take() else { return Poll::Pending };
            let call = wait(args, ManuallyDrop::into_inner(own), sent);
            self.set(Self::Waits { call });
        }
        match self.project() {
            Step::Waits { call } => call.poll(cx),
            Step::Begin { .. } => Poll::Pending,
        }
    }
}
