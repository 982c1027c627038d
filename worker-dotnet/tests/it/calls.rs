use std::collections::HashMap;
use std::sync::Arc;

use menagerie_protocol::testing::TestBundle;
use menagerie_protocol::{Failure, GuestError};
use rmpv::Value;
use serde_bytes::ByteBuf;

use crate::support::{bad_arguments, guest_error, harness, load, sample};

const VALUES: &str = "values@1";

/// What `function` answers to one argument.
fn one(bundle: &TestBundle, function: &str, value: Value) -> Result<Value, Failure> {
    let mut args = Vec::new();
    rmpv::encode::write_value(&mut args, &Value::Array(vec![value])).unwrap();
    let answer = bundle.call_raw(VALUES, function, &args)?;
    Ok(rmpv::decode::read_value(&mut answer.as_slice()).unwrap())
}

#[test]
fn greeter_greets() {
    let greeter = sample(&harness!(), "greeter-dotnet");
    let one: String = greeter.call("greeter@1", "greet", ("Ada",)).unwrap();
    assert_eq!(one, "Hello, Ada");
    let all: Vec<String> = greeter.call("greeter@1", "greet_all", (["Ada", "Käthe"],)).unwrap();
    assert_eq!(all, ["Hello, Ada", "Hello, Käthe"]);
}

#[test]
fn probe_does_its_harmless_parts() {
    let harness = harness!();
    let probe = sample(&harness, "probe-dotnet");
    assert_eq!(probe.call::<_, i64>("probe@1", "inc", (41,)).unwrap(), 42);
    assert_eq!(probe.call_raw("probe@1", "null", &[0x90]).unwrap(), [0xc0]);
    let blob: ByteBuf = probe.call("probe@1", "blob", (100_000,)).unwrap();
    assert!(blob.len() == 100_000 && blob.iter().all(|&b| b == 0xAB));
    probe.call::<_, ()>("probe@1", "sleep_ms", (1,)).unwrap();
    let error = guest_error(probe.call::<_, ()>("probe@1", "fail", ("on purpose",)));
    assert_eq!(
        (&*error.type_name, &*error.message),
        ("System.InvalidOperationException", "on purpose")
    );
    harness.on_call(|contract, function, args| {
        assert_eq!((contract, function, args), ("greeter@1", "greet", &b"\x91\xa3Ada"[..]));
        Ok(b"\xa2Hi".to_vec())
    });
    let answer: String = probe.call("probe@1", "call", ("greeter@1", "greet", ["Ada"])).unwrap();
    assert_eq!(answer, "Hi");
}

