//! Calls of bundles that would come back, and those that only look like it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use menagerie_supervisor::{Failure, Supervisor};
use menagerie_tests::Language;

use super::provide_gate;
use crate::support::{Bundle, config, run, start, start_with, wait_for};

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

outcalls!(rust, c, py, lua, js, dotnet; {
    c5_a_chain_that_comes_back_is_a_cycle_at_once,
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

#[test]
fn c5_async_bundles_are_told_apart_by_chain_in_js() {
    run(c5_async_bundles_are_told_apart_by_chain("js"));
}

#[test]
fn c5_async_bundles_are_told_apart_by_chain_in_py() {
    run(c5_async_bundles_are_told_apart_by_chain("py"));
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

#[test]
fn c5_an_async_chain_that_comes_back_is_a_cycle_in_js() {
    run(c5_an_async_chain_that_comes_back_is_a_cycle_after_awaits_too("js"));
}

#[test]
fn c5_an_async_chain_that_comes_back_is_a_cycle_in_py() {
    run(c5_an_async_chain_that_comes_back_is_a_cycle_after_awaits_too("py"));
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
