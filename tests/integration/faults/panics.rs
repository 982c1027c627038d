//! A worker whose loader panics: that is the loader's bug, its VM is in an unknown
//! state, and the process ends; but it says first at work for which bundle that was.

use menagerie_supervisor::{Activity, CrashReport, EventKind, RuntimeError};

use super::{Stage, hasty, hasty_once};
use crate::support::{Recorder, ready_after, run, run_here, slay, wait_for};

/// The worker that has panicked ends.
async fn is_reported(stage: &Stage) -> CrashReport {
    let report = stage.report(1).await;
    assert_eq!(report.signal, Some(6), "{report:?}");
    // The panic's own words, from the worker's standard error.
    assert!(report.stderr.iter().any(|line| line.contains("as it was told")), "{report:?}");
    report
}

/// The worker that has panicked ends, and the report names the bundle; the next one
/// is honest, and has it or not.
async fn is_named(stage: &Stage, activity: Option<Activity>) {
    let report = is_reported(stage).await;
    assert_eq!(report.suspect.as_deref(), Some("victim"), "{report:?}");
    let words = "the loader has panicked at work for the bundle 'victim'";
    assert!(report.stderr.iter().any(|line| line.contains(words)), "{report:?}");
    let running: Vec<_> = report.running.iter().map(|r| (&*r.bundle, r.activity)).collect();
    if let Some(activity) = activity {
        assert_eq!(running, [("victim", activity)], "{report:?}");
    }
    ready_after(&stage.supervisor, "native", 1).await;
}

/// A test of a fault, after which the next worker serves.
fn panics(fault: &'static str, test: impl AsyncFnOnce(&Stage) + Send + 'static) {
    run_here(async move || {
        let stage = Stage::set(hasty_once(fault)).await;
        test(&stage).await;
        stage.serves_again().await;
        stage.end().await;
    });
}

/// The load fails, as the worker that should do it has died.
async fn is_not_loaded(stage: &Stage) {
    let outcome = stage.supervisor.load(stage.victim()).await;
    let unavailable = matches!(&outcome, Err(RuntimeError::WorkerUnavailable { .. }));
    assert!(unavailable, "{outcome:?}");
    assert!(stage.supervisor.contract("probe@1").is_err());
}

/// At a load's step, of the loader's or of the bundle's hook. It is known for which
/// bundle, which is not tried again.
fn panics_in_a_load(fault: &'static str) {
    panics(fault, async |stage| {
        is_not_loaded(stage).await;
        is_named(stage, Some(Activity::Load)).await;
        stage.load().await;
    });
}

/// Where each worker panics.
async fn loads_nothing(fault: &str) -> Stage {
    let stage = Stage::set(hasty(fault)).await;
    is_not_loaded(&stage).await;
    stage
}

#[test]
fn s5_a_loader_that_panics_in_a_load_is_named() {
    panics_in_a_load("panic:load");
}

#[test]
fn s5_a_loader_that_panics_in_on_load_is_named() {
    panics_in_a_load("panic:on_load");
}

#[test]
fn l5_a_loader_that_always_panics_in_a_load_loads_nothing() {
    run(async {
        let stage = loads_nothing("panic:load").await;
        for count in [1, 2, 3] {
            let report = stage.report(count).await;
            assert_eq!(report.suspect.as_deref(), Some("victim"), "{report:?}");
            ready_after(&stage.supervisor, "native", count as u64).await;
            if count < 3 {
                is_not_loaded(&stage).await;
            }
        }
        let outcome = stage.supervisor.load(stage.victim()).await;
        let quarantined = matches!(&outcome, Err(RuntimeError::BundleQuarantined { .. }));
        assert!(quarantined, "{outcome:?}");
        stage.end().await;
    });
}

#[test]
fn s5_a_loader_that_panics_in_a_call_is_named() {
    panics("panic:call", async |stage| {
        let probe = stage.load().await;
        // Unwinding drops the call's reply, which is an answer as well: the call fails
        // by that, or by the process's end.
        let outcome = probe.call::<_, i64>("inc", (1,)).await;
        assert!(outcome.is_err(), "{outcome:?}");
        is_named(stage, None).await;
    });
}

#[test]
fn s5_a_loader_that_panics_at_a_reload_is_named() {
    panics("panic:on_unload", async |stage| {
        stage.load().await;
        let outcome = stage.supervisor.reload("victim").await;
        assert!(outcome.is_err(), "{outcome:?}");
        is_named(stage, Some(Activity::OnUnload)).await;
    });
}

#[test]
fn s5_a_loader_that_panics_in_an_unload_is_named() {
    panics("panic:unload", async |stage| {
        stage.load().await;
        stage.supervisor.unload("victim").await.unwrap();
        is_named(stage, Some(Activity::OnUnload)).await;
        assert!(stage.supervisor.contract("probe@1").is_err());
        stage.load().await;
    });
}

/// Before its first load. Whether that counts as under way by then is a race: if it does,
/// nobody else was there to blame, and it is loaded when it is asked for again.
fn panics_before_a_load(fault: &'static str) {
    panics(fault, async |stage| {
        if stage.supervisor.load(stage.victim()).await.is_err() {
            stage.load().await;
        }
        is_reported(stage).await;
        ready_after(&stage.supervisor, "native", 1).await;
    });
}

#[test]
fn s3_a_loader_that_panics_while_it_prepares_for_a_load_is_started_again() {
    panics_before_a_load("panic:prepare-for-a-load");
}

#[test]
fn s3_a_loader_may_prepare_before_the_hello() {
    run(async {
        let stage = Stage::set(hasty("early")).await;
        let probe = stage.load().await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await, Ok(2));
        stage.end().await;
    });
}

#[test]
fn s3_a_loader_that_panics_before_the_hello_is_started_again() {
    panics_before_a_load("early:prepare-for-a-load");
}

#[test]
fn l5_a_loader_that_always_panics_while_it_prepares_loads_nothing() {
    run(async {
        let stage = loads_nothing("panic:prepare-for-a-load").await;
        is_reported(&stage).await;
        stage.end().await;
    });
}

/// No bundle is there that could be named, and none is harmed: the worker goes on, and
/// the next one starts as if there were no standbys.
#[test]
fn s8_a_standby_whose_loader_panics_is_lost_alone() {
    run(async {
        let mut config = hasty("panic:prepare");
        config.standby = 1;
        // One may be chosen just before it is lost.
        config.restart.limit = 5;
        let stage = Stage::set(config).await;
        let events = Recorder::of(&stage.supervisor);
        let probe = stage.load().await;
        let lost = || {
            let lost = |event: &&EventKind| match event {
                EventKind::StandbyDied { loader, cause, .. } => {
                    loader == "native" && cause.contains("SIGABRT")
                }
                _ => false,
            };
            (events.all().iter().filter(lost).count() > 2).then_some(())
        };
        wait_for("the standbys to be lost", lost).await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        let before = stage.worker();
        assert_eq!((before.incarnation, before.restarts), (1, 0));
        assert!(stage.supervisor.crashes().is_empty(), "{:?}", stage.supervisor.crashes());
        slay(before.pid.unwrap());
        ready_after(&stage.supervisor, "native", 1).await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        stage.end().await;
    });
}
