//! Hosts whose futures are polled by something else than tokio (rule C1): every
//! operation ends there as well.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use menagerie_supervisor::{BundleState, Failure, RuntimeError, StartError, Supervisor};

use crate::support::{Bundle, Gate, config, start, start_with};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

async fn answers(supervisor: &Supervisor, contract: &str) -> Result<(), Failure> {
    let sum: i64 = supervisor.contract(contract)?.call("inc", (1,)).await?;
    assert_eq!(sum, 2);
    Ok(())
}

/// Everything that a host may ask for.
async fn all_operations(supervisor: Supervisor) {
    let gate = Gate::new();
    let one = gate.bundle("one", "", "");
    let two = gate.bundle("two", "", "bundle_dependencies = ['one']");
    let torn = gate.bundle("torn", "error 'at load'", "");
    supervisor.load(one.path()).await.unwrap();
    let loaded = supervisor.load_all(&[two.path()]).await;
    assert!(loaded.iter().all(|(_, outcome)| outcome.is_ok()), "{loaded:?}");
    assert!(supervisor.load(torn.path()).await.is_err());
    answers(&supervisor, "one@1").await.unwrap();
    assert_eq!(supervisor.reload("one").await.unwrap().generation, 2);
    supervisor.restart("lua").await.unwrap();
    supervisor.restart_rolling("lua").await.unwrap();
    answers(&supervisor, "two@1").await.unwrap();
    let done = supervisor.reconcile(&[two.path()], &[]).await;
    assert_eq!(done.unloaded, ["two"]);
    let done = supervisor.reconcile(&[], &[two.path()]).await;
    assert_eq!(done.loaded, ["two"]);
    // One call is in flight while its bundle goes.
    gate.close();
    let contract = supervisor.contract("two@1").unwrap();
    let called = std::thread::spawn(move || contract.call_blocking::<_, ()>("pass", ()));
    while supervisor.status().bundles.iter().all(|bundle| bundle.calls.in_flight == 0) {
        std::thread::yield_now();
    }
    let mut unload = Box::pin(supervisor.unload("two"));
    let now = std::future::poll_fn(|cx| Poll::Ready(unload.as_mut().poll(cx)));
    assert!(now.await.is_pending());
    gate.open();
    unload.await.unwrap();
    called.join().unwrap().unwrap();
    supervisor.load(two.path()).await.unwrap();
    assert_eq!(supervisor.unload_cascade("one").await.unwrap(), ["two", "one"]);
    supervisor.shutdown().await;
}

#[test]
fn c1_every_operation_ends_on_any_executor() {
    block_on(all_operations(start()));
}

/// A load is timed by the supervisor's clock, also where the host has none.
#[test]
fn s6_a_load_has_its_limit_on_any_executor() {
    let mut config = config();
    config.load_timeout = Duration::from_millis(500);
    let supervisor = start_with(config);
    let gate = Gate::new();
    gate.close();
    let hangs = gate.bundle("hangs", "pass 'loaded'", "");
    let outcome = block_on(supervisor.load(hangs.path()));
    let is_late = |error: &RuntimeError| matches!(error, RuntimeError::TimedOut { step, .. } if step == "load");
    assert!(outcome.as_ref().is_err_and(is_late), "{outcome:?}");
    let ready = |b: &menagerie_supervisor::BundleStatus| b.state == BundleState::Ready;
    assert!(!supervisor.status().bundles.iter().any(ready));
    block_on(supervisor.shutdown());
}

/// The supervisor takes a runtime of its own there.
#[test]
fn c1_every_operation_ends_in_a_runtime_of_one_thread_without_drivers() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { all_operations(start()).await });
}

#[test]
fn c1_a_runtime_without_drivers_is_refused() {
    let mut builders = [(); 3].map(|()| tokio::runtime::Builder::new_multi_thread());
    builders[0].enable_time();
    builders[1].enable_io();
    for builder in &mut builders {
        let runtime = builder.worker_threads(1).build().unwrap();
        let _guard = runtime.enter();
        let outcome = Supervisor::builder().config(config()).start();
        assert!(matches!(outcome, Err(StartError::Runtime { .. })), "{outcome:?}");
    }
    let runtime = builders[0].enable_all().build().unwrap();
    let _guard = runtime.enter();
    let bundle = Bundle::of(&[]);
    let supervisor = Supervisor::builder().config(config()).start().unwrap();
    assert!(block_on(supervisor.load(bundle.path())).is_err());
    block_on(supervisor.shutdown());
}
