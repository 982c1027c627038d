//! What rounds of loading, calling and unloading leave on the heap (rule L9):
//! nothing of ours. A program of its own, as it counts the memory of its whole process.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use menagerie_protocol::testing::{Harness, counts_exactly, kept_each};
use menagerie_worker_js::JsLoader;

/// Rounds that are counted.
const ROUNDS: u32 = 80;

/// What one generation leaves, in bytes: three of the smallest blocks that
/// `malloc` gives, by v8x 149.4.0-rc.4, which is deno_core's QuickJS, on purpose:
/// one for each module (`intern_module` in `src/quickjs/module.rs`), of which the
/// bundle has two with `menagerie`, and one for the isolate
/// (`IsolateAnnex::new` in `vendor/rusty_v8/src/isolate.rs`). Nothing that is
/// safe frees them.
const BY_THE_ENGINE: f64 = 96.0;

/// Bytes for each round that are not held against the loader: so few rounds tell no less.
const TOLERANCE: f64 = BY_THE_ENGINE + 32.0;

#[test]
fn l9_rounds_of_loading_and_reloading_keep_nothing_of_ours() {
    if !counts_exactly("l9_rounds_of_loading_and_reloading_keep_nothing_of_ours") {
        return;
    }
    let bundles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles");
    let harness = Harness::new(JsLoader::new());
    let greet = |bundle: &menagerie_protocol::testing::TestBundle| {
        let text: String = bundle.call("greeter@1", "greet", ("Ada",)).unwrap();
        assert_eq!(text, "Hello, Ada");
    };
    let loads = kept_each(ROUNDS, || {
        let bundle = harness.load_dir(bundles.join("greeter-js")).unwrap();
        greet(&bundle);
        bundle.unload();
    });
    let bundle = harness.load_dir(bundles.join("greeter-js")).unwrap();
    let reloads = kept_each(ROUNDS, || {
        bundle.reload().unwrap();
        greet(&bundle);
    });
    assert!(
        loads < TOLERANCE && reloads < TOLERANCE,
        "{loads:.1} bytes for each load, {reloads:.1} for each reload"
    );
}
