use std::io::{BufRead, BufReader, Write};

use serde_json::Value;

use super::common::{Program, Response, Running, exchange, until};

/// The data of server-sent events, and their ids.
fn events(response: &Response) -> Vec<(String, Value)> {
    assert_eq!(response.status, 200, "{response:?}");
    assert!(response.head.contains("text/event-stream"), "{response:?}");
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    let blocks = response.body.split("\n\n").filter(|block| block.contains("data:"));
    blocks
        .map(|block| {
            let data = serde_json::from_str(&field(block, "data:")).unwrap();
            (field(block, "id:"), data)
        })
        .collect()
}

#[test]
fn g_logs_are_kept_and_chosen() {
    let running = Running::start("");
    assert_eq!(running.menagerie(&["call", "probe@1", "fail", "\"x\""]).status.code(), Some(1));
    running.kill_worker();
    until(|| !running.lines(&["logs", "--json", "--level", "error"]).is_empty());
    let all = running.lines(&["logs", "--json"]);
    assert!(all.windows(2).all(|pair| pair[0]["id"].as_u64() < pair[1]["id"].as_u64()));
    let grave = running.lines(&["logs", "--json", "--level", "error"]);
    assert!(grave.iter().all(|entry| entry["level"] == "error"), "{grave:?}");
    assert!(grave.iter().any(|e| e["message"].as_str().unwrap().contains("died of signal 9")));
    let of_one = running.lines(&["logs", "--json", "--bundle", "greeter-lua"]);
    assert!(!of_one.is_empty() && of_one.iter().all(|entry| entry["bundle"] == "greeter-lua"));
    let of_worker = running.lines(&["logs", "--json", "--worker", "python"]);
    assert!(of_worker.is_empty());
    assert_eq!(running.lines(&["logs", "--json", "-n", "2"]).len(), 2);
    // The worker comes back meanwhile, and more is said.
    let recent = running.lines(&["logs", "--json", "--since", "1h"]);
    assert_eq!(recent.get(..all.len()), Some(&all[..]));
    let text = running.text(&["logs", "--bundle", "greeter-lua"]);
    assert!(text.contains("info  greeter-lua supervisor: bundle greeter-lua loaded"), "{text}");
}

#[test]
fn g_events_and_crashes_are_kept_and_chosen() {
    let running = Running::start("");
    running.kill_worker();
    until(|| running.json(&["crashes", "--json"]).as_array().unwrap().len() == 1);
    let count = |args: &[&str]| running.json(args).as_array().unwrap().len();
    assert_eq!(count(&["crashes", "--json", "--worker", "lua", "--since", "1h"]), 1);
    assert_eq!(count(&["crashes", "--json", "--worker", "python"]), 0);
    assert_eq!(count(&["crashes", "--json", "--bundle", "probe-lua"]), 0, "nothing ran");
    let all = running.lines(&["events", "--json", "--no-follow"]);
    let kinds: Vec<&str> = all.iter().map(|event| event["event"].as_str().unwrap()).collect();
    for kind in ["worker_state", "bundle_loaded", "worker_crashed"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    let grave = running.lines(&["events", "--json", "--no-follow", "--level", "error"]);
    assert_eq!(grave.len(), 1, "{grave:?}");
    let told = running.menagerie(&["events", "--no-follow", "--level", "error"]);
    let (told, errors) = (String::from_utf8_lossy(&told.stdout), &told.stderr);
    assert!(told.contains("UTC: worker lua died of signal 9 (SIGKILL)"), "{told}");
    assert!(errors.is_empty(), "{}", String::from_utf8_lossy(errors));
    let of_one = running.lines(&["events", "--json", "--no-follow", "--bundle", "greeter-lua"]);
    assert!(of_one.iter().all(|event| event["bundle"] == "greeter-lua"), "{of_one:?}");
}

/// What a bundle logs begins no line of its own in what `run` writes.
#[test]
fn g_a_bundle_writes_no_line_of_the_supervisors_log() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("manifest.toml", "name = 'a'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['a@1']\n");
    write("main.lua", "require('menagerie').log('warn', 'x\\nERROR one\\rERROR two')\nreturn {}");
    let mut run = std::process::Command::new(super::common::MENAGERIE);
    run.args(["run", "--log", "warn", "--bundles"]).arg(dir.path());
    run.arg("--socket").arg(dir.path().join("s.sock")).env_remove("RUST_LOG");
    let line = Program::start(&mut run).wait_for("ERROR one");
    assert_eq!(line.split(" worker=").next().unwrap(), "    ERROR one\\rERROR two");
}

