//! Deadlines (S6) and blame (S5) where one call keeps the thread, or the lock, that
//! another one needs.

use std::time::Duration;

use menagerie_supervisor::{BundleState, Contract, EventKind, Failure, Supervisor};

use super::{answers, in_state, load, status};
use crate::support::{
    Bundle, PATIENCE, Recorder, config, per_language, ready_after, report, run, start_with,
    wait_for, worker,
};

/// A bundle with functions that await, and functions that keep their thread.
fn mixed(suffix: &str, name: &str) -> Bundle {
    let (loader, file, code) = match suffix {
        "js" => (
            "js",
            "main.js",
            "const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
             const spin = (ms) => { const end = Date.now() + ms; while (Date.now() < end); };
             export default { 'NAME@1': {
               inc: (n) => n + 1,
               async waits(ms) { await sleep(ms); },
               spin: (ms) => { spin(ms); return ms; },
               async spin_later(ms) { await sleep(100); spin(ms); return ms; },
             } };",
        ),
        _ => (
            "python",
            "main.py",
            "import asyncio\nimport time\nimport menagerie\n\n\
             @menagerie.export('NAME@1')\ndef inc(n):\n    return n + 1\n\n\
             @menagerie.export('NAME@1')\nasync def waits(ms):\n    \
             await asyncio.sleep(ms / 1000)\n\n\
             @menagerie.export('NAME@1')\ndef spin(ms):\n    \
             end = time.monotonic() + ms / 1000\n    \
             while time.monotonic() < end:\n        pass\n    return ms\n\n\
             @menagerie.export('NAME@1')\nasync def spin_later(ms):\n    \
             await asyncio.sleep(0.1)\n    return spin(ms)\n\n\
             @menagerie.export('NAME@1')\ndef hog(begun):\n    \
             open(begun, 'w').close()\n    \
             # One instruction, to the interpreter: nobody else has its lock meanwhile.\n    \
             return sum(range(1 << 40))\n",
        ),
    };
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
         provides = ['{name}@1']\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), (file, &code.replace("NAME", name))])
}

/// Waits until so many calls of a bundle are in flight, and begun.
async fn in_flight(supervisor: &Supervisor, contract: &Contract, count: u32) {
    wait_for("the calls to be sent", || {
        (status(supervisor, contract.bundle()).calls.in_flight == count).then_some(())
    })
    .await;
    // Its answer says that those before it were begun.
    answers(contract).await;
}

/// A call that awaits has been asked to stop, and cannot before its thread has time for
/// that: another call of the same bundle runs there, which has time.
async fn s6_a_call_that_awaits_costs_those_that_run_nothing(suffix: &str) {
    let mut config = config();
    // Long enough for a call that is let go on, and no longer than the others run.
    config.grace = Duration::from_secs(1);
    let supervisor = start_with(config);
    let mixed = load(&supervisor, mixed(suffix, "mixed")).await;
    let loader = if suffix == "js" { "js" } else { "python" };
    let before = worker(&supervisor, loader).unwrap().pid;
    let patient = mixed.contract.clone().with_timeout(PATIENCE);
    let hasty = mixed.contract.clone().with_timeout(Duration::from_millis(300));
    // Begun after the one whose time is up, or before it: whose a continuation is, QuickJS
    // does not tell, and the worker ends it.
    let before_it = (suffix != "js").then_some((Some("spin_later"), None));
    for (first, second) in [(None, Some("spin"))].into_iter().chain(before_it) {
        let runs = |function: &'static str| {
            let patient = patient.clone();
            tokio::spawn(async move { patient.call::<_, u32>(function, (3000,)).await })
        };
        let mut running = Vec::new();
        if let Some(first) = first {
            running.push(runs(first));
            wait_for("the first call", || {
                (status(&supervisor, "mixed").calls.in_flight == 1).then_some(())
            })
            .await;
        }
        let waits = {
            let hasty = hasty.clone();
            tokio::spawn(async move { hasty.call::<_, ()>("waits", (600_000,)).await })
        };
        if let Some(second) = second {
            in_flight(&supervisor, &mixed, 1).await;
            running.push(runs(second));
        }
        let outcome = waits.await.unwrap();
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        for running in running {
            assert_eq!(running.await.unwrap(), Ok(3000), "{first:?} {second:?}");
        }
        // And that it was asked is not forgotten.
        wait_for("the end of the call that waits", || {
            (status(&supervisor, "mixed").calls.in_flight == 0).then_some(())
        })
        .await;
    }
    assert_eq!(worker(&supervisor, loader).unwrap().pid, before);
    assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
    supervisor.shutdown().await;
}

