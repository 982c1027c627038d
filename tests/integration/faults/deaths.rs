//! A worker that is killed at each point of an answer. Eight callers wait, half
//! of them blocked and half of them awaiting; the worker had begun one call.
//! Each caller has exactly one outcome: the seven go to the next worker, and the
//! one is answered or fails, and never both.

use menagerie_supervisor::{Activity, ByteBuf, Bytes, Contract, Failure};

use super::{Stage, hasty, hasty_once};
use crate::support::{ready_after, run, slay, wait_for};

/// What the dying worker's answer consists of.
const DYING: u8 = 7;

/// Whether the answer was published when the worker died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Published {
    Yes,
    No,
}

/// It ends so soon that its hello is read afterwards; but it had begun to load.
#[test]
fn s5_who_ends_of_its_first_load_is_not_taken_for_one_that_said_no_hello() {
    run(async {
        let mut config = hasty("first-load");
        config.restart.limit = 10;
        let stage = Stage::set(config).await;
        stage.load().await;
        slay(stage.worker().pid.unwrap());
        let killed = stage.report(1).await;
        assert_eq!(killed.signal, Some(9), "{killed:?}");
        let mut count = 2;
        let report = loop {
            let report = stage.report(count).await;
            if report.exit_code != Some(44) {
                break report;
            }
            count += 1;
        };
        assert_eq!(report.exit_code, Some(42), "{report:?}");
        let running: Vec<_> = report.running.iter().map(|r| (&*r.bundle, r.activity)).collect();
        assert_eq!(running, [("victim", Activity::Load)], "{report:?}");
        stage.end().await;
    });
}

type Outcome = Result<ByteBuf, Failure>;

/// Eight calls at once; arguments tell them apart.
async fn eight_calls(probe: &Contract, len: usize) -> Vec<(u8, Outcome)> {
    let mut threads = Vec::new();
    let mut tasks = Vec::new();
    for n in 100..108_u8 {
        let probe = probe.clone();
        let data = vec![n; len];
        if n % 2 == 0 {
            threads.push((
                n,
                std::thread::spawn(move || probe.call_blocking("echo", (Bytes::new(&data),))),
            ));
        } else {
            tasks.push((
                n,
                tokio::spawn(async move { probe.call("echo", (Bytes::new(&data),)).await }),
            ));
        }
    }
    let mut outcomes = Vec::new();
    for (n, task) in tasks {
        outcomes.push((n, task.await.unwrap()));
    }
    for (n, thread) in threads {
        wait_for("a blocked caller", || thread.is_finished().then_some(())).await;
        outcomes.push((n, thread.join().unwrap()));
    }
    outcomes
}

async fn dies(fault: &'static str, len: usize, published: Published) {
    let stage = Stage::set(hasty_once(fault)).await;
    let probe = stage.load().await;
    let outcomes = eight_calls(&probe, len).await;
    assert_eq!(outcomes.len(), 8);
    let mut begun = 0;
    for (n, outcome) in outcomes {
        match outcome {
            Ok(bytes) if bytes.iter().all(|byte| *byte == n) => assert_eq!(bytes.len(), len),
            // Published, and so it may be read or not: who looks first?
            Ok(bytes) => {
                assert_eq!(published, Published::Yes, "{n} has an answer that was not published");
                assert!(bytes.iter().all(|byte| *byte == DYING), "{n} has a torn answer");
                begun += 1;
            }
            Err(Failure::WorkerCrashed { started: true, cause, .. }) => {
                assert!(cause.contains("SIGKILL"), "{cause}");
                begun += 1;
            }
            Err(other) => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(begun, 1, "one call was begun");
    assert_eq!(stage.report(1).await.signal, Some(9));
    ready_after(&stage.supervisor, "native", 1).await;
    // The books agree: every call was counted once.
    let calls = wait_for("the books to be closed", || {
        let status = stage.supervisor.status();
        let calls = status.bundles.iter().find(|b| b.name == "victim")?.calls.clone();
        (calls.in_flight == 0).then_some(calls)
    })
    .await;
    assert_eq!(calls.ok + calls.failed, 8, "{calls:?}");
    stage.end().await;
}

macro_rules! deaths {
    ($($name:ident($fault:literal, $len:literal, $published:ident);)*) => {
        $(
            #[test]
            fn $name() {
                run(dies($fault, $len, Published::$published));
            }
        )*
    };
}

deaths! {
    c3_killed_before_the_frame_is_written("die:before-the-frame", 100, No);
    c3_killed_within_the_payload("die:within-the-payload", 100, No);
    c3_killed_before_publishing("die:before-publishing", 100, No);
    c3_killed_after_publishing_before_the_wake("die:before-the-wake", 100, Yes);
    c3_killed_after_the_wake("die:after-the-wake", 100, Yes);
    c3_killed_with_an_empty_segment("die:before-the-segment", 100_000, No);
    c3_killed_in_the_middle_of_a_segment("die:within-the-segment", 100_000, No);
    c3_killed_before_publishing_a_segment("die:before-publishing-the-segment", 100_000, No);
    c3_killed_after_publishing_a_segment("die:segment-before-the-wake", 100_000, Yes);
}
