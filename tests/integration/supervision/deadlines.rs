//! Rule S6 for calls: whose deadline counts, what ends a call softly and what
//! does not; and C4 for those whose time is up before anybody begins them.

use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;

use menagerie_supervisor::{
    Condition, Config, Contract, Failure, RestartPolicy, Supervisor, WorkerState,
};
use nix::sys::signal::{Signal, kill};
use rmpv::Value;

use super::{answers, crash, load, lua, status};
use crate::support::{
    Bundle, PATIENCE, Recorder, config, per_language, ready_after, report, run, setup_with,
    start_with, wait_for, worker,
};

/// The interpreter's own loops and sleeps end where they are: no worker dies.
async fn s6_a_soft_stop_spares_the_worker(suffix: &str) {
    let mut config = config();
    // So long that nothing but the soft stop can have ended it.
    config.grace = Duration::from_secs(3600);
    let setup = setup_with(suffix, config).await;
    let pid = setup.pid();
    let hasty = setup.probe.clone().with_timeout(Duration::from_millis(200));
    let patient = setup.probe.clone().with_timeout(PATIENCE);
    let asleep = ("sleep_ms", Value::Array(vec![600_000.into()]));
    let spinning = ("spin", Value::Array(vec![]));
    // LuaJIT does not look at its hooks in loops that it has compiled.
    let calls = if suffix == "lua" { vec![asleep] } else { vec![asleep, spinning] };
    for (function, args) in calls {
        let outcome = hasty.call_value(function, &args).await;
        assert!(
            matches!(outcome, Err(Failure::DeadlineExceeded { deadline_ms: 200 })),
            "{function}: {outcome:?}"
        );
        // After what it was at before: its thread is free again.
        assert_eq!(patient.call::<_, i64>("inc", (1,)).await.unwrap(), 2, "{function}");
    }
    assert_eq!(setup.pid(), pid);
    assert!(setup.supervisor.crashes().is_empty());
    setup.supervisor.shutdown().await;
}

/// Machine code cannot be stopped softly: after the grace its worker dies, and
/// the report says that it answered heartbeats and not the call.
async fn s6_what_does_not_stop_softly_costs_the_worker(suffix: &str) {
    let setup = setup_with(suffix, config()).await;
    let pid = setup.pid();
    let hasty = setup.probe.clone().with_timeout(Duration::from_millis(200));
    let outcome = hasty.call::<_, Value>("spin", ()).await;
    assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
    let report = report(&setup.supervisor, setup.language.loader, 1).await;
    let reason = report.reason.clone().unwrap_or_default();
    assert!(reason.contains("did not end within its deadline and grace"), "{report:?}");
    assert_eq!(report.condition, Some(Condition::Busy), "{report:?}");
    assert!(report.missed_heartbeats < 3, "{report:?}");
    assert_eq!((report.pid, report.signal), (pid.as_raw().unsigned_abs(), Some(9)));
    let running = &report.running[..];
    assert_eq!(running.len(), 1, "{report:?}");
    assert_eq!(running[0].bundle, format!("probe-{suffix}"));
    assert_eq!((&*running[0].contract, &*running[0].function), ("probe@1", "spin"));
    assert!(running[0].age_ms.unwrap() >= 500, "{report:?}");
    assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    setup.supervisor.shutdown().await;
}

mod soft {
    use super::s6_a_soft_stop_spares_the_worker;

    super::per_language!(py, lua, js; { s6_a_soft_stop_spares_the_worker });
}

mod hard {
    use super::s6_what_does_not_stop_softly_costs_the_worker;

    super::per_language!(rust, c, dotnet; { s6_what_does_not_stop_softly_costs_the_worker });
}

/// The configuration's, unless the contract's handle has another; zero is none.
#[test]
fn s6_a_deadline_is_the_configurations_or_the_contracts_or_none() {
    run(async {
        let mut config = config();
        config.deadline = Duration::from_millis(300);
        config.grace = PATIENCE;
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        let outcome = one.call::<_, ()>("sleep", (600_000,)).await;
        assert!(
            matches!(outcome, Err(Failure::DeadlineExceeded { deadline_ms: 300 })),
            "{outcome:?}"
        );
        let hasty = one.contract.clone().with_timeout(Duration::from_millis(100));
        let outcome = hasty.call::<_, ()>("sleep", (600_000,)).await;
        assert!(
            matches!(outcome, Err(Failure::DeadlineExceeded { deadline_ms: 100 })),
            "{outcome:?}"
        );
        let patient = one.contract.clone().with_timeout(Duration::ZERO);
        patient.call::<_, ()>("sleep", (1500,)).await.unwrap();
        let blocked = patient.clone().with_timeout(Duration::from_millis(100));
        let thread =
            std::thread::spawn(move || blocked.call_blocking::<_, ()>("sleep", (600_000,)));
        wait_for("the blocked caller", || thread.is_finished().then_some(())).await;
        let outcome = thread.join().unwrap();
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        assert!(supervisor.crashes().is_empty());
        supervisor.shutdown().await;
    });
}