mod awaits {
    use super::s6_a_call_that_awaits_costs_those_that_run_nothing;

    super::per_language!(js, py; { s6_a_call_that_awaits_costs_those_that_run_nothing });
}

/// One that keeps the thread itself has no more time because another one awaits.
#[test]
fn s6_a_call_that_keeps_its_thread_is_ended_beside_one_that_awaits() {
    run(async {
        let supervisor = start_with(config());
        let mixed = load(&supervisor, mixed("py", "mixed")).await;
        let endless = mixed.contract.clone().with_timeout(Duration::ZERO);
        let waits = tokio::spawn(async move { endless.call::<_, ()>("waits", (600_000,)).await });
        in_flight(&supervisor, &mixed, 1).await;
        let hasty = mixed.contract.clone().with_timeout(Duration::from_millis(200));
        let outcome = hasty.call::<_, ()>("hog", ("/dev/null",)).await;
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        let report = report(&supervisor, "python", 1).await;
        let reason = report.reason.clone().unwrap_or_default();
        assert!(reason.contains("did not end within its deadline and grace"), "{report:?}");
        let outcome = waits.await.unwrap();
        assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
        supervisor.shutdown().await;
    });
}

/// Whose call was over its time may only have waited for the interpreter's lock, which a
/// neighbour had: both are suspected, and neither is quarantined for that.
#[test]
fn s5_who_waits_for_a_neighbours_lock_is_not_quarantined() {
    run(async {
        let mut config = config();
        config.deadline = PATIENCE;
        config.grace = Duration::from_millis(100);
        let supervisor = start_with(config);
        let events = Recorder::of(&supervisor);
        let first = load(&supervisor, mixed("py", "first")).await;
        let second = load(&supervisor, mixed("py", "second")).await;
        let folder = tempfile::tempdir().unwrap();
        for n in 1..=3 {
            let begun = folder.path().join(n.to_string());
            let hogs = {
                let (first, begun) = (first.contract.clone(), begun.clone());
                tokio::spawn(async move { first.call::<_, ()>("hog", (begun,)).await })
            };
            wait_for("the first call", || begun.exists().then_some(())).await;
            let hasty = second.contract.clone().with_timeout(Duration::from_millis(200));
            // It may have its turn before the other one has the lock for good.
            while hasty.call::<_, i64>("inc", (1,)).await.is_ok() {}
            let report = report(&supervisor, "python", n).await;
            let mut ran: Vec<_> = report.running.iter().map(|r| &*r.bundle).collect();
            ran.sort_unstable();
            assert_eq!(ran, ["first", "second"], "{report:?}");
            let outcome = hogs.await.unwrap();
            assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
            if n < 3 {
                ready_after(&supervisor, "python", n as u64).await;
                answers(&second).await;
            }
        }
        // They are parted instead, and the next time tells.
        for name in ["first", "second"] {
            events
                .wait("the isolation", |event| match event {
                    EventKind::BundleIsolated { bundle, .. } => (bundle == name).then_some(()),
                    _ => None,
                })
                .await;
            in_state(&supervisor, name, BundleState::Ready).await;
        }
        answers(&first).await;
        answers(&second).await;
        supervisor.shutdown().await;
    });
}

/// Where nobody else ran it is certain whose fault it was.
#[test]
fn s5_who_does_not_end_alone_is_quarantined_beside_a_neighbour_that_is_idle() {
    run(async {
        let mut config = config();
        config.grace = Duration::from_millis(100);
        let supervisor = start_with(config);
        let bad = load(&supervisor, mixed("py", "bad")).await;
        let good = load(&supervisor, mixed("py", "good")).await;
        let hasty = bad.contract.clone().with_timeout(Duration::from_millis(200));
        for n in 1..=3 {
            let outcome = hasty.call::<_, ()>("hog", ("/dev/null",)).await;
            assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
            report(&supervisor, "python", n).await;
            answers(&good).await;
            if n < 3 {
                answers(&bad).await;
            }
        }
        in_state(&supervisor, "bad", BundleState::Quarantined).await;
        assert_eq!(status(&supervisor, "good").state, BundleState::Ready);
        supervisor.shutdown().await;
    });
}
