//! Workers that write nonsense where a lane's frames should be.

use menagerie_supervisor::{ByteBuf, Bytes, Failure};

use super::{Stage, faults, hasty, hasty_once};
use crate::support::{ready_after, run};

/// The call fails, the worker is killed, the report says what was wrong; the
/// next worker, which is honest, answers.
async fn is_a_violation(fault: &'static str, cause: &'static str) {
    let stage = Stage::set(hasty_once(fault)).await;
    let probe = stage.load().await;
    let outcome = probe.call::<_, i64>("inc", (1,)).await;
    assert_violation(stage, outcome, cause).await;
}

/// As [`is_a_violation`], for a call whose arguments stand in a segment.
async fn is_a_violation_of_a_large_call(fault: &'static str, cause: &'static str) {
    let stage = Stage::set(hasty_once(fault)).await;
    let probe = stage.load().await;
    let outcome = probe.call::<_, ByteBuf>("echo", (Bytes::new(&[7; 100_000]),)).await;
    assert_violation(stage, outcome.map(|_| 0), cause).await;
}

async fn assert_violation(stage: Stage, outcome: Result<i64, Failure>, cause: &str) {
    let Err(Failure::WorkerCrashed { started: true, cause: told, .. }) = &outcome else {
        panic!("{outcome:?}")
    };
    assert!(told.contains(cause), "{told}");
    let report = stage.report(1).await;
    let reason = report.reason.clone().unwrap_or_default();
    assert!(reason.starts_with("protocol violation on lane 1: "), "{report:?}");
    assert_eq!((report.signal, report.running.len()), (Some(9), 1));
    let probe = stage.supervisor.contract("probe@1").unwrap();
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    let status = ready_after(&stage.supervisor, "native", 1).await;
    assert_eq!((status.incarnation, status.restarts), (2, 1));
    stage.end().await;
}

faults! { is_a_violation:
    s2_a_mark_of_another_lap("ring:bad-mark", "has not the mark of its lap");
    s2_a_length_beyond_all_limits("ring:bad-length", "a frame of 4294967295 bytes does not fit");
    s2_a_kind_that_does_not_exist("ring:bad-kind", "there is no frame kind 77");
    s2_flags_that_do_not_exist("ring:bad-flags", "there is no frame kind 128");
    s2_a_command_from_a_worker("ring:command", "a kind that workers do not send");
    s2_padding_beyond_the_ring("ring:pad-beyond", "does not fit");
    s2_an_answer_to_a_call_of_another_time("ring:stranger", "which nobody made");
    s2_an_answer_to_a_call_beyond_all_slots("ring:no-slot", "which nobody made");
    s2_a_reference_that_is_too_short("ring:bulk-short", "a reference to nothing");
    s2_a_reference_to_a_segment_that_does_not_exist("ring:bulk-nowhere", "a segment that does not exist");
    s2_a_reference_beyond_its_segment("ring:bulk-outside", "a range outside");
    s2_a_reference_that_overflows("ring:bulk-overflow", "a range outside");
    s2_a_reference_beyond_the_payload_limit("ring:bulk-huge", "a payload beyond the limit");
    s2_an_echo_of_arguments_in_the_ring("ring:echo-inline", "arguments that were not bulk");
    s2_a_failure_that_cannot_be_decoded("ring:failure-garbage", "a failure that cannot be decoded");
    s2_a_failure_that_announces_too_much("ring:failure-bomb", "a failure that cannot be decoded");
    s2_a_failure_that_is_nested_too_deep("ring:failure-deep", "a failure that cannot be decoded");
    s2_padding_without_end("ring:pads", "there is no frame kind 3");
    s2_calls_of_its_own_without_end("ring:calls", "more than 2048 calls of its own at once");
}

faults! { is_a_violation_of_a_large_call:
    s2_an_echo_beyond_the_arguments("ring:echo-outside", "a range outside the arguments");
    s2_an_echo_of_other_arguments("ring:echo-other", "another call's arguments");
    s2_an_echo_that_is_a_failure("ring:echo-failure", "another call's arguments");
}