/// A bundle that writes each call down.
fn ledger(file: &std::path::Path) -> Bundle {
    let manifest = "name = 'ledger'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                    provides = ['ledger@1']\n";
    let code = format!(
        "local menagerie = require 'menagerie'\n\
         return {{ ['ledger@1'] = {{\n\
           note = function(n)\n\
             local file = io.open([[{}]], 'a')\n\
             file:write(n, '\\n')\n\
             file:close()\n\
             return n\n\
           end,\n\
           inc = function(n) return n + 1 end,\n\
           crash = function() menagerie.abort() end,\n\
         }} }}\n",
        file.display()
    );
    Bundle::of(&[("manifest.toml", manifest), ("main.lua", &code)])
}

/// Whose second death in a row is followed by a pause that nobody sits out.
fn config_with_a_pause() -> Config {
    let mut config = config();
    config.bundle_crash_limit = 100;
    config.restart = RestartPolicy {
        initial_delay: Duration::from_secs(3600),
        max_delay: Duration::from_secs(3600),
        window: Duration::from_secs(36_000),
        ..RestartPolicy::default()
    };
    config
}

/// Has the worker die twice, and waits until it is in its pause.
async fn pause(supervisor: &Supervisor, guest: &Contract) {
    // The first restart is at once, the second is not.
    crash(guest).await;
    answers(guest).await;
    ready_after(supervisor, "lua", 1).await;
    crash(guest).await;
    wait_for("the pause", || {
        worker(supervisor, "lua").filter(|worker| worker.state == WorkerState::Backoff)
    })
    .await;
}

/// A call that is dropped while it waits for its worker has ended like any other.
#[test]
fn c7_a_call_that_is_dropped_while_it_waits_for_its_worker_is_counted() {
    run(async {
        let supervisor = start_with(config_with_a_pause());
        let guest = load(&supervisor, lua("guest")).await;
        pause(&supervisor, &guest).await;
        let before = status(&supervisor, "guest").calls;
        let mut waits = Box::pin(guest.contract.call::<_, i64>("inc", (1,)));
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(waits);
        let after = status(&supervisor, "guest").calls;
        assert_eq!((after.ok, after.failed), (before.ok, before.failed + 1));
        supervisor.shutdown().await;
    });
}

/// A call that waits for a worker which is down ends at its deadline, and is
/// never run afterwards. And S3: by hand it starts at any time.
#[test]
fn c4_a_call_whose_time_is_up_before_a_worker_comes_is_never_run() {
    run(async {
        let supervisor = start_with(config_with_a_pause());
        let notes = tempfile::NamedTempFile::new().unwrap();
        let ledger = load(&supervisor, ledger(notes.path())).await;
        pause(&supervisor, &ledger).await;
        let hasty = ledger.contract.clone().with_timeout(Duration::from_millis(300));
        let outcome = hasty.call::<_, i64>("note", (1,)).await;
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        let waiting = {
            let patient = ledger.contract.clone().with_timeout(PATIENCE);
            tokio::spawn(async move { patient.call::<_, i64>("note", (2,)).await })
        };
        supervisor.restart("lua").await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 2);
        assert_eq!(std::fs::read_to_string(notes.path()).unwrap(), "2\n");
        supervisor.shutdown().await;
    });
}

/// The same for one that was sent to a worker which never began it.
#[test]
fn c4_a_call_whose_time_is_up_before_it_is_begun_goes_to_no_other_worker() {
    run(async {
        let supervisor = start_with(config());
        let notes = tempfile::NamedTempFile::new().unwrap();
        let ledger = load(&supervisor, ledger(notes.path())).await;
        let before = worker(&supervisor, "lua").unwrap();
        let pid = nix::unistd::Pid::from_raw(before.pid.unwrap().try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        wait_for("the stop", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(')').next()?.trim_start().starts_with('T').then_some(())
        })
        .await;
        let hasty = ledger.contract.clone().with_timeout(Duration::from_millis(300));
        let outcome = hasty.call::<_, i64>("note", (1,)).await;
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        // It may have been killed for that already.
        let _ = kill(pid, Signal::SIGKILL);
        ready_after(&supervisor, "lua", before.incarnation).await;
        assert_eq!(ledger.call::<_, i64>("note", (2,)).await.unwrap(), 2);
        assert_eq!(std::fs::read_to_string(notes.path()).unwrap(), "2\n");
        supervisor.shutdown().await;
    });
}

