//! Arguments that are too many, too few, of the wrong kind, or that a language
//! cannot hold.

use menagerie_supervisor::{Bytes, Failure};
use rmpv::Value;
use serde::Serialize;
use serde::ser::SerializeTuple;

use super::Scene;
use crate::support::{config, per_language};

per_language!(rust, c, py, lua, js, dotnet; {
    c3_a_wrong_number_of_arguments,
    c3_arguments_of_the_wrong_kind,
    c3_names_that_nobody_exports,
    c1_arguments_that_are_nested_too_deep,
    c1_integers_at_the_ends_of_64_bits,
    c1_map_keys_that_are_no_strings,
    c1_values_that_are_empty,
    c1_floats_that_are_no_numbers,
    c1_extensions_of_message_pack,
    c2_arguments_beyond_the_payload_limit,
});

async fn c3_a_wrong_number_of_arguments(suffix: &str) {
    let scene = Scene::set(suffix).await;
    for (function, count, expected) in
        [("inc", 0, "1"), ("inc", 2, "1"), ("null", 1, "0"), ("call", 2, "3"), ("inc", 200, "1")]
    {
        let message = scene.refuses(function, vec![Value::from(1); count]).await;
        assert!(message.contains(expected), "{suffix} {function}: {message}");
        assert!(message.contains(&count.to_string()), "{suffix} {function}: {message}");
    }
    scene.end().await;
}

async fn c3_arguments_of_the_wrong_kind(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let map = Value::Map(vec![("k".into(), 1.into())]);
    for value in ["1".into(), Value::Nil, Value::Array(vec![]), map, Value::Binary(vec![0xff])] {
        let told = format!("{suffix} inc({value})");
        match scene.call("inc", vec![value.clone()]).await {
            // Where the language has types for parameters.
            Err(Failure::BadArguments { message }) => assert!(!message.is_empty(), "{told}"),
            // Where it has not, its own operator refuses.
            Err(Failure::Guest(error)) => {
                assert!(matches!(suffix, "lua" | "js"), "{told}: {error:?}");
                assert!(!error.message.is_empty() && !error.stack.is_empty(), "{told}: {error:?}");
            }
            // Lua reads numbers out of text, by its own rules.
            Ok(n) => assert!(suffix == "lua" && value.is_str() && n == 2.into(), "{told}: {n}"),
            other => panic!("{told}: {other:?}"),
        }
        scene.goes_on().await;
    }
    // Bytes that are no text, where text is expected.
    let outcome = scene.call("fail", vec![Value::Binary(vec![0xff, 0xfe])]).await;
    let typed = matches!(&outcome, Err(Failure::BadArguments { .. } | Failure::Guest(_)));
    assert!(typed, "{suffix}: {outcome:?}");
    scene.goes_on().await;
    // Arguments that are no list at all.
    let outcome = scene.probe.call_value("inc", &Value::from(1)).await;
    assert!(matches!(&outcome, Err(Failure::BadArguments { .. })), "{suffix}: {outcome:?}");
    scene.goes_on().await;
    scene.end().await;
}

async fn c3_names_that_nobody_exports(suffix: &str) {
    let scene = Scene::set(suffix).await;
    for name in ["nothing", "", "Inc", "inc ", "on_load", "__init__", "constructor", "\0", "é"] {
        let outcome = scene.call(name, vec![Value::from(1)]).await;
        let Err(Failure::NoSuchFunction { contract, function, available }) = &outcome else {
            panic!("{suffix} {name:?}: {outcome:?}")
        };
        assert_eq!((contract.as_str(), function.as_str()), ("probe@1", name));
        assert!(available.contains(&"inc".to_owned()), "{available:?}");
        scene.goes_on().await;
    }
    for name in ["nothing@1", "probe@2", "probe@x", "", "@", "/", "/probe@1", "greeter/probe@1"] {
        let outcome = scene.supervisor.contract(name).map(drop);
        let Err(Failure::NoSuchContract { contract }) = &outcome else {
            panic!("{name:?}: {outcome:?}")
        };
        assert_eq!(contract, name);
    }
    scene.end().await;
}

/// An array in an array, `depth` times, written without recursion.
fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Nil, |inner, _| Value::Array(vec![inner]))
}

