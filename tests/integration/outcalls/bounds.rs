//! What ends a bundle's own calls: deaths, deadlines, and the bound on their number.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use menagerie_supervisor::Failure;
use menagerie_tests::Language;
use rmpv::Value;

use super::{caught, probe, provide_gate};
use crate::support::{Bundle, Gate, PATIENCE, config, run, slay, start, start_with, wait_for};

/// The provider lives in another worker than the caller, or it would take the
/// caller with it.
async fn c5_a_provider_that_dies_is_a_typed_error_in_its_caller(suffix: &str) {
    let supervisor = start();
    let other = if suffix == "lua" { "js" } else { "lua" };
    let victim = Bundle::copy_of(&Language::of(other).bundle("probe"), "victim", "");
    supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
    supervisor.load(victim.path()).await.unwrap();
    let needs = "[[dependency]]\ncontract = 'probe@1'\nbundle = 'victim'";
    let bundle = Bundle::copy_of(&Language::of(suffix).bundle("probe"), "caller", needs);
    supervisor.load(bundle.path()).await.unwrap();
    let probe = supervisor.contract("caller/probe@1").unwrap();
    let kind = caught(&probe, "victim/probe@1", "crash").await;
    assert_eq!(kind.as_deref(), Some("WorkerCrashed"));
    // The caller goes on, and its provider is back.
    let next: i64 = probe.call("call", ("victim/probe@1", "inc", [1])).await.unwrap();
    assert_eq!(next, 2);
    supervisor.shutdown().await;
}

