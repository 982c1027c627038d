//! Hosts whose futures are polled by something else than tokio (rule C1): every
//! operation ends there as well.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use menagerie_supervisor::{
    Access, BundleState, Contract, Failure, RuntimeError, StartError, StatusSocket, Supervisor,
    WorkerState,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    Bundle, Gate, PATIENCE, config, run, run_on_one_thread, start, start_with, wait_for, worker,
};

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
    let socket = torn.path().join("status.sock");
    let status = StatusSocket::bind(supervisor.clone(), &socket, Access::default()).unwrap();
    supervisor.shutdown().await;
    status.finish(PATIENCE).await;
    assert!(!socket.exists());
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

/// It blocks its task, and works there whatever becomes of the worker.
#[test]
fn c1_a_blocking_call_in_a_task_waits_for_a_worker_that_comes_back() {
    run(async {
        let supervisor = start();
        let gate = Gate::new();
        let one = gate.bundle("one", "pass 'loaded'", "");
        supervisor.load(one.path()).await.unwrap();
        let contract = supervisor.contract("one@1").unwrap().with_timeout(PATIENCE);
        let inc = |contract: &Contract| contract.call_blocking::<_, i64>("inc", (1,));
        gate.close();
        let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        // The next one waits in its load.
        gate.noted("loaded", 2).await;
        let hasty = contract.clone().with_timeout(Duration::from_millis(50));
        let late = tokio::spawn(async move { inc(&hasty) }).await.unwrap();
        assert!(matches!(late, Err(Failure::DeadlineExceeded { .. })), "{late:?}");
        let waits = tokio::spawn(async move { inc(&contract) });
        gate.open();
        assert_eq!(waits.await.unwrap().unwrap(), 2);
        supervisor.shutdown().await;
    });
}

/// As that, where it is stopped because nobody calls it, and the call starts it.
#[test]
fn s9_a_blocking_call_in_a_task_starts_a_worker_that_was_idle() {
    run(async {
        let mut config = config();
        config.idle_stop = Some(Duration::from_millis(1));
        let supervisor = start_with(config);
        let gate = Gate::new();
        let one = gate.bundle("one", "", "");
        supervisor.load(one.path()).await.unwrap();
        let contract = supervisor.contract("one@1").unwrap();
        wait_for("the idle worker to be stopped", || {
            (worker(&supervisor, "lua")?.state == WorkerState::Stopped).then_some(())
        })
        .await;
        let called = tokio::spawn(async move { contract.call_blocking::<_, i64>("inc", (1,)) });
        assert_eq!(called.await.unwrap().unwrap(), 2);
        supervisor.shutdown().await;
    });
}

/// Its own thread would have to run what the guest waits for.
#[test]
fn c5_a_bundle_that_is_called_in_a_task_that_blocks_calls_the_host() {
    run_on_one_thread(async {
        let supervisor = start();
        let host = supervisor.host_contract("kv@1");
        host.function("add", |a: i64, b: i64| async move { a + b }).done().unwrap();
        let manifest = "name = 'a'\nloader = 'lua'\nprovides = ['a@1']\n\
                        [[dependency]]\nkind = 'host'\ncontract = 'kv@1'";
        let code = "local menagerie = require 'menagerie'\n\
                    return { ['a@1'] = { sum = function(a, b)\n\
                      return menagerie.call('kv@1', 'add', a, b)\n\
                    end } }";
        supervisor.load_code(manifest, code).await.unwrap();
        let contract = supervisor.contract("a@1").unwrap();
        for n in 0..100 {
            assert_eq!(contract.call_blocking::<_, i64>("sum", (n, 1)).unwrap(), n + 1);
        }
        supervisor.shutdown().await;
    });
}
