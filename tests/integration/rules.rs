//! Numbered rules in every language that the conformance suite does not have:
//! who loads a bundle, when it may be reloaded, what a slow or dead bundle does
//! to the calls of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use menagerie_supervisor::{
    EventKind, Failure, LoaderError, RuntimeError, StartError, Supervisor, SupportedLanguage,
    worker_program,
};
use menagerie_tests::Language;
use nix::sys::signal::{Signal, kill};

use crate::support::{
    Bundle, Recorder, config, per_language, run, setup, setup_with, slay, start_with, wait_for,
    worker,
};

async fn l1_the_manifest_names_the_loader_to_the_letter(suffix: &str) {
    let setup = setup(suffix).await;
    let Language { loader, .. } = setup.language;
    let status = setup.supervisor.status();
    assert!(status.bundles.iter().all(|bundle| bundle.loader == loader), "{status:?}");
    let bundle = Bundle::copy_of(&setup.language.bundle("greeter"), "misnamed", "");
    let manifest = std::fs::read_to_string(bundle.path().join("manifest.toml")).unwrap();
    let upper = loader.to_uppercase();
    bundle.write(
        "manifest.toml",
        &manifest.replace(&format!("\"{loader}\""), &format!("\"{upper}\"")),
    );
    let error = setup.supervisor.load(bundle.path()).await.unwrap_err();
    let RuntimeError::Loader(LoaderError::NoLoaderForName { loader: told, available }) = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(*told, upper);
    assert!(available.iter().any(|name| name == loader), "{available:?}");
    setup.supervisor.shutdown().await;
}

async fn l2_the_status_shows_the_loaders_language(suffix: &str) {
    let setup = setup(suffix).await;
    let expected = match suffix {
        "py" => SupportedLanguage::Python,
        "lua" => SupportedLanguage::Lua,
        "js" => SupportedLanguage::JavaScript,
        "dotnet" => SupportedLanguage::Dotnet,
        // The loader's claim: native libraries of every kind are one loader's.
        _ => SupportedLanguage::Rust,
    };
    let status = worker(&setup.supervisor, setup.language.loader).unwrap();
    assert_eq!(status.language, Some(expected));
    setup.supervisor.shutdown().await;
}

async fn l3_no_reload_where_the_configuration_forbids_it(suffix: &str) {
    let mut config = config();
    config.hot_reload = false;
    let setup = setup_with(suffix, config).await;
    let name = format!("greeter-{suffix}");
    let error = setup.supervisor.reload(&name).await.unwrap_err();
    assert!(matches!(error, RuntimeError::HotReloadDisabled { .. }), "{error:?}");
    let status = setup.supervisor.status();
    let greeter = status.bundles.iter().find(|bundle| bundle.name == name).unwrap();
    assert_eq!(greeter.generation, 1);
    let text: String = setup.greeter.call("greet", ("Ada",)).await.unwrap();
    assert_eq!(text, "Hello, Ada");
    setup.supervisor.shutdown().await;
}

async fn l4_a_source_that_the_loader_does_not_take_is_refused(suffix: &str) {
    let setup = setup(suffix).await;
    let Language { loader, .. } = setup.language;
    let manifest = format!(
        "name = \"memory\"\nversion = \"1.0.0\"\nloader = \"{loader}\"\nprovides = [\"m@1\"]\n"
    );
    let mut outcomes = Vec::new();
    if !matches!(loader, "python" | "lua" | "js") {
        outcomes.push(setup.supervisor.load_code(&manifest, "code").await);
    }
    if loader != "dotnet" {
        outcomes.push(setup.supervisor.load_bytes(&manifest, b"bytes".to_vec()).await);
    }
    for outcome in outcomes {
        let error = outcome.map(drop).unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Loader(LoaderError::UnsupportedBundleSource { .. })),
            "{error:?}"
        );
    }
    assert!(setup.supervisor.status().bundles.iter().all(|bundle| bundle.name != "memory"));
    setup.supervisor.shutdown().await;
}

async fn b3_names_are_snake_case_in_every_language(suffix: &str) {
    let setup = setup(suffix).await;
    let status = setup.supervisor.status();
    let name = format!("greeter-{suffix}");
    let greeter = status.bundles.iter().find(|bundle| bundle.name == name).unwrap();
    let mut functions = greeter.contracts[0].functions.clone();
    functions.sort();
    assert_eq!(functions, ["greet", "greet_all"]);
    setup.supervisor.shutdown().await;
}

