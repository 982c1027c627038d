//! Those whose calls a lane's ring has no room for: they stand in a queue, and the first of
//! them looks for room. So it costs next to nothing how many they are.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};
use tokio::task::coop::unconstrained;

use super::Lane;
use crate::pause::Pause;

/// A lane's queue.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// How many stand in it, the first one too.
    waiting: AtomicU32,
    /// Held by the first one. It is fair: who has come first is the next to have it.
    first: Mutex<()>,
    /// How many of them send at this moment.
    sending: AtomicU32,
}

impl Room {
    /// Whether nobody stands in it.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Whether what room there is belongs to somebody else than who comes now.
    pub(super) fn is_taken(&self) -> bool {
        !self.is_empty() && self.sending.load(Ordering::Relaxed) == 0
    }
}

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'l>(&'l Room);

/// The queue's first place.
pub(crate) type First<'l> = MutexGuard<'l, ()>;

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    /// Takes a place in the queue; `None` if as many calls as may be are in flight or
    /// stand in it (C7).
    pub(crate) fn queue(&self) -> Option<Place<'_>> {
        let before = self.room.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.room);
        let all = self.in_flight() + u64::from(before);
        (all < u64::from(self.limits.max_in_flight)).then_some(place)
    }
}

impl<'l> Place<'l> {
    /// How long others wait at most until they look by themselves: the first one may be a
    /// future that nobody polls.
    pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

    /// How long the first one waits before it looks again.
    pub(crate) const fn pause() -> Pause {
        Pause::new(Duration::from_micros(100), Duration::from_millis(5))
    }

    /// Waits until this is the queue's first place.
    pub(crate) async fn first(&self) -> First<'l> {
        self.0.first.lock().await
    }

    /// Sends, and is let pass.
    pub(crate) fn sends<T>(&self, send: impl FnOnce() -> T) -> T {
        struct Sending<'r>(&'r AtomicU32);
        impl Drop for Sending<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.0.sending.fetch_add(1, Ordering::Relaxed);
        let _sending = Sending(&self.0.sending);
        send()
    }
}

/// Waits for a future on this thread, wherever that is called; `None` if it takes longer
/// than that, `None` for any time.
pub(crate) fn block_on<F: Future>(future: F, until: Option<Instant>) -> Option<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    // A thread that waits is no task, whose budget would be meant.
    let mut future = pin!(unconstrained(future));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let Some(until) = until else {
            std::thread::park();
            continue;
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}
