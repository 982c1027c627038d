//! Rule S5, for bundles that end their own threads from VMs that do not expect it. The
//! lane's thread is the worker's: without it nobody would ever answer.

use std::time::Duration;

use menagerie_supervisor::{BundleState, Contract, Failure, LogEntry, Supervisor};

use super::strays::{answers, at_work, strict};
use super::{at_once_and_for_ever, in_state};
use crate::bad_input::bundles::assembly;
use crate::support::{Bundle, report, run_with, wait_for};

/// A bundle that ends its lane's thread in several ways.
const IN_PYTHON: &str = r#"
import asyncio
import ctypes
import pathlib
import time

import menagerie

# The first lets others run Python meanwhile, the second does not.
ways = {"c": ctypes.CDLL(None), "python": ctypes.PyDLL(None)}


def end_thread(way):
    ways[way].pthread_exit(None)


@menagerie.export("CONTRACT")
def inc(n: int) -> int:
    return n + 1


@menagerie.export("CONTRACT")
def quit(way: str) -> None:
    end_thread(way)


@menagerie.export("CONTRACT")
async def quit_later(way: str) -> None:
    await asyncio.sleep(0)
    end_thread(way)


@menagerie.export("CONTRACT")
async def quit_in_a_callback(way: str) -> None:
    asyncio.get_running_loop().call_soon(end_thread, way)
    await asyncio.sleep(3600)


@menagerie.export("CONTRACT")
def sleep_from(path: str) -> None:
    pathlib.Path(path).touch()
    while True:
        time.sleep(0.01)
"#;

async fn load_python(supervisor: &Supervisor, name: &str) -> (Contract, Bundle) {
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = 'python'\nfile = 'main.py'\n\
         provides = ['{name}@1']\n"
    );
    let code = IN_PYTHON.replace("CONTRACT", &format!("{name}@1"));
    let bundle = Bundle::of(&[("manifest.toml", &manifest), ("main.py", &code)]);
    supervisor.load(bundle.path()).await.unwrap();
    (supervisor.contract(&format!("{name}@1")).unwrap(), bundle)
}

/// The thread unwinds, and CPython would end the process over that before anybody has
/// said whose doing it was.
#[test]
fn s5_a_bundle_in_python_that_ends_its_own_thread_is_blamed() {
    run_with(strict(), |supervisor| async move {
        let (innocent, _files) = load_python(&supervisor, "innocent").await;
        let (quitter, files) = load_python(&supervisor, "quitter").await;
        let mut deaths = 0;
        for function in ["quit", "quit_later", "quit_in_a_callback"] {
            for way in ["c", "python"] {
                let working = at_work(&innocent).await;
                let outcome = quitter.call::<_, ()>(function, (way,)).await;
                let crashed = matches!(&outcome, Err(Failure::WorkerCrashed { started: true, .. }));
                assert!(crashed, "{function} {way}: {outcome:?}");
                assert!(working.await.unwrap().is_err());
                deaths += 1;
                let told = report(&supervisor, "python", deaths).await;
                assert_eq!(told.suspect.as_deref(), Some("quitter"), "{function} {way}: {told:?}");
                in_state(&supervisor, "quitter", BundleState::Quarantined).await;
                answers(&innocent).await;
                supervisor.reload("quitter").await.unwrap();
                answers(&quitter).await;
            }
        }
        // While it is loaded, and when it has been.
        let main = std::fs::read_to_string(files.path().join("main.py")).unwrap();
        for more in ["end_thread('c')\n", "def on_load(context):\n    end_thread('c')\n"] {
            files.write("main.py", &format!("{main}\n\n{more}"));
            let working = at_work(&innocent).await;
            assert!(supervisor.reload("quitter").await.is_err());
            assert!(working.await.unwrap().is_err());
            deaths += 1;
            let told = report(&supervisor, "python", deaths).await;
            assert_eq!(told.suspect.as_deref(), Some("quitter"), "{more}: {told:?}");
            answers(&innocent).await;
        }
    });
}

/// The bundle in C# that ends threads; it is one of the worker's own.
async fn load_dotnet(supervisor: &Supervisor, name: &str) -> Contract {
    supervisor.load_bytes(&manifest_of_dotnet(name), image("quits")).await.unwrap();
    supervisor.contract(&format!("{name}/quits@1")).unwrap()
}

fn manifest_of_dotnet(name: &str) -> String {
    format!("name = '{name}'\nversion = '1.0.0'\nloader = 'dotnet'\nprovides = ['quits@1']\n")
}

fn image(name: &str) -> Vec<u8> {
    std::fs::read(assembly(name)).unwrap()
}

/// The ways of ending a thread: the library's, which unwinds it, and the system's.
const WAYS: [&str; 2] = ["pthread_exit", "exit"];

