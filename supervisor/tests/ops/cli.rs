use std::process::Command;

use super::common::{MENAGERIE, Running};

#[test]
fn g_a_wrong_setting_is_2_and_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("menagerie.toml");
    for (text, told) in [
        ("\ndeadlin = \"1s\"\n", "menagerie.toml:2:1: there is no setting `deadlin`"),
        ("heartbeat_warn = 99\n", "menagerie.toml:1:1: heartbeat_kill: must be greater"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(MENAGERIE).args(["run", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn g_tables_fit_the_terminal() {
    let running = Running::start("");
    for columns in ["60", "100"] {
        for command in ["status", "workers", "bundles"] {
            let output = Command::new(MENAGERIE)
                .args([command, "--socket"])
                .arg(running.socket())
                .env("COLUMNS", columns)
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns.parse().unwrap(), "{widest} of {columns}:\n{text}");
        }
    }
}

#[test]
fn g_top_once_is_a_picture() {
    let running = Running::start("");
    let picture = running.text(&["top", "--once", "--every", "100ms"]);
    for told in ["calls/s", "greeter-lua", "ready", "no crashes"] {
        assert!(picture.contains(told), "{picture}");
    }
    // Without a terminal there is nothing to be live on.
    assert_eq!(running.menagerie(&["top"]).status.code(), Some(2));
}

/// For programs: a status in each line, as often as it looks; with `--once` one.
#[test]
fn g_top_in_json_is_a_status_in_each_line() {
    let running = Running::start("");
    let once = running.lines(&["top", "--once", "--json", "--every", "1h"]);
    assert_eq!((once.len(), &once[0]["workers"][0]["name"]), (1, &"lua".into()));
    let mut live = running.following(&["top", "--json", "--every", "50ms"]);
    for _ in 0..3 {
        let line = live.wait_for("uptime_ms");
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(status["bundles"].as_array().unwrap().len(), 2, "{line}");
    }
}

/// Whoever reads it may be in another folder.
#[test]
fn g_check_names_the_folder_by_its_whole_path() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("b")).unwrap();
    for given in ["b", "./b", "nothing"] {
        let output = Command::new(MENAGERIE)
            .args(["check", given, "--json"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let whole = dir.path().join(given.trim_start_matches("./"));
        assert_eq!(findings["dir"], whole.to_str().unwrap(), "{output:?}");
    }
}

#[test]
fn g_completions_and_man_pages_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(MENAGERIE).arg("man").arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let page = std::fs::read_to_string(dir.path().join("menagerie-run.1")).unwrap();
    assert!(page.contains("config"), "{page}");
    let bash = Command::new(MENAGERIE).args(["completions", "bash"]).output().unwrap();
    assert!(String::from_utf8_lossy(&bash.stdout).contains("_menagerie"));
}
