//! Results that cannot leave a guest, or that the host has no use for, and
//! errors whose texts are odd.

use std::collections::HashMap;

use menagerie_supervisor::{ByteBuf, Failure};
use rmpv::Value;

use super::Scene;
use crate::support::{config, per_language};

per_language!(rust, c, py, lua, js, dotnet; {
    c1_a_result_that_cannot_leave,
    c1_a_result_that_the_host_has_no_type_for,
    c2_a_result_beyond_the_payload_limit,
    c3_errors_with_odd_messages,
    c3_an_error_beyond_the_payload_limit,
});

async fn c1_a_result_that_cannot_leave(suffix: &str) {
    let scene = Scene::set(suffix).await;
    for _ in 0..3 {
        let error = scene.fails("misfit", vec![]).await;
        assert!(!error.message.is_empty(), "{suffix}: {error:?}");
    }
    scene.end().await;
}

async fn c1_a_result_that_the_host_has_no_type_for(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let (probe, big) = (&scene.probe, u64::MAX);
    let misfits = [
        probe.call::<_, String>("inc", (1,)).await.map(drop),
        probe.call::<_, u8>("inc", (255,)).await.map(drop),
        probe.call::<_, u64>("inc", (-5,)).await.map(drop),
        probe.call::<_, i64>("echo", (big,)).await.map(drop),
        probe.call::<_, Vec<String>>("echo", ([1, 2],)).await.map(drop),
        probe.call::<_, HashMap<String, i64>>("echo", ("text",)).await.map(drop),
        probe.call::<_, (i64, i64)>("echo", ([1],)).await.map(drop),
        probe.call::<_, i64>("null", ()).await.map(drop),
        probe.call::<_, String>("blob", (100_000,)).await.map(drop),
    ];
    for outcome in misfits {
        let Err(Failure::BadValue { message }) = &outcome else { panic!("{suffix}: {outcome:?}") };
        assert!(message.contains("the result does not fit"), "{suffix}: {message}");
    }
    scene.goes_on().await;
    scene.end().await;
}

async fn c2_a_result_beyond_the_payload_limit(suffix: &str) {
    let mut config = config();
    config.max_payload = 1 << 20;
    let scene = Scene::set_with(suffix, config).await;
    for size in [2 << 20, 20 << 20] {
        let outcome = scene.call("blob", vec![size.into()]).await;
        let Err(Failure::PayloadTooLarge { size: told, limit }) = outcome else {
            panic!("{suffix}: {outcome:?}")
        };
        assert!(told > limit && limit == 1 << 20, "{suffix}: {told}");
        scene.goes_on().await;
    }
    let blob: ByteBuf = scene.probe.call("blob", (1_000_000,)).await.unwrap();
    assert_eq!(blob.len(), 1_000_000);
    scene.end().await;
}

async fn c3_errors_with_odd_messages(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let long = "é".repeat(100_000);
    for message in [
        "one line\nanother\r\n\tand a tab",
        "%s %n {} {0} ${x} \\ \" '",
        "naïve 日本 🦊 \u{202e}right to left",
        "\u{1b}[31mred\u{1b}[0m",
        &long,
    ] {
        let error = scene.fails("fail", vec![message.into()]).await;
        assert!(error.message.contains(message), "{suffix}: {error:?}");
    }
    // C's strings end at a NUL only where the bundle makes them.
    let error = scene.fails("fail", vec!["before\0after".into()]).await;
    assert!(error.message.contains("before"), "{suffix}: {error:?}");
    scene.fails("fail", vec!["".into()]).await;
    scene.end().await;
}

async fn c3_an_error_beyond_the_payload_limit(suffix: &str) {
    let mut config = config();
    config.max_payload = 1 << 20;
    let scene = Scene::set_with(suffix, config).await;
    // It goes in, and comes back in the message and perhaps in the stack too.
    let error = scene.fails("fail", vec!["x".repeat((1 << 20) - 100).into()]).await;
    assert!(error.message.contains(&"x".repeat(10_000)), "{suffix}: {}", error.message.len());
    scene.end().await;
}

/// What one bundle's result does to another one that called for it.
#[test]
fn c5_a_callee_that_misbehaves_fails_its_caller_only() {
    crate::support::run(async {
        let scene = Scene::set("py").await;
        let ask = |function: &str, args: Vec<Value>| {
            vec!["greeter@1".into(), function.into(), Value::Array(args)]
        };
        for (function, args) in
            [("greet", vec![]), ("greet", vec![1.into()]), ("nothing", vec![]), ("", vec![])]
        {
            let error = scene.fails("call", ask(function, args)).await;
            assert!(!error.message.is_empty(), "{function}: {error:?}");
        }
        let names = ["", "@", "greeter@2", "probe@1/x", "greeter@1@1"];
        for name in names {
            let args = vec![name.into(), "greet".into(), Value::Array(vec![])];
            scene.fails("call", args).await;
        }
        scene.end().await;
    });
}
