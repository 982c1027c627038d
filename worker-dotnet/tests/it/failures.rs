use menagerie_protocol::GuestError;

use crate::support::{guest_error, harness, load};

const FAILURES: &str = "failures@1";

#[test]
fn c3_an_exception_tells_all_that_it_has() {
    let bundle = load(&harness!(), "failures", &[FAILURES]);
    let error = guest_error(bundle.call::<_, i32>(FAILURES, "rich", ()));
    assert_eq!(error.type_name, "System.InvalidOperationException");
    assert_eq!(error.message, "the message");
    assert!(error.stack.contains("Failures.Rich"), "{}", error.stack);
    assert_eq!(error.code.as_deref(), Some("E42"));
    assert_eq!(error.help.as_deref(), Some("try less"));
    assert_eq!(error.url.as_deref(), Some("https://example.org/help"));
    assert_eq!(error.inner.len(), 1);
    assert_eq!(
        (&*error.inner[0].type_name, &*error.inner[0].message),
        ("System.FormatException", "the cause")
    );
}

#[test]
fn c3_a_code_may_be_a_number() {
    let bundle = load(&harness!(), "failures", &[FAILURES]);
    for (kind, told) in [
        ("int", Some("404")),
        ("ulong", Some("18446744073709551615")),
        ("double", Some("1.5")),
        ("object", None),
    ] {
        let error = guest_error(bundle.call::<_, i32>(FAILURES, "numbered", (kind,)));
        assert_eq!((error.message.as_str(), error.code.as_deref()), ("numbered", told), "{kind}");
    }
}

#[test]
fn c3_an_aggregate_has_all_its_causes() {
    let bundle = load(&harness!(), "failures", &[FAILURES]);
    let error = guest_error(bundle.call::<_, i32>(FAILURES, "several", ()));
    assert_eq!(error.type_name, "System.AggregateException");
    let inner: Vec<_> = error.inner.iter().map(|e| e.type_name.as_str()).collect();
    assert_eq!(inner, ["System.ArgumentException", "System.TimeoutException"]);
}

/// Without a limit to all of them together, a tree of them would be as large as one likes.
#[test]
fn c3_a_tree_of_causes_has_an_end() {
    fn causes(error: &GuestError) -> usize {
        error.inner.iter().map(|cause| 1 + causes(cause)).sum()
    }
    let bundle = load(&harness!(), "failures", &[FAILURES]);
    for (width, depth, expected) in [(3, 2, 12), (5, 5, 64), (1, 100, 16), (1000, 1, 64)] {
        let error = guest_error(bundle.call::<_, i32>(FAILURES, "tree", (width, depth)));
        assert_eq!(causes(&error), expected, "{width} {depth}");
    }
}

#[test]
fn c3_a_bundles_own_exceptions_have_their_own_names() {
    let bundle = load(&harness!(), "failures", &[FAILURES]);
    let error = guest_error(bundle.call::<_, i32>(FAILURES, "custom", ()));
    assert_eq!((&*error.type_name, &*error.message), ("Failures+CustomException", "mine"));
    // Many parameters go another way.
    let error = guest_error(bundle.call::<_, i32>(FAILURES, "reflected", (1, 2, 3, 4, 5)));
    assert_eq!((&*error.type_name, &*error.message), ("Failures+CustomException", "reflected"));
    let error = guest_error(bundle.call::<_, i32>(FAILURES, "hostile", ()));
    assert_eq!((&*error.type_name, &*error.message), ("Failures+HostileException", ""));
}

#[test]
fn c3_a_null_reference_is_an_error_and_not_a_crash() {
    let bundle = load(&harness!(), "failures", &[FAILURES]);
    let error = guest_error(bundle.call::<_, i32>(FAILURES, "null", (None::<String>,)));
    assert_eq!(error.type_name, "System.NullReferenceException");
    assert_eq!(bundle.call::<_, i32>(FAILURES, "null", ("four",)).unwrap(), 4);
}
