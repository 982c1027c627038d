//! Calls that bundles make (rule C5), in every language.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use menagerie_supervisor::{Contract, Failure, HostError, RuntimeError, Supervisor};
use menagerie_tests::Language;
use rmpv::Value;

use crate::support::{Bundle, PATIENCE, config, run, slay, start, start_with, wait_for};

const KV: &str = "[[dependency]]\nkind = 'host'\ncontract = 'kv'\nmin_version = '1.0'";

fn provide_kv(supervisor: &Supervisor) {
    supervisor
        .host_contract("kv@1.3")
        .function("get", |key: String| async move {
            match key.as_str() {
                "missing" => Err(HostError::new("KeyError", "no such key")),
                _ => Ok(format!("value of {key}")),
            }
        })
        .function("add", |a: i64, b: i64| async move { a + b })
        .function("bytes", |bytes: menagerie_supervisor::ByteBuf| async move { bytes })
        .function("break_down", || async {
            if true {
                panic!("the host's own bug");
            }
        })
        .done()
        .unwrap();
}

/// A probe of a language that may call more than the sample does.
async fn probe(supervisor: &Supervisor, suffix: &str, more: &str) -> (Bundle, Contract) {
    let bundle = Bundle::copy_of(&Language::of(suffix).bundle("probe"), "caller", more);
    supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
    supervisor.load(bundle.path()).await.unwrap();
    (bundle, supervisor.contract("caller/probe@1").unwrap())
}

async fn caught(probe: &Contract, contract: &str, function: &str) -> Option<String> {
    probe.call("caught", (contract, function, [0; 0])).await.unwrap()
}

async fn c5_host_contracts_are_called_like_any_other(suffix: &str) {
    let supervisor = start();
    provide_kv(&supervisor);
    let (_bundle, probe) = probe(&supervisor, suffix, KV).await;
    let text: String = probe.call("call", ("kv@1", "get", ["a"])).await.unwrap();
    assert_eq!(text, "value of a");
    let sum: i64 = probe.call("call", ("kv", "add", [40, 2])).await.unwrap();
    assert_eq!(sum, 42);
    let bytes = Value::Binary(vec![7; 100_000]);
    let args = Value::Array(vec!["kv@1".into(), "bytes".into(), Value::Array(vec![bytes.clone()])]);
    assert!(probe.call_value("call", &args).await.unwrap() == bytes);
    supervisor.shutdown().await;
}

async fn c5_what_goes_wrong_in_the_host_is_caught_by_the_guest(suffix: &str) {
    let supervisor = start();
    provide_kv(&supervisor);
    let (_bundle, probe) = probe(&supervisor, suffix, KV).await;
    for (contract, function, kind) in [
        ("kv@1", "get", "BadArguments"),
        ("kv@1", "nothing", "NoSuchFunction"),
        ("kv@2", "get", "UndeclaredDependency"),
        ("other@1", "get", "UndeclaredDependency"),
        ("kv@1.9", "get", "NoSuchContract"),
        ("kv@1", "break_down", "HostPanicked"),
    ] {
        let found = caught(&probe, contract, function).await;
        assert_eq!(found.as_deref(), Some(kind), "{contract} {function}");
    }
    let kind: Option<String> = probe.call("caught", ("kv@1", "get", ["missing"])).await.unwrap();
    assert_eq!(kind.as_deref(), Some("Guest"));
    // The error of the host's function itself, where the guest lets it through.
    let failure = probe.call::<_, Value>("call", ("kv@1", "get", ["missing"])).await.unwrap_err();
    assert!(format!("{failure:?}").contains("no such key"), "{failure:?}");
    // The host goes on, and so does the bundle.
    let text: String = probe.call("call", ("kv@1", "get", ["a"])).await.unwrap();
    assert_eq!(text, "value of a");
    supervisor.shutdown().await;
}

