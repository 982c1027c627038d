//! A loader with several workers, as an operator sees it (S9).

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::common::{Running, until};

fn workers(running: &Running) -> Vec<Value> {
    running.json(&["workers", "--json"]).as_array().unwrap().clone()
}

fn pid(running: &Running, name: &str) -> i64 {
    let workers = workers(running);
    let worker = workers.iter().find(|worker| worker["name"] == name);
    worker.and_then(|worker| worker["pid"].as_i64()).unwrap_or_default()
}

#[test]
fn s9_replicas_have_names_for_the_operator() {
    let running = Running::start("[replicas]\nlua = 2");
    let names: Vec<Value> = workers(&running).iter().map(|w| w["name"].clone()).collect();
    assert_eq!(names, ["lua#1", "lua#2"]);
    let bundle = running.json(&["bundles", "--json"])[0].clone();
    assert_eq!(bundle["replicas"], json!({ "ready": 2, "wanted": 2 }));
    assert_eq!(bundle["worker"], "lua");
    let table = running.text(&["bundles"]);
    assert!(table.contains("ready (2 of 2)"), "{table}");
    // By its own name it alone is restarted, by the loader's both are.
    let (one, two) = (pid(&running, "lua#1"), pid(&running, "lua#2"));
    let restarted = running.json(&["restart", "lua#2", "--json"]);
    assert_eq!(restarted["name"], "lua#2");
    assert_eq!(pid(&running, "lua#1"), one);
    assert_ne!(pid(&running, "lua#2"), two);
    let response = running.post("/v1/workers/lua%231/restart?rolling=true", "");
    assert_eq!((response.status, &response.json()["name"]), (200, &json!("lua#1")));
    let (one, two) = (pid(&running, "lua#1"), pid(&running, "lua#2"));
    assert_eq!(running.text(&["restart", "lua", "--rolling"]), "restarted all workers of lua\n");
    assert!(pid(&running, "lua#1") != one && pid(&running, "lua#2") != two);
    assert_eq!(running.menagerie(&["restart", "lua#3"]).status.code(), Some(1));
    // Its crash has its name, and so have its metrics.
    let two = pid(&running, "lua#2");
    kill(Pid::from_raw(i32::try_from(two).unwrap()), Signal::SIGKILL).unwrap();
    let crashes = || running.json(&["crashes", "--worker", "lua#2", "--json"]);
    until(|| crashes().as_array().is_some_and(|crashes| crashes.len() == 1));
    assert_eq!(crashes()[0]["pid"], two);
    assert_eq!(running.json(&["crashes", "--worker", "lua#1", "--json"]), json!([]));
    until(|| {
        let metrics = running.get("/metrics").body;
        metrics.lines().any(|line| {
            line.starts_with("menagerie_worker_crashes_total{")
                && line.contains("worker=\"lua#2\"")
                && line.ends_with(" 1")
        })
    });
    until(|| {
        running.json(&["bundles", "--json"])[0]["replicas"] == json!({ "ready": 2, "wanted": 2 })
    });
}
