//! Bundles in the strict sandbox (rules P2 and P3): every language works there, a hostile
//! bundle reaches nothing but its own, and gets what it wants and is granted.

mod granted;
mod hostile;
mod kernels;

use menagerie_supervisor::{Config, Contract, Sandbox, Supervisor, WorkerStatus};
use serde_bytes::ByteBuf;

use crate::support::{Bundle, config, per_language, setup_with, wait_for};

fn strict() -> Config {
    let mut config = config();
    config.sandbox = Sandbox::Strict;
    config
}

/// A Python bundle that tries whatever it is told to; `more` is added to its manifest.
fn spy(more: &str) -> Bundle {
    let manifest = format!(
        "name = 'spy'\nloader = 'python'\nfile = 'main.py'\nprovides = ['spy@1']\n{more}\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), ("main.py", include_str!("spy.py"))])
}

async fn load(supervisor: &Supervisor, bundle: &Bundle) -> Contract {
    supervisor.load(bundle.path()).await.unwrap();
    supervisor.contract("spy@1").unwrap()
}

/// What came of a try: what it returned, or its error's number.
async fn tried(spy: &Contract, what: &str) -> String {
    spy.call("attempt", (what,)).await.unwrap()
}

fn workers(supervisor: &Supervisor) -> Vec<WorkerStatus> {
    supervisor.status().workers
}

/// Whether every thread of a process has a seccomp filter (proc_pid_status(5)).
fn is_filtered(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default()
    };
    // A thread that has just ended has none to show.
    let mut statuses = threads.map(status).filter(|status| !status.is_empty());
    statuses.all(|status| status.lines().any(|line| line == "Seccomp:\t2"))
}

async fn p2_every_language_works_in_the_sandbox(suffix: &str) {
    let setup = setup_with(suffix, strict()).await;
    let supervisor = &setup.supervisor;
    let serves = async || {
        let text: String = setup.greeter.call("greet", ("Ada",)).await.unwrap();
        assert_eq!(text, "Hello, Ada");
        let bytes = ByteBuf::from(vec![7; 1 << 20]);
        let same: ByteBuf = setup.probe.call("echo", (&bytes,)).await.unwrap();
        assert_eq!(same, bytes);
    };
    serves().await;
    // Each has a worker of its own, and no thread of it is outside.
    let names = |kind| format!("{}/{kind}-{suffix}", setup.language.loader);
    let found = workers(supervisor);
    let found_names: Vec<&str> = found.iter().map(|worker| &*worker.name).collect();
    assert_eq!(found_names, [names("greeter"), names("probe")]);
    for worker in &found {
        assert!(worker.sandbox.is_some(), "{worker:?}");
        assert!(is_filtered(worker.pid.unwrap()), "{worker:?}");
    }
    supervisor.reload(&format!("probe-{suffix}")).await.unwrap();
    serves().await;
    crate::support::slay(found[1].pid.unwrap());
    wait_for("the next process", || (workers(supervisor)[1].restarts == 1).then_some(())).await;
    serves().await;
    assert!(is_filtered(workers(supervisor)[1].pid.unwrap()));
    supervisor.restart_rolling(&names("greeter")).await.unwrap();
    serves().await;
    assert!(is_filtered(workers(supervisor)[0].pid.unwrap()));
    let odd = crate::support::find_line(|line| {
        line.level == tracing::Level::ERROR && line.worker.is_some()
    });
    assert!(odd.is_none(), "{odd:?}");
    supervisor.shutdown().await;
}

per_language! { rust, c, py, lua, js, dotnet; { p2_every_language_works_in_the_sandbox } }
