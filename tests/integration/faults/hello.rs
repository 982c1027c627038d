//! Workers that say no hello, or one that is to be refused.

use menagerie_supervisor::{EventKind, RuntimeError, WorkerState};
use std::time::Duration;

use super::{Stage, faults, hasty, hasty_once};
use crate::support::{Recorder, run, wait_for, worker};

/// The process is killed, and the report says why; the next one, which is
/// honest, takes the load that waited.
async fn is_refused(fault: &'static str, cause: &'static str) {
    let stage = Stage::set(hasty_once(fault)).await;
    refused(stage, cause).await;
}

async fn refused(stage: Stage, cause: &str) {
    let events = Recorder::of(&stage.supervisor);
    let probe = stage.load().await;
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    let report = stage.report(1).await;
    let reason = report.reason.clone().unwrap_or_default();
    assert!(reason.contains(cause), "{report:?}");
    assert!(report.cause.contains(cause), "{report:?}");
    assert_eq!((report.signal, report.running.len(), report.incarnation), (Some(9), 0, 1));
    events
        .wait("the crash as an event", |event| match event {
            EventKind::WorkerCrashed(report) if report.worker == "native" => Some(()),
            _ => None,
        })
        .await;
    assert!(stage.worker().incarnation >= 2);
    stage.end().await;
}

// None of these waits for the start's own time limit, which is a minute here.
faults! { is_refused:
    s2_a_hello_of_another_program("wrong-magic", "handshake failed: its hello begins with 0xdeadbeef");
    s2_a_hello_of_another_version("wrong-version", "handshake failed: it speaks version 9.3");
    s2_a_token_that_nobody_was_given("wrong-token", "handshake failed: nobody was started with its token");
    s2_another_loader_than_was_started("wrong-loader", "protocol violation: it is the loader 'python'");
    s2_a_hello_that_stops_in_the_middle("half-a-frame", "handshake failed: it did not say hello: it said nothing");
    s2_a_connection_that_says_nothing("silent", "handshake failed: it did not say hello: it said nothing");
    s2_a_hello_of_4_gib("huge-length", "a message of 4294967295 bytes is over the limit");
    s2_a_hello_that_is_garbage("garbage", "it did not say hello: the message cannot be decoded");
    s2_another_message_than_a_hello("another-message", "it did not say hello: it said something else");
    s2_a_hello_with_a_descriptor("descriptors:1", "descriptors came that nobody asked for");
    s2_a_hello_with_many_descriptors("descriptors:200", "descriptors came that nobody asked for");
    s2_a_hello_from_another_process("hello-by-proxy", "protocol violation: the hello came from process");
    s2_a_crowd_on_the_control_socket("crowd", "handshake failed: too many connections");
}

#[test]
fn s6_a_worker_that_never_says_hello() {
    run(async {
        let mut config = hasty_once("no-hello");
        config.start_timeout = Duration::from_secs(4);
        refused(Stage::set(config).await, "handshake failed: no hello within 4s").await;
    });
}

/// A later minor version is welcome (it may know more than we do); this one
/// does nothing more, and meets the limit of the load.
#[test]
fn s6_a_worker_of_a_later_minor_version_that_does_nothing() {
    run(async {
        let mut config = hasty_once("later-minor-version");
        config.load_timeout = Duration::from_secs(4);
        let stage = Stage::set(config).await;
        let outcome = stage.supervisor.load(stage.victim()).await;
        let timed_out =
            matches!(&outcome, Err(RuntimeError::TimedOut { step, .. }) if step == "load");
        assert!(timed_out, "{outcome:?}");
        let report = stage.report(1).await;
        let reason = report.reason.unwrap_or_default();
        assert!(reason.contains("'load' of 'victim' did not end"), "{reason}");
        let probe = stage.load().await;
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        stage.end().await;
    });
}

/// Any end that nobody asked for is one, an exit code of 0 too (S3).
#[test]
fn s3_a_worker_that_exits_before_its_hello() {
    run(async {
        for code in [0, 1, 77] {
            let stage = Stage::set(hasty_once(&format!("exit:{code}"))).await;
            let probe = stage.load().await;
            assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
            let report = stage.report(1).await;
            assert_eq!(
                (report.exit_code, report.signal, &report.reason),
                (Some(code), None, &None)
            );
            assert_eq!(report.cause, format!("exit code {code} before it said hello"));
            stage.end().await;
        }
    });
}