#[test]
fn c1_values_keep_their_value() {
    let bundle = load(&harness!(), "values", &[VALUES]);
    let int = |v: i64| Value::from(v);
    let cases = [
        ("bool", vec![Value::from(true), Value::from(false)]),
        ("sbyte", vec![int(-128), int(127)]),
        ("byte", vec![int(0), int(255)]),
        ("short", vec![int(-32768), int(32767)]),
        ("ushort", vec![int(0), int(65535)]),
        ("int", vec![int(i64::from(i32::MIN)), int(i64::from(i32::MAX))]),
        ("uint", vec![int(0), int(i64::from(u32::MAX))]),
        ("long", [i64::MIN, -129, -33, -32, -1, 0, 127, 128, 65536, i64::MAX].map(int).to_vec()),
        ("ulong", vec![int(0), Value::from(u64::MAX)]),
        ("float", vec![Value::from(1.5), Value::from(f64::NEG_INFINITY)]),
        ("double", vec![Value::from(0.1), Value::from(f64::MAX), Value::from(f64::INFINITY)]),
        ("char", vec![Value::from("ß")]),
        (
            "string",
            vec![
                Value::from(""),
                Value::from("naïve 🦊"),
                Value::from("x".repeat(70_000)),
                Value::Nil,
            ],
        ),
        (
            "bytes",
            vec![
                Value::from(&b""[..]),
                Value::from(vec![7u8; 300]),
                Value::from(vec![1u8; 5000]),
                Value::from(vec![2u8; 3 << 20]),
                Value::Nil,
            ],
        ),
        ("maybe", vec![int(5), Value::Nil]),
        (
            "array",
            vec![Value::Array(vec![]), Value::Array((0..70_000).map(int).collect()), Value::Nil],
        ),
        ("list", vec![Value::Array(vec![Value::from("a"), Value::Nil])]),
        (
            "nested",
            vec![Value::Array(vec![Value::Array(vec![Value::from(1.5)]), Value::Array(vec![])])],
        ),
        ("map", vec![Value::Map(vec![(Value::from("a"), int(1)), (Value::from("b"), int(2))])]),
        ("numbered", vec![Value::Map(vec![(int(5), Value::from("five"))])]),
        ("view", vec![Value::from(vec![9u8; 100]), Value::from(vec![9u8; 200_000])]),
    ];
    for (function, values) in cases {
        for value in values {
            assert_eq!(one(&bundle, function, value.clone()).unwrap(), value, "{function}");
            assert_eq!(one(&bundle, "object", value.clone()).unwrap(), value, "object");
        }
    }
    let nan = one(&bundle, "double", Value::from(f64::NAN)).unwrap();
    assert!(nan.as_f64().unwrap().is_nan());
    assert_eq!(
        one(&bundle, "doubled", Value::Array(vec![int(2), int(3)])).unwrap(),
        Value::Array(vec![int(4), int(6)])
    );
    // Integers are fine floats as long as they stay what they are.
    assert_eq!(one(&bundle, "double", int(1 << 60)).unwrap(), Value::from((1i64 << 60) as f64));
    assert_eq!(one(&bundle, "float", Value::from(0.1)).unwrap(), Value::from(f64::from(0.1f32)));
}

#[test]
fn c1_values_arrive_as_the_types_that_dotnet_has() {
    let bundle = load(&harness!(), "values", &[VALUES]);
    let mixed = Value::Map(vec![(Value::from("a"), Value::Nil), (Value::from(1), Value::Nil)]);
    for (value, name) in [
        (Value::Nil, "null"),
        (Value::from(1), "System.Int64"),
        (Value::from(u64::MAX), "System.UInt64"),
        (Value::from(0.5), "System.Double"),
        (Value::from("s"), "System.String"),
        (Value::from(&b"b"[..]), "System.Byte[]"),
        (Value::Array(vec![]), "System.Collections.Generic.List`1[System.Object]"),
        (
            Value::Map(vec![]),
            "System.Collections.Generic.Dictionary`2[System.String,System.Object]",
        ),
        (mixed.clone(), "System.Collections.Generic.Dictionary`2[System.Object,System.Object]"),
    ] {
        assert_eq!(one(&bundle, "type_of", value).unwrap(), Value::from(name));
    }
    assert_eq!(one(&bundle, "object", mixed.clone()).unwrap(), mixed);
}

