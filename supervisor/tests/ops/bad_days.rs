use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::common::{MENAGERIE, PATIENCE, Program, Running, sample};

fn run(args: &[&str]) -> Output {
    Command::new(MENAGERIE).arg("run").args(args).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn g_a_supervisor_that_hangs_is_told_from_one_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    // The kernel connects them; nobody answers.
    let _listener = UnixListener::bind(&socket).unwrap();
    let commands = [
        &["status"][..],
        &["top", "--once"],
        &["logs"],
        &["reload", "a"],
        &["call", "a@1", "b", "--timeout", "1s"],
    ];
    let mut waiting: Vec<Program> = commands
        .iter()
        .map(|args| {
            Program::start(Command::new(MENAGERIE).args(*args).arg("--socket").arg(&socket))
        })
        .collect();
    for program in &mut waiting {
        program.wait_for("does not answer: it has said nothing for 15 s");
    }
}

/// One that is stopped while it is followed: the follower does not wait in silence,
/// and goes on when it hears of it again.
#[test]
fn g_a_follower_says_that_it_hears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut followers: Vec<Program> = [&["logs", "-f"][..], &["events"]]
        .iter()
        .map(|args| {
            Program::start(Command::new(MENAGERIE).args(*args).arg("--socket").arg(&socket))
        })
        .collect();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nid: 1.0\n\n";
    let mut streams: Vec<UnixStream> = followers
        .iter()
        .map(|_| {
            let (mut stream, _) = listener.accept().unwrap();
            // An answer before the question would be refused.
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                question.extend(byte);
            }
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    for follower in &mut followers {
        follower.wait_for("has said nothing for 20 s; is it stopped, or overloaded?");
    }
    for stream in &mut streams {
        stream.write_all(b":\n\n").unwrap();
    }
    for follower in &mut followers {
        follower.wait_for("is heard again");
    }
}

#[test]
fn g_who_is_one_too_many_is_told_so() {
    let running = Running::start("[status]\nmax_connections = 2\nrequest_timeout = \"1h\"");
    let _idle: Vec<UnixStream> = (0..2).map(|_| running.connect()).collect();
    let output = running.menagerie(&["status"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("there are too many connections"), "{told}");
}

/// Its descriptors are used up: it can be looked at nevertheless, again and again.
#[test]
fn g_a_supervisor_without_descriptors_can_be_looked_at() {
    // Should a client that asks for nothing have what is kept, it is gone after a while.
    let running = Running::start("[status]\nrequest_timeout = \"3s\"");
    let pid = running.json(&["status", "--json"])["pid"].as_u64().unwrap();
    let open = || -> BTreeSet<u64> {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        entries.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    // More than it has by now.
    let most = 64;
    let limited = Command::new("prlimit")
        .args([format!("--nofile={most}:{most}"), format!("--pid={pid}")])
        .status()
        .unwrap();
    assert!(limited.success());
    let (mut idle, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    let used = || open().range(..most).count() as u64;
    // All numbers are used up by clients that ask for nothing.
    while used() < most {
        assert!(Instant::now() < deadline, "{} clients, {} of {most}", idle.len(), used());
        let before = used();
        idle.push(running.connect());
        let accepted_by = Instant::now() + Duration::from_secs(1);
        while used() == before && Instant::now() < accepted_by {
            std::thread::sleep(Duration::from_millis(1));
        }
        if used() == before {
            // Somebody else was faster, and this one may have what is kept.
            idle.pop();
        }
    }
    for _ in 0..5 {
        let status = running.json(&["status", "--json"]);
        assert_eq!(status["bundles"][0]["state"], "ready", "{status}");
        assert_eq!(running.json(&["call", "probe@1", "inc", "1"]), 2);
    }
}

#[test]
fn g_what_is_mistyped_in_a_request_is_refused_and_not_left_out() {
    let running = Running::start("");
    for path in
        ["/v1/workers/lua/restart?rollin=true", "/v1/workers/%ff/restart", "/v1/bundles/%ff/reload"]
    {
        let response = running.post(path, "");
        assert_eq!(response.status, 400, "{response:?}");
        assert!(response.head.contains("application/problem+json"), "{response:?}");
        assert_eq!(response.json()["title"], "bad request", "{response:?}");
    }
    let response = running.post("/v1/bundles", r#"{"path": "/tmp/\u0000x"}"#);
    assert_eq!((response.status, response.json()["title"].as_str()), (400, Some("bad request")));
    let mut stream = running.connect();
    let head = "DELETE /v1/bundles/probe-lua?cascaed=true HTTP/1.1\r\nhost: a\r\n\
        connection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(super::common::read_response(stream).status, 400);
    assert_eq!(running.json(&["workers", "--json"])[0]["incarnation"], 1);
}

#[test]
fn g_a_socket_that_nobody_could_reach_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x".repeat(120));
    let output = run(&["--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("a socket's path may have 107 bytes"), "{told}");
}

#[test]
fn g_watch_takes_the_bundles_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    std::fs::write(&file, format!("bundles = [{:?}]", sample("greeter-lua"))).unwrap();
    let socket = dir.path().join("s.sock");
    let mut program = Program::start(
        Command::new(MENAGERIE)
            .args(["run", "--watch", "--config"])
            .arg(&file)
            .arg("--socket")
            .arg(&socket),
    );
    program.wait_for("1 of 1 bundles loaded");
    let output = run(&["--watch", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("no bundles to watch"));
}

#[test]
fn g_a_filter_for_logs_that_is_none_is_told_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    std::fs::write(&file, "log = \"a=b=c\"").unwrap();
    let output = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("m.toml:1:1: log: 'b=c' is no level"), "{told}");
}
