//! What a crash report says: rule S2, and S6 for what hangs.

use std::time::Duration;

use menagerie_supervisor::{
    Activity, Condition, Config, Contract, CrashReport, Failure, Supervisor,
};
use menagerie_tests::{LANGUAGES, Language};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{config, per_language, report, run, start, start_with, wait_for, worker};

async fn probe(supervisor: &Supervisor, suffix: &str) -> Contract {
    let language = Language::of(suffix);
    supervisor.load(language.bundle("greeter")).await.unwrap();
    supervisor.load(language.bundle("probe")).await.unwrap();
    supervisor.contract(&format!("probe-{suffix}/probe@1")).unwrap()
}

/// A call that does not end in time; the report of what that cost.
async fn overdue(config: Config, suffix: &str, function: &str, args: &[u64]) -> CrashReport {
    let supervisor = start_with(config);
    let probe = probe(&supervisor, suffix).await;
    let hasty = probe.clone().with_timeout(Duration::from_millis(500));
    let outcome = hasty.call::<_, ()>(function, args).await;
    assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    let report = report(&supervisor, Language::of(suffix).loader, 1).await;
    assert_eq!(report.running[0].function, function, "{report:?}");
    assert!(report.running[0].age_ms.unwrap() >= 500, "{report:?}");
    supervisor.shutdown().await;
    report
}

#[test]
fn s6_a_busy_loop_is_told() {
    run(async {
        let report = overdue(config(), "rust", "spin", &[]).await;
        assert_eq!(report.condition, Some(Condition::Busy), "{report:?}");
        // They were answered; one may have been on its way.
        assert!(report.missed_heartbeats < 3, "{report:?}");
        let usage = report.usage.unwrap();
        assert!(usage.user_seconds > 0.05, "{usage:?}");
    });
}

#[test]
fn s6_a_sleep_or_deadlock_is_told() {
    run(async {
        let report = overdue(config(), "rust", "sleep_ms", &[600_000]).await;
        assert_eq!(report.condition, Some(Condition::Waiting), "{report:?}");
    });
}

/// A call hangs because its process was stopped: the deadline is the first to
/// notice.
#[test]
fn s6_a_stopped_process_is_told_at_a_deadline() {
    run(async {
        let supervisor = start();
        let probe = probe(&supervisor, "rust").await;
        let hasty = probe.clone().with_timeout(Duration::from_secs(2));
        let working =
            tokio::spawn(async move { hasty.call::<_, ()>("sleep_ms", (600_000,)).await });
        wait_for("the call to be sent", || {
            let bundles = supervisor.status().bundles;
            bundles.iter().any(|bundle| bundle.calls.in_flight > 0).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let pid = worker(&supervisor, "native").unwrap().pid.unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGSTOP).unwrap();
        assert!(working.await.unwrap().is_err());
        let report = report(&supervisor, "native", 1).await;
        assert_eq!(report.condition, Some(Condition::Stopped), "{report:?}");
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        supervisor.shutdown().await;
    });
}

/// Nobody calls: heartbeats notice.
#[test]
fn s6_a_stopped_process_is_told_by_its_heartbeats() {
    run(async {
        let mut config = config();
        config.heartbeat = Duration::from_millis(100);
        config.heartbeat_kill = 30;
        config.term_timeout = Duration::from_millis(300);
        let supervisor = start_with(config);
        let probe = probe(&supervisor, "lua").await;
        let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGSTOP).unwrap();
        let report = report(&supervisor, "lua", 1).await;
        assert_eq!(report.condition, Some(Condition::Stopped), "{report:?}");
        assert!(report.missed_heartbeats >= 30, "{report:?}");
        assert!(report.reason.as_ref().unwrap().contains("missed heartbeats"), "{report:?}");
        assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
        supervisor.shutdown().await;
    });
}

/// What hangs in its own initialisation is named.
#[test]
fn s6_a_load_that_does_not_end_is_told() {
    run(async {
        let mut config = config();
        config.load_timeout = Duration::from_secs(2);
        let supervisor = start_with(config);
        let stuck = super::lua_with("stuck", "while true do end", "");
        assert!(supervisor.load(stuck.path()).await.is_err());
        let report = report(&supervisor, "lua", 1).await;
        assert_eq!(report.condition, Some(Condition::Busy), "{report:?}");
        let running: Vec<_> = report.running.iter().map(|r| (&*r.bundle, r.activity)).collect();
        assert_eq!(running, [("stuck", Activity::Load)]);
        supervisor.shutdown().await;
    });
}

/// What a language, or its worker, says when `crash` is called.
pub(super) fn has_its_languages_words(suffix: &str, report: &CrashReport) {
    let told = report.stderr.join("\n");
    match suffix {
        // Python's faulthandler, .NET's own trace.
        "py" => assert!(told.contains("Aborted") && told.contains("in crash"), "{told}"),
        "dotnet" => {
            assert!(told.contains("crash() was called"), "{told}");
            assert!(told.contains("at System.Environment.FailFast"), "its stack: {told}");
        }
        // The worker's own, with the bundle's library in it.
        "rust" | "c" => {
            assert!(told.contains("SIGSEGV: the stack of"), "{told}");
            let library = report.stderr.iter().any(|line| line.starts_with("  libprobe"));
            assert!(library, "{told}");
        }
        _ => {}
    }
}

#[test]
fn s2_a_crash_report_has_the_use_of_resources_and_the_languages_own_words() {
    run(async {
        let supervisor = start();
        for (n, language) in LANGUAGES.iter().enumerate() {
            let probe = probe(&supervisor, language.suffix).await;
            let outcome = probe.call::<_, ()>("crash", ()).await;
            assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
            // Rust's and C's are the same worker's.
            let count = if language.suffix == "c" { 2 } else { 1 };
            let report = report(&supervisor, language.loader, count).await;
            let usage = report.usage.unwrap();
            assert!(usage.max_rss_bytes > 1 << 20, "{n}: {report:?}");
            has_its_languages_words(language.suffix, &report);
            supervisor.unload(&format!("probe-{}", language.suffix)).await.unwrap();
        }
        supervisor.shutdown().await;
    });
}

/// P1: a bundle that wants all the memory there is gets an error, or costs its
/// worker its life; the host and its memory are not touched.
async fn p1_memory_exhaustion_under_a_limit_is_survived(suffix: &str) {
    let mut config = config();
    config.memory_limit = Some(1 << 30);
    let supervisor = start_with(config);
    let probe = probe(&supervisor, suffix).await;
    let outcome = probe.call::<_, menagerie_supervisor::ByteBuf>("blob", (1_900_000_000,)).await;
    assert!(
        matches!(outcome, Err(Failure::Guest(_) | Failure::WorkerCrashed { started: true, .. })),
        "{outcome:?}"
    );
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    supervisor.shutdown().await;
}

per_language!(rust, c, py, lua, js, dotnet; {
    p1_memory_exhaustion_under_a_limit_is_survived,
});
