//! Rule C3, where the supervisor goes before those who call: its last handle is dropped,
//! or the host's runtime that its tasks run on.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use menagerie_supervisor::{
    Contract, Event, EventKind, Events, Failure, NextEvent, RuntimeError, Supervisor, WorkerState,
};
use tokio::runtime::Runtime;

use super::leaving::at_the_gate;
use super::{Bundle, load, lua, status};
use crate::support::{
    Gate, PATIENCE, config, exists, run, run_with, slay, start, wait_for, worker,
};

/// A supervisor that somebody calls, from threads that its runtime knows nothing of.
struct Called {
    contract: Contract,
    pid: u32,
    outcomes: Receiver<(Way, Result<(), Failure>)>,
    elsewhere: Runtime,
    bundle: Bundle,
}

/// How a call is made.
#[derive(Clone, Copy, Debug)]
enum Way {
    Blocking,
    /// On another runtime.
    Awaited,
}

const NONE: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(3600);

impl Called {
    /// On the runtime that this thread is in, if it is in any.
    fn begin(load: impl FnOnce(&Supervisor, &Bundle)) -> (Supervisor, Self) {
        let (supervisor, bundle) = (start(), lua("one"));
        load(&supervisor, &bundle);
        let contract = supervisor.contract("one@1").unwrap();
        let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
        let elsewhere = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (sender, outcomes) = channel();
        // With a deadline and without.
        for deadline in [LONG, NONE] {
            let contract = contract.clone().with_timeout(deadline);
            let (blocking, awaited) = (contract.clone(), contract);
            let (first, second) = (sender.clone(), sender.clone());
            std::thread::spawn(move || {
                let outcome = blocking.call_blocking("sleep", (3600,));
                first.send((Way::Blocking, outcome)).unwrap();
            });
            elsewhere.spawn(async move {
                let outcome = awaited.call("sleep", (3600,)).await;
                second.send((Way::Awaited, outcome)).unwrap();
            });
        }
        (supervisor, Self { contract, pid, outcomes, elsewhere, bundle })
    }

    /// Everybody learns how it ended, and nothing stays; `left` is a supervisor without
    /// its runtime.
    async fn all_ends(self, left: Option<Supervisor>) {
        let Self { contract, pid, outcomes, elsewhere, bundle } = self;
        for _ in 0..4 {
            let (way, outcome) = outcomes.recv_timeout(PATIENCE).expect("a call never ends");
            assert!(ends_well(&outcome), "{way:?}: {outcome:?}");
        }
        for deadline in [LONG, NONE] {
            let contract = contract.clone().with_timeout(deadline);
            let later = contract.clone();
            let blocking = std::thread::spawn(move || later.call_blocking::<_, i64>("inc", (1,)));
            let outcome = blocking.join().unwrap();
            assert!(matches!(outcome, Err(Failure::ShuttingDown)), "{outcome:?}");
            let awaited = async move { contract.call::<_, i64>("inc", (1,)).await };
            let outcome = elsewhere.spawn(awaited).await.unwrap();
            assert!(matches!(outcome, Err(Failure::ShuttingDown)), "{outcome:?}");
        }
        wait_for("the worker to end", || (!exists(pid)).then_some(())).await;
        if let Some(supervisor) = left {
            // Its task ends with the runtime, and the process may have been quicker.
            wait_for("the worker to be shown as stopped", || {
                let shown = worker(&supervisor, "lua")?;
                (shown.state == WorkerState::Stopped && shown.pid.is_none()).then_some(())
            })
            .await;
            let outcome = supervisor.load(lua("two").path()).await;
            assert!(matches!(outcome, Err(RuntimeError::ShuttingDown)), "{outcome:?}");
            let outcome = supervisor.reload("one").await;
            assert!(matches!(outcome, Err(RuntimeError::ShuttingDown)), "{outcome:?}");
            let outcome = supervisor.restart("lua").await;
            assert!(matches!(outcome, Err(RuntimeError::ShuttingDown)), "{outcome:?}");
            supervisor.shutdown().await;
        }
        drop(bundle);
        elsewhere.shutdown_background();
    }
}

fn ends_well(outcome: &Result<(), Failure>) -> bool {
    matches!(outcome, Err(Failure::ShuttingDown | Failure::WorkerCrashed { .. }))
}

async fn wait_for_calls(supervisor: &Supervisor) {
    wait_for("the calls to be on their way", || {
        (status(supervisor, "one").calls.in_flight == 4).then_some(())
    })
    .await;
}

#[test]
fn c3_calls_end_when_the_last_supervisor_is_dropped_that_has_its_own_runtime() {
    run(async {
        // On a thread that is in no runtime.
        let begin = || {
            Called::begin(|supervisor, bundle| {
                supervisor.block_on(supervisor.load(bundle.path())).unwrap();
            })
        };
        let (supervisor, called) = std::thread::spawn(begin).join().unwrap();
        wait_for_calls(&supervisor).await;
        let mut events = supervisor.events();
        drop(supervisor);
        called.all_ends(None).await;
        while events.next().await.is_some() {}
    });
}