async fn c5_a_host_contract_that_is_not_there_is_refused_at_load(suffix: &str) {
    let supervisor = start();
    let bundle = Bundle::copy_of(&Language::of(suffix).bundle("greeter"), "caller", KV);
    let error = supervisor.load(bundle.path()).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::UnsatisfiedCapability { contract, .. } if contract == "kv@1.0.0"),
        "{error:?}"
    );
    assert!(error.to_string().contains("the host does not provide"), "{error}");
    provide_kv(&supervisor);
    supervisor.load(bundle.path()).await.unwrap();
    supervisor.shutdown().await;
}

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

async fn c5_a_chain_that_comes_back_is_a_cycle_at_once(suffix: &str) {
    let supervisor = start();
    let code = "local menagerie = require 'menagerie'\n\
        return { ['returning@1'] = { go = function()\n\
          local ok, problem = pcall(menagerie.call, 'probe@1', 'inc', 1)\n\
          return ok and 'no cycle' or problem.kind\n\
        end } }\n";
    let manifest = "name = 'returning'\nloader = 'lua'\nfile = 'main.lua'\n\
        provides = ['returning@1']\n[[dependency]]\ncontract = 'probe@1'\n";
    let back = Bundle::of(&[("manifest.toml", manifest), ("main.lua", code)]);
    supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
    // Somebody else provides the probe while the two are loaded: no ring then.
    let other = if suffix == "lua" { "js" } else { "lua" };
    supervisor.load(Language::of(other).bundle("probe")).await.unwrap();
    supervisor.load(back.path()).await.unwrap();
    let needs = "[[dependency]]\ncontract = 'returning@1'";
    // By name it comes before all other probes.
    let bundle = Bundle::copy_of(&Language::of(suffix).bundle("probe"), "caller", needs);
    supervisor.load(bundle.path()).await.unwrap();
    let probe = supervisor.contract("caller/probe@1").unwrap();
    let kind: String = probe.call("call", ("returning@1", "go", [0; 0])).await.unwrap();
    assert_eq!(kind, "CycleDetected");
    // The same bundles, and no chain that comes back.
    let returning = supervisor.contract("returning@1").unwrap();
    assert_eq!(returning.call::<_, String>("go", ()).await.unwrap(), "no cycle");
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

macro_rules! outcalls {
    ($($language:ident),*; $cases:tt) => {
        $(outcalls!(@ $language $cases);)*
    };
    (@ $language:ident { $($case:ident),* $(,)? }) => {
        mod $language {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(stringify!($language)).await;
                }
            )*
        }
    };
}

outcalls!(rust, c, py, lua, js, dotnet; {
    c5_host_contracts_are_called_like_any_other,
    c5_what_goes_wrong_in_the_host_is_caught_by_the_guest,
    c5_a_host_contract_that_is_not_there_is_refused_at_load,
    c5_a_provider_that_dies_is_a_typed_error_in_its_caller,
    c5_a_chain_that_comes_back_is_a_cycle_at_once,
    s6_a_deadline_reaches_what_the_guest_waits_for,
});

/// An async bundle with three functions: `slow` waits at the gate, `go` and
/// `relay` first await something, then call `slow` and any function of `to`.
fn twin(language: &str, name: &str, to: &str) -> Bundle {
    let (loader, file) = if language == "py" { ("python", "main.py") } else { ("js", "main.js") };
    let manifest = format!(
        "name = '{name}'\nloader = '{loader}'\nfile = '{file}'\nprovides = ['{name}@1']\n\
         [[dependency]]\nkind = 'host'\ncontract = 'gate@1'\n\
         [[dependency]]\ncontract = '{to}@1'\n"
    );
    let code = if language == "py" {
        format!(
            "import asyncio, menagerie\n\
             async def ask(function, *args):\n\
             \x20   await asyncio.sleep(0.001)\n\
             \x20   try:\n\
             \x20       return await menagerie.call_async('{to}@1', function, *args)\n\
             \x20   except menagerie.CallError as error:\n\
             \x20       return error.kind\n\
             @menagerie.export('{name}@1')\n\
             async def go(function: str) -> str:\n\
             \x20   return await asyncio.create_task(ask(function))\n\
             @menagerie.export('{name}@1')\n\
             async def relay() -> str:\n\
             \x20   return await ask('slow')\n\
             @menagerie.export('{name}@1')\n\
             async def slow() -> str:\n\
             \x20   await menagerie.call_async('gate@1', 'wait')\n\
             \x20   return '{name}'\n"
        )
    } else {
        format!(
            "import {{ call }} from 'menagerie';\n\
             async function ask(name) {{\n\
               await new Promise((done) => setTimeout(done, 1));\n\
               try {{ return await call('{to}@1', name); }} catch (error) {{ return error.kind; }}\n\
             }}\n\
             export default {{ '{name}@1': {{\n\
               go: async (name) => await ask(name),\n\
               relay: async () => await ask('slow'),\n\
               async slow() {{ await call('gate@1', 'wait'); return '{name}'; }},\n\
             }} }};\n"
        )
    };
    Bundle::of(&[("manifest.toml", &manifest), (file, &code)])
}