/// Unwinding ends at the first frame of compiled C#, of which the library knows nothing:
/// no destructor says whose doing it was.
#[test]
fn s5_a_bundle_in_dotnet_that_ends_its_own_thread_is_blamed() {
    run_with(strict(), |supervisor| async move {
        let innocent = load_dotnet(&supervisor, "innocent").await;
        let quitter = load_dotnet(&supervisor, "quitter").await;
        for (n, way) in (1..).zip(WAYS) {
            let working = at_work(&innocent).await;
            // Behind it, and so not begun: the next worker answers (C4).
            let waiting = innocent.clone();
            let waiting = tokio::spawn(async move { answers(&waiting).await });
            let outcome = quitter.call::<_, ()>("quit", (way,)).await;
            let crashed = matches!(&outcome, Err(Failure::WorkerCrashed { started: true, .. }));
            assert!(crashed, "{way}: {outcome:?}");
            assert!(working.await.unwrap().is_err());
            waiting.await.unwrap();
            let told = report(&supervisor, "dotnet", n).await;
            assert_eq!(told.suspect.as_deref(), Some("quitter"), "{way}: {told:?}");
            in_state(&supervisor, "quitter", BundleState::Quarantined).await;
            answers(&innocent).await;
            supervisor.reload("quitter").await.unwrap();
            answers(&quitter).await;
        }
    });
}

#[test]
fn s5_a_bundle_in_dotnet_that_ends_its_own_thread_in_a_load_is_blamed() {
    let mut config = strict();
    config.restart = at_once_and_for_ever();
    run_with(config, |supervisor| async move {
        let innocent = load_dotnet(&supervisor, "innocent").await;
        let hooks = WAYS.map(|way| (format!("on-load-{way}"), "quits"));
        let bundles = hooks.into_iter().chain([("at-once".to_owned(), "quits_at_once")]);
        let mut deaths = 0;
        for (name, code) in bundles {
            let working = at_work(&innocent).await;
            let outcome = supervisor.load_bytes(&manifest_of_dotnet(&name), image(code)).await;
            assert!(outcome.is_err(), "{name}: {outcome:?}");
            assert!(working.await.unwrap().is_err());
            // It is known whose doing it was: the load is not tried again.
            deaths += 1;
            let told = report(&supervisor, "dotnet", deaths).await;
            assert_eq!(told.suspect.as_deref(), Some(&*name), "{told:?}");
            answers(&innocent).await;
        }
    });
}

/// A thread of its own is the bundle's to end: nobody else minds.
#[test]
fn s5_a_bundle_in_dotnet_may_end_threads_of_its_own() {
    run_with(strict(), |supervisor| async move {
        let innocent = load_dotnet(&supervisor, "innocent").await;
        let quitter = load_dotnet(&supervisor, "quitter").await;
        let working = at_work(&innocent).await;
        for way in WAYS {
            let ended: bool = quitter.call("quit_thread", (way,)).await.unwrap();
            // .NET hears of it where the thread unwinds, and else never.
            assert_eq!(ended, way == "pthread_exit");
            answers(&quitter).await;
            supervisor.reload("quitter").await.unwrap();
            answers(&quitter).await;
        }
        assert!(!working.is_finished());
        let died = supervisor.crashes();
        assert!(died.is_empty(), "{died:?}");
    });
}

/// What a task of its own was doing is never done, and the call waits for it as for
/// anything else that hangs (S6).
#[test]
fn s6_a_bundle_in_dotnet_that_ends_the_thread_of_its_task_is_blamed_at_the_deadline() {
    run_with(strict(), |supervisor| async move {
        let innocent = load_dotnet(&supervisor, "innocent").await;
        let quitter = load_dotnet(&supervisor, "quitter").await;
        let working = at_work(&innocent).await;
        let short = quitter.with_timeout(Duration::from_secs(1));
        let outcome = short.call::<_, ()>("quit_later", (WAYS[0],)).await;
        assert!(matches!(outcome, Err(Failure::DeadlineExceeded { .. })), "{outcome:?}");
        assert!(working.await.unwrap().is_err());
        in_state(&supervisor, "quitter", BundleState::Quarantined).await;
        answers(&innocent).await;
    });
}

/// One such finalizer is enough: none runs after it in that worker, of whatever bundle.
#[test]
fn l8_finalizers_that_run_no_more_in_dotnet_are_reported() {
    run_with(strict(), |supervisor| async move {
        let warnings = |bundle: &str| {
            let of_bundle = |entry: &LogEntry| {
                entry.bundle.as_deref() == Some(bundle) && entry.source == "menagerie"
            };
            let logs = supervisor.logs().into_iter().filter(of_bundle);
            logs.map(|entry| entry.message).collect::<Vec<_>>()
        };
        let unload = async |name: &str| {
            supervisor.unload(name).await.unwrap();
            let warned = wait_for("the warning", || warnings(name).pop()).await;
            assert!(warned.contains("a finalizer"), "{name}: {warned}");
        };
        for way in ["sleep"].into_iter().chain(WAYS) {
            let guilty = load_dotnet(&supervisor, way).await;
            guilty.call::<_, ()>("leave_remnant", (way,)).await.unwrap();
            unload(way).await;
            let after = format!("after-{way}");
            load_dotnet(&supervisor, &after).await;
            unload(&after).await;
            supervisor.restart("dotnet").await.unwrap();
            let free = format!("free-of-{way}");
            answers(&load_dotnet(&supervisor, &free).await).await;
            supervisor.unload(&free).await.unwrap();
            assert_eq!(warnings(&free), Vec::<String>::new());
        }
        assert!(supervisor.crashes().is_empty());
    });
}
