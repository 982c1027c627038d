//! Timers of the supervisor's runtime for whoever waits, on whatever runtime, or on
//! none. That of a host may be dropped while contracts are held and calls are under way:
//! tokio's own timers panic then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

/// Makes them.
#[derive(Debug)]
pub(crate) struct Timers {
    runtime: Handle,
    over: Over,
    /// Its future is dropped with the runtime's tasks.
    watch: AbortHandle,
}

/// True from the end of the runtime on. A timer is polled with this borrowed: tokio stops
/// its clock when all tasks have been dropped, and so not meanwhile.
type Over = Arc<watch::Sender<bool>>;

/// Says so when it is dropped.
struct Says(Over);

impl Drop for Says {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

impl Timers {
    /// On this runtime.
    pub(crate) fn of(runtime: &Handle) -> Self {
        let over: Over = Arc::new(watch::Sender::new(false));
        let says = Says(Arc::clone(&over));
        let watch = runtime.spawn(async move {
            let _says = says;
            std::future::pending::<()>().await;
        });
        Self { runtime: runtime.clone(), over, watch: watch.abort_handle() }
    }

    /// One that ends then, or with the runtime.
    pub(crate) fn at(&self, deadline: Instant) -> Pin<Box<Timer>> {
        let _guard = self.runtime.enter();
        let sleep = tokio::time::sleep_until(deadline.into());
        Box::pin(Timer { sleep, over: Arc::clone(&self.over) })
    }

    /// Whether the runtime has gone, and no task and no timer of it runs any more.
    pub(crate) fn are_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits for that.
    pub(crate) async fn end(&self) {
        drop(self.over.subscribe().wait_for(|over| *over).await);
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

pin_project! {
    /// A timer; see [`Timers::at`].
    pub(crate) struct Timer {
        #[pin]
        sleep: Sleep,
        over: Over,
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let over = this.over.borrow();
        if *over { Poll::Ready(()) } else { this.sleep.poll(cx) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn c3_a_timer_ends_with_its_runtime_and_never_panics() {
        let (theirs, ours) = (runtime(), runtime());
        let timers = Arc::new(Timers::of(theirs.handle()));
        ours.block_on(timers.at(Instant::now() + Duration::from_millis(1)));
        assert!(!timers.are_over());
        let waits = ours.spawn(timers.at(Instant::now() + HOUR));
        let ends = Arc::clone(&timers);
        let ends = ours.spawn(async move { ends.end().await });
        drop(theirs);
        ours.block_on(async { (waits.await.unwrap(), ends.await.unwrap()) });
        assert!(timers.are_over());
        ours.block_on(timers.at(Instant::now() + HOUR));
    }

    /// While a runtime ends, wherever it is in that.
    #[test]
    fn c3_a_timer_that_is_polled_while_its_runtime_ends_does_not_panic() {
        let ours = runtime();
        for _ in 0..200 {
            let theirs = runtime();
            let timers = Arc::new(Timers::of(theirs.handle()));
            let polls = Arc::clone(&timers);
            let polls = ours.spawn(async move {
                while !polls.are_over() {
                    polls.at(Instant::now() + Duration::from_micros(1)).await;
                }
            });
            theirs.shutdown_background();
            ours.block_on(polls).unwrap();
        }
    }
}