/// Two that call each other, and one that stands in for the first while they
/// are loaded.
struct Twins {
    supervisor: Supervisor,
    open: Arc<tokio::sync::Semaphore>,
    at_gate: Arc<AtomicU32>,
    _bundles: [Bundle; 3],
}

impl Twins {
    async fn of(language: &str) -> Self {
        let supervisor = start_with(config());
        let open = Arc::new(tokio::sync::Semaphore::new(0));
        let at_gate = provide_gate(&supervisor, &open);
        let stand_in = Bundle::of(&[
            (
                "manifest.toml",
                "name = 'z'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['a@1']\n",
            ),
            ("main.lua", "return { ['a@1'] = { slow = function() return 'z' end } }\n"),
        ]);
        let (b, a) = (twin(language, "b", "a"), twin(language, "a", "b"));
        for bundle in [&stand_in, &b, &a] {
            supervisor.load(bundle.path()).await.unwrap();
        }
        Self { supervisor, open, at_gate, _bundles: [stand_in, b, a] }
    }

    fn go(&self, name: &str, function: &str) -> tokio::task::JoinHandle<Result<String, Failure>> {
        let contract = self.supervisor.contract(&format!("{name}/{name}@1")).unwrap();
        let function = function.to_owned();
        tokio::spawn(async move { contract.call("go", (function,)).await })
    }

    async fn wait_at_gate(&self, count: u32) {
        wait_for("calls to be at the gate", || {
            (self.at_gate.load(Ordering::SeqCst) == count).then_some(())
        })
        .await;
    }
}

/// The gate at which calls wait until it is opened.
fn provide_gate(supervisor: &Supervisor, open: &Arc<tokio::sync::Semaphore>) -> Arc<AtomicU32> {
    let (open, at_it) = (Arc::clone(open), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&at_it);
    supervisor
        .host_contract("gate@1")
        .function("wait", move || {
            let open = Arc::clone(&open);
            count.fetch_add(1, Ordering::SeqCst);
            async move { open.acquire().await.is_ok() }
        })
        .done()
        .unwrap();
    at_it
}

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

/// Two async bundles call each other at the same time, in chains of their own.
/// Each can answer while it waits, so that is no cycle; by bundle it would be.
async fn c5_async_bundles_are_told_apart_by_chain(language: &str) {
    let twins = Twins::of(language).await;
    let first = twins.go("a", "slow");
    twins.wait_at_gate(1).await;
    let second = twins.go("b", "slow");
    twins.wait_at_gate(2).await;
    twins.open.add_permits(100);
    assert_eq!(first.await.unwrap().unwrap(), "b");
    assert_eq!(second.await.unwrap().unwrap(), "a");
    twins.supervisor.shutdown().await;
}

/// An async bundle calls itself by way of another async one, after awaits: the
/// workers still know which calls are served. Another chain goes on meanwhile.
async fn c5_an_async_chain_that_comes_back_is_a_cycle_after_awaits_too(language: &str) {
    let twins = Twins::of(language).await;
    let other = twins.go("a", "slow");
    twins.wait_at_gate(1).await;
    let answer = twins.go("a", "relay").await.unwrap().unwrap();
    assert_eq!(answer, "CycleDetected");
    twins.open.add_permits(100);
    assert_eq!(other.await.unwrap().unwrap(), "b");
    // Without the one that waits, the very same call is answered.
    twins.supervisor.unload("a").await.unwrap();
    let contract = twins.supervisor.contract("b@1").unwrap();
    assert_eq!(contract.call::<_, String>("relay", ()).await.unwrap(), "z");
    twins.supervisor.shutdown().await;
}