async fn c1_arguments_that_are_nested_too_deep(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let fits = nested(100);
    assert_eq!(scene.call("echo", vec![fits.clone()]).await.unwrap(), fits);
    for depth in [200, 900] {
        let message = scene.refuses("echo", vec![nested(depth)]).await;
        assert!(message.contains("deep"), "{suffix}: {message}");
    }
    // Wide is no trouble.
    let wide = Value::Array((0..50_000).map(Value::from).collect());
    assert!(scene.call("echo", vec![wide.clone()]).await.unwrap() == wide, "{suffix}");
    let wide = Value::Map((0..20_000).map(|n| (n.to_string().into(), Value::Nil)).collect());
    let back = scene.call("echo", vec![wide]).await.unwrap();
    assert_eq!(back.as_map().unwrap().len(), 20_000, "{suffix}");
    scene.goes_on().await;
    scene.end().await;
}

async fn c1_integers_at_the_ends_of_64_bits(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let edge = 1_i64 << 53;
    let mut integers = vec![Value::from(u64::MAX), Value::from(1_u64 << 63)];
    integers.extend([i64::MIN, i64::MAX, edge - 1, edge, edge + 1, -edge - 1].map(Value::from));
    for n in integers {
        assert_eq!(scene.call("echo", vec![n.clone()]).await.unwrap(), n, "{suffix}");
        let listed = Value::Array(vec![n.clone(), Value::Map(vec![("n".into(), n)])]);
        assert_eq!(scene.call("echo", vec![listed.clone()]).await.unwrap(), listed, "{suffix}");
    }
    for n in [edge - 2, edge, edge + 1, -edge - 2, i64::MAX - 1] {
        let next: i64 = scene.probe.call("inc", (n,)).await.unwrap();
        assert_eq!(next, n + 1, "{suffix}");
    }
    // Beyond what the function or the wire can hold: typed, or exact. C's own
    // arithmetic has no answer, and Lua's integers go round, as its manual says.
    if !matches!(suffix, "c" | "lua") {
        match scene.call("inc", vec![Value::from(i64::MAX)]).await {
            Ok(n) => assert_eq!(n, Value::from(1_u64 << 63), "{suffix}"),
            Err(Failure::Guest(_) | Failure::BadArguments { .. }) => {}
            other => panic!("{suffix}: {other:?}"),
        }
        scene.goes_on().await;
    }
    if suffix != "lua" {
        let outcome = scene.call("inc", vec![Value::from(u64::MAX)]).await;
        let typed = matches!(&outcome, Err(Failure::Guest(_) | Failure::BadArguments { .. }));
        assert!(typed, "{suffix}: {outcome:?}");
    }
    scene.goes_on().await;
    scene.end().await;
}

async fn c1_map_keys_that_are_no_strings(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let list = || Value::Array(vec![1.into()]);
    let keys: [(Value, Value); 9] = [
        (7.into(), 8.into()),
        ((-1).into(), u64::MAX.into()),
        (true.into(), false.into()),
        (0.5.into(), 1.5.into()),
        (Value::Nil, "nil".into()),
        (Value::Binary(vec![1]), Value::Binary(vec![2])),
        (list(), Value::Array(vec![2.into()])),
        (Value::Map(vec![]), Value::Map(vec![(1.into(), 1.into())])),
        // The same key twice: one of the two values would be lost.
        ("k".into(), "k".into()),
    ];
    for (first, second) in keys {
        let map = Value::Map(vec![(first, 1.into()), (second, 2.into())]);
        let back = scene.call("echo", vec![map.clone()]).await;
        let kept = |back: &Value| {
            let (back, sent) = (back.as_map().unwrap(), map.as_map().unwrap());
            back.len() == sent.len() && sent.iter().all(|pair| back.contains(pair))
        };
        match &back {
            // Its order is the language's own affair.
            Ok(back) => assert!(kept(back), "{suffix}: {map} became {back}"),
            Err(Failure::BadArguments { message }) => assert!(!message.is_empty()),
            other => panic!("{suffix}: {map}: {other:?}"),
        }
        scene.goes_on().await;
    }
    scene.end().await;
}

async fn c1_values_that_are_empty(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let empty = [
        Value::Binary(vec![]),
        "".into(),
        Value::Array(vec![]),
        Value::Map(vec![]),
        Value::Array(vec![Value::Binary(vec![]), "".into(), Value::Map(vec![])]),
        Value::Map(vec![("".into(), Value::Binary(vec![]))]),
    ];
    for value in empty {
        assert_eq!(scene.call("echo", vec![value.clone()]).await.unwrap(), value, "{suffix}");
    }
    let blob = scene.call("blob", vec![0.into()]).await.unwrap();
    assert_eq!(blob, Value::Binary(vec![]), "{suffix}");
    scene.goes_on().await;
    scene.end().await;
}