/// Who watches it may hold a supervisor.
#[test]
fn s10_the_stream_of_events_ends_with_a_shutdown() {
    run(async {
        let (supervisor, bundle) = (start(), lua("one"));
        let watcher = supervisor.clone();
        let mut events = watcher.events();
        let watched = tokio::spawn(async move {
            let mut last = None;
            while let Some(next) = events.next().await {
                if let NextEvent::Event(Event {
                    kind: EventKind::WorkerState { state, .. }, ..
                }) = next
                {
                    last = Some(state);
                }
            }
            drop(watcher);
            last
        });
        supervisor.load(bundle.path()).await.unwrap();
        supervisor.shutdown().await;
        assert_eq!(watched.await.unwrap(), Some(WorkerState::Stopped));
        // From then on there are none.
        assert_eq!(supervisor.events().next().await, None);
    });
}

async fn to_the_end(mut events: Events) -> Vec<EventKind> {
    let mut all = Vec::new();
    while let Some(next) = events.next().await {
        if let NextEvent::Event(event) = next {
            all.push(event.kind);
        }
    }
    all
}

/// What is told from a task of its own is told before the stream ends.
#[test]
fn s10_a_crash_just_before_a_shutdown_is_told() {
    run(async {
        for _ in 0..20 {
            let (supervisor, bundle) = (start(), lua("one"));
            supervisor.load(bundle.path()).await.unwrap();
            let (mut seen, events) = (supervisor.events(), supervisor.events());
            slay(worker(&supervisor, "lua").unwrap().pid.unwrap());
            loop {
                if let Some(NextEvent::Event(event)) = seen.next().await
                    && let EventKind::WorkerState { state: WorkerState::Crashed, .. } = event.kind
                {
                    break;
                }
            }
            supervisor.shutdown().await;
            let told = to_the_end(events).await;
            assert!(told.iter().any(|it| matches!(it, EventKind::WorkerCrashed(_))), "{told:?}");
        }
    });
}

#[test]
fn s10_an_unload_that_a_shutdown_ends_is_told() {
    let mut config = config();
    config.drain = Duration::from_millis(100);
    run_with(config, |supervisor| async move {
        let gate = Gate::new();
        let one = load(&supervisor, gate.bundle("one", "", "")).await;
        let events = supervisor.events();
        let working = at_the_gate(&gate, &one).await;
        let own = supervisor.clone();
        let unloading = tokio::spawn(async move { own.unload("one").await });
        wait_for("the unload", || supervisor.contract("one@1").err()).await;
        supervisor.shutdown().await;
        unloading.await.unwrap().unwrap();
        let told = to_the_end(events).await;
        assert!(told.iter().any(|it| matches!(it, EventKind::BundleUnloaded { .. })), "{told:?}");
        assert!(working.await.unwrap().is_err());
    });
}

/// As `select!` leaves it: what has begun holds the worker.
#[test]
fn s10_a_load_that_nobody_polls_does_not_hold_up_a_shutdown() {
    let mut config = config();
    config.drain = Duration::from_millis(100);
    run_with(config, |supervisor| async move {
        let slow = Gate::new();
        slow.close();
        let bundle = slow.bundle("one", "pass 'one loads'", "");
        let mut loading = Box::pin(supervisor.load(bundle.path()));
        tokio::select! {
            outcome = &mut loading => panic!("{outcome:?}"),
            () = slow.noted("one loads", 1) => {}
        }
        let events = supervisor.events();
        supervisor.shutdown().await;
        let told = to_the_end(events).await;
        assert!(!told.is_empty());
        assert!(loading.await.is_err());
    });
}

#[test]
fn c3_calls_end_when_the_hosts_runtime_is_dropped_before_the_supervisor() {
    run(async {
        for in_background in [false, true] {
            let host = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let handle = host.handle().clone();
            let begin = move || {
                let _guard = handle.enter();
                Called::begin(|supervisor, bundle| {
                    handle.block_on(supervisor.load(bundle.path())).unwrap();
                })
            };
            let (supervisor, called) = std::thread::spawn(begin).join().unwrap();
            wait_for_calls(&supervisor).await;
            let end = move || if in_background { host.shutdown_background() } else { drop(host) };
            std::thread::spawn(end).join().unwrap();
            called.all_ends(Some(supervisor)).await;
        }
    });
}

#[test]
fn s10_the_stream_of_events_ends_with_the_supervisor_although_contracts_are_held() {
    run(async {
        let supervisor = start();
        let one = load(&supervisor, lua("one")).await;
        let mut events = supervisor.events();
        drop(supervisor);
        let mut last = None;
        while let Some(next) = events.next().await {
            last = Some(next);
        }
        // What becomes of the workers is told still.
        let Some(NextEvent::Event(Event { kind: EventKind::WorkerState { state, .. }, .. })) = last
        else {
            panic!("{last:?}")
        };
        assert_eq!(state, WorkerState::Stopped);
        let outcome = one.call::<_, i64>("inc", (1,)).await;
        assert!(matches!(outcome, Err(Failure::ShuttingDown)), "{outcome:?}");
    });
}
