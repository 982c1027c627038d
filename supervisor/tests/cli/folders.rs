//! Bundles in a folder: what is broken, and what is edited.

use std::time::{Duration, Instant};

use super::running::{Running, stdout};

/// A folder with one bundle in Lua, and one that is broken.
pub(super) fn folder_of_two() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, code) in [("good", GOOD_ONE), ("broken", "error('it is broken')")] {
        let dir = folder.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let manifest = format!(
            "name = '{name}'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['{name}@1']\n"
        );
        std::fs::write(dir.join("manifest.toml"), manifest).unwrap();
        std::fs::write(dir.join("main.lua"), code).unwrap();
    }
    folder
}

const GOOD_ONE: &str = "return { ['good@1'] = { say = function() return 'one' end } }";

#[test]
fn r3_a_broken_bundle_is_listed_with_its_reason() {
    let folder = folder_of_two();
    let running = Running::with(&[], &[folder.path().to_owned()], "1 of 2 bundles loaded");
    assert_eq!(running.json(&["call", "good@1", "say"]), "one");
    let bundles = running.json(&["bundles", "--json"]);
    let broken = bundles.as_array().unwrap().iter().find(|b| b["name"] == "broken").unwrap();
    assert_eq!(broken["state"], "failed");
    assert!(broken["problem"].as_str().unwrap().contains("it is broken"), "{broken}");
    for command in ["status", "bundles"] {
        let output = running.menagerie(&[command]);
        assert!(stdout(&output).contains("broken"), "{output:?}");
    }
    std::fs::write(
        folder.path().join("broken/main.lua"),
        "return { ['broken@1'] = { say = function() return 'mended' end } }",
    )
    .unwrap();
    assert!(running.menagerie(&["reload", "broken"]).status.success());
    assert_eq!(running.json(&["call", "broken@1", "say"]), "mended");
}

#[test]
fn l6_run_watch_reloads_what_was_edited() {
    let folder = folder_of_two();
    let bundles = [folder.path().to_owned()];
    let running = Running::with(&["--watch"], &bundles, "1 of 2 bundles loaded");
    assert_eq!(running.json(&["call", "good@1", "say"]), "one");
    std::fs::write(folder.path().join("good/main.lua"), GOOD_ONE.replace("one", "two")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while running.json(&["call", "good@1", "say"]) != "two" {
        assert!(Instant::now() < deadline, "the edited bundle is never reloaded");
    }
}