async fn c1_floats_that_are_no_numbers(suffix: &str) {
    let scene = Scene::set(suffix).await;
    for value in [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, -0.0, 5e-324] {
        let back = scene.call("echo", vec![value.into()]).await.unwrap();
        let same = back.as_f64().is_some_and(|back| back.to_bits() == value.to_bits());
        // The integer 0 is the value of -0.0, in a language that writes it so.
        assert!(same || (value == 0.0 && back == 0.into()), "{suffix}: {value} became {back}");
    }
    let nan = Value::Array(vec![f64::NAN.into(), Value::Map(vec![("n".into(), f64::NAN.into())])]);
    let back = scene.call("echo", vec![nan]).await.unwrap();
    assert!(back[0].as_f64().unwrap().is_nan() && back[1]["n"].as_f64().unwrap().is_nan());
    // As a key it equals nothing, itself included.
    let key = Value::Map(vec![(f64::NAN.into(), 1.into())]);
    match scene.call("echo", vec![key]).await {
        Ok(back) => assert!(back.as_map().unwrap()[0].0.as_f64().unwrap().is_nan(), "{back}"),
        Err(Failure::BadArguments { .. }) => {}
        other => panic!("{suffix}: {other:?}"),
    }
    // Where an integer is expected.
    for value in [f64::NAN, f64::INFINITY, 0.5] {
        match scene.call("inc", vec![value.into()]).await {
            Err(Failure::BadArguments { .. } | Failure::Guest(_)) => {}
            Ok(next) => {
                assert!(matches!(suffix, "lua" | "js"), "{suffix}: inc({value}) is {next}");
                let next = next.as_f64().unwrap();
                assert!(next == value + 1.0 || (next.is_nan() && value.is_nan()), "{suffix}");
            }
            other => panic!("{suffix}: {other:?}"),
        }
    }
    scene.goes_on().await;
    scene.end().await;
}

/// A value of a type that MessagePack leaves to its users; ours has none.
struct Extension;

impl Serialize for Extension {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Inner;
        impl Serialize for Inner {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut pair = serializer.serialize_tuple(2)?;
                pair.serialize_element(&5_i8)?;
                pair.serialize_element(Bytes::new(&[1, 2, 3]))?;
                pair.end()
            }
        }
        serializer.serialize_newtype_struct("_ExtStruct", &Inner)
    }
}

async fn c1_extensions_of_message_pack(suffix: &str) {
    let scene = Scene::set(suffix).await;
    for outcome in [
        scene.probe.call::<_, Value>("echo", (Extension,)).await,
        scene.probe.call::<_, Value>("echo", ([Extension],)).await,
    ] {
        assert!(matches!(&outcome, Err(Failure::BadArguments { .. })), "{suffix}: {outcome:?}");
        scene.goes_on().await;
    }
    scene.end().await;
}

async fn c2_arguments_beyond_the_payload_limit(suffix: &str) {
    let mut config = config();
    config.max_payload = 1 << 20;
    let scene = Scene::set_with(suffix, config).await;
    let text = "x".repeat(2 << 20);
    for outcome in [
        scene.probe.call::<_, Value>("echo", (Bytes::new(&[0; 2 << 20]),)).await,
        scene.probe.call::<_, Value>("echo", (&text,)).await,
        scene.probe.call::<_, Value>("echo", (vec![0x7fff_ffff_u32; 1 << 19],)).await,
        // One byte too many: the list's head and the bytes' count as well.
        scene.probe.call::<_, Value>("echo", (Bytes::new(&vec![0; (1 << 20) - 5]),)).await,
    ] {
        let Err(Failure::PayloadTooLarge { size, limit }) = outcome else {
            panic!("{suffix}: {outcome:?}")
        };
        assert!(size > limit && limit == 1 << 20, "{suffix}: {size}");
        scene.goes_on().await;
    }
    let fits = vec![7; (1 << 20) - 6];
    let back: Value = scene.probe.call("echo", (Bytes::new(&fits),)).await.unwrap();
    assert!(back == Value::Binary(fits), "{suffix}");
    scene.goes_on().await;
    scene.end().await;
}