mod chains {
    #[test]
    fn c5_async_bundles_are_told_apart_by_chain_in_js() {
        super::run(super::c5_async_bundles_are_told_apart_by_chain("js"));
    }

    #[test]
    fn s6_a_call_that_begins_too_late_is_ended_in_lua() {
        super::run(super::s6_a_call_that_begins_too_late_is_ended_as_well("lua", "softly"));
    }

    #[test]
    fn s6_a_call_that_begins_too_late_is_ended_in_py() {
        super::run(super::s6_a_call_that_begins_too_late_is_ended_as_well("py", "softly"));
    }

    #[test]
    fn s6_a_call_that_begins_too_late_is_ended_in_c() {
        super::run(super::s6_a_call_that_begins_too_late_is_ended_as_well("c", "the hard way"));
    }

    #[test]
    fn c7_calls_beyond_the_bound_are_refused_in_js() {
        super::run(super::c7_calls_beyond_the_bound_are_refused_in_the_guest("js"));
    }

    #[test]
    fn c7_calls_beyond_the_bound_are_refused_in_py() {
        super::run(super::c7_calls_beyond_the_bound_are_refused_in_the_guest("py"));
    }

    #[test]
    fn c5_async_bundles_are_told_apart_by_chain_in_py() {
        super::run(super::c5_async_bundles_are_told_apart_by_chain("py"));
    }

    #[test]
    fn c5_an_async_chain_that_comes_back_is_a_cycle_in_js() {
        super::run(super::c5_an_async_chain_that_comes_back_is_a_cycle_after_awaits_too("js"));
    }

