use menagerie_protocol::message::LogLevel;
use menagerie_protocol::{Failure, GuestError};
use rmpv::Value;
use serde_bytes::{ByteBuf, Bytes};

use crate::support::{Folder, bad_arguments, guest, harness};

const LANGUAGES: [&str; 2] = ["rust", "c"];

fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    rmpv::encode::write_value(&mut out, value).unwrap();
    out
}

/// One value of each kind and at each boundary.
fn values() -> Vec<Value> {
    let mut values = vec![
        Value::Nil,
        true.into(),
        false.into(),
        Value::F64(0.1),
        Value::F64(-0.0),
        Value::F64(f64::NAN),
        Value::F64(f64::INFINITY),
        "".into(),
        "héllo ☃".into(),
        "x".repeat(70_000).into(),
        Value::Binary(vec![]),
        Value::Binary(vec![0, 255]),
        Value::Binary(vec![7; 300_000]),
        Value::Array(vec![]),
        Value::Array((0..70_000).map(Value::from).collect()),
        Value::Map(vec![]),
        Value::Map(vec![
            (1.into(), "one".into()),
            (Value::Nil, Value::Array(vec![Value::Map(vec![("a".into(), Value::F64(1.0))])])),
        ]),
    ];
    for shift in 0..64 {
        let n = 1_u64 << shift;
        values.extend([n.into(), (n - 1).into(), n.cast_signed().wrapping_neg().into()]);
    }
    values.push(u64::MAX.into());
    values
}

#[test]
fn greeters_greet() {
    let harness = harness();
    for language in LANGUAGES {
        let bundle = Folder::sample("greeter", language).load(&harness);
        let text: String = bundle.call("greeter@1", "greet", ("Ada",)).unwrap();
        assert_eq!(text, "Hello, Ada");
        let texts: Vec<String> =
            bundle.call("greeter@1", "greet_all", (["Ada", "é", ""],)).unwrap();
        assert_eq!(texts, ["Hello, Ada", "Hello, é", "Hello, "]);
        let texts: Vec<String> = bundle.call("greeter@1", "greet_all", ([""; 0],)).unwrap();
        assert!(texts.is_empty());
    }
}

#[test]
fn probes_export_their_functions_in_order() {
    let harness = harness();
    for language in LANGUAGES {
        let bundle = Folder::sample("probe", language).load(&harness);
        let contracts = bundle.contracts();
        assert_eq!(contracts.len(), 1);
        assert_eq!(contracts[0].contract, "probe@1");
        let expected = [
            "inc",
            "echo",
            "fail",
            "crash",
            "spin",
            "sleep_ms",
            "null",
            "blob",
            "call",
            "caught",
            "state",
            "dir",
            "set_state",
            "misfit",
            "say",
        ];
        assert_eq!(contracts[0].functions, expected);
    }
}

#[test]
fn c1_values_of_every_kind_come_back_unchanged() {
    let harness = harness();
    let fixture = Folder::fixture("values_of_every_kind").load(&harness);
    let rust = Folder::sample("probe", "rust").load(&harness);
    let c = Folder::sample("probe", "c").load(&harness);
    for value in values() {
        let args = encoded(&Value::Array(vec![value.clone()]));
        let expected = encoded(&value);
        for (bundle, contract, function) in
            [(&fixture, "fixture@1", "again"), (&rust, "probe@1", "echo"), (&c, "probe@1", "echo")]
        {
            let found = bundle.call_raw(contract, function, &args).unwrap();
            assert!(found == expected, "{function} of {bundle:?} changed {value}");
        }
    }
}

