use std::path::PathBuf;

use menagerie_protocol::Failure;
use rmpv::Value;
use serde_bytes::ByteBuf;

use crate::support::{guest_error, harness};

fn sample(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles").join(name)
}

#[test]
fn greeter_greets() {
    let harness = harness();
    let greeter = harness.load_dir(sample("greeter-py")).unwrap();
    let one: String = greeter.call("greeter@1", "greet", ("Ada",)).unwrap();
    assert_eq!(one, "Hello, Ada");
    let all: Vec<String> = greeter.call("greeter@1", "greet_all", (["Ada", "Bob"],)).unwrap();
    assert_eq!(all, ["Hello, Ada", "Hello, Bob"]);
}

#[test]
fn probe_does_what_it_says() {
    let harness = harness();
    harness.on_call(|_, _, args| Ok(args.to_vec()));
    let probe = harness.load_dir(sample("probe-py")).unwrap();
    let p = "probe@1";
    assert_eq!(probe.call::<_, i64>(p, "inc", (41,)), Ok(42));
    assert_eq!(
        probe.call::<_, Value>(p, "echo", ([1, 2],)),
        Ok(Value::from(vec![1.into(), Value::from(2)]))
    );
    let error = guest_error(probe.call::<_, ()>(p, "fail", ("no",)).unwrap_err());
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("ValueError", "no"));
    assert_eq!(probe.call::<_, ()>(p, "sleep_ms", (1,)), Ok(()));
    assert_eq!(probe.call::<_, ()>(p, "null", ()), Ok(()));
    assert_eq!(probe.call::<_, ByteBuf>(p, "blob", (70_000,)).unwrap(), vec![0xAB; 70_000]);
    assert_eq!(probe.call::<_, (i32, i32)>(p, "call", ("greeter@1", "greet", (1, 2))), Ok((1, 2)));
    assert_eq!(probe.call::<_, Value>(p, "state", ()), Ok(Value::Nil));
    probe.call::<_, ()>(p, "set_state", ("kept",)).unwrap();
    probe.reload().unwrap();
    assert_eq!(probe.call::<_, String>(p, "state", ()).as_deref(), Ok("kept"));
    assert!(matches!(probe.call::<_, i64>(p, "inc", ("x",)), Err(Failure::BadArguments { .. })));
}
