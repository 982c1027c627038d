//! Rule S3, where it is the supervisor's own task that dies: the host's `tracing` code,
//! which runs there, panics.

use super::{answers, at_once_and_for_ever, load, lua};
use crate::support::{
    config, has_stumbled, ready_after, run, slay, start_with, stumble_at, wait_for, worker,
};

#[test]
fn s3_a_panic_in_a_workers_task_is_a_crash_as_any_other() {
    run(async {
        let mut config = config();
        config.bundle_crash_limit = u32::MAX;
        config.restart = at_once_and_for_ever();
        let supervisor = start_with(config);
        let one = load(&supervisor, lua("one")).await;
        for word in ["state: Crashed", "state: Starting", "bundle loaded", "state: Ready"] {
            for _ in 0..3 {
                let before = ready_after(&supervisor, "lua", 0).await;
                stumble_at(word);
                slay(before.pid.unwrap());
                has_stumbled().await;
                let after = ready_after(&supervisor, "lua", before.incarnation).await;
                answers(&one).await;
                assert_ne!(after.pid, before.pid);
            }
        }
        // By hand as well, and in an orderly end.
        let before = ready_after(&supervisor, "lua", 0).await.incarnation;
        stumble_at("state: Stopped");
        let restarted = supervisor.restart("lua").await;
        has_stumbled().await;
        drop(restarted);
        ready_after(&supervisor, "lua", before).await;
        answers(&one).await;
        stumble_at("state: Draining");
        supervisor.shutdown().await;
        has_stumbled().await;
        wait_for("it to stop", || worker(&supervisor, "lua").is_none().then_some(())).await;
    });
}
