use serde_json::json;

use super::*;

fn status(ok: u64, cpu: f64) -> menagerie_supervisor::Status {
    serde_json::from_value(json!({
        "version": "9.9.9", "pid": 42, "uptime_ms": 125_000,
        "workers": [{
            "name": "lua", "loader": "lua", "language": "lua", "pid": 77, "state": "ready", "incarnation": 3,
            "restarts": 2, "rss_bytes": 10_485_760, "cpu_seconds": cpu, "runtime": "LuaJIT",
            "bundles": ["greeter-lua"], "problem": null,
            "last_crash": {
                "worker": "lua", "time_ms": 3_723_000, "pid": 76, "incarnation": 2,
                "cause": "signal 11 (SIGSEGV)", "signal": 11, "exit_code": null, "reason": null,
                "running": [{"bundle": "probe-lua", "contract": "probe@1", "function": "crash", "age_ms": 3}],
                "stderr": [], "uptime_ms": 5
            }
        }],
        "bundles": [{
            "name": "greeter-lua", "id": "1", "version": "1.0.0", "loader": "lua", "worker": "lua", "path": null,
            "state": "ready", "generation": 4, "contracts": [], "problem": null,
            "calls": {"ok": ok, "failed": 0, "in_flight": 7, "p50_us": 1.25, "p99_us": 4200.0}
        }]
    }))
    .unwrap()
}

fn model() -> Model {
    let mut model = Model::default();
    let start = Instant::now();
    model.update(status(1000, 1.0), start);
    model.update(status(1500, 1.5), start + Duration::from_secs(1));
    model
}

fn drawn(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model)).unwrap();
    text(terminal.backend().buffer())
}

#[test]
fn g_top_shows_workers_and_bundles() {
    let seen = drawn(&model(), 120, 24);
    for told in [
        "menagerie 9.9.9  process 42  up 2 min",
        "calls/s: 500",
        "lua            ready       77        10.0 MiB    50 %   2        signal 11 (SIGSEGV), \
         1970-01-01 01:02:03 UTC",
        "500.0",
        "1.2 µs",
        "4.2 ms",
        "last crash 1970-01-01 01:02:03 UTC: lua signal 11 (SIGSEGV), running probe-lua/probe@1 crash",
    ] {
        assert!(seen.contains(told), "{told:?} is not in\n{seen}");
    }
}

/// What keeps it from coming back says more than why it went.
#[test]
fn s2_top_shows_the_problem_of_a_worker_in_every_state() {
    let mut backoff = status(1000, 1.0);
    backoff.workers[0].state = menagerie_supervisor::WorkerState::Backoff;
    backoff.workers[0].problem = Some("the program\u{1b}[2J is not there".to_owned());
    let mut model = Model::default();
    model.update(backoff, Instant::now());
    let seen = drawn(&model, 120, 24);
    let row = seen.lines().find(|line| line.contains("backoff")).unwrap();
    assert!(row.contains("the program") && row.contains("is not there"), "{seen}");
    assert!(!seen.contains('\u{1b}'), "{seen:?}");
}

/// A broken bundle goes by its folder's name, which one that runs may have: that one is
/// listed first.
#[test]
fn g_top_tells_bundles_of_one_name_apart() {
    let twins = |ok| {
        let mut twins = status(ok, 1.0);
        twins.bundles.extend(status(0, 1.0).bundles);
        twins
    };
    let (mut model, start) = (Model::default(), Instant::now());
    model.update(twins(1000), start);
    model.update(twins(1500), start + Duration::from_secs(1));
    let rates: Vec<_> = model.bundles.iter().map(|bundle| bundle.calls_per_second).collect();
    assert_eq!(rates, [Some(500.0), None]);
    assert_eq!(model.rates, [500]);
}

#[test]
fn g_top_fits_every_terminal() {
    for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
        let seen = drawn(&model(), width, height);
        assert!(seen.lines().all(|line| line.chars().count() <= usize::from(width)));
        drawn(&Model::default(), width, height);
    }
}

#[test]
fn g_top_keeps_what_it_knew_when_the_supervisor_has_gone() {
    let mut model = model();
    model.fail("no supervisor is running".to_owned());
    let seen = drawn(&model, 120, 24);
    assert!(seen.contains("no supervisor is running") && seen.contains("greeter-lua"), "{seen}");
}

#[test]
fn g_top_takes_counts_that_went_back_for_another_life() {
    let mut model = model();
    model.update(status(3, 0.1), Instant::now() + Duration::from_secs(9));
    assert_eq!(model.bundles[0].calls_per_second, None);
}

#[test]
fn g_top_knows_its_keys() {
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    assert_eq!(wish(key(KeyCode::Char('q'))), Wish::Quit);
    assert_eq!(wish(key(KeyCode::Char('c'))), Wish::Nothing);
    assert_eq!(wish(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Quit);
    assert_eq!(wish(key(KeyCode::Up)), Wish::Scroll(-1));
    let mut model = model();
    model.scroll_by(10);
    assert_eq!(model.scroll, 0);
}
