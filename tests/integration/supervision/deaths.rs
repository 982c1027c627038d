//! Rules S1 to S3: the states that a worker goes through, what is kept of its deaths,
//! and what who comes back may do.

use std::time::Duration;

use menagerie_supervisor::{EventKind, Failure, WorkerState};

use super::{answers, crash, load, lua};
use crate::support::{Bundle, Recorder, config, ready_after, report, run, start_with, wait_for};

/// What no state is skipped for: each transition is an event, in order.
#[test]
fn s1_every_transition_of_a_life_is_an_event() {
    use WorkerState as W;
    run(async {
        let supervisor = start_with(config());
        let events = Recorder::of(&supervisor);
        let one = load(&supervisor, lua("one")).await;
        answers(&one).await;
        ready_after(&supervisor, "lua", 0).await;
        crash(&one).await;
        ready_after(&supervisor, "lua", 1).await;
        supervisor.restart("lua").await.unwrap();
        ready_after(&supervisor, "lua", 2).await;
        supervisor.shutdown().await;
        let expected = [
            [W::Starting, W::Ready, W::Crashed, W::Backoff],
            [W::Starting, W::Ready, W::Draining, W::Stopped],
            [W::Starting, W::Ready, W::Draining, W::Stopped],
        ]
        .concat();
        let told = wait_for("the last of them", || {
            let told: Vec<W> = events
                .all()
                .iter()
                .filter_map(|event| match event {
                    EventKind::WorkerState { worker, state, .. } if worker == "lua" => Some(*state),
                    _ => None,
                })
                .collect();
            (told.len() >= expected.len()).then_some(told)
        })
        .await;
        assert_eq!(told, expected);
    });
}

/// A program that ends itself in the middle of a call, whatever it says: zero is
/// no excuse.
#[test]
fn s2_an_exit_in_a_call_is_a_death_and_the_call_is_named() {
    run(async {
        let supervisor = start_with(config());
        let manifest = "name = 'quitter'\nversion = '1.0.0'\nloader = 'python'\nfile = 'main.py'\n\
                        provides = ['quitter@1']\n";
        let code = "import menagerie, os, sys\n\
                    @menagerie.export('quitter@1')\n\
                    def leave(code: int) -> None:\n\
                    \x20   print('good bye', file=sys.stderr)\n\
                    \x20   os.write(2, b'leaving with %d\\n' % code)\n\
                    \x20   os._exit(code)\n\
                    @menagerie.export('quitter@1')\n\
                    def inc(n: int) -> int:\n    return n + 1\n";
        let quitter = Bundle::of(&[("manifest.toml", manifest), ("main.py", code)]);
        let quitter = load(&supervisor, quitter).await;
        for (n, code) in [(1, 0), (2, 3)] {
            let outcome = quitter.call::<_, ()>("leave", (code,)).await;
            let Err(Failure::WorkerCrashed { cause, started: true, .. }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(cause, format!("exit code {code}"));
            let report = report(&supervisor, "python", n).await;
            assert_eq!((report.exit_code, report.signal), (Some(code), None), "{report:?}");
            assert_eq!(report.cause, cause);
            assert_eq!(report.running.len(), 1, "{report:?}");
            assert_eq!(report.running[0].to_string(), "quitter/quitter@1 leave");
            // Both ways that a bundle has, in whichever order they came.
            let mut said = report.stderr.clone();
            said.sort();
            assert_eq!(said, ["good bye", &format!("leaving with {code}")]);
            answers(&quitter).await;
        }
        supervisor.shutdown().await;
    });
}

/// The thread that notices a death waits on half of the CPUs, and starts the next process.
#[test]
fn s3_who_comes_back_may_use_the_cpus_of_who_was_there() {
    run(async {
        let supervisor = start_with(config());
        let one = load(&supervisor, lua("one")).await;
        answers(&one).await;
        let mut allowed = Vec::new();
        for n in 0..3 {
            let worker = ready_after(&supervisor, "lua", n).await;
            let status = format!("/proc/{}/status", worker.pid.unwrap());
            let status = std::fs::read_to_string(status).unwrap();
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list"));
            allowed.push(line.unwrap().to_owned());
            // Its death is looked out for by then.
            tokio::time::sleep(Duration::from_millis(50)).await;
            crash(&one).await;
        }
        let [first, rest @ ..] = &allowed[..] else { panic!() };
        assert!(rest.iter().all(|cpus| cpus == first), "{allowed:?}");
        supervisor.shutdown().await;
    });
}

#[test]
fn s2_the_history_of_crashes_keeps_the_last() {
    run(async {
        let mut config = config();
        config.crash_history = 2;
        config.bundle_crash_limit = 100;
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        for n in 1..=4 {
            crash(&one).await;
            ready_after(&supervisor, "lua", n).await;
            wait_for("the report", || {
                supervisor.crashes().iter().any(|crash| crash.incarnation == n).then_some(())
            })
            .await;
        }
        let kept: Vec<u64> = supervisor.crashes().iter().map(|crash| crash.incarnation).collect();
        assert_eq!(kept, [3, 4]);
        supervisor.shutdown().await;
    });
}
