//! Looking and acting: calls, bundles, workers, crashes.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::running::{Running, bundles, menagerie, stderr, stdout};

#[test]
fn g_calls_answer_in_json_and_failures_in_one_line() {
    let running = Running::start();
    let output = running.menagerie(&["call", "greeter@1", "greet", "\"Ada\""]);
    assert_eq!((output.status.code(), stdout(&output).trim()), (Some(0), "\"Hello, Ada\""));
    let echoed = running.json(&["call", "probe@1", "echo", "{\"$bytes\":\"AAH/\"}"]);
    assert_eq!(echoed, serde_json::json!({ "$bytes": "AAH/" }));
    let output = running.menagerie(&["call", "probe@1", "fail", "\"the reason\""]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the reason") && stderr(&output).lines().count() == 1);
    for (args, told) in [
        (&["call", "nothing@1", "f"][..], "no loaded bundle provides"),
        (&["call", "probe@1", "nothing"], "has no function"),
        (&["call", "probe@1", "inc"], "bad arguments"),
        (&["call", "--timeout", "50ms", "probe@1", "sleep_ms", "60000"], "within its deadline"),
        (&["reload", "nobody"], "no bundle named"),
        (&["load", "/nonexistent"], "does not exist"),
        (&["load", "../tests/bundles/greeter-lua"], "loaded already"),
        (&["restart", "cobol"], "no loader is named"),
        (&["unload", "greeter-lua"], "in use by probe-lua"),
    ] {
        let output = running.menagerie(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert!(stderr(&output).contains(told), "{args:?}: {output:?}");
    }
}

/// Whatever is JSON is an argument, also what begins like an option; an option may
/// follow it.
#[test]
fn c1_negative_numbers_are_arguments() {
    let running = Running::start();
    for number in ["-0.0", "-5", "-9223372036854775808", "-1.5e300", "-1e-5", "-2.5E+3"] {
        let output = running.menagerie(&["call", "probe@1", "echo", number, "--timeout", "60s"]);
        assert_eq!(output.status.code(), Some(0), "{number}: {output:?}");
        let (sent, back) = (number.parse::<f64>().unwrap(), stdout(&output));
        let back: f64 = back.trim().parse().unwrap();
        assert_eq!(back.to_bits(), sent.to_bits(), "{number}");
    }
    let exact = running.menagerie(&["call", "probe@1", "echo", "-9223372036854775807"]);
    assert_eq!(stdout(&exact).trim(), "-9223372036854775807");
    for wrong in ["-", "-1x", "--5", "-x"] {
        let output = running.menagerie(&["call", "probe@1", "echo", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {output:?}");
        assert!(stderr(&output).contains(wrong), "{wrong}: {output:?}");
    }
}

#[test]
fn s3_a_killed_worker_is_ready_again_with_the_counts_one_higher() {
    let running = Running::start();
    let before = running.worker();
    assert_eq!((&before["state"], &before["loader"]), (&"ready".into(), &"lua".into()));
    let pid = i32::try_from(before["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let after = loop {
        let worker = running.worker();
        if worker["state"] == "ready" && worker["pid"] != before["pid"] {
            break worker;
        }
        assert!(Instant::now() < deadline, "{worker}");
    };
    for count in ["incarnation", "restarts"] {
        assert_eq!(after[count].as_u64(), before[count].as_u64().map(|n| n + 1), "{count}");
    }
    assert_eq!(running.json(&["call", "greeter@1", "greet", "\"Ada\""]), "Hello, Ada");
    let crashes = running.json(&["crashes", "--json"]);
    assert_eq!(crashes[0]["signal"], 9, "{crashes}");
}

#[test]
fn g_bundles_come_and_go() {
    let running = Running::start();
    assert!(running.menagerie(&["reload", "greeter-lua"]).status.success());
    let output = running.menagerie(&["unload", "--cascade", "greeter-lua"]);
    assert_eq!(stdout(&output).trim(), "unloaded probe-lua, greeter-lua");
    assert_eq!(running.json(&["bundles", "--json"]), serde_json::json!([]));
    let dir = bundles().join("greeter-lua");
    assert!(running.menagerie(&["load", dir.to_str().unwrap()]).status.success());
    let bundles = running.json(&["bundles", "--json"]);
    assert_eq!(bundles[0]["state"], "ready");
    assert!(running.menagerie(&["restart", "lua"]).status.success());
    assert_eq!(running.worker()["restarts"], 0, "a restart by hand is none");
    for command in ["status", "workers", "bundles", "crashes"] {
        let output = running.menagerie(&[command]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    }
}

/// What a person reads of a crash.
#[test]
fn s2_crashes_are_shown_with_what_ran_and_how_it_ended() {
    let running = Running::start();
    assert_eq!(stdout(&running.menagerie(&["crashes"])), "no crashes\n");
    assert_eq!(running.menagerie(&["call", "probe@1", "crash"]).status.code(), Some(1));
    let deadline = Instant::now() + Duration::from_secs(60);
    let shown = loop {
        let shown = stdout(&running.menagerie(&["crashes"]));
        if shown.contains("worker lua") {
            break shown;
        }
        assert!(Instant::now() < deadline, "{shown}");
        std::thread::sleep(Duration::from_millis(5));
    };
    for part in ["SIGABRT", "running: probe-lua/probe@1 crash", "used: ", "of memory at most"] {
        assert!(shown.contains(part), "no {part} in:\n{shown}");
    }
}

#[test]
fn s2_a_stranger_on_the_control_socket_is_turned_away() {
    use std::io::Read;
    let running = Running::start();
    let pid = running.worker()["pid"].as_i64().unwrap();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let path = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"MENAGERIE_CONTROL_SOCKET="))
        .unwrap();
    let path = PathBuf::from(String::from_utf8(path.to_vec()).unwrap());
    for nonsense in
        [&b"\xff\xff\xff\xff"[..], b"\x03\x00\x00\x00\xfa\xfa\xfa", b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut stranger = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stranger.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stranger.write_all(nonsense).unwrap();
        // Closed, not answered; a reset is as good.
        assert!(matches!(stranger.read(&mut [0; 16]), Ok(0) | Err(_)));
        assert_eq!(running.json(&["call", "greeter@1", "greet", "\"Ada\""]), "Hello, Ada");
    }
    assert_eq!(running.worker()["pid"].as_i64(), Some(pid));
}

/// A stack is what its author needs, and the log has it in any case.
#[test]
fn c3_load_and_reload_show_the_stack_with_verbose() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = "name = 'a'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['a@1']\n";
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("manifest.toml", manifest);
    let broken = "local function deep()\n  error('no')\nend\ndeep()\nreturn {}";
    write("main.lua", broken);
    let running = Running::start();
    let dir = folder.path().to_str().unwrap();
    let fails = |args: &[&str]| {
        let output = running.menagerie(args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        stderr(&output)
    };
    assert_eq!(fails(&["load", dir]).lines().count(), 1);
    let told = fails(&["load", "-v", dir]);
    assert!(told.contains("main.lua:4: in main chunk"), "{told}");
    write("main.lua", "return { ['a@1'] = { f = function() end } }");
    assert!(running.menagerie(&["load", dir]).status.success());
    write("main.lua", broken);
    assert_eq!(fails(&["reload", "a"]).lines().count(), 1);
    let told = fails(&["reload", "a", "--verbose"]);
    assert!(told.contains("main.lua:4: in main chunk"), "{told}");
    let log = stdout(&running.menagerie(&["logs", "--bundle", "a"]));
    assert!(log.contains("main.lua:4: in main chunk"), "{log}");
}

#[test]
fn c1_a_value_that_is_none_is_told_by_the_number_of_its_argument() {
    let running = Running::start();
    for value in [r#"{"$float":"NaN"}"#, r#"{"$map":[[1,"a"]]}"#] {
        let output = running.menagerie(&["call", "probe@1", "echo", value]);
        assert_eq!(stdout(&output).trim().replace(' ', ""), value, "{output:?}");
    }
    for (wrong, told) in [
        (
            r#"{"$float":"nan"}"#,
            "argument 2: $float: expected \"NaN\", \"Infinity\" or \"-Infinity\"",
        ),
        (r#"[{"$map":[1]}]"#, "argument 2: $map: expected a list of pairs"),
        (r#"{"$bytes":"?"}"#, "argument 2: $bytes: "),
        (r#"{"a":1,"a":2}"#, "argument 2: the key \"a\" stands twice"),
    ] {
        let output = running.menagerie(&["call", "probe@1", "echo", "1", wrong]);
        let error = stderr(&output);
        assert!(error.contains(told) && !error.contains("line 1"), "{wrong}: {error}");
    }
}

/// A worker with bundles that cannot be started is not stopped, and says why all the same.
#[test]
fn s2_the_problem_of_a_worker_is_shown_in_every_state() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let worker = |state: &str| {
        serde_json::json!({
            "name": "lua", "loader": "lua", "language": "lua", "pid": null, "state": state,
            "incarnation": 3, "restarts": 2, "rss_bytes": null, "cpu_seconds": null,
            "runtime": null, "bundles": ["a"], "problem": "why", "last_crash": null
        })
    };
    let answer = serde_json::json!([worker("backoff"), worker("stopped")]).to_string();
    let server = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let head = BufReader::new(&stream).lines().map(Result::unwrap);
        assert!(head.take_while(|line| !line.is_empty()).count() > 0);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", answer.len());
        write!(stream, "{head}connection: close\r\n\r\n{answer}").unwrap();
    });
    let output = menagerie(&socket, &["workers"]);
    server.join().unwrap();
    let shown = stdout(&output);
    assert!(shown.contains("backoff: why") && shown.contains("stopped: why"), "{output:?}");
}

/// A bundle's words are shown, and do nothing to the terminal of who reads them; nor does a
/// line of its own look like one of ours.
#[test]
fn g_what_a_bundle_writes_is_shown_and_not_obeyed() {
    let running = Running::start();
    let evil = "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}\n12:00:00 UTC error forged";
    let quoted = serde_json::json!(evil).to_string();
    let call = |function: &str| running.menagerie(&["call", "probe@1", function, &quoted]);
    let check = |shown: &str| {
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with("12:00:00")), "{shown}");
        assert!(shown.contains("\\u001b[2J\\u001b]0;title\\u0007\\u009b"), "{shown}");
    };
    check(&stderr(&call("fail")));
    check(&stderr(&running.menagerie(&["call", "-v", "probe@1", "fail", &quoted])));
    let echoed = stdout(&call("echo"));
    check(&echoed);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&echoed).unwrap(), evil);
    assert!(call("say").status.success());
    let deadline = Instant::now() + Duration::from_secs(60);
    let log = loop {
        let log = stdout(&running.menagerie(&["logs", "--bundle", "probe-lua"]));
        if log.contains("in the log") && log.contains("on stdout") && log.contains("on stderr") {
            break log;
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(Duration::from_millis(5));
    };
    // What it prints itself begins a record with each line; what it logs is one.
    check(&log.replace("stdout: 12:00", "").replace("stderr: 12:00", ""));
    // Programs have it as it was.
    let log = stdout(&running.menagerie(&["logs", "--bundle", "probe-lua", "--json"]));
    let logged = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let said = format!("{evil} in the log");
    assert!(logged.into_iter().any(|entry| entry["message"] == said), "{log}");
}
