//! Many callers on one lane, and callers that do not do their part.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use menagerie_supervisor::{ByteBuf, Contract, Failure, Supervisor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    Bundle, PATIENCE, config, run, run_within, start, start_with, wait_for, worker,
};

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

/// Stops the worker, so that its ring can be filled with calls of half a kilobyte: they
/// take [`SLOTS`] each.
async fn stop(supervisor: &Supervisor) -> Pid {
    let pid = worker(supervisor, "lua").unwrap().pid.unwrap();
    stop_process(pid).await
}

const SLOTS: u32 = 9;

async fn stop_process(pid: u32) -> Pid {
    let pid = Pid::from_raw(pid.try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    wait_for("the stop", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.trim_start().starts_with('T').then_some(())
    })
    .await;
    pid
}

/// Those that a full ring has no room for are counted as well as those that are in it.
#[test]
fn c7_callers_that_wait_for_room_are_bounded() {
    /// As many calls as the ring holds, and some that wait for room.
    const LIMIT: u32 = 160;
    const CALLS: u64 = 200;
    run(async {
        let mut config = config();
        config.max_in_flight = LIMIT;
        let supervisor = start_with(config);
        let (_bundle, probe) = probe(&supervisor).await;
        let probe = probe.with_timeout(PATIENCE);
        let pid = stop(&supervisor).await;
        let (mut tasks, mut threads) = (Vec::new(), Vec::new());
        for n in 0..CALLS {
            let (probe, bytes) = (probe.clone(), ByteBuf::from(vec![7; 480]));
            let sent = bytes.clone();
            if n % 4 == 0 {
                threads.push(std::thread::spawn(move || {
                    (sent, probe.call_blocking::<_, ByteBuf>("echo", (bytes,)))
                }));
            } else {
                tasks.push(tokio::spawn(async move {
                    (sent, probe.call::<_, ByteBuf>("echo", (bytes,)).await)
                }));
            }
        }
        let ended = |tasks: &[tokio::task::JoinHandle<_>],
                     threads: &[std::thread::JoinHandle<_>]| {
            let tasks = tasks.iter().filter(|task| task.is_finished()).count();
            tasks + threads.iter().filter(|thread| thread.is_finished()).count()
        };
        let refused = usize::try_from(CALLS - u64::from(LIMIT)).unwrap();
        wait_for("those that are refused", || (ended(&tasks, &threads) == refused).then_some(()))
            .await;
        kill(pid, Signal::SIGCONT).unwrap();
        wait_for("the threads", || threads.iter().all(|t| t.is_finished()).then_some(())).await;
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(task.await.unwrap());
        }
        outcomes.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        let mut overloaded = 0;
        for (sent, outcome) in outcomes {
            match outcome {
                Ok(bytes) => assert_eq!(bytes, sent),
                Err(Failure::Overloaded { limit: LIMIT, .. }) => overloaded += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(overloaded, refused);
        let calls = &supervisor.status().bundles[0].calls;
        assert_eq!((calls.ok, calls.failed), (LIMIT.into(), CALLS - u64::from(LIMIT)));
        supervisor.shutdown().await;
    });
}

/// Where all replicas are full a call waits for room at one of them, and looks at the
/// clock; in no other's queue it would find any.
#[test]
fn c7_a_call_waits_for_room_where_all_replicas_are_full() {
    const REPLICAS: u32 = 2;
    run_within(PATIENCE, async {
        let mut config = config();
        config.replicas.insert("lua".to_owned(), REPLICAS);
        let all = REPLICAS * (config.ring_slots / SLOTS);
        let supervisor = start_with(config);
        let (_bundle, probe) = probe(&supervisor).await;
        let mut stopped = Vec::new();
        for worker in supervisor.status().workers {
            stopped.push(stop_process(worker.pid.unwrap()).await);
        }
        assert_eq!(stopped.len(), 2);
        let bytes = ByteBuf::from(vec![7; 480]);
        let call = |deadline| {
            let (probe, bytes) = (probe.clone().with_timeout(deadline), bytes.clone());
            async move { probe.call::<_, ByteBuf>("echo", (bytes,)).await }
        };
        let call_blocking = |deadline| {
            let (probe, bytes) = (probe.clone().with_timeout(deadline), bytes.clone());
            tokio::task::spawn_blocking(move || probe.call_blocking::<_, ByteBuf>("echo", (bytes,)))
        };
        let mut calls: Vec<_> = (0..all).map(|_| tokio::spawn(call(PATIENCE))).collect();
        wait_for("the rings to be full", || {
            (supervisor.status().bundles[0].calls.in_flight == all).then_some(())
        })
        .await;
        let soon = Duration::from_millis(50);
        for late in [tokio::spawn(call(soon)), call_blocking(soon)] {
            let outcome = late.await.unwrap();
            assert_eq!(outcome, Err(Failure::DeadlineExceeded { deadline_ms: 50 }));
        }
        calls.extend((0..20).map(|_| tokio::spawn(call(PATIENCE))));
        calls.extend((0..20).map(|_| call_blocking(PATIENCE)));
        for pid in stopped {
            kill(pid, Signal::SIGCONT).unwrap();
        }
        for call in calls {
            assert_eq!(call.await.unwrap().as_ref(), Ok(&bytes));
        }
        supervisor.shutdown().await;
    });
}

/// A call that waits for room is in no lane; dropped there, it has ended like any other.
#[test]
fn c7_a_call_that_is_dropped_before_it_is_sent_is_counted() {
    run(async {
        let mut config = config();
        config.max_in_flight = 200;
        let supervisor = start_with(config);
        let (_bundle, probe) = probe(&supervisor).await;
        let pid = stop(&supervisor).await;
        let status = || supervisor.status().bundles[0].calls.clone();
        let mut calls: Vec<_> = (0..150)
            .map(|_| {
                let bytes = ByteBuf::from(vec![7; 480]);
                Box::pin(probe.call::<_, ByteBuf>("echo", (bytes,)))
            })
            .collect();
        for call in &mut calls {
            // Twice, as the first of many may only have let others run.
            for _ in 0..2 {
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
        }
        let in_flight = status().in_flight;
        assert!((100..150).contains(&in_flight), "{in_flight}");
        drop(calls);
        assert_eq!(status().failed, 150);
        kill(pid, Signal::SIGCONT).unwrap();
        wait_for("the end of the calls", || (status().in_flight == 0).then_some(())).await;
        assert_eq!(probe.call::<_, u64>("echo", (2,)).await.unwrap(), 2);
        assert_eq!((status().ok, status().failed), (1, 150));
        supervisor.shutdown().await;
    });
}

/// A future that waits for room, and is neither polled nor dropped, holds up nobody who
/// waits behind it.
#[test]
fn c6_a_future_that_nobody_polls_keeps_room_from_nobody() {
    run(async {
        let supervisor = start();
        let (_bundle, probe) = probe(&supervisor).await;
        let pid = stop(&supervisor).await;
        let mut held: Vec<_> = (0..120)
            .map(|_| {
                let bytes = ByteBuf::from(vec![7; 480]);
                Box::pin(probe.call::<_, ByteBuf>("echo", (bytes,)))
            })
            .collect();
        for call in &mut held {
            for _ in 0..2 {
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
        }
        assert!(supervisor.status().bundles[0].calls.in_flight < 120);
        let behind: Vec<_> = (0..20_u64)
            .map(|n| {
                let (probe, thread) = (probe.clone(), probe.clone());
                let bytes = ByteBuf::from(vec![8; 480]);
                let sent = bytes.clone();
                tokio::spawn(async move {
                    if n % 2 == 0 {
                        return probe.call::<_, ByteBuf>("echo", (sent,)).await == Ok(bytes);
                    }
                    let call = move || thread.call_blocking::<_, ByteBuf>("echo", (sent,));
                    tokio::task::spawn_blocking(call).await.unwrap() == Ok(bytes)
                })
            })
            .collect();
        kill(pid, Signal::SIGCONT).unwrap();
        for call in behind {
            assert!(call.await.unwrap());
        }
        for call in held {
            assert_eq!(call.await.unwrap().len(), 480);
        }
        supervisor.shutdown().await;
    });
}
