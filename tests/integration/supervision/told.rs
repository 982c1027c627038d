//! A crash is told by the thread that learns of it first (rule S2), whatever the host's
//! runtime does meanwhile; what follows from it comes after it.

use std::mem::ManuallyDrop;
use std::sync::mpsc;

use menagerie_supervisor::{EventKind, Supervisor, WorkerState};

use super::{Guest, answers, load, lua, lua_with};
use crate::support::{Bundle, Recorder, ready_after, report, run, slay, start, wait_for, worker};

/// A host whose runtime has one thread, beside the test's own.
struct Host {
    // To drop it is to wait for its thread.
    runtime: ManuallyDrop<tokio::runtime::Runtime>,
    supervisor: Supervisor,
    states: Recorder,
    guest: Guest,
    pid: u32,
    /// That of the process.
    incarnation: u64,
}

impl Host {
    async fn with(loader: &str, bundle: Bundle) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let supervisor = {
            let _here = runtime.enter();
            start()
        };
        let states = Recorder::of(&supervisor);
        let guest = load(&supervisor, bundle).await;
        let pid = ready_after(&supervisor, loader, 0).await.pid.unwrap();
        Self { runtime: ManuallyDrop::new(runtime), supervisor, states, guest, pid, incarnation: 1 }
    }

    /// The process dies while the runtime's thread does not come back.
    async fn crash_while_busy(&self) -> mpsc::Sender<()> {
        let (busy, is_busy) = tokio::sync::oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        self.runtime.spawn(async move {
            busy.send(()).unwrap();
            let _ = released.recv();
        });
        is_busy.await.unwrap();
        slay(self.pid);
        let crashed = |event: &EventKind| match event {
            EventKind::WorkerState { state, incarnation, .. } => {
                let it = (WorkerState::Crashed, self.incarnation);
                ((*state, *incarnation) == it).then_some(())
            }
            _ => None,
        };
        self.states.wait("the crash to be told", crashed).await;
        release
    }

    /// The states since the worker was ready for the first time.
    fn states(&self) -> Vec<(WorkerState, u64)> {
        let states = self.states.all().into_iter().filter_map(|event| match event {
            EventKind::WorkerState { state, incarnation, .. } => Some((state, incarnation)),
            _ => None,
        });
        states.skip_while(|(state, _)| *state != WorkerState::Ready).skip(1).collect()
    }
}

#[test]
fn s2_a_crash_is_told_while_the_runtime_is_busy() {
    run(async {
        let host = Host::with("lua", lua("probe")).await;
        let release = host.crash_while_busy().await;
        assert_eq!(host.states(), [(WorkerState::Crashed, 1)]);
        let seen = worker(&host.supervisor, "lua").unwrap();
        assert_eq!((seen.state, seen.pid), (WorkerState::Crashed, None));
        drop(release);
        ready_after(&host.supervisor, "lua", 1).await;
        answers(&host.guest).await;
        assert_eq!(report(&host.supervisor, "lua", 1).await.incarnation, 1);
        // Once, and each in the incarnation that it belongs to.
        let all = [
            (WorkerState::Crashed, 1),
            (WorkerState::Backoff, 1),
            (WorkerState::Starting, 2),
            (WorkerState::Ready, 2),
        ];
        wait_for("the states", || (host.states().len() >= all.len()).then_some(())).await;
        assert_eq!(host.states(), all);
        host.supervisor.shutdown().await;
    });
}

/// A process tells that it dies when it has loaded what it should: before, its end is told
/// by the thread that reaps.
#[test]
fn s2_a_crash_in_a_restart_is_told_while_the_runtime_is_busy() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let wanted = folder.path().join("wanted");
        let code = format!(
            "if io.open('{}', 'r') then menagerie.log('info', 'begun') menagerie.sleep(600000) end",
            wanted.display()
        );
        let mut host = Host::with("lua", lua_with("slow", &code, "")).await;
        std::fs::write(&wanted, "").unwrap();
        slay(host.pid);
        // What it says comes after its hello: whoever reaps knows then whose end it tells.
        let logs = || host.supervisor.logs();
        let begun = || logs().iter().any(|entry| entry.message == "begun").then_some(());
        wait_for("the next process to load", begun).await;
        let seen = worker(&host.supervisor, "lua").unwrap();
        assert_eq!((seen.state, seen.incarnation), (WorkerState::Starting, 2));
        (host.pid, host.incarnation) = (seen.pid.unwrap(), 2);
        std::fs::remove_file(&wanted).unwrap();
        let release = host.crash_while_busy().await;
        let seen = worker(&host.supervisor, "lua").unwrap();
        assert_eq!((seen.state, seen.pid), (WorkerState::Crashed, None));
        drop(release);
        ready_after(&host.supervisor, "lua", 2).await;
        answers(&host.guest).await;
        host.supervisor.shutdown().await;
    });
}

#[test]
fn s2_what_is_asked_for_meanwhile_comes_after_the_crash() {
    run(async {
        let host = Host::with("lua", lua("probe")).await;
        let release = host.crash_while_busy().await;
        let supervisor = host.supervisor.clone();
        let asked = tokio::spawn(async move { supervisor.restart("lua").await });
        tokio::task::yield_now().await;
        drop(release);
        let restarted = asked.await.unwrap().unwrap();
        assert_eq!((restarted.state, restarted.incarnation), (WorkerState::Ready, 3));
        // Whether the next process is ready by then is the runtime's to say.
        let begun =
            [(WorkerState::Crashed, 1), (WorkerState::Backoff, 1), (WorkerState::Starting, 2)];
        assert_eq!(host.states()[..3], begun);
        assert_eq!(report(&host.supervisor, "lua", 1).await.incarnation, 1);
        host.supervisor.shutdown().await;
    });
}
