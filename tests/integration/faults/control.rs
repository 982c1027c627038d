//! Workers that say nonsense on the control channel, too much, or nothing.

use std::time::Duration;

use menagerie_supervisor::{Config, EventKind, Failure, RuntimeError};

use super::{Stage, faults, hasty, hasty_once};
use crate::support::{Recorder, find_line, lines, run, wait_for};

/// The process is killed and the report says why; the load, which may have been
/// under way, is tried again with the next one, which is honest: by the supervisor, unless
/// the violation was on the bundle's own lane, and it was certain who is to blame.
async fn is_a_violation(fault: &'static str, cause: &'static str) {
    let stage = Stage::set(hasty_once(fault)).await;
    if stage.supervisor.load(stage.victim()).await.is_err() {
        stage.load().await;
    }
    let report = stage.report(1).await;
    let reason = report.reason.clone().unwrap_or_default();
    assert!(reason.starts_with("protocol violation") && reason.contains(cause), "{report:?}");
    assert_eq!(report.signal, Some(9), "{report:?}");
    stage.serves_again().await;
    stage.end().await;
}

faults! { is_a_violation:
    s2_a_second_hello("second-hello", "a second hello");
    s2_a_control_channel_that_is_closed("close", "the other side closed the control socket");
    s2_a_message_of_4_gib("control:huge", "a message of 4294967295 bytes is over the limit");
    s2_a_message_that_is_garbage("control:garbage", "the message cannot be decoded");
    s2_a_message_that_does_not_exist("control:unknown", "the message cannot be decoded");
    s2_a_message_with_more_behind_it("control:trailing", "2 bytes are left over");
    s2_a_load_that_is_answered_with_garbage("on-load:garbage", "the message cannot be decoded");
    s2_a_load_that_is_answered_for_another_lane("on-load:another-lane", "an answer that nobody asked for");
    s2_a_load_with_the_answer_to_another_question("on-load:another-answer", "an answer that nobody asked for");
    s2_a_load_with_contracts_that_are_none("on-load:odd-contracts", "'!@#' is no contract");
    s2_a_load_with_contracts_that_nobody_promised("on-load:strange-contract", "'strange@1' is exported by the code, but not in");
    s2_a_load_with_a_contract_twice("on-load:contract-twice", "'probe@1' is exported twice");
    s2_a_load_with_a_function_of_an_odd_name("on-load:odd-function", "'Not a name'");
    s2_a_load_with_a_million_functions("on-load:functions", "more functions than a bundle may have (4096)");
    s2_a_load_error_that_is_nested_too_deep("on-load:deep-error", "the message cannot be decoded");
    s2_answers_that_nobody_asked_for("loaded:answers", "an answer that nobody asked for");
    s2_an_answer_to_a_heartbeat_that_was_never_sent("loaded:pong", "a heartbeat that was never sent");
    s2_a_segment_beyond_all_limits("loaded:want-much", "a segment beyond the payload limit");
    s2_segments_without_end("loaded:want-many", "more segments than a lane may have");
    s2_descriptors_without_end("loaded:descriptors", "descriptors came that nobody asked for");
}

/// Nothing but the load's own time limit tells that something hangs.
async fn meets_the_limit_of_the_load(fault: &'static str, _: &'static str) {
    let mut config = hasty_once(fault);
    config.load_timeout = Duration::from_secs(4);
    let stage = Stage::set(config).await;
    let outcome = stage.supervisor.load(stage.victim()).await;
    let Err(RuntimeError::TimedOut { bundle, step, limit_ms }) = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((bundle.as_str(), step.as_str(), *limit_ms), ("victim", "load", 4000));
    let report = stage.report(1).await;
    let reason = report.reason.clone().unwrap_or_default();
    assert!(reason.contains("'load' of 'victim' did not end"), "{report:?}");
    let probe = stage.load().await;
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    stage.end().await;
}

faults! { meets_the_limit_of_the_load:
    s6_a_load_that_is_never_answered("on-load:silence", "");
    s6_a_message_that_stops_in_the_middle("control:half", "");
}

/// Heartbeats that are missed soon; but an honest worker on a slow machine must
/// not miss so many in a row.
fn with_heartbeats(mut config: Config) -> Config {
    config.heartbeat = Duration::from_millis(200);
    config.heartbeat_warn = 3;
    config.heartbeat_kill = 50;
    config.term_timeout = Duration::from_secs(1);
    config
}

async fn misses_heartbeats(fault: &'static str, signal: &'static str) {
    let stage = Stage::set(with_heartbeats(hasty_once(fault))).await;
    let events = Recorder::of(&stage.supervisor);
    stage.load().await;
    let missed = events
        .wait("the warning", |event| match event {
            EventKind::WorkerUnresponsive { worker, missed } if worker == "native" => Some(*missed),
            _ => None,
        })
        .await;
    assert!(missed >= 3);
    let report = stage.report(1).await;
    let reason = report.reason.clone().unwrap_or_default();
    assert!(reason.contains("missed heartbeats"), "{report:?}");
    assert!(report.cause.contains(signal), "{report:?}");
    stage.serves_again().await;
    stage.end().await;
}

faults! { misses_heartbeats:
    s6_a_worker_that_answers_no_heartbeat("loaded:mute", "SIGABRT");
    s6_a_worker_that_reads_nothing_and_ignores_signals("deaf", "SIGKILL");
}