#[test]
fn probes_do_what_they_say() {
    let harness = harness();
    for language in LANGUAGES {
        let bundle = Folder::sample("probe", language).load(&harness);
        assert_eq!(bundle.call::<_, i64>("probe@1", "inc", (-1,)).unwrap(), 0);
        assert_eq!(bundle.call::<_, i64>("probe@1", "inc", (i64::MAX - 1,)).unwrap(), i64::MAX);
        bundle.call::<_, ()>("probe@1", "null", ()).unwrap();
        bundle.call::<_, ()>("probe@1", "sleep_ms", (1,)).unwrap();
        for n in [0, 1, 100, 4095, 4096, 100_000, 3_000_000] {
            let blob: ByteBuf = bundle.call("probe@1", "blob", (n,)).unwrap();
            assert!(blob.len() == n && blob.iter().all(|b| *b == 0xAB), "{n}");
        }
        let error = guest(bundle.call::<_, ()>("probe@1", "fail", ("oh no",)));
        assert_eq!(error, GuestError::new("ProbeError", "oh no"));
    }
}

#[test]
fn bad_arguments_are_named_before_the_function_runs() {
    let harness = harness();
    for language in LANGUAGES {
        let bundle = Folder::sample("probe", language).load(&harness);
        let message = bad_arguments(bundle.call::<_, ()>("probe@1", "inc", ()));
        assert_eq!(message, "expected 1 argument (n), got 0");
        let message = bad_arguments(bundle.call::<_, ()>("probe@1", "inc", (1, 2)));
        assert_eq!(message, "expected 1 argument (n), got 2");
        let message = bad_arguments(bundle.call::<_, ()>("probe@1", "null", (1,)));
        assert_eq!(message, "expected 0 arguments, got 1");
        for value in ["1".into(), Value::F64(1.0), true.into(), Value::Nil, u64::MAX.into()] {
            let message = bad_arguments(bundle.call::<_, ()>("probe@1", "inc", (value,)));
            assert!(message.starts_with("argument 'n': "), "{message}");
        }
        let message = bad_arguments(bundle.call::<_, ()>("probe@1", "fail", (Bytes::new(b"x"),)));
        assert_eq!(message, "argument 'message': expected a string, found bytes");
        let greeter = Folder::sample("greeter", language).load(&harness);
        let message = bad_arguments(greeter.call::<_, ()>("greeter@1", "greet_all", ((1, 2),)));
        assert!(message.starts_with("argument 'names': expected"), "{message}");
        // The next call is as good as any.
        assert_eq!(bundle.call::<_, i64>("probe@1", "inc", (1,)).unwrap(), 2);
    }
}

/// Of a Rust function; those of other languages are in the integration tests.
#[test]
fn b3_a_name_of_255_letters() {
    let harness = harness();
    let bundle = Folder::fixture("names").load(&harness);
    let name = format!("f{}d", "n".repeat(253));
    let text: String = bundle.call("another@2", &name, ("Ada",)).unwrap();
    assert_eq!(text, "Ada");
    let told = bundle.contracts();
    let other = told.iter().find(|told| told.contract == "another@2").unwrap();
    assert_eq!(other.functions, ["answer".to_owned(), name]);
}

#[test]
fn rust_types_are_what_serde_makes_of_them() {
    let harness = harness();
    let bundle = Folder::fixture("rust_types").load(&harness);
    let call = |args: (&str, &Bytes, Option<f64>)| bundle.call("fixture@1", "join", args);
    let text: String = call(("é", Bytes::new(&[1, 2]), None)).unwrap();
    assert_eq!(text, "é [1, 2] None");
    let text: String = call(("", Bytes::new(&[]), Some(0.5))).unwrap();
    assert_eq!(text, " [] Some(0.5)");
    let message = bad_arguments(bundle.call::<_, String>("fixture@1", "join", ("", "text", 1.0)));
    assert_eq!(message, "argument 'bytes': expected bytes, found a string");

    let args = Value::Array(vec![
        Value::Array(vec![Value::Map(vec![("x".into(), 3.into()), ("y".into(), Value::Nil)])]),
        Value::Map(vec![("one".into(), 1.into())]),
    ]);
    let mirrored = bundle.call_raw("fixture@1", "mirror", &encoded(&args)).unwrap();
    let expected = Value::Array(vec![
        Value::Array(vec![Value::Map(vec![("x".into(), (-3).into()), ("y".into(), Value::Nil)])]),
        Value::Map(vec![(1.into(), "one".into())]),
    ]);
    assert_eq!(rmpv::decode::read_value(&mut &mirrored[..]).unwrap(), expected);

    let text: String = bundle.call("fixture@1", "type", ()).unwrap();
    assert_eq!(text, "a raw identifier");
    let answer: u8 = bundle.call("another@2", "answer", ()).unwrap();
    assert_eq!(answer, 42);
}

