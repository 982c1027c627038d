//! One suite, run for every language: what a host can rely on, whatever the
//! bundle is written in.

use std::path::Path;
use std::time::Duration;

use menagerie_supervisor::{Failure, LoaderError, RuntimeError};
use nix::sys::signal::{Signal, kill};
use rmpv::Value;

use crate::support::{config, per_language, setup, setup_with, wait_for, worker};

async fn greets(suffix: &str) {
    let setup = setup(suffix).await;
    let text: String = setup.greeter.call("greet", ("Ada",)).await.unwrap();
    assert_eq!(text, "Hello, Ada");
    let texts: Vec<String> = setup.greeter.call("greet_all", (["Ada", "Žofie"],)).await.unwrap();
    assert_eq!(texts, ["Hello, Ada", "Hello, Žofie"]);
    setup.supervisor.shutdown().await;
}

async fn blocking_calls(suffix: &str) {
    let setup = setup(suffix).await;
    let probe = setup.probe.clone();
    let thread = std::thread::spawn(move || {
        for n in 0..100_i64 {
            let next: i64 = probe.call_blocking("inc", (n,)).unwrap();
            assert_eq!(next, n + 1);
        }
    });
    wait_for("the thread", || thread.is_finished().then_some(())).await;
    thread.join().unwrap();
    setup.supervisor.shutdown().await;
}

async fn c1_values_keep_their_value(suffix: &str) {
    let setup = setup(suffix).await;
    let values = [
        Value::Nil,
        Value::from(true),
        Value::from(0),
        Value::from(-1),
        Value::from(i64::MAX),
        Value::from(i64::MIN),
        Value::from(u64::MAX),
        Value::from((1_i64 << 53) + 1),
        Value::from(-(1_i64 << 53) - 1),
        Value::from(0.5),
        Value::from(f64::INFINITY),
        Value::from(""),
        Value::from("héllo \u{1F600}"),
        Value::Binary(vec![]),
        Value::Binary(vec![0, 255, 128]),
        Value::Binary(b"text".to_vec()),
        Value::Array(vec![]),
        Value::Array(vec![Value::from(1), Value::Nil, Value::from("x")]),
        Value::Map(vec![(Value::from("k"), Value::Array(vec![Value::from(1)]))]),
        Value::Map(vec![(Value::from(7), Value::from("seven"))]),
    ];
    for value in values {
        let args = Value::Array(vec![value.clone()]);
        let back = setup.probe.call_value("echo", &args).await.unwrap();
        assert_eq!(back, value, "{suffix}");
    }
    let nan = Value::Array(vec![Value::from(f64::NAN)]);
    let back = setup.probe.call_value("echo", &nan).await.unwrap();
    assert!(back.as_f64().unwrap().is_nan());
    setup.supervisor.shutdown().await;
}

async fn c1_a_value_of_the_greatest_depth_comes_back(suffix: &str) {
    let setup = setup(suffix).await;
    let nested = |depth| (0..depth).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    let echo = async |value| setup.probe.call_value("echo", &Value::Array(vec![value])).await;
    assert_eq!(echo(nested(128)).await.unwrap(), nested(128));
    assert!(echo(nested(129)).await.is_err());
    setup.supervisor.shutdown().await;
}

async fn c2_bytes_of_every_size(suffix: &str) {
    let setup = setup(suffix).await;
    for size in [1, 1000, 4096, 4097, 70_000, 5_000_000] {
        let bytes: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
        let args = Value::Array(vec![Value::Binary(bytes.clone())]);
        let back = setup.probe.call_value("echo", &args).await.unwrap();
        assert!(back == Value::Binary(bytes), "{size} bytes");
        let blob: menagerie_supervisor::ByteBuf = setup.probe.call("blob", (size,)).await.unwrap();
        assert!(blob.len() == size as usize && blob.iter().all(|b| *b == 0xab), "{size} bytes");
    }
    setup.supervisor.shutdown().await;
}

