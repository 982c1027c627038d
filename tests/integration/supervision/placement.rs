//! Rule S9: which worker a bundle lives in.

use menagerie_supervisor::Isolation;

use super::{answers, crash, load, lua};
use crate::support::{config, exists, ready_after, run, start_with, wait_for};

#[test]
fn s9_shared_is_one_worker_for_a_loader() {
    run(async {
        let supervisor = start_with(config());
        let _one = load(&supervisor, lua("one")).await;
        let _two = load(&supervisor, lua("two")).await;
        let status = supervisor.status();
        assert_eq!(status.isolation, Isolation::Shared);
        let names: Vec<&str> = status.workers.iter().map(|worker| &*worker.name).collect();
        assert_eq!(names, ["lua"]);
        assert_eq!(status.workers[0].bundles, ["one", "two"]);
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_bundle_is_a_worker_for_each_and_one_may_be_excepted() {
    run(async {
        let mut config = config();
        config.isolation = Isolation::Bundle;
        config.bundle_isolation.insert("two".to_owned(), Isolation::Shared);
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        let two = load(&supervisor, lua("two")).await;
        let workers = supervisor.status().workers;
        let names: Vec<_> = workers.iter().map(|w| (&*w.name, &*w.loader)).collect();
        assert_eq!(names, [("lua", "lua"), ("lua/one", "lua")]);
        let pids: Vec<_> = workers.iter().map(|worker| worker.pid.unwrap()).collect();
        assert_ne!(pids[0], pids[1]);
        crash(&one).await;
        answers(&one).await;
        answers(&two).await;
        let after = supervisor.status().workers;
        assert_eq!(after[0].pid, Some(pids[0]), "the other worker was not touched");
        // A worker's name, and a loader's for all of its workers.
        assert_eq!(supervisor.restart("lua/one").await.unwrap().name, "lua/one");
        answers(&one).await;
        assert!(supervisor.restart("lua/none").await.is_err());
        supervisor.shutdown().await;
    });
}

#[test]
fn s9_a_worker_that_was_made_for_one_bundle_ends_with_it() {
    run(async {
        let mut config = config();
        config.isolation = Isolation::Bundle;
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        let pid = supervisor.status().workers[0].pid.unwrap();
        supervisor.unload("one").await.unwrap();
        assert!(supervisor.status().workers.is_empty());
        wait_for("the process to end", || (!exists(pid)).then_some(())).await;
        // What could not be loaded leaves no worker either.
        one.bundle.write("main.lua", "this is no Lua");
        assert!(supervisor.load(one.bundle.path()).await.is_err());
        assert!(supervisor.status().workers.is_empty());
        // And it can come back.
        let main = "return { ['one@1'] = { inc = function(n) return n + 1 end } }";
        one.bundle.write("main.lua", main);
        supervisor.load(one.bundle.path()).await.unwrap();
        answers(&supervisor.contract("one@1").unwrap()).await;
        ready_after(&supervisor, "lua", 0).await;
        supervisor.shutdown().await;
    });
}