/// The worker is stopped, so that nobody can have begun the call that comes
/// then; it is killed, and the next incarnation answers.
async fn c4_a_call_that_nobody_began_outlives_its_worker(suffix: &str) {
    let setup = setup(suffix).await;
    assert_eq!(setup.probe.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
    let pid = setup.pid();
    kill(pid, Signal::SIGSTOP).unwrap();
    wait_for("the worker to stop", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.trim_start().starts_with('T').then_some(())
    })
    .await;
    let probe = setup.probe.clone();
    let waiting = tokio::spawn(async move { probe.call::<_, i64>("inc", (41,)).await });
    setup.calls_in_flight().await;
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 42);
    assert_ne!(setup.pid(), pid);
    setup.supervisor.shutdown().await;
}

async fn c6_a_slow_bundle_delays_nobody(suffix: &str) {
    let setup = setup(suffix).await;
    // Far longer than the calls beside it, on any machine.
    let sleeping = setup.sleeping(600_000).await;
    for _ in 0..20 {
        let text: String = setup.greeter.call("greet", ("Ada",)).await.unwrap();
        assert_eq!(text, "Hello, Ada");
    }
    assert!(!sleeping.is_finished());
    // A stop would wait for it.
    sleeping.abort();
    kill(setup.pid(), Signal::SIGKILL).unwrap();
    setup.supervisor.shutdown().await;
}

async fn c7_a_full_queue_refuses_and_a_dropped_call_makes_room(suffix: &str) {
    let mut config = config();
    config.max_in_flight = 1;
    let setup = setup_with(suffix, config).await;
    let sleeping = setup.sleeping(3000).await;
    let outcome = setup.probe.call::<_, i64>("inc", (1,)).await;
    // Unless this machine slept for longer than the bundle.
    if !sleeping.is_finished() {
        assert!(matches!(outcome, Err(Failure::Overloaded { .. })), "{outcome:?}");
    }
    sleeping.abort();
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    loop {
        match setup.probe.call::<_, i64>("inc", (1,)).await {
            Ok(next) => break assert_eq!(next, 2),
            Err(Failure::Overloaded { .. }) => assert!(std::time::Instant::now() < deadline),
            Err(other) => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    setup.supervisor.shutdown().await;
}

async fn l6_reloads_under_a_load_of_calls_lose_none(suffix: &str) {
    let setup = setup(suffix).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (greeter, stop) = (setup.greeter.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut calls = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    let text: String = greeter.call("greet", ("Ada",)).await?;
                    assert_eq!(text, "Hello, Ada");
                    calls += 1;
                }
                Ok::<u32, Failure>(calls)
            })
        })
        .collect();
    let name = format!("greeter-{suffix}");
    for generation in 2..=5 {
        assert_eq!(setup.supervisor.reload(&name).await.unwrap().generation, generation);
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap().unwrap() > 0, "it never had its turn");
    }
    setup.supervisor.shutdown().await;
}

/// The unload waits for it, and no call comes after it.
async fn l7_a_call_in_flight_ends_before_its_code_is_freed(suffix: &str) {
    let setup = setup(suffix).await;
    let sleeping = setup.sleeping(1000).await;
    let name = format!("probe-{suffix}");
    let (unloaded, slept) = tokio::join!(setup.supervisor.unload(&name), sleeping);
    unloaded.unwrap();
    slept.unwrap().unwrap();
    let outcome = setup.probe.call::<_, i64>("inc", (1,)).await;
    assert!(matches!(outcome, Err(Failure::StaleHandle { .. })), "{outcome:?}");
    let status = worker(&setup.supervisor, setup.language.loader).unwrap();
    assert_eq!((status.restarts, setup.supervisor.crashes().len()), (0, 0));
    setup.supervisor.shutdown().await;
}

/// A bundle in Lua with one function.
fn in_lua(name: &str, more: &str) -> [(String, String); 2] {
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
         provides = ['{name}@1']\n{more}\n"
    );
    let code = format!("return {{ ['{name}@1'] = {{ f = function() return 1 end }} }}");
    [("manifest.toml".to_owned(), manifest), ("main.lua".to_owned(), code)]
}