/// A later supervisor may say what this program does not know.
#[test]
fn s10_an_event_that_cannot_be_read_is_shown_as_it_came_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let unknown = r#"{"id":1,"time_ms":0,"event":"of_later"}"#;
    let server = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let head = BufReader::new(&stream).lines().map(Result::unwrap);
        assert!(head.take_while(|line| !line.is_empty()).count() > 0);
        let known = r#"{"id":2,"time_ms":0,"event":"bundle_unloaded","bundle":"a"}"#;
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close";
        write!(stream, "{answer}\r\n\r\ndata: {unknown}\n\ndata: {known}\n\n").unwrap();
    });
    let output = std::process::Command::new(super::common::MENAGERIE)
        .args(["events", "--no-follow", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    server.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown, format!("{unknown}\n1970-01-01 00:00:00 UTC: bundle a unloaded\n"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("unknown variant `of_later`") && said.lines().count() == 1, "{said}");
}

#[test]
fn g_a_reader_resumes_after_the_last_id() {
    let running = Running::start("");
    for path in ["/v1/logs", "/v1/events"] {
        let all = events(&running.get(&format!("{path}?follow=false")));
        assert!(all.len() > 3, "{all:?}");
        let (id, _) = &all[2];
        let headers = [("last-event-id", id.as_str())];
        let path = format!("{path}?follow=false");
        let rest = events(&exchange(running.connect(), "GET", &path, &headers, b""));
        assert_eq!(rest[0], all[3]);
        // From a supervisor that is no more: all of this one's are new.
        let headers = [("last-event-id", "1.999999")];
        let rest = events(&exchange(running.connect(), "GET", &path, &headers, b""));
        assert_eq!(rest[0], all[0]);
    }
}

#[test]
fn g_followers_see_what_comes() {
    let running = Running::start("");
    let mut stream = running.connect();
    stream.write_all(b"GET /v1/events?bundle=greeter-lua HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    // The head has come: the reader is there.
    assert!(lines.by_ref().any(|line| line.is_empty()));
    assert!(running.menagerie(&["reload", "greeter-lua"]).status.success());
    let data = lines.find_map(|line| line.strip_prefix("data:").map(str::to_owned)).unwrap();
    let event: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(event["event"], "bundle_reloaded", "{event}");
}

/// A supervisor that was killed and started again is followed on: nothing is
/// shown twice, nothing of the new one is left out, and it is said.
#[test]
fn g_followers_go_on_after_a_restart_of_the_supervisor() {
    let mut running = Running::start("");
    let mut logs = running.following(&["logs", "-f", "--bundle", "greeter-lua"]);
    let mut events = running.following(&["events", "--json", "--bundle", "greeter-lua"]);
    logs.wait_for("bundle greeter-lua loaded");
    // It is there once it has seen one.
    until(|| {
        running.text(&["reload", "greeter-lua"]);
        events.times("bundle_reloaded") > 0
    });
    running.kill();
    for reader in [&mut logs, &mut events] {
        assert!(reader.wait_for("has gone").contains("waiting until one is there"));
    }
    running.start_again();
    for reader in [&mut logs, &mut events] {
        reader.wait_for("answers again");
        reader.wait_for("was started anew");
    }
    // Counted, and not waited for one after the other: notices and items come on
    // two outputs, which have no order between them.
    until(|| logs.times("bundle greeter-lua loaded") >= 2);
    until(|| events.times("bundle_loaded") >= 1);
    let loaded = events.said.lines().find(|line| line.contains("bundle_loaded")).unwrap();
    let event: Value = serde_json::from_str(loaded).unwrap();
    assert_eq!(event["generation"], 1, "{event}");
    running.text(&["unload", "--cascade", "greeter-lua"]);
    until(|| events.times("bundle_unloaded") >= 1);
    assert_eq!(events.times("bundle_loaded"), 1, "{}", events.said);
    assert_eq!(logs.said.matches("bundle greeter-lua loaded").count(), 2, "{}", logs.said);
    // Without anybody at the socket from the beginning there is nothing to wait for.
    running.kill();
    let output = running.menagerie(&["logs", "-f"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

/// `--bundle`, `--worker`, `--since` and `--level`, where there are levels.
#[test]
fn g_each_filter_chooses_in_each_command() {
    let running = Running::start("");
    assert_eq!(running.menagerie(&["call", "probe@1", "crash"]).status.code(), Some(1));
    until(|| !running.json(&["crashes", "--json"]).as_array().unwrap().is_empty());
    until(|| running.json(&["workers", "--json"])[0]["state"] == "ready");
    let count = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        match args[0] {
            "crashes" => running.json(&args).as_array().unwrap().len(),
            _ => running.lines(&args).len(),
        }
    };
    for command in [&["logs"][..], &["events", "--no-follow"], &["crashes"]] {
        let with = |more: &[&str]| count(&[command, more].concat());
        let all = with(&[]);
        assert!(all > 0, "{command:?}");
        for (filter, there, not_there) in
            [("--bundle", "probe-lua", "nobody"), ("--worker", "lua", "python")]
        {
            let some = with(&[filter, there]);
            assert!(some > 0 && some <= all, "{command:?} {filter}: {some} of {all}");
            assert_eq!(with(&[filter, not_there]), 0, "{command:?} {filter}");
        }
        // All of it is younger than a day, and nothing is as young as a nanosecond:
        // times are kept in milliseconds.
        assert_eq!(with(&["--since", "24h"]), all, "{command:?}");
        assert_eq!(with(&["--bundle", "probe-lua", "--worker", "python"]), 0, "{command:?}");
        if command[0] != "crashes" {
            let grave = with(&["--level", "error"]);
            assert!(grave > 0 && grave < all, "{command:?}: {grave} of {all}");
            assert_eq!(with(&["--level", "trace"]), all, "{command:?}");
        }
    }
    // What was before is left out.
    let last = running.lines(&["events", "--no-follow", "--json"]).pop().unwrap();
    let since = format!("since={}", last["time_ms"].as_u64().unwrap() + 1);
    for path in ["/v1/logs", "/v1/events"] {
        let later = events(&running.get(&format!("{path}?follow=false&{since}")));
        let late =
            |(_, item): &(String, Value)| item["time_ms"].as_u64() > last["time_ms"].as_u64();
        assert!(later.iter().all(late), "{path}: {later:?}");
    }
    assert_eq!(running.get(&format!("/v1/crashes?{since}")).json(), serde_json::json!([]));
}

#[test]
fn g_a_wrong_choice_is_said() {
    let running = Running::start("");
    for path in ["/v1/logs?level=loud", "/v1/events?nothing=1", "/v1/crashes?since=yesterday"] {
        let response = running.get(path);
        assert_eq!(response.status, 400, "{response:?}");
        assert!(response.head.contains("application/problem+json"), "{response:?}");
    }
}
