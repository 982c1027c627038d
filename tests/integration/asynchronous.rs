//! Asynchronous functions: after an await they still know whose bundle and whose
//! call they serve (rule C5), and a bundle may give its own call up (C3).

use menagerie_supervisor::{Contract, Failure, Supervisor};
use menagerie_tests::Language;
use tracing::Level;

use crate::support::{Bundle, config, find_line, run, start, wait_for};

/// The bundle in C# whose functions return tasks; it is one of the worker's own.
async fn load_tasks(supervisor: &Supervisor, name: &str, more: &str) -> Contract {
    let target = config().worker_dir.unwrap();
    let assembly = target.parent().unwrap().join("dotnet/fixtures/tasks.dll");
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = 'dotnet'\nprovides = ['tasks@1']\n{more}\n"
    );
    supervisor.load_bytes(&manifest, std::fs::read(assembly).unwrap()).await.unwrap();
    supervisor.contract(&format!("{name}/tasks@1")).unwrap()
}

/// A bundle in Lua.
fn in_lua(name: &str, more: &str, functions: &str) -> Bundle {
    let manifest =
        format!("name = '{name}'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n{more}\n");
    let code = format!("local menagerie = require 'menagerie'\nreturn {{ {functions} }}\n");
    Bundle::of(&[("manifest.toml", &manifest), ("main.lua", &code)])
}

#[test]
fn c5_a_chain_that_comes_back_after_an_await_is_a_cycle_in_dotnet() {
    run(async {
        let supervisor = start();
        // Provides the tasks while the two are loaded: no ring then.
        let stand_in = in_lua(
            "z",
            "provides = ['tasks@1']",
            "['tasks@1'] = { ready = function() return 'z' end }",
        );
        let returning = in_lua(
            "returning",
            "provides = ['returning@1']\n[[dependency]]\ncontract = 'tasks@1'",
            "['returning@1'] = { go = function(_)\n\
               local ok, answer = pcall(menagerie.call, 'tasks@1', 'ready')\n\
               return ok and 'no cycle' or answer.kind\n\
             end }",
        );
        supervisor.load(stand_in.path()).await.unwrap();
        supervisor.load(returning.path()).await.unwrap();
        // By name it comes before the one that stands in.
        let needs = "[[dependency]]\ncontract = 'returning@1'";
        let tasks = load_tasks(&supervisor, "caller", needs).await;
        let kind: String = tasks.call("call_later", ("returning@1", "go")).await.unwrap();
        assert_eq!(kind, "CycleDetected");
        // The same bundles, and no chain that comes back.
        let returning = supervisor.contract("returning@1").unwrap();
        assert_eq!(returning.call::<_, String>("go", ("",)).await.unwrap(), "no cycle");
        supervisor.shutdown().await;
    });
}

#[test]
fn c5_what_is_logged_after_an_await_names_its_bundle_in_dotnet() {
    run(async {
        let supervisor = start();
        // Two of them in one worker: it is not the only bundle that it can be.
        let names = ["first-tasks", "second-tasks"];
        for name in names {
            let tasks = load_tasks(&supervisor, name, "").await;
            tasks.call::<_, ()>("say_later", (format!("hello from {name}"),)).await.unwrap();
        }
        for name in names {
            for (source, level) in [("log", Level::WARN), ("stdout", Level::INFO)] {
                let line = wait_for("the line", || {
                    find_line(|line| {
                        line.source.as_deref() == Some(source)
                            && line.message.contains(&format!("hello from {name}"))
                    })
                })
                .await;
                assert_eq!((line.bundle.as_deref(), line.level), (Some(name), level));
            }
        }
        supervisor.shutdown().await;
    });
}

/// A bundle in Python that lets calls wait, and gives them up when it is told.
fn quitter() -> Bundle {
    let manifest = "name = 'quitter'\nversion = '1.0.0'\nloader = 'python'\nfile = 'main.py'\n\
        provides = ['quitter@1']\n";
    let code = "import asyncio, menagerie\n\
        tasks = []\n\
        @menagerie.export('quitter@1')\n\
        async def wait() -> None:\n\
        \x20   tasks.append(asyncio.current_task())\n\
        \x20   await asyncio.Event().wait()\n\
        @menagerie.export('quitter@1')\n\
        def waiting() -> int:\n\
        \x20   return len(tasks)\n\
        @menagerie.export('quitter@1')\n\
        def give_up() -> None:\n\
        \x20   for task in tasks:\n\
        \x20       task.cancel()\n";
    Bundle::of(&[("manifest.toml", manifest), ("main.py", code)])
}

/// Whoever waits for the call learns it, be it a thread of the host's that
/// blocks or another bundle.
#[test]
fn c3_a_call_that_its_bundle_gives_up_is_cancelled_in_py() {
    run(async {
        let supervisor = start();
        let quitter = quitter();
        supervisor.load(quitter.path()).await.unwrap();
        let caller = in_lua(
            "caller",
            "provides = ['caller@1']\n[[dependency]]\ncontract = 'quitter@1'",
            "['caller@1'] = { go = function()\n\
               local ok, problem = pcall(menagerie.call, 'quitter@1', 'wait')\n\
               return ok and 'a value' or problem.kind\n\
             end }",
        );
        supervisor.load(caller.path()).await.unwrap();
        let quitter = supervisor.contract("quitter@1").unwrap();
        let blocking = {
            let quitter = quitter.clone();
            std::thread::spawn(move || quitter.call_blocking::<_, ()>("wait", ()))
        };
        let caller = supervisor.contract("caller@1").unwrap();
        let calling = tokio::spawn(async move { caller.call::<_, String>("go", ()).await });
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        while quitter.call::<_, u32>("waiting", ()).await.unwrap() < 2 {
            assert!(std::time::Instant::now() < deadline, "the calls have not begun");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        quitter.call::<_, ()>("give_up", ()).await.unwrap();
        assert_eq!(calling.await.unwrap().unwrap(), "Cancelled");
        wait_for("the thread", || blocking.is_finished().then_some(())).await;
        assert_eq!(blocking.join().unwrap(), Err(Failure::Cancelled));
        // The bundle goes on, and so does its worker.
        assert_eq!(quitter.call::<_, u32>("waiting", ()).await.unwrap(), 2);
        let worker = crate::support::worker(&supervisor, Language::of("py").loader).unwrap();
        assert_eq!(worker.restarts, 0);
        supervisor.shutdown().await;
    });
}
