use menagerie_protocol::message::LogLevel;
use menagerie_protocol::testing::TestBundle;

use crate::support::{harness, load};

const NEIGHBOUR: &str = "neighbour@1";

fn call(bundle: &TestBundle, function: &str) {
    bundle.call::<_, ()>(NEIGHBOUR, function, ()).unwrap();
}

fn print(bundle: &TestBundle, text: &str) {
    bundle.call::<_, ()>(NEIGHBOUR, "print", (text,)).unwrap();
}

/// They would end the process, and every bundle in it.
#[test]
fn l8_exceptions_of_a_bundle_that_goes_are_logged() {
    let harness = harness!();
    let stays = load(&harness, "neighbour", &[NEIGHBOUR]);
    let cases = [
        ("throw_in_dispose", "Dispose failed: Neighbour+Nameless"),
        ("throw_in_unloading", "a handler of the context's Unloading failed: System.Invalid"),
    ];
    for (function, words) in cases {
        let goes = load(&harness, "neighbour", &[NEIGHBOUR]);
        call(&goes, function);
        goes.reload().unwrap();
        call(&goes, function);
        goes.unload();
        let logs = harness.logs();
        let told = logs.iter().filter(|record| record.message.starts_with(words)).count();
        assert_eq!(told, 2, "{function}: {logs:?}");
    }
    // All of them were collected.
    assert!(harness.logs().iter().all(|record| record.target == "log"), "{:?}", harness.logs());
    print(&stays, "here");
}

#[test]
fn c6_a_bundle_that_sets_the_console_takes_nobodys_lines() {
    let harness = harness!();
    let taker = load(&harness, "neighbour", &[NEIGHBOUR]);
    let other = load(&harness, "neighbour", &[NEIGHBOUR]);
    call(&taker, "take_the_console");
    print(&other, "said");
    call(&taker, "take_the_console");
    other.call::<_, ()>(NEIGHBOUR, "print_error", ("complained",)).unwrap();
    let said: Vec<_> =
        harness.logs().into_iter().map(|record| (record.level, record.message)).collect();
    let expected = [(LogLevel::Info, "said".to_owned()), (LogLevel::Warn, "complained".to_owned())];
    assert_eq!(said, expected);
    assert!(taker.call::<_, bool>(NEIGHBOUR, "capture_within", ()).unwrap());
}

#[test]
fn c6_a_bundle_that_locks_the_console_delays_nobody() {
    let harness = harness!();
    let holder = load(&harness, "neighbour", &[NEIGHBOUR]);
    let other = load(&harness, "neighbour", &[NEIGHBOUR]);
    let folder = tempfile::tempdir().unwrap();
    let [begun, end] = ["begun", "end"].map(|name| folder.path().join(name));
    std::thread::scope(|scope| {
        let holding =
            scope.spawn(|| holder.call::<_, ()>(NEIGHBOUR, "lock_the_console", (&begun, &end)));
        while !begun.exists() {
            std::thread::yield_now();
        }
        print(&other, "said");
        other.call::<_, ()>(NEIGHBOUR, "print_error", ("complained",)).unwrap();
        std::fs::write(&end, "").unwrap();
        holding.join().unwrap().unwrap();
    });
    let said: Vec<_> = harness.logs().into_iter().map(|record| record.message).collect();
    assert_eq!(said, ["said", "complained"]);
}

#[test]
fn values_on_the_console_are_lines() {
    let harness = harness!();
    call(&load(&harness, "neighbour", &[NEIGHBOUR]), "print_values");
    let said: Vec<_> = harness.logs().into_iter().map(|record| record.message).collect();
    assert_eq!(said, ["1.5", "c", "True", "", "1-two", "ab", ""]);
}

/// A context whose bundle holds it is not collected however often one tries, and
/// each time stops all of .NET.
#[test]
fn c6_a_context_that_is_held_costs_others_few_collections() {
    let harness = harness!();
    let other = load(&harness, "neighbour", &[NEIGHBOUR]);
    let collections = || other.call::<_, i64>(NEIGHBOUR, "collections", ()).unwrap();
    let holds = load(&harness, "neighbour", &[NEIGHBOUR]);
    call(&holds, "hold_on");
    let before = collections();
    holds.unload();
    harness.wait_for_log(|record| record.message.contains("something still refers"));
    let spent = collections() - before;
    assert!((1..=6).contains(&spent), "{spent} collections");
}

/// The thread that waits for the finalizers is none of the pool's.
#[test]
fn l8_a_pool_that_one_bundle_keeps_busy_is_no_finalizer_that_hangs() {
    let harness = harness!();
    let busy = load(&harness, "neighbour", &[NEIGHBOUR]);
    let folder = tempfile::tempdir().unwrap();
    let end = folder.path().join("end");
    busy.call::<_, ()>(NEIGHBOUR, "keep_the_pool", (&end,)).unwrap();
    load(&harness, "neighbour", &[NEIGHBOUR]).unload();
    let logs = harness.logs();
    std::fs::write(&end, "").unwrap();
    assert!(logs.is_empty(), "{logs:?}");
}
