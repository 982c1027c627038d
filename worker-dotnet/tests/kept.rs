//! What rounds of loading, calling and unloading leave on the heap that is not
//! the garbage collector's (rule L9). A program of its own, as it counts the
//! memory of its whole process.

#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code, unused_imports, reason = "shared with the other tests")]
#[path = "it/support.rs"]
mod support;

use menagerie_protocol::testing::{TestBundle, kept_each};

use crate::support::{harness, sample};

/// Rounds that are counted.
const ROUNDS: u32 = 24;

/// Bytes for each round that are not held against the loader: so few rounds tell
/// no less, as threads' caches come and go.
const TOLERANCE: f64 = 128.0;

#[test]
fn l9_rounds_of_loading_and_reloading_keep_nothing() {
    let harness = harness!();
    let greet = |bundle: &TestBundle| {
        let text: String = bundle.call("greeter@1", "greet", ("Ada",)).unwrap();
        assert_eq!(text, "Hello, Ada");
    };
    let loads = kept_each(ROUNDS, || {
        let bundle = sample(&harness, "greeter-dotnet");
        greet(&bundle);
        bundle.unload();
    });
    let bundle = sample(&harness, "greeter-dotnet");
    let reloads = kept_each(ROUNDS, || {
        bundle.reload().unwrap();
        greet(&bundle);
    });
    assert!(
        loads < TOLERANCE && reloads < TOLERANCE,
        "{loads:.1} bytes for each load, {reloads:.1} for each reload"
    );
}
