use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::{PATIENCE, Program, Running, exchange};
use super::programs;

/// A question to Prometheus's own interface.
fn ask(address: &str, path: &str) -> Option<Value> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let response = exchange(stream, "GET", path, &[], b"");
    (response.status == 200).then(|| response.json()["data"].clone())
}

fn wait_for(mut found: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(lacks) = found() {
        assert!(Instant::now() < deadline, "{lacks}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Scraped as docs/operating.md says: by TCP, with the token that may only look.
#[test]
fn g_a_real_prometheus_scrapes_the_metrics() {
    let Some(program) = programs::prometheus() else { return };
    let running = Running::start("[status]\ntcp = \"127.0.0.1:0\"");
    for _ in 0..3 {
        running.text(&["call", "greeter-lua/greeter@1", "greet", "\"Ada\""]);
    }
    let target = running.said.split_once("http://").unwrap().1.split_once('/').unwrap().0;
    let dir = running.dir.path();
    let config = format!(
        "global:\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\n\
         scrape_configs:\n  - job_name: menagerie\n    authorization:\n      \
         credentials_file: {}\n    static_configs:\n      - targets: [\"{target}\"]\n",
        dir.join("s.sock.token.read").display()
    );
    let file = dir.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    // Free a moment ago; Prometheus says at once if it is not any more.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = address.to_string();
    let mut prometheus = Program::start(
        Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}")),
    );
    prometheus.wait_for("ready to receive web requests");
    wait_for(|| {
        let targets = ask(&address, "/api/v1/targets").ok_or("it does not answer")?;
        let target = &targets["activeTargets"][0];
        if target["health"] == "up" { Ok(()) } else { Err(format!("the target: {target}")) }
    });
    let query = "menagerie_calls_total%7Bfunction%3D%22greet%22%2Coutcome%3D%22ok%22%7D";
    wait_for(|| {
        let answer = ask(&address, &format!("/api/v1/query?query={query}")).unwrap_or_default();
        let sample = &answer["result"][0];
        let right = sample["value"][1] == "3" && sample["metric"]["bundle"] == "greeter-lua";
        if right { Ok(()) } else { Err(format!("the calls: {answer}")) }
    });
    // A quantile is what a histogram is for.
    let query = "histogram_quantile(0.5,menagerie_call_duration_seconds_bucket)";
    let answer = ask(&address, &format!("/api/v1/query?query={query}")).unwrap();
    assert!(!answer["result"].as_array().unwrap().is_empty(), "{answer}");
}

/// `promtool check metrics` knows the conventions: units, `_total`, help.
#[test]
fn g_promtool_has_nothing_against_the_metrics() {
    let Some(program) = programs::promtool() else { return };
    let running = Running::start("");
    running.text(&["call", "greeter-lua/greeter@1", "greet", "\"Ada\""]);
    running.kill_worker();
    let metrics = running.get("/metrics").body;
    let mut child = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It ends when it has read all.
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{metrics}");
}