#[test]
fn c1_what_dotnet_cannot_hold_is_refused() {
    let bundle = load(&harness!(), "values", &[VALUES]);
    let deep = (0..200).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    let null_key = Value::Map(vec![(Value::Nil, Value::Nil)]);
    let twice =
        Value::Map(vec![(Value::from("a"), Value::from(1)), (Value::from("a"), Value::from(2))]);
    for (function, value, expected) in [
        ("int", Value::from(1i64 << 40), "expected int, got the integer 1099511627776"),
        ("byte", Value::from(-1), "expected byte, got the integer -1"),
        ("ulong", Value::from(-1), "expected ulong"),
        ("long", Value::from(u64::MAX), "expected long, got the integer 18446744073709551615"),
        ("long", Value::from(2.0), "expected long, got the float 2"),
        ("long", Value::Nil, "expected long, got null"),
        ("double", Value::from(i64::MAX), "expected double"),
        ("float", Value::from(1e300), "expected float"),
        ("float", Value::from(-1e-46), "expected float"),
        ("string", Value::from(5), "expected string, got the integer 5"),
        ("bytes", Value::from("text"), "expected byte[], got string"),
        ("char", Value::from("ab"), "expected char"),
        ("array", Value::from("text"), "expected int[], got string"),
        ("list", Value::Array(vec![Value::from(1)]), "expected string"),
        ("map", Value::Array(vec![]), "expected Dictionary<string, int>, got list"),
        ("map", twice.clone(), "same key twice"),
        ("object", null_key, "key is null"),
        ("object", twice, "same key twice"),
        ("object", deep, "nested deeper"),
    ] {
        let message = bad_arguments(one(&bundle, function, value));
        assert!(
            message.contains(expected) && message.contains("argument 1"),
            "{function}: {message}"
        );
    }
    let invalid_utf8 = bad_arguments(bundle.call_raw(VALUES, "string", b"\x91\xa1\xff"));
    assert!(invalid_utf8.contains("UTF-8"), "{invalid_utf8}");
    let extension = bad_arguments(bundle.call_raw(VALUES, "object", b"\x91\xd4\x01\x02"));
    assert!(extension.contains("0xd4"), "{extension}");
    for truncated in [
        &b""[..],
        b"\x91",
        b"\x91\xa5abc",
        b"\x91\xdd\xff\xff\xff\xff",
        b"\x91\xc6\x7f\xff\xff\xff",
    ] {
        assert!(
            bad_arguments(bundle.call_raw(VALUES, "object", truncated))
                .contains("ends in the middle")
        );
    }
    // The bundle is as good as before.
    assert_eq!(one(&bundle, "int", Value::from(5)).unwrap(), Value::from(5));
}

#[test]
fn c1_results_that_cannot_cross_are_typed_errors() {
    let bundle = load(&harness!(), "values", &[VALUES]);
    for (function, expected) in [
        ("cyclic", "deeper than 128"),
        ("unsupported", "System.DateTime"),
        ("grid", "System.Int32[,]"),
        ("half_pair", "surrogate"),
        ("liar", "Count"),
    ] {
        let error = guest_error(bundle.call::<_, Value>(VALUES, function, ()));
        assert_eq!(error.type_name, "Menagerie.UnsupportedValueException");
        assert!(error.message.contains(expected), "{error}");
    }
    bundle.call::<_, ()>(VALUES, "nothing", ()).unwrap();
}

#[test]
fn arguments_are_counted_before_the_body_runs() {
    let bundle = load(&harness!(), "values", &[VALUES]);
    let message = bad_arguments(bundle.call::<_, i32>(VALUES, "three", (1, 2)));
    assert_eq!(message, "three(a: int, b: int, c: int) takes 3 arguments, got 2");
    let message = bad_arguments(bundle.call::<_, ()>(VALUES, "nothing", (1,)));
    assert_eq!(message, "nothing() takes 0 arguments, got 1");
    let message = bad_arguments(bundle.call::<_, i32>(VALUES, "three", (1, "x", 3)));
    assert_eq!(message, "three(a: int, b: int, c: int): argument 2: expected int, got string");
}

#[test]
fn optional_parameters_may_be_left_out() {
    let bundle = load(&harness!(), "values", &[VALUES]);
    let call = |args: &[&str]| bundle.call::<_, String>(VALUES, "optional", args);
    assert_eq!(call(&["a"]).unwrap(), "ab3");
    assert_eq!(call(&["a", "z"]).unwrap(), "az3");
    assert!(bad_arguments(call(&[])).contains("takes 1 to 3 arguments, got 0"));
    assert_eq!(bundle.call::<_, i32>(VALUES, "seven", (1, 2, 3, 4, 5, 6)).unwrap(), 28);
    assert_eq!(bundle.call::<_, i32>(VALUES, "seven", (1, 2, 3, 4, 5, 6, 0)).unwrap(), 21);
}