async fn c3_the_guests_own_error(suffix: &str) {
    let setup = setup(suffix).await;
    let failure = setup.probe.call::<_, ()>("fail", ("the reason",)).await.unwrap_err();
    let Failure::Guest(error) = failure else { panic!("{failure:?}") };
    assert!(error.message.contains("the reason"), "{error:?}");
    assert!(!error.type_name.is_empty(), "{error:?}");
    // The bundle goes on.
    assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    setup.supervisor.shutdown().await;
}

/// What is left of an error that is too large for its payload still says what it was.
async fn c3_an_error_beyond_the_payload_is_cut(suffix: &str) {
    let mut config = config();
    config.max_payload = 4096;
    let setup = setup_with(suffix, config).await;
    let message = "m".repeat(4085);
    let failure = setup.probe.call::<_, ()>("fail", (&message,)).await.unwrap_err();
    let Failure::Guest(error) = failure else { panic!("{failure:?}") };
    assert_ne!(error.type_name, "MenagerieError", "{error:?}");
    assert!(error.message.contains(&message[..400]), "{error:?}");
    assert!(error.message.ends_with("[…]"), "{error:?}");
    setup.supervisor.shutdown().await;
}

/// The kind is there for programs, too, and not only in the message.
async fn c3_a_call_error_that_is_let_through_has_its_kind_as_its_code(suffix: &str) {
    let setup = setup(suffix).await;
    for (contract, function, kind) in
        [("undeclared@1", "f", "UndeclaredDependency"), ("greeter@1", "f", "NoSuchFunction")]
    {
        let outcome = setup.probe.call::<_, ()>("call", (contract, function, [0; 0])).await;
        let Err(Failure::Guest(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.code.as_deref(), Some(kind), "{error:?}");
    }
    setup.supervisor.shutdown().await;
}

async fn c3_what_is_not_there_or_does_not_fit(suffix: &str) {
    let setup = setup(suffix).await;
    assert!(matches!(setup.supervisor.contract("nothing@1"), Err(Failure::NoSuchContract { .. })));
    assert!(matches!(
        setup.probe.call::<_, ()>("nothing", ()).await,
        Err(Failure::NoSuchFunction { available, .. }) if available.contains(&"inc".to_owned())
    ));
    for outcome in [
        setup.probe.call::<_, i64>("inc", ()).await,
        setup.probe.call::<_, i64>("inc", (1, 2)).await,
    ] {
        assert!(matches!(outcome, Err(Failure::BadArguments { .. })), "{outcome:?}");
    }
    let outcome = setup.probe.call::<_, i64>("inc", ("x",)).await;
    assert!(
        matches!(outcome, Err(Failure::BadArguments { .. } | Failure::Guest(_))),
        "{outcome:?}"
    );
    let outcome = setup.probe.call::<_, String>("inc", (1,)).await;
    assert!(matches!(outcome, Err(Failure::BadValue { .. })), "{outcome:?}");
    assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    setup.supervisor.shutdown().await;
}

async fn c5_a_bundle_calls_another(suffix: &str) {
    let setup = setup(suffix).await;
    let text: String = setup.probe.call("call", ("greeter@1", "greet", ["Ada"])).await.unwrap();
    assert_eq!(text, "Hello, Ada");
    let failure =
        setup.probe.call::<_, Value>("call", ("undeclared@1", "f", [0; 0])).await.unwrap_err();
    let Failure::Guest(error) = &failure else { panic!("{failure:?}") };
    let told = format!("{error:?}");
    assert!(told.contains("does not declare") || told.contains("UndeclaredDependency"), "{told}");
    setup.supervisor.shutdown().await;
}

async fn s3_killed_in_the_middle_of_work_it_answers_again(suffix: &str) {
    let setup = setup(suffix).await;
    // A call that the worker had not begun is carried to the next incarnation
    // (C4) and ends well there: then once more.
    let mut kills = 0;
    let (before, cause) = loop {
        let before = setup.pid();
        let probe = setup.probe.clone();
        let working =
            tokio::spawn(async move { probe.call::<_, Value>("sleep_ms", (2000,)).await });
        setup.calls_in_flight().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        kill(before, Signal::SIGKILL).unwrap();
        kills += 1;
        match working.await.unwrap() {
            Ok(_) => setup.ready_again(kills).await,
            Err(Failure::WorkerCrashed { started: true, cause, .. }) => break (before, cause),
            outcome => panic!("{outcome:?}"),
        }
    };
    assert!(cause.contains("SIGKILL"), "{cause}");
    let text: String = setup.greeter.call("greet", ("Ada",)).await.unwrap();
    assert_eq!(text, "Hello, Ada");
    assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    setup.ready_again(kills).await;
    let after = setup.pid();
    assert_ne!(before, after);
    let report = wait_for("the report", || setup.supervisor.crashes().pop()).await;
    assert_eq!((report.signal, report.incarnation), (Some(9), kills));
    assert!(report.running.iter().any(|call| call.function == "sleep_ms"), "{report:?}");
    setup.supervisor.shutdown().await;
}

async fn s3_a_bundle_that_crashes_its_worker_is_named(suffix: &str) {
    let setup = setup(suffix).await;
    let outcome = setup.probe.call::<_, Value>("crash", ()).await;
    assert!(matches!(outcome, Err(Failure::WorkerCrashed { started: true, .. })), "{outcome:?}");
    assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    let report = wait_for("the report", || setup.supervisor.crashes().pop()).await;
    assert_eq!(report.running.len(), 1, "{report:?}");
    assert_eq!(report.running[0].bundle, format!("probe-{suffix}"));
    assert_eq!(report.running[0].contract, "probe@1");
    assert_eq!(report.running[0].function, "crash");
    let signal = Signal::try_from(report.signal.unwrap()).unwrap();
    assert!(report.cause.contains(signal.as_str()), "{report:?}");
    assert_eq!(report.exit_code, None, "{report:?}");
    setup.supervisor.shutdown().await;
}

async fn s6_a_call_that_spins_meets_its_deadline(suffix: &str) {
    let setup = setup(suffix).await;
    let hasty = setup.probe.clone().with_timeout(Duration::from_millis(100));
    let outcome = hasty.call::<_, Value>("spin", ()).await;
    assert!(matches!(outcome, Err(Failure::DeadlineExceeded { deadline_ms: 100 })), "{outcome:?}");
    // By a soft stop or by a new worker: the bundle answers again.
    assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    setup.supervisor.shutdown().await;
}

async fn l6_reload_hands_the_state_over(suffix: &str) {
    let setup = setup(suffix).await;
    let name = format!("probe-{suffix}");
    let _: Value = setup.probe.call("set_state", (vec![1, 2, 3],)).await.unwrap();
    let status = setup.supervisor.reload(&name).await.unwrap();
    assert_eq!(status.generation, 2);
    let state: Value = setup.probe.call("state", ()).await.unwrap();
    assert_eq!(state, Value::Array(vec![1.into(), 2.into(), 3.into()]));
    setup.supervisor.shutdown().await;
}

/// Longer than a message to the supervisor may be, as bytes of its own MessagePack.
async fn l6_a_state_that_is_too_large_stays_with_its_generation(suffix: &str) {
    let setup = setup(suffix).await;
    let name = format!("probe-{suffix}");
    let large = "a".repeat(16 << 20);
    let _: () = setup.probe.call("set_state", (&large,)).await.unwrap();
    let error = setup.supervisor.reload(&name).await.unwrap_err();
    let RuntimeError::Loader(LoaderError::InitFailed { step, error, .. }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!((&**step, &*error.type_name), ("run on_unload", "StateTooLarge"));
    for size in [(16 << 20) - 1024, large.len() + 5] {
        assert!(error.message.contains(&size.to_string()), "{}", error.message);
    }
    // As after any other reload that fails, `on_load` was given it back.
    let state: String = setup.probe.call("state", ()).await.unwrap();
    assert!(state == large);
    // What just fits is handed over.
    let fits = "a".repeat((16 << 20) - 1024 - 5);
    let _: () = setup.probe.call("set_state", (&fits,)).await.unwrap();
    setup.supervisor.reload(&name).await.unwrap();
    let state: String = setup.probe.call("state", ()).await.unwrap();
    assert!(state == fits);
    assert_eq!(worker(&setup.supervisor, setup.language.loader).unwrap().restarts, 0);
    setup.supervisor.shutdown().await;
}

/// A state has a limit of its own: what a call may carry does not matter.
async fn l6_a_state_may_be_larger_than_a_payload(suffix: &str) {
    let mut config = config();
    config.max_payload = 4096;
    let setup = setup_with(suffix, config).await;
    // Floats that take 5 bytes each here, and 9 as most languages write them.
    let floats = Value::Array(vec![Value::F32(1.5); 800]);
    setup.probe.call_value("set_state", &Value::Array(vec![floats])).await.unwrap();
    let status = setup.supervisor.reload(&format!("probe-{suffix}")).await.unwrap();
    assert_eq!(status.generation, 2);
    // It is there, and may be too large for an answer.
    match setup.probe.call::<_, Option<Vec<f64>>>("state", ()).await {
        Ok(state) => assert_eq!(state, Some(vec![1.5; 800])),
        Err(failure) => assert!(matches!(failure, Failure::PayloadTooLarge { .. }), "{failure:?}"),
    }
    setup.supervisor.shutdown().await;
}

/// Where files beside its code are: the worker's current folder is another one.
async fn l4_on_load_is_told_the_bundles_folder(suffix: &str) {
    let setup = setup(suffix).await;
    let folder = setup.language.bundle("probe").canonicalize().unwrap();
    let dir: String = setup.probe.call("dir", ()).await.unwrap();
    assert_eq!(Path::new(&dir), folder);
    setup.supervisor.reload(&format!("probe-{suffix}")).await.unwrap();
    let dir: String = setup.probe.call("dir", ()).await.unwrap();
    assert_eq!(Path::new(&dir), folder);
    setup.supervisor.shutdown().await;
}

async fn l7_an_unloaded_bundle_is_stale(suffix: &str) {
    let setup = setup(suffix).await;
    setup.supervisor.unload(&format!("probe-{suffix}")).await.unwrap();
    let outcome = setup.probe.call::<_, i64>("inc", (1,)).await;
    assert!(matches!(outcome, Err(Failure::StaleHandle { .. })), "{outcome:?}");
    let text: String = setup.greeter.call("greet", ("Ada",)).await.unwrap();
    assert_eq!(text, "Hello, Ada");
    setup.supervisor.shutdown().await;
}

per_language!(rust, c, py, lua, js, dotnet; {
    greets,
    blocking_calls,
    c1_values_keep_their_value,
    c1_a_value_of_the_greatest_depth_comes_back,
    c2_bytes_of_every_size,
    c3_the_guests_own_error,
    c3_an_error_beyond_the_payload_is_cut,
    c3_a_call_error_that_is_let_through_has_its_kind_as_its_code,
    c3_what_is_not_there_or_does_not_fit,
    c5_a_bundle_calls_another,
    s3_killed_in_the_middle_of_work_it_answers_again,
    s3_a_bundle_that_crashes_its_worker_is_named,
    s6_a_call_that_spins_meets_its_deadline,
    l4_on_load_is_told_the_bundles_folder,
    l6_reload_hands_the_state_over,
    l6_a_state_may_be_larger_than_a_payload,
    l6_a_state_that_is_too_large_stays_with_its_generation,
    l7_an_unloaded_bundle_is_stale,
});
