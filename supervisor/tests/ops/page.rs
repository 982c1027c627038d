use std::process::Command;

use super::common::{PATIENCE, Running};
use super::programs;

/// Where there is a Chromium: what somebody sees who opens the page with the
/// token, and who opens it without.
#[test]
fn g_the_page_shows_workers_and_bundles_in_a_browser() {
    let Some(chromium) = programs::chromium() else { return };
    let running = Running::start("[status]\ntcp = \"127.0.0.1:0\"");
    let address = running.said.split_once("http://").unwrap().1.split_once('/').unwrap().0;
    let token = |file: &str| {
        let text = std::fs::read_to_string(running.dir.path().join(file)).unwrap();
        format!("#{}", text.trim())
    };
    let dom = |fragment: &str| {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .arg(PATIENCE.as_secs().to_string())
            .arg(&chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
            // Time goes on only while nothing is being fetched.
            .arg("--virtual-time-budget=7000")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{address}/{fragment}"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let seen = dom(&token("s.sock.token"));
    for told in ["data-ready", "greeter-lua", ">restart</button>", ">reload</button>", "polyline"] {
        assert!(seen.contains(told), "{told} is not in {seen}");
    }
    // Who may only look has no buttons.
    let seen = dom(&token("s.sock.token.read"));
    for told in ["data-ready", "greeter-lua", "polyline"] {
        assert!(seen.contains(told), "{told} is not in {seen}");
    }
    assert!(!seen.contains(">restart</button>") && !seen.contains(">reload</button>"), "{seen}");
    let seen = dom("");
    assert!(
        seen.contains("the token lacks or is wrong") && !seen.contains("greeter-lua"),
        "{seen}"
    );
}
