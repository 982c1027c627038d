use std::collections::BTreeMap;

use menagerie_protocol::GuestError;
use menagerie_protocol::msgpack::encode_args;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i64,
    y: i64,
}

#[derive(Debug, thiserror::Error)]
#[error("wrapped")]
struct Wrapped<T>(T);

fn contracts() -> Arc<HostContracts> {
    let contracts = Arc::new(HostContracts::default());
    HostContract::new(&contracts, "kv@1.2")
        .function("get", |key: String| async move { format!("value of {key}") })
        .function("nothing", || async {})
        .function("add", |a: i64, b: i64| async move { a + b })
        .function(
            "many",
            |list: Vec<u8>| async move { list.iter().map(|n| n + 1).collect::<Vec<_>>() },
        )
        .function("flip", |p: Point| async move { Returned(Point { x: p.y, y: p.x }) })
        .function("parse", |text: String| async move { text.parse::<i64>() })
        .function("refuse", || async { Err::<(), _>(HostError::new("KeyError", "no such key")) })
        .function("guest", || async {
            let error = GuestError { code: Some("E7".to_owned()), ..GuestError::new("T", "m") };
            Err::<(), _>(error)
        })
        .function("wrapped", || async { Err::<(), _>(Wrapped(std::io::ErrorKind::NotFound)) })
        .function("calls_on", || async {
            let (worker, cause) = ("lua".to_owned(), "signal 9".to_owned());
            Err::<(), _>(Failure::WorkerCrashed { worker, cause, started: true })
        })
        .function("panics", |at_once: bool| {
            assert!(!at_once, "at once");
            async move {
                if !at_once {
                    panic!("later {}", 1)
                }
            }
        })
        .done()
        .unwrap();
    contracts
}

async fn call<A: Serialize>(function: &str, args: A) -> Result<rmpv::Value, Failure> {
    let mut bytes = Vec::new();
    encode_args(&mut bytes, &args).unwrap();
    let request = "kv@1".parse().unwrap();
    let answer = contracts().call(&request, Compatibility::Strict, function, &bytes).await?;
    Ok(rmpv::decode::read_value(&mut &answer[..]).unwrap())
}

#[tokio::test]
async fn c5_host_functions_are_typed() {
    assert_eq!(call("get", ("a",)).await.unwrap().as_str(), Some("value of a"));
    assert_eq!(call("nothing", ()).await.unwrap(), rmpv::Value::Nil);
    assert_eq!(call("add", (1, 2)).await.unwrap().as_i64(), Some(3));
    let list = call("many", (vec![1, 2],)).await.unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    let flipped = call("flip", (BTreeMap::from([("x", 1), ("y", 2)]),)).await.unwrap();
    let pairs = flipped.as_map().unwrap();
    assert_eq!((pairs[0].0.as_str(), pairs[0].1.as_i64()), (Some("x"), Some(2)));
    assert_eq!(call("parse", ("7",)).await.unwrap().as_i64(), Some(7));
}

#[tokio::test]
async fn c5_host_functions_refuse_what_does_not_fit() {
    for (outcome, told) in [
        (call("get", ()).await, "expected 1 argument, got 0"),
        (call("add", (1,)).await, "expected 2 arguments, got 1"),
        (call("nothing", (1,)).await, "expected 0 arguments, got 1"),
        (call("add", (1, "x")).await, "argument 2: expected i64"),
        (call("get", (7,)).await, "argument 1: expected alloc::string::String"),
    ] {
        let Err(Failure::BadArguments { message }) = outcome else { panic!("{outcome:?}") };
        assert!(message.contains(told), "{message}");
    }
    let Err(Failure::NoSuchFunction { available, .. }) = call("set", ("a",)).await else {
        panic!()
    };
    assert!(available.contains(&"get".to_owned()));
}

#[tokio::test]
async fn c5_errors_of_host_functions_are_the_guests_to_catch() {
    let guest = |outcome| match outcome {
        Err(Failure::Guest(error)) => error,
        other => panic!("{other:?}"),
    };
    let error = guest(call("parse", ("x",)).await);
    assert_eq!(
        (error.type_name.as_str(), error.message.as_str()),
        ("ParseIntError", "invalid digit found in string")
    );
    let error = guest(call("refuse", ()).await);
    assert_eq!(error.to_string(), "KeyError: no such key");
    assert_eq!(guest(call("guest", ()).await).code.as_deref(), Some("E7"));
    assert_eq!(guest(call("wrapped", ()).await).to_string(), "Wrapped: wrapped");
}

#[tokio::test]
async fn c5_a_call_that_failed_in_a_host_function_keeps_its_kind() {
    let outcome = call("calls_on", ()).await;
    assert!(matches!(outcome, Err(Failure::WorkerCrashed { started: true, .. })), "{outcome:?}");
}

#[tokio::test]
async fn c5_a_panic_of_the_host_fails_one_call() {
    for (at_once, told) in [(true, "at once"), (false, "later 1")] {
        let outcome = call("panics", (at_once,)).await;
        let Err(Failure::HostPanicked { contract, function, message }) = &outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(
            (contract.as_str(), function.as_str(), message.as_str()),
            ("kv@1.2.0", "panics", told)
        );
    }
}

#[tokio::test]
async fn r1_the_hosts_newest_compatible_version_serves() {
    let contracts = contracts();
    HostContract::new(&contracts, "kv@1.4")
        .function("get", |_: String| async { "newer" })
        .done()
        .unwrap();
    HostContract::new(&contracts, "kv@2")
        .function("get", |_: String| async { "other" })
        .done()
        .unwrap();
    let mut args = Vec::new();
    encode_args(&mut args, &("a",)).unwrap();
    for (request, answer) in [("kv@1", Some("newer")), ("kv", Some("other")), ("kv@1.5", None)] {
        let request: ContractRequest = request.parse().unwrap();
        let outcome = contracts.call(&request, Compatibility::Strict, "get", &args).await;
        let text = outcome.ok().map(|bytes| rmp_serde::from_slice::<String>(&bytes).unwrap());
        assert_eq!(text.as_deref(), answer, "{request}");
        assert_eq!(contracts.serves(&request, Compatibility::Strict), answer.is_some());
    }
}

#[test]
fn b3_bad_names_are_said() {
    let contracts = Arc::new(HostContracts::default());
    let error = HostContract::new(&contracts, "k v").function("get", || async {}).done();
    assert!(matches!(error, Err(HostContractError::Contract(_))));
    let error = HostContract::new(&contracts, "kv")
        .function("getIt", || async {})
        .function("get", || async {})
        .done();
    assert!(
        matches!(error, Err(HostContractError::Function { function, .. }) if function == "getIt")
    );
    assert!(contracts.serves(&"kv@1".parse().unwrap(), Compatibility::Strict));
}
