//! What needs no supervisor, and what is no command.

use serde_json::Value;

use super::running::{Running, bundles, menagerie, stderr};

#[test]
fn g_with_no_supervisor_it_is_3_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["status"][..], &["call", "a@1", "b"], &["reload", "x"]] {
        let output = menagerie(&dir.path().join("nobody.sock"), args);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn g_usage_is_2() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    assert_eq!(menagerie(&socket, &["fly"]).status.code(), Some(2));
    let output = menagerie(&socket, &["call", "greeter@1", "greet", "Ada"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("quotes of its own"), "{output:?}");
}

#[test]
fn s9_replicas_by_the_command_line() {
    let bundle = [bundles().join("greeter-lua")];
    let running =
        Running::with(&["--replicas", "python=2", "--replicas", "lua=3"], &bundle, "1 of 1");
    let workers = running.json(&["workers", "--json"]);
    let names: Vec<&str> =
        workers.as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["lua#1", "lua#2", "lua#3"]);
    assert_eq!(running.json(&["call", "greeter@1", "greet", "\"Ada\""]), "Hello, Ada");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    for (wrong, told) in [
        ("lua", "LANGUAGE=COUNT"),
        ("lua=many", "'many'"),
        ("lua=65", "from 1 to 64"),
        ("lua=0", "from 1 to 64"),
        ("cobol=2", "no loader 'cobol'; there are "),
    ] {
        let output = menagerie(&socket, &["run", "--replicas", wrong]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(told), "{output:?}");
    }
}

#[test]
fn g_doctor_tells_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let output = menagerie(&dir.path().join("s.sock"), &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lua = report["workers"].as_array().unwrap().iter().find(|w| w["loader"] == "lua").unwrap();
    assert!(lua["version"].as_str().unwrap().contains("Lua"), "{report}");
    assert!(output.status.success(), "{report}");
}
