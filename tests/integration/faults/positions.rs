//! Workers that lie about how far they have read, never answer, or write
//! whatever comes to them.

use std::time::Duration;

use menagerie_supervisor::{Failure, RestartPolicy};
use rmpv::Value;

use super::{Stage, hasty_once};
use crate::support::{PATIENCE, Progress, run, run_on_one_thread, run_within, wait_for};

/// Many calls at once, until the supervisor has to look at the worker's
/// position in the ring of calls, which is nonsense. Each call has one end:
/// those that no worker had begun go to the next one.
async fn a_position_that_is_nonsense(fault: &'static str) {
    let mut config = hasty_once(fault);
    config.ring_slots = 512;
    // It looks when the ring seems full: more than twice in so many calls.
    config.max_in_flight = 4096;
    let stage = Stage::set(config).await;
    let probe = stage.load().await;
    let calls: Vec<_> = (0..1600)
        .map(|n| {
            let probe = probe.clone();
            tokio::spawn(async move { (n, probe.call::<_, i64>("inc", (n,)).await) })
        })
        .collect();
    let mut failed = 0;
    for call in calls {
        match call.await.unwrap() {
            (n, Ok(next)) => assert_eq!(next, n + 1),
            (_, Err(Failure::WorkerCrashed { started: true, cause, .. })) => {
                assert!(cause.contains("consumer position"), "{cause}");
                failed += 1;
            }
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, 1);
    let reason = stage.report(1).await.reason.unwrap_or_default();
    assert!(reason.starts_with("protocol violation on lane 1: consumer position"), "{reason}");
    stage.serves_again().await;
    stage.end().await;
}

#[test]
fn s2_a_consumer_position_ahead_of_the_producer() {
    run(a_position_that_is_nonsense("ring:read-ahead"));
}

#[test]
fn s2_a_consumer_position_that_goes_back() {
    run(a_position_that_is_nonsense("ring:read-back"));
}

/// The same on one thread: whoever tries again and again would keep the
/// supervisor itself from its work.
#[test]
fn s2_a_consumer_position_that_is_nonsense_on_a_single_thread() {
    run_on_one_thread(a_position_that_is_nonsense("ring:read-ahead"));
}

/// The same for callers that block.
#[test]
fn s2_a_consumer_position_that_is_nonsense_for_blocking_callers() {
    run(async {
        let mut config = hasty_once("ring:read-ahead");
        config.ring_slots = 512;
        config.max_in_flight = 4096;
        let stage = Stage::set(config).await;
        let probe = stage.load().await;
        // They never have a turn; they fill the ring.
        let waiting: Vec<_> = (0..600)
            .map(|n| {
                let probe = probe.clone();
                tokio::spawn(async move { probe.call::<_, i64>("inc", (n,)).await })
            })
            .collect();
        let threads: Vec<_> = (0..4_i64)
            .map(|n| {
                let probe = probe.clone();
                std::thread::spawn(move || (n, probe.call_blocking::<_, i64>("inc", (n,))))
            })
            .collect();
        for call in waiting {
            let outcome = call.await.unwrap();
            let ended = matches!(&outcome, Ok(_) | Err(Failure::WorkerCrashed { .. }));
            assert!(ended, "{outcome:?}");
        }
        for thread in threads {
            wait_for("the thread", || thread.is_finished().then_some(())).await;
            let (n, outcome) = thread.join().unwrap();
            let ended = match &outcome {
                Ok(next) => *next == n + 1,
                Err(failure) => matches!(failure, Failure::WorkerCrashed { .. }),
            };
            assert!(ended, "{outcome:?}");
        }
        stage.serves_again().await;
        stage.end().await;
    });
}

/// A call that is never answered meets its deadline, and its worker its end.
#[test]
fn s6_a_call_that_is_never_answered() {
    run(async {
        let stage = Stage::set(hasty_once("ring:silence")).await;
        let probe = stage.load().await;
        let hasty = probe.clone().with_timeout(Duration::from_millis(300));
        let outcome = hasty.call::<_, i64>("inc", (1,)).await;
        let timed_out = matches!(&outcome, Err(Failure::DeadlineExceeded { deadline_ms: 300 }));
        assert!(timed_out, "{outcome:?}");
        let reason = stage.report(1).await.reason.unwrap_or_default();
        assert!(reason.contains("did not end within its deadline and grace"), "{reason}");
        stage.serves_again().await;
        stage.end().await;
    });
}

/// Sixty incarnations, each of which writes random bytes over its lane, from a
/// seed: its number.
#[test]
fn s2_random_bytes_from_sixty_seeds() {
    // A thousand in `make stress`.
    let seeds = std::env::var("MENAGERIE_SEEDS").ok().and_then(|n| n.parse().ok());
    let seeds = seeds.unwrap_or(60_u64);
    // A start, a death and its report for each: a tenth of a second or two.
    let limit = PATIENCE * 3 + Duration::from_secs(seeds);
    run_within(limit, async move {
        let mut config = hasty_once("random");
        config.worker_env.insert("MISBEHAVE_TIMES".to_owned(), seeds.to_string());
        config.crash_history = 10_000;
        config.bundle_crash_limit = 10_000;
        config.restart = RestartPolicy {
            limit: 10_000,
            initial_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(1),
            window: Duration::from_secs(3600),
            ..RestartPolicy::default()
        };
        let stage = Stage::set(config).await;
        let probe = stage.load().await;
        let (mut answers, mut progress) = (0, Progress::of("seeds", seeds));
        while stage.worker().incarnation <= seeds {
            let before = stage.worker().incarnation;
            progress.at(before - 1);
            match probe.call::<_, Value>("inc", (1,)).await {
                // What random bytes say may be an answer like any other.
                Ok(_) => answers += 1,
                Err(Failure::WorkerCrashed { started, .. }) => assert!(started),
                Err(Failure::BadValue { .. }) => {}
                Err(other) => {
                    // Or a failure, if they happen to be one.
                    eprintln!("seed {before}: {other:?}");
                }
            }
            wait_for("the next seed", || (stage.worker().incarnation > before).then_some(())).await;
        }
        eprintln!("{seeds} seeds, {answers} answers");
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        wait_for("the reports", || {
            let crashes = stage.supervisor.crashes();
            let found = crashes.iter().filter(|crash| crash.worker == "native").count();
            (found as u64 == seeds).then_some(())
        })
        .await;
        stage.end().await;
    });
}