/// A guest that waits for another bundle is not to blame for it: what it waits for ends
/// with its own call, and nobody has to die.
async fn s6_a_deadline_reaches_what_the_guest_waits_for(suffix: &str) {
    let mut config = config();
    // So long that nothing but the caller's deadline can have ended it.
    config.grace = Duration::from_secs(3600);
    config.deadline = Duration::ZERO;
    let supervisor = start_with(config);
    let other = if suffix == "lua" { "js" } else { "lua" };
    let victim = Bundle::copy_of(&Language::of(other).bundle("probe"), "victim", "");
    supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
    supervisor.load(victim.path()).await.unwrap();
    let at_gate = provide_gate(&supervisor, &Arc::new(tokio::sync::Semaphore::new(0)));
    let needs = "[[dependency]]\ncontract = 'probe@1'\nbundle = 'victim'\n\
                 [[dependency]]\nkind = 'host'\ncontract = 'gate@1'";
    let bundle = Bundle::copy_of(&Language::of(suffix).bundle("probe"), "caller", needs);
    supervisor.load(bundle.path()).await.unwrap();
    let probe = supervisor.contract("caller/probe@1").unwrap();
    let asleep = Value::Array(vec![
        "victim/probe@1".into(),
        "sleep_ms".into(),
        Value::Array(vec![600_000.into()]),
    ]);
    let hasty = probe.clone().with_timeout(Duration::from_millis(200));
    let outcome = hasty.call_value("call", &asleep).await;
    assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
    let victim = supervisor.contract("victim/probe@1").unwrap();
    for bundle in [&probe, &victim] {
        let bundle = bundle.clone().with_timeout(PATIENCE);
        assert_eq!(bundle.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    }
    // So it is with a call that is cancelled.
    let waiting = tokio::spawn({
        let probe = probe.clone();
        async move { probe.call::<_, Value>("call", ("gate@1", "wait", [0; 0])).await }
    });
    wait_for("the call to be at the gate", || (at_gate.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
    waiting.abort();
    let probe = probe.with_timeout(PATIENCE);
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    assert!(supervisor.crashes().is_empty());
    supervisor.shutdown().await;
}

/// The configuration's deadline is for those that the host makes without another.
async fn s6_what_a_guest_calls_has_the_time_of_its_own_call(suffix: &str) {
    let mut config = config();
    config.deadline = Duration::from_millis(300);
    // Nobody dies for those whose time is up.
    config.grace = PATIENCE;
    let supervisor = start_with(config);
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let at_gate = provide_gate(&supervisor, &open);
    let gate = Gate::new();
    let slow = gate.bundle("slow", "", "");
    supervisor.load(slow.path()).await.unwrap();
    let needs = "[[dependency]]\nkind = 'host'\ncontract = 'gate@1'\n\
                 [[dependency]]\ncontract = 'slow@1'";
    let (_bundle, probe) = probe(&supervisor, suffix, needs).await;
    // Its time begins after that of the guest's call, which would be up before.
    let another_one_ends = || async {
        let outcome = supervisor.contract("slow@1").unwrap().call::<_, ()>("pass", ()).await;
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
    };
    for (round, time) in (1..).zip([PATIENCE, Duration::ZERO]) {
        let calls = |contract: &'static str, function: &'static str| {
            let probe = probe.clone().with_timeout(time);
            let args = (contract, function, [0; 0]);
            tokio::spawn(async move { probe.call::<_, Value>("call", args).await })
        };
        gate.close();
        let host = calls("gate@1", "wait");
        let is_there = || (at_gate.load(Ordering::SeqCst) == round).then_some(());
        wait_for("the call to be at the host's gate", is_there).await;
        another_one_ends().await;
        open.add_permits(1);
        host.await.unwrap().unwrap();
        open.forget_permits(1);
        let bundle = calls("slow@1", "pass");
        let slow = || supervisor.status().bundles.into_iter().find(|b| b.name == "slow").unwrap();
        let is_there = || (slow().calls.in_flight > 0).then_some(());
        wait_for("the call to be at the bundle's gate", is_there).await;
        another_one_ends().await;
        gate.open();
        bundle.await.unwrap().unwrap();
    }
    assert!(supervisor.crashes().is_empty());
    supervisor.shutdown().await;
}

outcalls!(rust, c, py, lua, js, dotnet; {
    c5_a_provider_that_dies_is_a_typed_error_in_its_caller,
    s6_what_a_guest_calls_has_the_time_of_its_own_call,
    s6_a_deadline_reaches_what_the_guest_waits_for,
});

/// A bundle whose function `flood` makes so many calls at once, and says how many ended
/// with a value and how many as `Overloaded`; and `churn`, which has as many open all the
/// time as it may.
fn flood(language: &str) -> Bundle {
    let (loader, file, code) = match language {
        "py" => (
            "python",
            "main.py",
            "import asyncio, menagerie\n\
             @menagerie.export('flood@1')\n\
             async def flood(count: int) -> list:\n\
             \x20   calls = (menagerie.call_async('gate@1', 'wait') for _ in range(count))\n\
             \x20   ended = await asyncio.gather(*calls, return_exceptions=True)\n\
             \x20   kinds = [getattr(end, 'kind', end) for end in ended]\n\
             \x20   return [kinds.count(True), kinds.count('Overloaded')]\n\
             @menagerie.export('flood@1')\n\
             async def churn(width: int, each: int) -> None:\n\
             \x20   async def some():\n\
             \x20       for _ in range(each):\n\
             \x20           await menagerie.call_async('gate@1', 'wait')\n\
             \x20   await asyncio.gather(*(some() for _ in range(width)))\n",
        ),
        _ => (
            "js",
            "main.js",
            "import { call } from 'menagerie';\n\
             const wait = () => call('gate@1', 'wait');\n\
             export default { 'flood@1': {\n\
               async flood(count) {\n\
                 const caught = (error) => error.kind;\n\
                 const calls = Array.from({ length: count }, () => wait().catch(caught));\n\
                 const ended = await Promise.all(calls);\n\
                 const of = (what) => ended.filter((end) => end === what).length;\n\
                 return [of(true), of('Overloaded')];\n\
               },\n\
               async churn(width, each) {\n\
                 const some = async () => { for (let n = 0; n < each; n++) await wait(); };\n\
                 await Promise.all(Array.from({ length: width }, some));\n\
               },\n\
             } };\n",
        ),
    };
    let manifest = format!(
        "name = 'flood'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
         provides = ['flood@1']\n[[dependency]]\nkind = 'host'\ncontract = 'gate@1'\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), (file, code)])
}

async fn c7_calls_beyond_the_bound_are_refused_in_the_guest(language: &str) {
    let supervisor = start();
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let at_gate = provide_gate(&supervisor, &open);
    let bundle = flood(language);
    supervisor.load(bundle.path()).await.unwrap();
    let flood = supervisor.contract("flood@1").unwrap().with_timeout(PATIENCE);
    let flooding = {
        let flood = flood.clone();
        tokio::spawn(async move { flood.call::<_, (u32, u32)>("flood", (3000,)).await })
    };
    wait_for("calls to be at the gate", || (at_gate.load(Ordering::SeqCst) == 1024).then_some(()))
        .await;
    open.add_permits(1 << 20);
    assert_eq!(flooding.await.unwrap().unwrap(), (1024, 3000 - 1024));
    // Each answer makes room for the next call at once.
    flood.call::<_, ()>("churn", (1024, 10)).await.unwrap();
    assert!(supervisor.crashes().is_empty());
    supervisor.shutdown().await;
}

#[test]
fn c7_calls_beyond_the_bound_are_refused_in_js() {
    run(c7_calls_beyond_the_bound_are_refused_in_the_guest("js"));
}

#[test]
fn c7_calls_beyond_the_bound_are_refused_in_py() {
    run(c7_calls_beyond_the_bound_are_refused_in_the_guest("py"));
}

/// A call whose caller has gone before it was begun is begun all the same, as its worker
/// cannot know. It is asked to stop then; a worker where that does not help is ended.
async fn s6_a_call_that_begins_too_late_is_ended_as_well(language: &str, how: &str) {
    let mut config = config();
    if how == "softly" {
        config.grace = Duration::from_secs(3600);
    }
    let supervisor = start_with(config);
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let at_gate = provide_gate(&supervisor, &open);
    let needs = "[[dependency]]\nkind = 'host'\ncontract = 'gate@1'";
    let (_bundle, probe) = probe(&supervisor, language, needs).await;
    let probe = probe.with_timeout(PATIENCE);
    let first = tokio::spawn({
        let probe = probe.clone();
        async move { probe.call::<_, Value>("call", ("gate@1", "wait", [0; 0])).await }
    });
    wait_for("the call to be at the gate", || (at_gate.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
    let hasty = probe.clone().with_timeout(Duration::from_millis(200));
    let outcome = if how == "softly" {
        hasty.call::<_, Value>("sleep_ms", (600_000,)).await
    } else {
        hasty.call::<_, Value>("spin", ()).await
    };
    assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
    open.add_permits(1);
    first.await.unwrap().unwrap();
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    assert_eq!(supervisor.crashes().is_empty(), how == "softly");
    supervisor.shutdown().await;
}

#[test]
fn s6_a_call_that_begins_too_late_is_ended_in_lua() {
    run(s6_a_call_that_begins_too_late_is_ended_as_well("lua", "softly"));
}

#[test]
fn s6_a_call_that_begins_too_late_is_ended_in_py() {
    run(s6_a_call_that_begins_too_late_is_ended_as_well("py", "softly"));
}

#[test]
fn s6_a_call_that_begins_too_late_is_ended_in_c() {
    run(s6_a_call_that_begins_too_late_is_ended_as_well("c", "the hard way"));
}

/// A caller that dies while it waits does not leave its wait behind.
#[tokio::test(flavor = "multi_thread")]
async fn c5_a_caller_that_dies_waits_no_more() {
    let supervisor = start();
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let at_gate = provide_gate(&supervisor, &open);
    let (_bundle, probe) =
        probe(&supervisor, "py", "[[dependency]]\nkind = 'host'\ncontract = 'gate@1'").await;
    let calling = tokio::spawn({
        let probe = probe.clone();
        async move { probe.call::<_, Value>("call", ("gate@1", "wait", [0; 0])).await }
    });
    wait_for("the call to wait", || (at_gate.load(Ordering::SeqCst) == 1).then_some(())).await;
    slay(crate::support::worker(&supervisor, "python").unwrap().pid.unwrap());
    let outcome = calling.await.unwrap();
    assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
    assert_eq!(probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    // Nobody holds the gate's function any more: its future was dropped.
    wait_for("the host's function to be dropped", || (Arc::strong_count(&open) == 2).then_some(()))
        .await;
    supervisor.shutdown().await;
}