#[test]
fn c2_a_view_is_the_arguments_own_memory() {
    let bundle = load(&harness!(), "values", &[VALUES]);
    for len in [10u64, 100_000] {
        let bytes = ByteBuf::from(vec![3; usize::try_from(len).unwrap()]);
        assert_eq!(bundle.call::<_, u64>(VALUES, "sum_of_view", (&bytes,)).unwrap(), 3 * len);
        assert_eq!(bundle.call::<_, ByteBuf>(VALUES, "copy_of_view", (&bytes,)).unwrap(), bytes);
        let error = guest_error(bundle.call::<_, u8>(VALUES, "beyond", (&bytes,)));
        assert_eq!(error.type_name, "System.IndexOutOfRangeException");
        bundle.call::<_, ()>(VALUES, "keep", (&bytes,)).unwrap();
        let error = guest_error(bundle.call::<_, u8>(VALUES, "use_kept", ()));
        assert_eq!(error.type_name, "System.ObjectDisposedException");
    }
}

/// The answer's memory goes when the call returns; its bytes have to be copied.
#[test]
fn c2_the_result_of_a_call_holds_no_view() {
    let harness = harness!();
    let bundle = load(&harness, "neighbour", &["neighbour@1"]);
    harness.on_call(|_, function, _| match function {
        "one" => Ok(b"\xc4\x02\x07\x07".to_vec()),
        "list" => Ok(b"\x91\xc4\x02\x07\x07".to_vec()),
        "nested" => Ok(b"\x91\x91\xc4\x02\x07\x07".to_vec()),
        _ => Ok(b"\x81\xa1a\xc4\x02\x07\x07".to_vec()),
    });
    let cases = [
        ("view", "View"),
        ("list", "List<View>"),
        ("array", "View[]"),
        ("sequence", "list of View"),
        ("nested", "List<View[]>"),
        ("map", "Dictionary<string, View>"),
        ("interface", "Dictionary<string, View>"),
    ];
    for (shape, name) in cases {
        let said: String = bundle.call("neighbour@1", "ask_for_views", (shape,)).unwrap();
        assert!(
            said.starts_with(&format!("the result of a call cannot be a {name}")),
            "{shape}: {said}"
        );
    }
}

/// .NET lets arrays of signed bytes, and of enums that are bytes, pass as arrays of bytes.
#[test]
fn c1_only_bytes_leave_as_bytes() {
    let harness = harness!();
    harness.on_call(|_, _, args| Ok(args.to_vec()));
    let bundle = load(&harness, "values", &[VALUES]);
    let call = |function| bundle.call::<_, Value>(VALUES, function, ());
    let signed = Value::Array(vec![Value::from(-1), Value::from(2)]);
    assert_eq!(call("signed_bytes").unwrap(), signed);
    assert_eq!(call("pass_signed").unwrap(), Value::Array(vec![signed]));
    let among = vec![Value::Array(vec![Value::from(-1)]), Value::from(&b"\xff"[..])];
    assert_eq!(call("among_others").unwrap(), Value::Array(among));
    let error = guest_error(call("tiny_enums"));
    assert_eq!(error.type_name, "Menagerie.UnsupportedValueException");
}

/// An array of references is an `object[]` to C#, which is not the list of the arguments
/// for that: a `long[]` is none.
#[test]
fn c1_an_array_is_one_argument() {
    let harness = harness!();
    harness.on_call(|_, _, args| Ok(args.to_vec()));
    let bundle = load(&harness, "values", &[VALUES]);
    let list = |items: &[&str]| Value::Array(items.iter().map(|item| Value::from(*item)).collect());
    for names in [list(&[]), list(&["Ada"]), list(&["Ada", "Grace"])] {
        let passed = one(&bundle, "pass_names", names.clone()).unwrap();
        assert_eq!(passed, Value::Array(vec![names]));
    }
    let lists = Value::Array(vec![list(&["a"]), list(&[])]);
    let passed = one(&bundle, "pass_lists", lists.clone()).unwrap();
    assert_eq!(passed, Value::Array(vec![lists]));
    // These are the arguments.
    assert_eq!(one(&bundle, "pass_all", list(&["a", "b"])).unwrap(), list(&["a", "b"]));
}

