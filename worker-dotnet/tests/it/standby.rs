use std::thread;
use std::time::Duration;

use menagerie_protocol::BundleSource;
use serde_bytes::ByteBuf;

use crate::support::{
    fixture, guest_error, init_failure, load, manifest, new_harness, new_standby, sample,
};

#[test]
fn s8_a_lane_that_has_rehearsed_gives_the_same_answers() {
    let mut all = Vec::new();
    for new in [new_harness, new_standby] {
        let Some(harness) = new() else { return };
        harness.on_call(|_, _, _| Ok(b"\xa2Hi".to_vec()));
        let probe = sample(&harness, "probe-dotnet");
        let mut answers = vec![
            format!("{:?}", probe.contracts()),
            format!("{:?}", probe.call::<_, i64>("probe@1", "inc", (41,))),
            format!("{:?}", probe.call::<_, ByteBuf>("probe@1", "blob", (100_000,))),
            format!("{:?}", probe.call::<_, ()>("probe@1", "sleep_ms", (1,))),
            format!("{:?}", probe.call::<_, i64>("probe@1", "inc", ("x",))),
            format!("{:?}", probe.call::<_, String>("probe@1", "call", ("g@1", "greet", ["Ada"]))),
            guest_error(probe.call::<_, ()>("probe@1", "fail", ("on purpose",))).message,
        ];
        probe.call::<_, ()>("probe@1", "set_state", ("kept",)).unwrap();
        probe.reload().unwrap();
        answers.push(format!("{:?}", probe.call::<_, String>("probe@1", "state", ())));
        probe.unload();
        let again = sample(&harness, "probe-dotnet");
        answers.push(format!("{:?}", again.call::<_, Option<String>>("probe@1", "state", ())));
        again.unload();
        // Of the rehearsal too nothing is held, and nothing of it is said.
        assert!(harness.logs().is_empty(), "{:?}", harness.logs());
        all.push(answers);
    }
    assert_eq!(all[0], all[1]);
}

#[test]
fn s8_a_load_that_fails_after_a_rehearsal_leaves_nothing() {
    let Some(harness) = new_standby() else { return };
    let source = BundleSource::Bytes(fixture("bad_throws"));
    let (step, error) = init_failure(harness.load(&manifest("bad_throws", &["bad@1"]), source));
    assert_eq!((&*step, &*error.message), ("initialise", "not today"));
    let values = load(&harness, "values", &["values@1"]);
    assert_eq!(values.call::<_, i64>("values@1", "long", (7,)).unwrap(), 7);
    values.unload();
    assert!(harness.logs().is_empty(), "{:?}", harness.logs());
}

#[test]
fn s8_a_load_may_come_while_a_standby_rehearses() {
    for pause in [0, 1, 20, 100, 250, 400, 600] {
        let Some(harness) = new_standby() else { return };
        thread::sleep(Duration::from_millis(pause));
        let one = load(&harness, "values", &["values@1"]);
        let two = load(&harness, "values", &["values@1"]);
        for bundle in [one, two] {
            assert_eq!(bundle.call::<_, i64>("values@1", "long", (7,)).unwrap(), 7);
            bundle.unload();
        }
        assert!(harness.logs().is_empty(), "{:?}", harness.logs());
    }
}