/// What a host says twice it has to say the same way; what the configuration
/// says counts too.
#[test]
fn l1_two_programs_for_one_loader_are_refused() {
    run(async {
        let program = worker_program(&config(), "lua").unwrap();
        let started = Supervisor::builder()
            .worker_program("lua", &program)
            .worker_program("python", "/nonexistent/python")
            .worker_program("lua", "/nonexistent/lua")
            .start();
        let Err(StartError::Loader(error)) = started else { panic!("it was started") };
        assert_eq!(error, LoaderError::DuplicateLoader { loader: "lua".to_owned() });
        assert_eq!(
            error.to_string(),
            "two loaders are named 'lua'; give each name one worker program"
        );
        let mut configured = config();
        configured.worker_programs.insert("lua".to_owned(), program.clone());
        let builder = || Supervisor::builder().config(configured.clone());
        let started = builder().worker_program("lua", "/nonexistent/lua").start();
        assert!(matches!(started, Err(StartError::Loader(LoaderError::DuplicateLoader { .. }))));
        // A name that differs in case is another one, and there is no such loader.
        let started = builder().worker_program("Lua", &program).start();
        assert!(matches!(started, Err(StartError::Loader(LoaderError::NoLoaderForName { .. }))));
        let supervisor = builder().worker_program("lua", &program).start().unwrap();
        supervisor.load(Language::of("lua").bundle("greeter")).await.unwrap();
        supervisor.shutdown().await;
    });
}

#[test]
fn c3_a_call_after_the_shutdown_says_so() {
    run(async {
        let setup = setup("lua").await;
        setup.supervisor.shutdown().await;
        let outcome = setup.greeter.call::<_, String>("greet", ("Ada",)).await;
        assert!(matches!(outcome, Err(Failure::ShuttingDown)), "{outcome:?}");
    });
}

#[test]
fn s4_a_bundle_that_does_not_come_back_is_unavailable() {
    run(async {
        let supervisor = start_with(config());
        let [(manifest, about), (file, code)] = in_lua("once", "");
        let bundle = Bundle::of(&[(&manifest, &about), (&file, &code)]);
        supervisor.load(&bundle.path()).await.unwrap();
        let once = supervisor.contract("once@1").unwrap();
        assert_eq!(once.call::<_, i64>("f", ()).await.unwrap(), 1);
        bundle.write("main.lua", "return nothing at all");
        slay(worker(&supervisor, "lua").unwrap().pid.unwrap());
        let outcome = loop {
            match once.call::<_, i64>("f", ()).await {
                // The old process may still answer, or die under the call.
                Ok(_) | Err(Failure::WorkerCrashed { .. }) => {}
                Err(failure) => break failure,
            }
        };
        assert!(matches!(&outcome, Failure::BundleUnavailable { .. }), "{outcome:?}");
        supervisor.shutdown().await;
    });
}

#[test]
fn r3_a_ring_of_dependencies_is_refused_with_its_names() {
    run(async {
        let supervisor = start_with(config());
        let events = Recorder::of(&supervisor);
        let folder = tempfile::tempdir().unwrap();
        for (name, other) in [("ring-a", "ring-b"), ("ring-b", "ring-a")] {
            let dir = folder.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            for (file, text) in in_lua(name, &format!("bundle_dependencies = ['{other}@1.0']")) {
                std::fs::write(dir.join(file), text).unwrap();
            }
        }
        let outcomes = supervisor.load_all(&[folder.path().to_owned()]).await;
        assert_eq!(outcomes.len(), 2);
        for (_, outcome) in outcomes {
            let error = outcome.unwrap_err();
            let RuntimeError::DependencyCycle { participants } = &error else {
                panic!("{error:?}")
            };
            let mut names = participants.clone();
            names.sort();
            names.dedup();
            assert_eq!(names, ["ring-a", "ring-b"]);
        }
        for name in ["ring-a", "ring-b"] {
            let told = |event: &EventKind| match event {
                EventKind::BundleFailed { bundle, reason, .. } if bundle == name => {
                    Some(reason.clone())
                }
                _ => None,
            };
            let reason = events.wait("the event", told).await;
            assert!(reason.contains("in a ring"), "{reason}");
        }
        supervisor.shutdown().await;
    });
}

per_language!(rust, c, py, lua, js, dotnet; {
    l1_the_manifest_names_the_loader_to_the_letter,
    l2_the_status_shows_the_loaders_language,
    l3_no_reload_where_the_configuration_forbids_it,
    l4_a_source_that_the_loader_does_not_take_is_refused,
    l6_reloads_under_a_load_of_calls_lose_none,
    l7_a_call_in_flight_ends_before_its_code_is_freed,
    b3_names_are_snake_case_in_every_language,
    c4_a_call_that_nobody_began_outlives_its_worker,
    c6_a_slow_bundle_delays_nobody,
    c7_a_full_queue_refuses_and_a_dropped_call_makes_room,
});