/// 1 and 1L are two keys in .NET, and one elsewhere.
#[test]
fn c1_a_map_with_a_key_twice_is_refused() {
    let bundle = load(&harness!(), "values", &[VALUES]);
    for kind in ["objects", "hashtable", "typed", "comparable"] {
        let error = guest_error(bundle.call::<_, Value>(VALUES, "same_keys", (kind,)));
        assert_eq!(error.type_name, "Menagerie.UnsupportedValueException", "{kind}");
        assert!(error.message.contains("the same key twice: 1"), "{kind}: {error}");
    }
    for kind in ["bytes", "boxed bytes", "text"] {
        let error = guest_error(bundle.call::<_, Value>(VALUES, "same_keys", (kind,)));
        assert!(error.message.contains("the same key twice"), "{kind}: {error}");
    }
    for function in ["same_bytes", "same_text"] {
        let error = guest_error(bundle.call::<_, Value>(VALUES, function, ()));
        assert!(error.message.contains("the same key twice"), "{function}: {error}");
    }
    let kept: Value = bundle.call(VALUES, "same_keys", ("none",)).unwrap();
    assert_eq!(kept.as_map().map(Vec::len), Some(4), "{kept}");
}

/// Of nothing but its length, which is said first, it may have no more than it is written
/// to; the whole need not be in memory.
#[test]
fn c1_a_sequence_that_knows_no_length_crosses() {
    let bundle = load(&harness!(), "limits", &["limits@1"]);
    for count in [0, 1, 15, 16, 70_000] {
        let numbers: Vec<i32> = (0..count).collect();
        for function in ["typed", "untyped"] {
            assert_eq!(
                bundle.call::<_, Vec<i32>>("limits@1", function, (count,)).unwrap(),
                numbers
            );
        }
        let nested: Vec<Vec<i32>> = bundle.call("limits@1", "nested", (count.min(20),)).unwrap();
        assert_eq!(nested.len(), usize::try_from(count.min(20)).unwrap());
        assert!(nested.iter().enumerate().all(|(length, list)| list.len() == length));
        let map: HashMap<i32, i32> = bundle.call("limits@1", "pairs", (count,)).unwrap();
        assert_eq!(map.len(), numbers.len());
        assert!(map.iter().all(|(key, value)| *value == key + 1));
    }
}

#[test]
fn c2_a_value_that_shares_its_parts_is_refused_at_the_limit() {
    let harness = harness!();
    harness.on_call(|_, _, _| panic!("it does not get there"));
    let bundle = load(&harness, "limits", &["limits@1"]);
    for function in ["shared", "endless", "endless_typed", "endless_pairs", "contents", "later"] {
        match bundle.call_raw("limits@1", function, &[0x90]) {
            Err(Failure::PayloadTooLarge { size, limit }) => {
                assert_eq!(limit, 64 << 20, "{function}");
                assert!((limit..limit + (2 << 20)).contains(&size), "{function}: {size}");
            }
            other => panic!("{function}: {other:?}"),
        }
    }
    let told: String = bundle.call("limits@1", "argument", ()).unwrap();
    assert_eq!(told, "PayloadTooLarge");
    assert_eq!(bundle.call::<_, i32>("limits@1", "fine", ()).unwrap(), 1);
}

#[test]
fn tasks_are_waited_for() {
    let bundle = load(&harness!(), "tasks", &["tasks@1"]);
    assert_eq!(bundle.call::<_, i32>("tasks@1", "ready", ()).unwrap(), 1);
    assert_eq!(bundle.call::<_, String>("tasks@1", "later", ("x",)).unwrap(), "x");
    bundle.call::<_, ()>("tasks@1", "nothing", ()).unwrap();
    assert_eq!(bundle.call::<_, i32>("tasks@1", "value", ()).unwrap(), 7);
    let error = guest_error(bundle.call::<_, i32>("tasks@1", "fails", ()));
    assert_eq!((&*error.type_name, &*error.message), ("System.InvalidOperationException", "later"));
    let error = guest_error(bundle.call::<_, i32>("tasks@1", "no_task", ()));
    assert!(error.message.contains("null instead of a Task"), "{error}");
}

