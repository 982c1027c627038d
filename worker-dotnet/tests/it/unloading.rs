use std::fs;

use menagerie_protocol::message::LogLevel;

use crate::support::{bundle_dir, fixture, harness, load};

/// The loader warns in the bundle's log if its context was not collected: a
/// weak reference is asked, in the bridge.
const WARNING: &str = "something still refers to the unloaded assembly";

#[test]
fn l8_dotnet_context_is_collected() {
    let harness = harness!();
    let values = load(&harness, "values", &["values@1"]);
    for n in 0..100 {
        assert_eq!(values.call::<_, i64>("values@1", "long", (n,)).unwrap(), n);
    }
    values.call::<_, Vec<i32>>("values@1", "array", ([1, 2],)).unwrap();
    let failures = load(&harness, "failures", &["failures@1"]);
    for function in ["custom", "rich", "several", "hostile"] {
        failures.call::<_, i32>("failures@1", function, ()).unwrap_err();
    }
    let tasks = load(&harness, "tasks", &["tasks@1"]);
    tasks.call::<_, String>("tasks@1", "later", ("x",)).unwrap();
    tasks.call::<_, i32>("tasks@1", "fails", ()).unwrap_err();
    let hooks = load(&harness, "hooks", &["first@1", "another@2.1"]);
    hooks.call::<_, ()>("another@2.1", "print_from_thread", ("x",)).unwrap();
    hooks.reload().unwrap();
    for bundle in [values, failures, tasks, hooks] {
        bundle.unload();
    }
    let warnings: Vec<_> =
        harness.logs().into_iter().filter(|record| record.level > LogLevel::Info).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn l8_a_context_that_is_held_is_reported() {
    let harness = harness!();
    let bundle = load(&harness, "holds_on", &["holds@1"]);
    bundle.call::<_, ()>("holds@1", "hold_on", ()).unwrap();
    bundle.unload();
    harness.wait_for_log(|record| record.message.contains(WARNING));

    let bundle = load(&harness, "holds_on", &["holds@1"]);
    bundle.call::<_, ()>("holds@1", "hold_on", ()).unwrap();
    bundle.call::<_, ()>("holds@1", "let_go", ()).unwrap();
    bundle.unload();
    let warnings = harness.logs().iter().filter(|r| r.message.contains(WARNING)).count();
    assert_eq!(warnings, 1);
}

#[test]
fn l8_the_users_file_may_be_written_over_while_it_is_loaded() {
    let harness = harness!();
    let dir = bundle_dir("version_one", &["version@1"]);
    let artifact = dir.path().join("version_one.dll");
    let bundle = harness.load_dir(dir.path()).unwrap();
    let version = || bundle.call::<_, i32>("version@1", "version", ()).unwrap();
    assert_eq!(version(), 1);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("version_one.dll"), "the file is mapped");

    // In place, as compilers do it: the same inode.
    fs::write(&artifact, b"half an assembly").unwrap();
    assert_eq!(version(), 1);
    bundle.reload().unwrap_err();
    assert_eq!(version(), 1);

    fs::write(&artifact, fixture("version_two")).unwrap();
    bundle.reload().unwrap();
    assert_eq!(version(), 2);
}

#[test]
fn l9_many_rounds_leave_nothing_uncollected() {
    let harness = harness!();
    for _ in 0..50 {
        let bundle = load(&harness, "version_one", &["version@1"]);
        assert_eq!(bundle.call::<_, i32>("version@1", "version", ()).unwrap(), 1);
        bundle.unload();
    }
    assert!(harness.logs().is_empty(), "{:?}", harness.logs());
}

/// `cargo test --release -p menagerie-worker-dotnet -- --ignored --nocapture measure_memory`
#[test]
#[ignore = "a measurement, not a test"]
fn measure_memory() {
    let harness = harness!();
    let resident = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
    };
    let begin = std::time::Instant::now();
    let reloaded = load(&harness, "version_one", &["version@1"]);
    for round in 0..=10_000 {
        if round % 1000 == 0 {
            eprintln!("{round} rounds, {} KiB, {:?}", resident(), begin.elapsed());
        }
        let bundle = load(&harness, "version_one", &["version@1"]);
        assert_eq!(bundle.call::<_, i32>("version@1", "version", ()).unwrap(), 1);
        bundle.unload();
        reloaded.reload().unwrap();
    }
}
