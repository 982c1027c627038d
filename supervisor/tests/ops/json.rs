use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::common::{MENAGERIE, PATIENCE, Running, docs, sample, until};

/// The keys of a value, at every depth; of a list, those of all its items.
fn keys(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let at = format!("{at}.{name}");
                keys(value, &at, into);
                into.insert(at);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, &format!("{at}[]"), into)),
        _ => {}
    }
}

/// The line that `menagerie run --json` prints when it is ready, in a folder; then it is
/// ended.
fn ready(dir: &Path, args: &[&OsStr]) -> Value {
    let mut child = Command::new("timeout")
        .args([&PATIENCE.as_secs().to_string(), MENAGERIE, "run", "--json"])
        .args(args)
        .arg("--socket")
        .arg(dir.join("s.sock"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // `timeout` hands the signal on, and the supervisor ends in an orderly way.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    child.wait().unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

/// What `menagerie run --json` prints when it is ready has the documented keys.
#[test]
fn g_run_says_in_json_when_it_is_ready() {
    let text = std::fs::read_to_string(docs().join("json.md")).unwrap();
    let block =
        text.split_once("<!-- run -->\n```json\n").unwrap().1.split_once("\n```").unwrap().0;
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("menagerie.toml");
    std::fs::write(&settings, "[status]\ntcp = \"127.0.0.1:0\"\n").unwrap();
    let greeter = sample("greeter-lua");
    let args = ["--bundles", "/nonexistent", "--bundles"].map(OsStr::new);
    let more = [greeter.as_os_str(), OsStr::new("--config"), settings.as_os_str()];
    let said = ready(dir.path(), &[&args[..], &more].concat());
    let documented = keys_of(&serde_json::from_str(block).unwrap());
    assert_eq!(documented, keys_of(&said), "{said}");
}

/// One folder with an odd name costs `run --json` no ready line.
#[test]
fn g_run_is_ready_in_json_whatever_paths_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join(OsStr::from_bytes(b"x\xff"));
    let said = ready(dir.path(), &[OsStr::new("--bundles"), odd.as_os_str()]);
    assert!(said["failed"][0]["path"].as_str().unwrap().ends_with("x\u{fffd}"), "{said}");
}

/// The examples of docs/json.md: command, and what it prints.
fn examples() -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(docs().join("json.md")).unwrap();
    let mut examples: Vec<(String, Value)> = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once("<!-- menagerie ") {
        let (command, after) = after.split_once(" -->").unwrap();
        let block = after.split_once("```json\n").unwrap().1.split_once("\n```").unwrap().0;
        let example = serde_json::from_str(block).unwrap_or_else(|e| panic!("{command}: {e}"));
        examples.push((command.to_owned(), example));
        rest = after;
    }
    examples
}

fn keys_of(value: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    keys(value, "", &mut all);
    all
}

/// Every example of docs/json.md has the keys that the command really prints,
/// and no other.
#[test]
fn g_json_is_as_documented() {
    let examples = examples();
    let running = Running::start("");
    drop(running.menagerie(&["call", "probe@1", "crash"]));
    until(|| running.json(&["crashes", "--json"])[0].is_object());
    until(|| running.json(&["workers", "--json"])[0]["last_crash"].is_object());
    let dir = running.dir.path().join("hello");
    let (dir, bundles, greeter) = (dir.to_str().unwrap(), sample(""), sample("greeter-lua"));
    for (command, example) in &examples {
        let args: Vec<&str> = command
            .split(' ')
            .map(|arg| match arg {
                "HELLO" => dir,
                "GREETER" => greeter.to_str().unwrap(),
                "BUNDLES" => bundles.to_str().unwrap(),
                other => other,
            })
            .collect();
        let output = running.menagerie(&args);
        let printed = String::from_utf8(output.stdout.clone()).unwrap();
        let value: Value = if command.starts_with("logs") || command.starts_with("events") {
            printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect()
        } else {
            serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {output:?}"))
        };
        assert_eq!(keys_of(example), keys_of(&value), "menagerie {command}");
    }
    let commands: BTreeSet<&str> =
        examples.iter().map(|(command, _)| command.split(' ').next().unwrap()).collect();
    let all = [
        "bench", "bundles", "call", "check", "crashes", "doctor", "events", "load", "logs", "new",
        "reload", "restart", "status", "unload", "workers",
    ];
    assert_eq!(commands, BTreeSet::from(all));
}

/// Keys stand in the order of the service's answer, and not in that of the alphabet: the
/// crate asks for that itself, whatever else is built with it.
#[test]
fn g_json_keeps_the_order_of_keys() {
    let running = Running::start("");
    let served = running.get("/v1/status").body;
    let printed = running.text(&["status", "--json"]);
    for text in [&served, &printed] {
        let at = |key: &str| text.find(&format!("\"{key}\":")).unwrap();
        assert!(at("version") < at("pid") && at("pid") < at("workers"), "{text}");
    }
}

/// Within a version keys are only added: those that version 1 began with are all
/// there.
#[test]
fn g_json_has_lost_no_key_of_its_version() {
    let text = std::fs::read_to_string(docs().join("json.md")).unwrap();
    let version = text.split_once("version ").unwrap().1.split(' ').next().unwrap();
    let mut kept = String::new();
    for (command, example) in examples() {
        for key in keys_of(&example) {
            kept.push_str(&format!("{command}: {key}\n"));
        }
    }
    let first = include_str!("json-1.keys");
    let kept: BTreeSet<&str> = kept.lines().collect();
    let lost: Vec<&str> = first.lines().filter(|line| !kept.contains(line)).collect();
    assert_eq!(version, "1", "a new version: begin its list of keys");
    assert!(lost.is_empty(), "keys of version 1 have gone: {lost:#?}");
    assert!(first.lines().count() > 200);
}

/// The published figures have the documented shape, and nothing in them tells of
/// the machine's folders.
#[test]
fn g_bench_json_is_as_documented() {
    let text = std::fs::read_to_string(docs().join("bench/bench.json")).unwrap();
    let published: Value = serde_json::from_str(&text).unwrap();
    let examples = examples();
    let example = &examples.iter().find(|(command, _)| command.starts_with("bench")).unwrap().1;
    assert_eq!(keys_of(&published), keys_of(example));
    for reason in published["left_out"].as_array().unwrap() {
        assert!(!reason.as_str().unwrap().contains('/'), "{reason}");
    }
}

/// A worker that lacks is left out, and said, without the folders that were
/// looked through.
#[test]
fn g_bench_leaves_out_no_more_than_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("menagerie");
    let built = Path::new(MENAGERIE);
    std::fs::copy(built, &program).unwrap();
    // Beside the program, for its only worker.
    let worker = "menagerie-worker-native";
    std::fs::copy(built.with_file_name(worker), dir.path().join(worker)).unwrap();
    let output = Command::new(&program)
        .args(["bench", "--quick", "--only", "noticed", "--json", "--bundles"])
        .arg(sample(""))
        .env("PATH", "/nonexistent")
        .env_remove("MENAGERIE_WORKER_DIR")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left_out = report["left_out"].as_array().unwrap();
    assert_eq!(left_out.len(), 4, "{report:#}");
    let said = String::from_utf8(output.stderr).unwrap();
    for text in left_out.iter().map(|reason| reason.as_str().unwrap()).chain([said.as_str()]) {
        assert!(text.contains("menagerie doctor"), "{text}");
        for folder in ["/nonexistent", dir.path().to_str().unwrap()] {
            assert!(!text.contains(folder), "{text}");
        }
    }
}