    #[test]
    fn c5_an_async_chain_that_comes_back_is_a_cycle_in_py() {
        super::run(super::c5_an_async_chain_that_comes_back_is_a_cycle_after_awaits_too("py"));
    }
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

/// Each of two threads waits for the other's bundle: neither call could begin.
#[test]
fn c5_threads_that_would_wait_for_each_other_are_a_cycle() {
    run(async {
        let supervisor = start();
        let open = Arc::new(tokio::sync::Semaphore::new(0));
        let at_gate = provide_gate(&supervisor, &open);
        let blocking = |name: &str, to: &str| {
            let manifest = format!(
                "name = '{name}'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['{name}@1']\n\
                 [[dependency]]\nkind = 'host'\ncontract = 'gate@1'\n\
                 [[dependency]]\ncontract = '{to}@1'\n"
            );
            let code = format!(
                "local menagerie = require 'menagerie'\n\
                 return {{ ['{name}@1'] = {{\n\
                   go = function()\n\
                     menagerie.call('gate@1', 'wait')\n\
                     local ok, answer = pcall(menagerie.call, '{to}@1', 'answer')\n\
                     return ok and answer or answer.kind\n\
                   end,\n\
                   answer = function() return 'answer' end }} }}\n"
            );
            Bundle::of(&[("manifest.toml", &manifest), ("main.lua", &code)])
        };
        let stand_in = Bundle::of(&[
            (
                "manifest.toml",
                "name = 'z'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['a@1']\n",
            ),
            ("main.lua", "return { ['a@1'] = { answer = function() return 'z' end } }\n"),
        ]);
        supervisor.load(stand_in.path()).await.unwrap();
        let (a, b) = (blocking("a", "b"), blocking("b", "a"));
        supervisor.load(b.path()).await.unwrap();
        supervisor.load(a.path()).await.unwrap();
        let call = |name: &str| {
            let contract = supervisor.contract(&format!("{name}/{name}@1")).unwrap();
            let contract = contract.with_timeout(Duration::from_secs(60));
            tokio::spawn(async move { contract.call::<_, String>("go", ()).await })
        };
        let (first, second) = (call("a"), call("b"));
        wait_for("both to be at the gate", || (at_gate.load(Ordering::SeqCst) == 2).then_some(()))
            .await;
        open.add_permits(100);
        let answers = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
        // Whoever calls second is told; it answers, and the other one is served
        // then. If the first was answered before the second began, both are.
        let told = answers.iter().filter(|answer| *answer == "CycleDetected").count();
        let served = answers.iter().filter(|answer| *answer == "answer").count();
        assert!(told <= 1 && told + served == 2, "{answers:?}");
        supervisor.shutdown().await;
    });
}

/// What a host function calls is a part of the chain that has called it.
#[test]
fn c5_a_chain_that_comes_back_through_the_host_is_a_cycle_at_once() {
    run(async {
        let mut config = config();
        // Nothing else would end it.
        config.deadline = Duration::ZERO;
        let supervisor = start_with(config);
        let tell = |outcome: Result<i64, Failure>| format!("{outcome:?}");
        let (awaits, blocks) = (supervisor.clone(), supervisor.clone());
        supervisor
            .host_contract("h@1")
            .function("pass", move |contract: String, function: String| {
                let contract = awaits.contract(&contract).unwrap();
                async move { tell(contract.call(&function, ()).await) }
            })
            .function("block", move |contract: String, function: String| {
                let contract = blocks.contract(&contract).unwrap();
                async move {
                    tokio::task::block_in_place(|| tell(contract.call_blocking(&function, ())))
                }
            })
            .done()
            .unwrap();
        let mut bundles = Vec::new();
        for name in ["a", "b"] {
            let manifest = format!(
                "name = '{name}'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                 provides = ['{name}@1']\n[[dependency]]\nkind = 'host'\ncontract = 'h@1'\n"
            );
            let code = format!(
                "local menagerie = require 'menagerie'\n\
                 local seen\n\
                 local function by_host(how, contract, name)\n\
                   return menagerie.call('h@1', how, contract, name)\n\
                 end\n\
                 return {{ ['{name}@1'] = {{\n\
                   one = function() return 1 end,\n\
                   go = by_host,\n\
                   back = function() seen = by_host('pass', 'a@1', 'one'); return 2 end,\n\
                   on = function() seen = by_host('pass', 'c@1', 'one'); return 3 end,\n\
                   seen = function() return seen end,\n\
                 }} }}\n"
            );
            let bundle = Bundle::of(&[("manifest.toml", &manifest), ("main.lua", &code)]);
            supervisor.load(bundle.path()).await.unwrap();
            bundles.push(bundle);
        }
        let c = "name = 'c'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                 provides = ['c@1']\n";
        let code = "return { ['c@1'] = { one = function() return 1 end } }";
        supervisor.load_code(c, code).await.unwrap();
        let contract = |name| supervisor.contract(name).unwrap();
        let (a, b) = (contract("a@1"), contract("b@1"));
        let cycle = |chain: &[&str]| {
            let chain = chain.iter().map(|&name| name.to_owned()).collect();
            tell(Err(Failure::CycleDetected { chain }))
        };
        for how in ["pass", "block"] {
            let go = |contract: &'static str, function: &'static str| {
                let a = a.clone();
                async move { a.call::<_, String>("go", (how, contract, function)).await.unwrap() }
            };
            assert_eq!(go("a@1", "one").await, cycle(&["a", "a"]));
            assert_eq!(go("b@1", "one").await, tell(Ok(1)));
            assert_eq!(go("b@1", "back").await, tell(Ok(2)));
            assert_eq!(b.call::<_, String>("seen", ()).await.unwrap(), cycle(&["a", "b", "a"]));
            // The host may be called twice in one chain: no thread of its own is waited for.
            assert_eq!(go("b@1", "on").await, tell(Ok(3)));
            assert_eq!(b.call::<_, String>("seen", ()).await.unwrap(), tell(Ok(1)));
            // The same bundles in another chain.
            let other = b.call::<_, String>("go", (how, "a@1", "one")).await;
            assert_eq!(other.unwrap(), tell(Ok(1)));
        }
        // Refused calls of functions that are there have ended, too.
        assert_eq!(a.call::<_, i64>("one", ()).await.unwrap(), 1);
        supervisor.shutdown().await;
    });
}