/// Floods of log lines: the host says that some are `cut`, or dropped, its
/// memory stays what it was, and the worker is stopped like any other.
async fn floods_the_log(fault: &'static str, cut: &'static str) {
    let stage = Stage::set(hasty_once(fault)).await;
    stage.load().await;
    let before = resident();
    wait_for("what is cut", || {
        find_line(|line| line.worker.as_deref() == Some("native") && line.message.ends_with(cut))
    })
    .await;
    for line in lines() {
        assert!(line.message.len() < 17 << 10, "{} bytes", line.message.len());
        assert!(line.bundle.is_none_or(|name| name.len() < 300));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more");
    assert!(stage.supervisor.crashes().is_empty());
    let status = stage.supervisor.restart("native").await.unwrap();
    assert_eq!(status.incarnation, 2);
    stage.serves_again().await;
    stage.end().await;
}

faults! { floods_the_log:
    s10_lines_without_end("loaded:logs", "lines were dropped");
    s10_lines_of_15_mib("loaded:long-logs", "bytes more)");
}

/// The host's resident memory in bytes (proc_pid_status(5)).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Nothing waits behind what hangs: every limit but the stop's own is an hour.
fn patient(fault: &str) -> Config {
    let mut config = hasty_once(fault);
    config.load_timeout = Duration::from_secs(3600);
    config.drain = Duration::from_millis(500);
    config.term_timeout = Duration::from_millis(500);
    config
}

#[test]
fn s6_a_restart_behind_a_load_that_hangs() {
    run(async {
        let stage = Stage::set(patient("on-load:silence")).await;
        let (supervisor, victim) = (stage.supervisor.clone(), stage.victim());
        let loading = tokio::spawn(async move { supervisor.load(victim).await });
        stage.is_up().await;
        let status = stage.supervisor.restart("native").await.unwrap();
        assert_eq!(status.incarnation, 2);
        // It was not the load's fault: it goes to the next worker.
        loading.await.unwrap().unwrap();
        stage.serves_again().await;
        stage.end().await;
    });
}

#[test]
fn s6_a_shutdown_behind_a_load_that_hangs() {
    run(async {
        let stage = Stage::set(patient("on-load:silence")).await;
        let (supervisor, victim) = (stage.supervisor.clone(), stage.victim());
        let loading = tokio::spawn(async move { supervisor.load(victim).await });
        stage.is_up().await;
        stage.end().await;
        let outcome = loading.await.unwrap();
        let typed = matches!(
            &outcome,
            Err(RuntimeError::ShuttingDown | RuntimeError::WorkerUnavailable { .. })
        );
        assert!(typed, "{outcome:?}");
    });
}

#[test]
fn s6_a_restart_behind_a_call_that_hangs() {
    run(async {
        let stage = Stage::set(patient("ring:silence")).await;
        let probe = stage.load().await.with_timeout(Duration::ZERO);
        let calling = tokio::spawn(async move { probe.call::<_, i64>("inc", (1,)).await });
        stage.is_called().await;
        let status = stage.supervisor.restart("native").await.unwrap();
        assert_eq!(status.incarnation, 2);
        let outcome = calling.await.unwrap();
        let ended = matches!(&outcome, Err(Failure::WorkerCrashed { started: true, .. }));
        assert!(ended, "{outcome:?}");
        assert!(stage.supervisor.crashes().is_empty());
        stage.serves_again().await;
        stage.end().await;
    });
}

/// A worker that ignores SIGTERM and reads nothing goes by SIGKILL.
#[test]
fn s6_a_restart_of_a_worker_that_is_deaf() {
    run(async {
        let stage = Stage::set(patient("deaf")).await;
        stage.load().await;
        let status = stage.supervisor.restart("native").await.unwrap();
        assert_eq!(status.incarnation, 2);
        stage.serves_again().await;
        stage.end().await;
    });
}

/// Calls that are on their way may end before an unload; one that does not,
/// although its time is up, costs the worker its life.
#[test]
fn s6_an_unload_behind_a_call_that_hangs() {
    run(async {
        let mut config = patient("ring:silence");
        config.deadline = Duration::from_secs(2);
        let stage = Stage::set(config).await;
        let probe = stage.load().await.with_timeout(Duration::ZERO);
        let calling = tokio::spawn(async move { probe.call::<_, i64>("inc", (1,)).await });
        stage.is_called().await;
        stage.supervisor.unload("victim").await.unwrap();
        assert!(stage.supervisor.contract("probe@1").is_err());
        let outcome = calling.await.unwrap();
        assert!(outcome.is_err(), "{outcome:?}");
        let reason = stage.report(1).await.reason.unwrap_or_default();
        assert!(reason.contains("before the unload of 'victim'"), "{reason}");
        let probe = stage.load().await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        stage.end().await;
    });
}

/// A worker that always dies of its loads is quarantined, and the load fails.
#[test]
fn s3_a_worker_that_never_answers_a_load_rightly() {
    run(async {
        let stage = Stage::set(hasty("on-load:another-lane")).await;
        let outcome = stage.supervisor.load(stage.victim()).await;
        let Err(RuntimeError::WorkerUnavailable { problem, .. }) = &outcome else {
            panic!("{outcome:?}")
        };
        assert!(problem.contains("nobody asked for"), "{problem}");
        assert!(stage.supervisor.contract("probe@1").is_err());
        stage.end().await;
    });
}
