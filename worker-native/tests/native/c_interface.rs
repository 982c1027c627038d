use menagerie_protocol::testing::TestBundle;
use menagerie_protocol::{Failure, GuestError};
use rmpv::Value;

use crate::support::{Folder, guest, harness};

/// Functions without declared parameters, which do all by hand.
const BY_HAND: &str = include_str!("guests/by_hand.c");

fn by_hand(name: &str) -> TestBundle {
    Folder::c(name, r#"["by_hand@1"]"#, BY_HAND).load(&harness())
}

fn call(bundle: &TestBundle, function: &str, args: Vec<Value>) -> Result<Value, Failure> {
    bundle.call("by_hand@1", function, args)
}

fn causes(error: &GuestError) -> usize {
    error.inner.iter().map(|cause| 1 + causes(cause)).sum()
}

#[test]
fn cursors_read_and_write_every_kind() {
    let bundle = by_hand("cursors");
    let value = Value::Array(vec![
        Value::Nil,
        true.into(),
        false.into(),
        i64::MIN.into(),
        i64::MAX.into(),
        u64::MAX.into(),
        Value::F64(0.1),
        "é".into(),
        "".into(),
        Value::Binary(vec![0; 300]),
        Value::Array(vec![Value::Array(vec![]), 1.into()]),
        Value::Map(vec![(Value::Nil, Value::Map(vec![])), ("k".into(), 2.into())]),
    ]);
    assert_eq!(call(&bundle, "copy", vec![value.clone()]).unwrap(), value);
}

#[test]
fn cursors_stay_where_the_kind_is_another() {
    let bundle = by_hand("cursors_stay");
    assert_eq!(call(&bundle, "try_all", vec!["text".into()]).unwrap(), "text".into());
}

#[test]
fn arguments_tell_their_number_and_kinds() {
    let bundle = by_hand("kinds");
    let args = vec![
        Value::Nil,
        true.into(),
        (-1).into(),
        u64::MAX.into(),
        Value::F64(1.0),
        "s".into(),
        Value::Binary(vec![]),
        Value::Array(vec![]),
        Value::Map(vec![]),
    ];
    let kinds: Vec<Value> = (1..=9).map(Value::from).chain([0.into()]).collect();
    assert_eq!(call(&bundle, "kinds", args).unwrap(), Value::Array(kinds));
    assert_eq!(call(&bundle, "kinds", vec![]).unwrap(), Value::Array(vec![0.into()]));
}

#[test]
fn getters_that_do_not_fit_fail_the_call() {
    let bundle = by_hand("getters");
    let error = guest(call(&bundle, "first_i64", vec!["7".into()]));
    assert_eq!(error.type_name, "MenagerieMisuse");
    assert_eq!(error.message, "mg_arg_i64(call, 0) does not fit: the argument is string");
    let error = guest(call(&bundle, "first_i64", vec![]));
    assert!(error.message.contains("the argument is missing"), "{}", error.message);
    assert_eq!(call(&bundle, "first_i64", vec![7.into()]).unwrap(), 7.into());
}

#[test]
fn results_that_are_not_one_value_fail_the_call() {
    let bundle = by_hand("results");
    for function in ["two_values", "half_a_list", "broken_raw"] {
        let error = guest(call(&bundle, function, vec![]));
        assert_eq!(error.type_name, "MenagerieMisuse", "{function}");
        assert!(error.message.contains("the result is not one value"), "{}", error.message);
    }
    let error = guest(call(&bundle, "no_utf8", vec![]));
    assert_eq!(error.type_name, "MenagerieMisuse");
    assert!(error.message.contains("a text is no UTF-8"), "{}", error.message);
    // It is that call's only.
    let error = guest(call(&bundle, "failed_only", vec![]));
    assert_eq!(error.message, "the function returned 1 and said no more");
}

#[test]
fn functions_that_say_little_have_an_outcome_still() {
    let bundle = by_hand("outcomes");
    assert_eq!(call(&bundle, "nothing", vec![]).unwrap(), Value::Nil);
    assert_eq!(call(&bundle, "last_result_counts", vec![]).unwrap(), 2.into());
    assert_eq!(
        guest(call(&bundle, "status_only", vec![])).message,
        "the function returned -3 and said no more"
    );
    assert_eq!(guest(call(&bundle, "fails_but_says_ok", vec![])).type_name, "Hidden");
    assert_eq!(
        call(&bundle, "refuses", vec![]).unwrap_err(),
        Failure::BadArguments { message: "not like this".to_owned() }
    );
}

#[test]
fn errors_carry_all_that_they_have() {
    let bundle = by_hand("rich_errors");
    let error = guest(call(&bundle, "rich_error", vec![]));
    assert_eq!(error.type_name, "Rich");
    assert_eq!(error.stack, "by_hand.c");
    assert_eq!(error.code.as_deref(), Some("E1"));
    assert_eq!(error.help.as_deref(), Some("help"));
    assert_eq!(error.url.as_deref(), Some("url"));
    assert_eq!(error.inner.len(), 2);
    assert_eq!(error.inner[1].message, "two");
    // There may be as many as one likes, and what each of them has.
    let several = guest(call(&bundle, "tree_of_errors", vec![]));
    assert_eq!(causes(&several), 64);
    // A ring of causes ends somewhere.
    assert_eq!(guest(call(&bundle, "ring_of_errors", vec![])).inner.len(), 1);
}

#[test]
fn views_are_released_once_whatever_happens() {
    let bundle = by_hand("views");
    let released = || call(&bundle, "released", vec![]).unwrap();
    assert_eq!(call(&bundle, "owned", vec![]).unwrap(), Value::Binary(b"owned".to_vec()));
    assert_eq!(released(), 1.into());
    assert!(call(&bundle, "owned_then_fails", vec![]).is_err());
    assert_eq!(released(), 2.into());
    assert_eq!(call(&bundle, "owned_then_other", vec![]).unwrap(), 5.into());
    assert_eq!(released(), 3.into());
    assert_eq!(call(&bundle, "view", vec![]).unwrap(), Value::Binary(vec![b'v'; 10_000]));
    assert_eq!(call(&bundle, "view_of_nothing", vec![]).unwrap(), Value::Binary(vec![]));
    assert_eq!(released(), 3.into());
}