#[test]
fn host_calls_are_made_on_the_lanes_thread() {
    let harness = harness!();
    let bundle = load(&harness, "tasks", &["tasks@1"]);
    harness.on_call(|_, function, args| match function {
        "number" => Ok(vec![42]),
        "list" => Ok(b"\x92\xa1a\xa1b".to_vec()),
        _ => Ok(args.to_vec()),
    });
    // After an await the function runs in the thread pool.
    let late: Vec<String> = bundle.call("tasks@1", "call_later", ("other@1", "echo")).unwrap();
    assert_eq!(late, ["late"]);
    let refused: String = bundle.call("tasks@1", "call_from_thread", ()).unwrap();
    assert!(refused.contains("the bundle's own thread"), "{refused}");
    assert_eq!(bundle.call::<_, String>("tasks@1", "call_typed", ()).unwrap(), "42 2");
    let wrong: String = bundle.call("tasks@1", "call_wrong_type", ()).unwrap();
    assert_eq!(wrong, "BadValue: the result does not fit: expected string, got the integer 42");
}

#[test]
fn host_calls_fail_with_the_callees_error() {
    let harness = harness!();
    let bundle = load(&harness, "tasks", &["tasks@1"]);
    let remote = GuestError {
        type_name: "ValueError".to_owned(),
        message: "boom".to_owned(),
        stack: "line 1".to_owned(),
        code: Some("E1".to_owned()),
        help: Some("look again".to_owned()),
        url: Some("about:keys".to_owned()),
        inner: vec![
            GuestError::new("OSError", "no disk").with_stack("deeper"),
            GuestError::new("TimeoutError", ""),
        ],
    };
    let raised = remote.clone();
    harness.on_call(move |contract, _, _| match contract {
        "guest@1" => Err(raised.clone().into()),
        _ => Err(Failure::NoSuchContract { contract: contract.to_owned() }),
    });
    let caught: String = bundle.call("tasks@1", "caught", ("guest@1",)).unwrap();
    assert_eq!(
        caught,
        "Guest|ValueError: boom|ValueError|boom|line 1|E1|look again|about:keys|OSError|TimeoutError"
    );
    let caught: String = bundle.call("tasks@1", "caught", ("none@1",)).unwrap();
    assert_eq!(caught, "NoSuchContract|no loaded bundle provides 'none@1'|||");
    // Not caught, it is the bundle's own error, with the callee's inside.
    let error = guest_error(bundle.call::<_, Value>("tasks@1", "call", ("guest@1", "f", [0; 0])));
    assert_eq!(error.type_name, "Menagerie.CallError");
    assert_eq!(error.code.as_deref(), Some("Guest"));
    assert_eq!(error.inner, [remote]);
}

#[test]
fn c6_two_bundles_run_at_the_same_time() {
    let harness = harness!();
    let slow = Arc::new(sample(&harness, "probe-dotnet"));
    let quick = sample(&harness, "greeter-dotnet");
    // The first answers only when the second has: it waits for its caller.
    let (answer, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    harness.on_call(move |_, _, _| {
        wait.lock().unwrap().recv().unwrap();
        Ok(vec![0xc0])
    });
    let caller = {
        let slow = Arc::clone(&slow);
        std::thread::spawn(move || {
            slow.call::<_, ()>("probe@1", "call", ("greeter@1", "f", [0; 0]))
        })
    };
    let greeting: String = quick.call("greeter@1", "greet", ("Ada",)).unwrap();
    assert_eq!(greeting, "Hello, Ada");
    answer.send(()).unwrap();
    caller.join().unwrap().unwrap();
}