/// It answers one call twice: the first answer is one, the second a violation.
#[test]
fn s2_a_call_that_is_answered_twice() {
    run(async {
        let stage = Stage::set(hasty_once("ring:twice")).await;
        let probe = stage.load().await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 7);
        // Whoever looks at the ring next finds the second answer.
        let outcome = probe.call::<_, i64>("inc", (1,)).await;
        assert!(matches!(outcome, Ok(2) | Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
        let report = stage.report(1).await;
        assert!(report.cause.contains("answered already"), "{report:?}");
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        stage.end().await;
    });
}

/// C4, with a worker whose account of what it had begun is certain.
#[test]
fn c4_a_call_that_was_not_begun_is_carried_to_the_next_worker() {
    run(async {
        let stage = Stage::set(hasty_once("ring:never-begun")).await;
        let probe = stage.load().await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        let report = stage.report(1).await;
        assert_eq!((report.exit_code, report.running.len()), (Some(5), 0));
        stage.end().await;
    });
}

#[test]
fn c4_a_call_that_was_begun_fails() {
    run(async {
        let stage = Stage::set(hasty_once("ring:begun")).await;
        let probe = stage.load().await;
        let outcome = probe.call::<_, i64>("inc", (1,)).await;
        let Err(Failure::WorkerCrashed { worker, cause, started: true }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((worker.as_str(), cause.as_str()), ("native", "exit code 5"));
        let report = stage.report(1).await;
        assert_eq!(report.running.len(), 1);
        let running = &report.running[0];
        assert_eq!((running.bundle.as_str(), running.function.as_str()), ("victim", "inc"));
        stage.end().await;
    });
}

/// Two calls wait and one was begun, and the worker says that all it will ever
/// get were: they fail, and nothing worse.
#[test]
fn c4_a_worker_that_claims_to_have_begun_everything() {
    run(async {
        let stage = Stage::set(hasty_once("ring:all-begun")).await;
        let probe = stage.load().await;
        let outcome = probe.call::<_, i64>("inc", (1,)).await;
        assert!(
            matches!(outcome, Err(Failure::WorkerCrashed { started: true, .. })),
            "{outcome:?}"
        );
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        stage.end().await;
    });
}

/// A worker that never begins anything, in all its lives, ends in quarantine
/// and not in an endless round.
#[test]
fn c4_a_worker_that_never_begins_anything_is_quarantined() {
    run(async {
        let stage = Stage::set(hasty("ring:never-begun")).await;
        let probe = stage.load().await;
        let outcome = probe.call::<_, i64>("inc", (1,)).await;
        assert!(matches!(outcome, Err(Failure::Quarantined { .. })), "{outcome:?}");
        stage.quarantined().await;
        stage.end().await;
    });
}

#[test]
fn c4_an_idempotent_function_is_run_again() {
    run(async {
        let stage = Stage::set(hasty_once("ring:begun")).await;
        let manifest = std::fs::read_to_string(stage.victim().join("manifest.toml")).unwrap();
        stage.victim.write("manifest.toml", &format!("{manifest}[idempotent]\nprobe = ['inc']\n"));
        let probe = stage.load().await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        assert_eq!(stage.report(1).await.exit_code, Some(5));
        stage.end().await;
    });
}

/// The first call is answered in spite of the fault; nobody is killed for it.
async fn is_answered(fault: &'static str, _: &'static str) {
    let stage = Stage::set(hasty_once(fault)).await;
    let probe = stage.load().await;
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 7);
    assert!(stage.supervisor.crashes().is_empty());
    stage.supervisor.restart("native").await.unwrap();
    stage.serves_again().await;
    stage.end().await;
}

faults! { is_answered:
    c3_a_sleep_word_that_is_nonsense("ring:sleep-nonsense", "");
    c5_a_call_of_its_own_that_is_garbage("ring:call-garbage", "");
    s2_a_wake_socket_that_was_made_blocking("ring:blocking-wake", "");
    s2_a_wake_socket_that_is_always_full("ring:blocking-drain", "");
}
