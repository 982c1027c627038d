//! Host functions as links of a chain of bundles' calls (`DESIGN.md` rule C5).
//!
//! A bundle that calls the host waits for whatever the host's function calls: such a call
//! is entered among the waits as if the bundle had made it itself. Which function that is
//! says the thread, for as long as it polls the function's future.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::core::Core;
use crate::waits::{Guard, Parent, Wait};

/// A bundle whose call the host carries out.
#[derive(Debug)]
pub(crate) struct Caller {
    core: Arc<Core>,
    bundle: Arc<str>,
    parent: Parent,
    blocks: bool,
    /// It waits no more: its call has ended, and the function may go on.
    has_gone: AtomicBool,
}

thread_local! {
    /// Whether there is a caller: each call of the host's looks here.
    static IS_CALLED: Cell<bool> = const { Cell::new(false) };
    static CALLER: RefCell<Option<Arc<Caller>>> = const { RefCell::new(None) };
}

/// Whether the code that runs on this thread is a host function's, called by a bundle.
#[inline]
pub(crate) fn is_called() -> bool {
    IS_CALLED.get()
}

/// Enters that the bundle which has called the host now waits for `to`, if there is one,
/// until the guard is dropped.
///
/// # Errors
///
/// The ring that this would close.
pub(crate) fn enter<'c>(core: &'c Arc<Core>, to: &str) -> Result<Option<Guard<'c>>, Vec<String>> {
    let Some(caller) = CALLER.with_borrow(Clone::clone) else { return Ok(None) };
    // One of another supervisor's has no place among our waits.
    if caller.has_gone.load(Ordering::Relaxed) || !Arc::ptr_eq(&caller.core, core) {
        return Ok(None);
    }
    let (from, parent, blocks) = (Arc::clone(&caller.bundle), caller.parent, caller.blocks);
    core.waits.enter(Wait { from, to: to.into(), parent, blocks }).map(Some)
}

pin_project! {
    /// A host function that runs for a bundle.
    pub(crate) struct Called<F> {
        caller: Leaving,
        #[pin]
        run: F,
    }
}

/// Tells what is left of the function when the caller has gone.
struct Leaving(Arc<Caller>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.has_gone.store(true, Ordering::Relaxed);
    }
}

impl<F: Future> Called<F> {
    pub(crate) fn new(
        core: &Arc<Core>,
        bundle: &str,
        (parent, blocks): (Parent, bool),
        run: F,
    ) -> Self {
        let (core, bundle) = (Arc::clone(core), bundle.into());
        let caller = Caller { core, bundle, parent, blocks, has_gone: AtomicBool::new(false) };
        Self { caller: Leaving(Arc::new(caller)), run }
    }
}

impl<F: Future> Future for Called<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _here = Here::begin(Some(Arc::clone(&this.caller.0)));
        this.run.poll(cx)
    }
}

/// A thread has a caller until this is dropped; it has the one from before then.
struct Here(Option<Arc<Caller>>);

impl Here {
    fn begin(caller: Option<Arc<Caller>>) -> Self {
        IS_CALLED.set(caller.is_some());
        Self(CALLER.replace(caller))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let before = self.0.take();
        IS_CALLED.set(before.is_some());
        drop(CALLER.replace(before));
    }
}