#[test]
fn s2_the_last_words_of_a_worker_are_in_the_report() {
    run(async {
        let stage = Stage::set(hasty_once("stderr")).await;
        stage.load().await;
        let report = stage.report(1).await;
        assert_eq!(report.exit_code, Some(3));
        assert_eq!(report.stderr.len(), 100);
        assert_eq!(report.stderr[0], "complaint 400");
        assert_eq!(report.stderr[99], "complaint 499");
        stage.end().await;
    });
}

/// It never does better: it is quarantined, whoever waits for it learns why,
/// and by hand it may be tried again (S3).
#[test]
fn s3_a_worker_that_is_always_refused_is_quarantined() {
    run(async {
        let stage = Stage::set(hasty("wrong-token")).await;
        let outcome = stage.supervisor.load(stage.victim()).await;
        let Err(RuntimeError::WorkerUnavailable { worker, problem }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(worker, "native");
        assert!(problem.contains("quarantined") && problem.contains("its token"), "{problem}");
        let status = stage.quarantined().await;
        assert_eq!((status.incarnation, status.restarts, status.pid), (2, 1, None));
        let again = stage.supervisor.restart("native").await;
        assert!(matches!(&again, Err(RuntimeError::WorkerUnavailable { .. })), "{again:?}");
        assert_eq!(stage.quarantined().await.incarnation, 3);
        stage.end().await;
    });
}

/// A request to stop or to restart does not wait until the hello has come or
/// its time is up, which is an hour here.
#[test]
fn s6_a_restart_while_the_worker_starts() {
    run(async {
        let mut config = hasty_once("no-hello");
        config.start_timeout = Duration::from_secs(3600);
        let stage = Stage::set(config).await;
        let (supervisor, victim) = (stage.supervisor.clone(), stage.victim());
        let loading = tokio::spawn(async move { supervisor.load(victim).await });
        stage.starts().await;
        let status = stage.supervisor.restart("native").await.unwrap();
        assert_eq!((status.incarnation, status.restarts), (2, 0));
        loading.await.unwrap().unwrap();
        let probe = stage.supervisor.contract("probe@1").unwrap();
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        // Nobody died who was not asked to.
        assert!(stage.supervisor.crashes().is_empty());
        stage.end().await;
    });
}

#[test]
fn s6_a_shutdown_while_the_worker_starts() {
    run(async {
        let mut config = hasty("no-hello");
        config.start_timeout = Duration::from_secs(3600);
        let stage = Stage::set(config).await;
        let (supervisor, victim) = (stage.supervisor.clone(), stage.victim());
        let loading = tokio::spawn(async move { supervisor.load(victim).await });
        stage.starts().await;
        let supervisor = stage.supervisor.clone();
        stage.end().await;
        let outcome = loading.await.unwrap();
        assert!(matches!(&outcome, Err(RuntimeError::ShuttingDown)), "{outcome:?}");
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        assert!(worker(&supervisor, "native").is_none_or(|w| w.state == WorkerState::Stopped));
    });
}

/// Strangers that knock as often as they can, many at a time, keep no worker
/// out, and cost no descriptors.
#[test]
fn s2_strangers_that_crowd_the_control_socket() {
    run(async {
        let mut config = hasty_once("exit:1");
        // A worker of the honest kind that hides nothing: where the socket is.
        config.worker_env.insert("MISBEHAVE_TIMES".to_owned(), "0".to_owned());
        let stage = Stage::set(config).await;
        let probe = stage.load().await;
        let pid = stage.worker().pid.unwrap();
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let text = String::from_utf8_lossy(&environment).into_owned();
        let path = text.split('\0').find_map(|v| v.strip_prefix("MENAGERIE_CONTROL_SOCKET="));
        let path = path.unwrap().to_owned();
        let events = Recorder::of(&stage.supervisor);
        let mut kept = Vec::new();
        for _ in 0..500 {
            // The backlog may be full for a moment: then it is not our turn.
            if let Ok(stream) = std::os::unix::net::UnixStream::connect(&path) {
                kept.push(stream);
            }
            tokio::task::yield_now().await;
        }
        events
            .wait("a refusal", |event| match event {
                EventKind::PeerRefused { pid, reason } => (*pid == Some(std::process::id())
                    && reason.contains("too many connections"))
                .then_some(()),
                _ => None,
            })
            .await;
        // Meanwhile a worker dies and its successor is let in.
        stage.supervisor.restart("native").await.unwrap();
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        // All but a few were hung up on at once.
        wait_for("the strangers to be turned away", || {
            let gone = kept.iter().filter(|stream| hung_up(stream)).count();
            (gone + 8 >= kept.len()).then_some(())
        })
        .await;
        drop(kept);
        stage.end().await;
    });
}

fn hung_up(mut stream: &std::os::unix::net::UnixStream) -> bool {
    use std::io::Read;
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
