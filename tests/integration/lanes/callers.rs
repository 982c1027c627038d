//! Many callers on one lane, and callers that do not do their part.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use menagerie_supervisor::{Contract, Supervisor};

use crate::support::{Bundle, run, start};

/// A bundle that answers in one language's simplest way.
async fn probe(supervisor: &Supervisor) -> (Bundle, Contract) {
    const CODE: &str = "local function spin(n) local i = 0; while i < n do i = i + 1 end end
        return { ['p@1'] = { null = function() end, echo = function(v) return v end, spin = spin } }";
    let manifest = "name = 'p'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
        provides = ['p@1']";
    let bundle = Bundle::of(&[("manifest.toml", manifest), ("main.lua", CODE)]);
    supervisor.load(&bundle.path()).await.unwrap();
    let contract = supervisor.contract("p@1").unwrap();
    (bundle, contract)
}

/// A future that was polled, and then is neither polled again nor dropped,
/// belongs to a caller that looks for its reply by itself and never does. Its
/// reply must not keep others from theirs, nor a lane from its end.
#[test]
fn c6_a_future_that_nobody_polls_holds_up_nobody() {
    run(async {
        let supervisor = start();
        let (_bundle, probe) = probe(&supervisor).await;
        // The lane is busy for long enough that the next caller finds it in use.
        let slow = probe.clone();
        let slow = tokio::spawn(async move { slow.call::<_, ()>("spin", (200_000_000,)).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut held = pin!(probe.call::<_, ()>("null", ()));
        let first = held.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(first.is_pending(), "the lane was idle, so this shows nothing");
        for _ in 0..1000 {
            probe.call::<_, ()>("null", ()).await.unwrap();
        }
        slow.await.unwrap().unwrap();
        supervisor.reload("p").await.unwrap();
        held.await.unwrap();
        supervisor.shutdown().await;
    });
}

/// A call is sent when its future is polled for the first time; one that is dropped
/// before was never made.
#[test]
fn c7_a_future_that_was_never_polled_is_no_call() {
    run(async {
        let supervisor = start();
        let (_bundle, probe) = probe(&supervisor).await;
        drop(probe.call::<_, u64>("echo", (1,)));
        assert_eq!(probe.call::<_, u64>("echo", (2,)).await.unwrap(), 2);
        let calls = &supervisor.status().bundles[0].calls;
        assert_eq!((calls.ok, calls.failed, calls.in_flight), (1, 0, 0));
        supervisor.shutdown().await;
    });
}

/// A handle knows the lane that served its bundle when it was made. When another one
/// does, it calls there, also while all its calls are hot ones.
#[test]
fn r2_a_handle_calls_on_through_a_restart_and_a_reload() {
    /// More than have their time taken, or let others run.
    const CALLS: u64 = 300;

    async fn call(probe: &Contract) {
        let thread = probe.clone();
        let blocking = tokio::task::spawn_blocking(move || {
            for n in 0..CALLS {
                assert_eq!(thread.call_blocking::<_, u64>("echo", (n,)).unwrap(), n);
            }
        });
        blocking.await.unwrap();
        for n in 0..CALLS {
            assert_eq!(probe.call::<_, u64>("echo", (n,)).await.unwrap(), n);
        }
    }

    run(async {
        let supervisor = start();
        let (_bundle, probe) = probe(&supervisor).await;
        call(&probe).await;
        supervisor.restart("lua").await.unwrap();
        call(&probe).await;
        supervisor.reload("p").await.unwrap();
        call(&probe).await;
        let calls = &supervisor.status().bundles[0].calls;
        assert_eq!((calls.ok, calls.failed, calls.in_flight), (6 * CALLS, 0, 0));
        supervisor.shutdown().await;
    });
}

/// Tasks on several threads beside threads that block, all on one lane: each
/// call has its own answer, and nobody is left asleep.
#[test]
fn c6_tasks_and_threads_share_a_lane() {
    run(async {
        let supervisor = start();
        let (_bundle, probe) = probe(&supervisor).await;
        let mut callers = Vec::new();
        for caller in 0..16_u64 {
            let probe = probe.clone();
            callers.push(tokio::spawn(async move {
                for call in 0..500 {
                    let sent = (caller << 32) | call;
                    assert_eq!(probe.call::<_, u64>("echo", (sent,)).await.unwrap(), sent);
                    // Some in step with others, some after a pause in which
                    // both sides go to sleep.
                    if call % 50 == caller {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            }));
        }
        for caller in 16..20_u64 {
            let probe = probe.clone();
            callers.push(tokio::task::spawn_blocking(move || {
                for call in 0..500 {
                    let sent = (caller << 32) | call;
                    assert_eq!(probe.call_blocking::<_, u64>("echo", (sent,)).unwrap(), sent);
                }
            }));
        }
        for caller in callers {
            caller.await.unwrap();
        }
        supervisor.shutdown().await;
    });
}

/// A task whose calls are all answered while it looks lets others run in between.
#[test]
fn c6_a_task_that_calls_on_and_on_gives_way() {
    run(async {
        let supervisor = start();
        let (_bundle, probe) = probe(&supervisor).await;
        let others_ran = AtomicBool::new(false);
        let calls = async {
            for _ in 0..10_000 {
                probe.call::<_, ()>("null", ()).await.unwrap();
                if others_ran.load(Ordering::Relaxed) {
                    return;
                }
            }
            panic!("nobody else has run");
        };
        let other = async {
            tokio::task::yield_now().await;
            others_ran.store(true, Ordering::Relaxed);
        };
        tokio::join!(calls, other);
        supervisor.shutdown().await;
    });
}