#[test]
fn c2_views_of_bytes_go_out_again() {
    let harness = harness();
    let bundle = Folder::fixture("views_of_bytes").load(&harness);
    for len in [0_u32, 8, 4096, 20_000, 2_000_000] {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let middle: ByteBuf = bundle.call("fixture@1", "middle", (Bytes::new(&bytes),)).unwrap();
        let quarter = bytes.len() / 4;
        assert!(middle.as_ref() == &bytes[quarter..bytes.len() - quarter], "{len}");
        let filled: ByteBuf = bundle.call("fixture@1", "fill", (9, len)).unwrap();
        assert!(filled.as_ref() == vec![9; usize::try_from(len).unwrap()], "{len}");
    }
}

#[test]
fn values_nest_as_deep_as_the_limit_and_no_deeper() {
    let harness = harness();
    let bundle = Folder::fixture("nesting").load(&harness);
    bundle.call_raw("fixture@1", "nested", &encoded(&Value::Array(vec![128.into()]))).unwrap();
    let error =
        guest(bundle.call_raw("fixture@1", "nested", &encoded(&Value::Array(vec![129.into()]))));
    assert_eq!(error.type_name, "BadValue");
    let mut args = vec![0x91; 5000];
    args.push(0xc0);
    let message = bad_arguments(bundle.call_raw("fixture@1", "again", &args));
    assert!(message.contains("128"), "{message}");
    let c = Folder::sample("probe", "c").load(&harness);
    let message = bad_arguments(c.call_raw("probe@1", "echo", &args));
    assert!(message.contains("128"), "{message}");
}

#[test]
fn c3_panics_are_errors_with_their_place() {
    let harness = harness();
    let bundle = Folder::fixture("panics").load(&harness);
    for _ in 0..3 {
        let error = guest(bundle.call::<_, ()>("fixture@1", "panic_text", ()));
        assert_eq!((error.type_name.as_str(), error.message.as_str()), ("panic", "just so"));
        assert!(error.stack.contains("guests/fixture.rs:"), "{}", error.stack);
        let error = guest(bundle.call::<_, i64>("fixture@1", "panic_formatted", (7,)));
        assert!(error.message.contains("index is 7"), "{}", error.message);
        assert_eq!(bundle.call::<_, i64>("fixture@1", "panic_formatted", (2,)).unwrap(), 3);
    }
    let error = guest(bundle.call::<_, ()>("fixture@1", "panic_any", ()));
    assert_eq!(error.message, "a panic whose payload is no text");
    assert!(bundle.call::<_, bool>("fixture@1", "panic_in_thread", ()).unwrap());
}

#[test]
fn c3_errors_keep_type_message_and_causes() {
    let harness = harness();
    let bundle = Folder::fixture("errors").load(&harness);
    let error = guest(bundle.call::<_, ()>("fixture@1", "fail_text", ("no",)));
    assert_eq!(error, GuestError::new("String", "no"));
    let error = guest(bundle.call::<_, i64>("fixture@1", "fail_source", ("x",)));
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("Outer", "that is no number"));
    assert_eq!(error.inner[0].message, "invalid digit found in string");
    assert_eq!(bundle.call::<_, i64>("fixture@1", "fail_source", ("5",)).unwrap(), 5);
    let error = guest(bundle.call::<_, i64>("fixture@1", "fail_boxed", ("x",)));
    assert_eq!(error.message, "invalid digit found in string");
    let error = guest(bundle.call::<_, ()>("fixture@1", "fail_fully", ()));
    assert_eq!(error.code.as_deref(), Some("E7"));
    assert_eq!(error.help.as_deref(), Some("try again"));
    assert_eq!(error.url.as_deref(), Some("https://example.org/e7"));
}

