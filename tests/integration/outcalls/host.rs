//! Bundles call the host's contracts.

use menagerie_supervisor::{HostError, RuntimeError, Supervisor};
use menagerie_tests::Language;
use rmpv::Value;

use super::{caught, probe};
use crate::support::{Bundle, start};

const KV: &str = "[[dependency]]\nkind = 'host'\ncontract = 'kv'\nmin_version = '1.0'";

fn provide_kv(supervisor: &Supervisor) {
    supervisor
        .host_contract("kv@1.3")
        .function("get", |key: String| async move {
            match key.as_str() {
                "missing" => Err(HostError::new("KeyError", "no such key")),
                _ => Ok(format!("value of {key}")),
            }
        })
        .function("add", |a: i64, b: i64| async move { a + b })
        .function("bytes", |bytes: menagerie_supervisor::ByteBuf| async move { bytes })
        .function("misfit", || async {
            // Each language but the native ones has something against it.
            let keys = [Value::Nil, Value::from(1), Value::from(1.0), Value::from(f64::NAN)];
            Value::Map(keys.map(|key| (key, Value::Nil)).to_vec())
        })
        .function("break_down", || async {
            if true {
                panic!("the host's own bug");
            }
        })
        .done()
        .unwrap();
}

async fn c5_host_contracts_are_called_like_any_other(suffix: &str) {
    let supervisor = start();
    provide_kv(&supervisor);
    let (_bundle, probe) = probe(&supervisor, suffix, KV).await;
    let text: String = probe.call("call", ("kv@1", "get", ["a"])).await.unwrap();
    assert_eq!(text, "value of a");
    let sum: i64 = probe.call("call", ("kv", "add", [40, 2])).await.unwrap();
    assert_eq!(sum, 42);
    let bytes = Value::Binary(vec![7; 100_000]);
    let args = Value::Array(vec!["kv@1".into(), "bytes".into(), Value::Array(vec![bytes.clone()])]);
    assert!(probe.call_value("call", &args).await.unwrap() == bytes);
    supervisor.shutdown().await;
}

async fn c5_what_goes_wrong_in_the_host_is_caught_by_the_guest(suffix: &str) {
    let supervisor = start();
    provide_kv(&supervisor);
    let (_bundle, probe) = probe(&supervisor, suffix, KV).await;
    for (contract, function, kind) in [
        ("kv@1", "get", "BadArguments"),
        ("kv@1", "nothing", "NoSuchFunction"),
        ("kv@2", "get", "UndeclaredDependency"),
        ("other@1", "get", "UndeclaredDependency"),
        ("kv@1.9", "get", "NoSuchContract"),
        ("kv@1", "break_down", "HostPanicked"),
    ] {
        let found = caught(&probe, contract, function).await;
        assert_eq!(found.as_deref(), Some(kind), "{contract} {function}");
    }
    let kind: Option<String> = probe.call("caught", ("kv@1", "get", ["missing"])).await.unwrap();
    assert_eq!(kind.as_deref(), Some("Guest"));
    // The error of the host's function itself, where the guest lets it through.
    let failure = probe.call::<_, Value>("call", ("kv@1", "get", ["missing"])).await.unwrap_err();
    assert!(format!("{failure:?}").contains("no such key"), "{failure:?}");
    // The host goes on, and so does the bundle.
    let text: String = probe.call("call", ("kv@1", "get", ["a"])).await.unwrap();
    assert_eq!(text, "value of a");
    supervisor.shutdown().await;
}

async fn c1_an_answer_that_the_language_cannot_hold_is_a_call_error(suffix: &str) {
    let supervisor = start();
    provide_kv(&supervisor);
    let (_bundle, probe) = probe(&supervisor, suffix, KV).await;
    assert_eq!(caught(&probe, "kv@1", "misfit").await.as_deref(), Some("BadValue"));
    supervisor.shutdown().await;
}

mod misfits {
    use super::c1_an_answer_that_the_language_cannot_hold_is_a_call_error;

    outcalls!(py, lua, js, dotnet; { c1_an_answer_that_the_language_cannot_hold_is_a_call_error });
}

async fn c5_a_host_contract_that_is_not_there_is_refused_at_load(suffix: &str) {
    let supervisor = start();
    let bundle = Bundle::copy_of(&Language::of(suffix).bundle("greeter"), "caller", KV);
    let error = supervisor.load(bundle.path()).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::UnsatisfiedCapability { contract, .. } if contract == "kv@1.0.0"),
        "{error:?}"
    );
    assert!(error.to_string().contains("the host does not provide"), "{error}");
    provide_kv(&supervisor);
    supervisor.load(bundle.path()).await.unwrap();
    supervisor.shutdown().await;
}

outcalls!(rust, c, py, lua, js, dotnet; {
    c5_host_contracts_are_called_like_any_other,
    c5_what_goes_wrong_in_the_host_is_caught_by_the_guest,
    c5_a_host_contract_that_is_not_there_is_refused_at_load,
});