/// Heartbeats that are missed while a call runs: the call is named.
#[test]
fn s6_a_stopped_process_is_told_by_its_heartbeats_with_the_call_that_ran() {
    run(async {
        let mut config = config();
        config.heartbeat = Duration::from_millis(100);
        config.heartbeat_kill = 30;
        config.term_timeout = Duration::from_millis(300);
        config.deadline = Duration::ZERO;
        let setup = setup_with("py", config).await;
        let events = Recorder::of(&setup.supervisor);
        let sleeping = setup.sleeping(600_000).await;
        // One more answer says that it was begun.
        assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        kill(setup.pid(), Signal::SIGSTOP).unwrap();
        let report = report(&setup.supervisor, "python", 1).await;
        assert!(report.missed_heartbeats >= 30, "{report:?}");
        assert_eq!(report.condition, Some(Condition::Stopped), "{report:?}");
        let running: Vec<_> = report.running.iter().map(|r| (&*r.bundle, &*r.function)).collect();
        assert_eq!(running, [("probe-py", "sleep_ms")], "{report:?}");
        let outcome = sleeping.await.unwrap();
        let Err(Failure::WorkerCrashed { cause, started: true, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(cause.contains("missed heartbeats"), "{cause}");
        events
            .wait("the warning", |event| {
                matches!(event, menagerie_supervisor::EventKind::WorkerUnresponsive { .. })
                    .then_some(())
            })
            .await;
        assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        setup.supervisor.shutdown().await;
    });
}

/// What a function has left behind keeps the lane's thread, and no call runs whose
/// deadline would say so.
fn leaves_a_loop_behind(suffix: &str) -> Bundle {
    let (loader, file, code) = match suffix {
        "js" => (
            "js",
            "main.js",
            "export default { 'loop@1': {
               inc: (n) => n + 1,
               leave: () => { setTimeout(() => { for (;;); }, 1); },
             } };",
        ),
        _ => (
            "python",
            "main.py",
            "import asyncio\nimport menagerie\n\n\
             @menagerie.export('loop@1')\ndef inc(n):\n    return n + 1\n\n\
             def spin():\n    while True:\n        pass\n\n\
             @menagerie.export('loop@1')\nasync def leave():\n    \
             asyncio.get_running_loop().call_later(0.001, spin)\n",
        ),
    };
    let manifest = format!(
        "name = 'loop'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
         provides = ['loop@1']\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), (file, code)])
}

/// What works for no call, as an interval does, is in nobody's way.
#[test]
fn s6_calls_past_their_deadlines_take_no_others_along_while_an_interval_works() {
    const CODE: &str = "let open;
        export default { 'busy@1': {
          never: () => new Promise(() => {}),
          waits: () => new Promise((resolve) => { open = resolve; }),
          release(value) { open(value); },
          start() {
            setInterval(() => {
              for (const began = performance.now(); performance.now() - began < 40;);
            }, 1);
          },
        } };";
    run(async {
        let supervisor = start_with(config());
        let manifest = "name = 'busy'\nversion = '1.0.0'\nloader = 'js'\nfile = 'main.js'\n\
                        provides = ['busy@1']\n";
        let bundle = Bundle::of(&[("manifest.toml", manifest), ("main.js", CODE)]);
        supervisor.load(bundle.path()).await.unwrap();
        let patient = supervisor.contract("busy@1").unwrap().with_timeout(PATIENCE);
        let hasty = patient.clone().with_timeout(Duration::from_millis(100));
        let waits = patient.clone();
        let waiting = tokio::spawn(async move { waits.call::<_, i64>("waits", ()).await });
        patient.call::<_, ()>("start", ()).await.unwrap();
        for _ in 0..5 {
            let outcome = hasty.call::<_, ()>("never", ()).await;
            assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        }
        // It had to begin before.
        while patient.call::<_, ()>("release", (5,)).await.is_err() {}
        assert_eq!(waiting.await.unwrap(), Ok(5));
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        supervisor.shutdown().await;
    });
}

async fn s6_a_worker_that_begins_no_calls_is_ended(suffix: &str) {
    let supervisor = start_with(config());
    let guest = load(&supervisor, leaves_a_loop_behind(suffix)).await;
    guest.contract.call::<_, ()>("leave", ()).await.unwrap();
    let hasty = guest.contract.clone().with_timeout(Duration::from_millis(200));
    let loader = if suffix == "js" { "js" } else { "python" };
    // The loop may not have begun at the first of them.
    let calls = tokio::spawn(async move {
        loop {
            drop(hasty.call::<_, i64>("inc", (1,)).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let report = report(&supervisor, loader, 1).await;
    calls.abort();
    let reason = report.reason.clone().unwrap_or_default();
    assert!(reason.contains("no call was begun"), "{report:?}");
    assert_eq!(report.condition, Some(Condition::Busy), "{report:?}");
    assert!(report.missed_heartbeats < 3 && report.running.is_empty(), "{report:?}");
    assert_eq!(report.suspect.as_deref(), Some("loop"), "{report:?}");
    answers(&guest.contract).await;
    supervisor.shutdown().await;
}

mod begins_nothing {
    use super::s6_a_worker_that_begins_no_calls_is_ended;

    super::per_language!(js, py; { s6_a_worker_that_begins_no_calls_is_ended });
}