#[test]
fn c5_calls_to_others_bring_values_and_failures() {
    let harness = harness();
    harness.on_call(|contract, function, args| match function {
        "greet" => Ok([&[0x92][..], &encoded(&contract.into()), args].concat()),
        "blob" => Ok(encoded(&Value::Binary(vec![5; 1_000_000]))),
        "fail" => {
            let inner =
                GuestError { code: Some("7".to_owned()), ..GuestError::new("Cause", "deep") };
            let error = GuestError { inner: vec![inner], ..GuestError::new("ValueError", "bad") };
            Err(error.with_stack("line 1").into())
        }
        _ => Err(Failure::NoSuchFunction {
            contract: contract.to_owned(),
            function: function.to_owned(),
            available: vec![],
        }),
    });
    let rust = Folder::sample("probe", "rust").load(&harness);
    let c = Folder::sample("probe", "c").load(&harness);
    for bundle in [&rust, &c] {
        let call = |function: &str, args: Vec<Value>| {
            bundle.call::<_, Value>("probe@1", "call", ("kv@1", function, args))
        };
        let value = call("greet", vec![1.into(), "x".into()]).unwrap();
        let args = Value::Array(vec![1.into(), "x".into()]);
        assert_eq!(value, Value::Array(vec!["kv@1".into(), args]));
        assert_eq!(call("greet", vec![]).unwrap()[1], Value::Array(vec![]));
        assert_eq!(call("blob", vec![]).unwrap(), Value::Binary(vec![5; 1_000_000]));

        let error = guest(call("fail", vec![]));
        assert_eq!(error.type_name, "CallError");
        assert_eq!(error.code.as_deref(), Some("Guest"));
        let cause = &error.inner[0];
        assert_eq!((cause.type_name.as_str(), cause.message.as_str()), ("ValueError", "bad"));
        assert_eq!(cause.stack, "line 1");
        assert_eq!(cause.inner[0].code.as_deref(), Some("7"));

        let error = guest(call("nothing", vec![]));
        assert_eq!(error.code.as_deref(), Some("NoSuchFunction"));
        assert!(error.message.contains("'kv@1' has no function 'nothing'"), "{}", error.message);
    }
    let bundle = Folder::fixture("calls_to_others").load(&harness);
    let call = |args: Value| bundle.call::<_, Value>("fixture@1", "call", ("kv@1", "greet", args));
    assert_eq!(call(Value::Nil).unwrap()[1], Value::Array(vec![]));
    assert_eq!(guest(call(5.into())).code.as_deref(), Some("BadArguments"));
    let error = guest(bundle.call::<_, ()>("fixture@1", "call_in_error", ()));
    assert_eq!(
        (error.type_name.as_str(), error.code.as_deref()),
        ("CallError", Some("NoSuchFunction"))
    );
}

#[test]
fn c5_calls_from_other_threads_are_refused() {
    let harness = harness();
    let bundle = Folder::fixture("calls_from_threads").load(&harness);
    let kind: String = bundle.call("fixture@1", "call_from_thread", ()).unwrap();
    assert_eq!(kind, "WrongThread");
}

#[test]
fn logs_come_from_any_thread_with_level_and_bundle() {
    let harness = harness();
    let bundle = Folder::fixture("logs").load(&harness);
    bundle.call::<_, ()>("fixture@1", "log_from_thread", ("watch out",)).unwrap();
    let record = harness.wait_for_log(|record| record.message == "watch out!");
    assert_eq!(record.level, LogLevel::Warn);
    assert_eq!(record.target, "log");
    assert_eq!(record.bundle.as_deref(), Some("logs"));
    for language in LANGUAGES {
        let _bundle = Folder::sample("probe", language).load(&harness);
        let text = format!("probe-{language} is loaded for the 1. time");
        assert_eq!(harness.wait_for_log(|record| record.message == text).level, LogLevel::Info);
    }
}
