use menagerie_protocol::BundleSource;
use menagerie_protocol::LoaderError;
use menagerie_protocol::message::LogLevel;

use crate::support::{bundle_dir, fixture, harness, load, manifest, sample};

const CONTRACTS: &[&str] = &["first@1", "another@2.1"];
const PRINTS: &str = "another@2.1";

#[test]
fn state_is_handed_over_at_a_reload() {
    let harness = harness!();
    let dir = bundle_dir("hooks", CONTRACTS);
    let bundle = harness.load_dir(dir.path()).unwrap();
    let context = || bundle.call::<_, String>("first@1", "context", ()).unwrap();
    assert_eq!(context(), "hooks 1 null True");
    bundle.reload().unwrap();
    assert_eq!(context(), "hooks 2 was hooks 1 null True True");
}

#[test]
fn l6_a_hook_that_throws_leaves_the_old_generation() {
    let harness = harness!();
    // The name is part of what the fixture looks at.
    let source = BundleSource::Bytes(fixture("hooks"));
    let bundle = harness.load(&manifest("fail", CONTRACTS), source).unwrap();
    match bundle.reload() {
        Err(LoaderError::InitFailed { step, error, .. }) => {
            assert_eq!((&*step, &*error.message), ("run on_unload", "stays"));
        }
        other => panic!("{other:?}"),
    }
    let context: String = bundle.call("first@1", "context", ()).unwrap();
    assert_eq!(context, "fail 1 null False");
}

#[test]
fn probe_keeps_its_state() {
    let probe = sample(&harness!(), "probe-dotnet");
    let large = serde_bytes::ByteBuf::from(vec![5; 5_000]);
    for state in [&large, &serde_bytes::ByteBuf::from(vec![1])] {
        probe.call::<_, ()>("probe@1", "set_state", (state,)).unwrap();
        probe.reload().unwrap();
        let back: serde_bytes::ByteBuf = probe.call("probe@1", "state", ()).unwrap();
        assert_eq!(&back, state);
    }
    probe.reload().unwrap();
    assert_eq!(probe.call::<_, Option<i32>>("probe@1", "state", ()).unwrap(), None);
}

#[test]
fn console_lines_go_to_the_bundles_own_log() {
    let harness = harness!();
    let one = harness.load(&manifest("one", CONTRACTS), BundleSource::Bytes(fixture("hooks")));
    let two = harness.load(&manifest("two", CONTRACTS), BundleSource::Bytes(fixture("hooks")));
    let (one, two) = (one.unwrap(), two.unwrap());
    one.call::<_, ()>(PRINTS, "print", ("from one\nand again ü",)).unwrap();
    two.call::<_, ()>(PRINTS, "print_error", ("from two",)).unwrap();
    two.call::<_, ()>(PRINTS, "print_from_thread", ("from a thread",)).unwrap();
    one.call::<_, ()>(PRINTS, "print_pieces", ()).unwrap();
    one.unload();
    let logs: Vec<_> = harness
        .logs()
        .into_iter()
        .map(|r| (r.bundle.unwrap(), r.level, r.target, r.message))
        .collect();
    let record = |bundle: &str, level, target: &str, message: &str| {
        (bundle.to_owned(), level, target.to_owned(), message.to_owned())
    };
    assert_eq!(
        logs,
        [
            record("one", LogLevel::Info, "stdout", "from one"),
            record("one", LogLevel::Info, "stdout", "and again ü"),
            record("two", LogLevel::Warn, "stderr", "from two"),
            record("two", LogLevel::Info, "stdout", "from a thread"),
            record("one", LogLevel::Info, "stdout", "one line"),
            // What was begun is not lost.
            record("one", LogLevel::Info, "stdout", "restdisposed"),
        ]
    );
}

#[test]
fn log_has_its_levels() {
    let harness = harness!();
    let bundle = load(&harness, "hooks", CONTRACTS);
    bundle.call::<_, ()>(PRINTS, "log_all", ()).unwrap();
    let logs: Vec<_> = harness.logs().into_iter().map(|r| (r.level, r.target, r.message)).collect();
    let expected = [
        (LogLevel::Trace, "t"),
        (LogLevel::Debug, "d"),
        (LogLevel::Info, "i"),
        (LogLevel::Warn, "w"),
        (LogLevel::Error, "e"),
    ]
    .map(|(level, message)| (level, "log".to_owned(), message.to_owned()));
    assert_eq!(logs, expected);
}
