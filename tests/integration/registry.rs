//! Who provides what, who depends on whom (rules R1 to R4), with real workers.

use std::path::PathBuf;

use menagerie_supervisor::{
    BundleState, Compatibility, EventKind, Failure, RuntimeError, Supervisor,
};
use menagerie_tests::Language;

use crate::support::{
    Bundle, Gate, Recorder, config, ready_after, slay, start, start_with, wait_for, worker,
};

/// A bundle in Lua whose contract `CONTRACT` has one function, `who`, that
/// returns what `code` says.
fn lua(name: &str, contract: &str, more: &str, who: &str) -> Bundle {
    let manifest = format!(
        "name = '{name}'\nversion = '1.2.0'\nloader = 'lua'\nfile = 'main.lua'\n\
         provides = ['{contract}']\n{more}\n"
    );
    let code = format!(
        "local menagerie = require 'menagerie'\nlocal who = {who}\n\
         return {{ ['{contract}'] = {{ who = who }} }}\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), ("main.lua", &code)])
}

fn says(text: &str) -> String {
    format!("function() return '{text}' end")
}

async fn who(supervisor: &Supervisor, contract: &str) -> Result<String, Failure> {
    supervisor.contract(contract)?.call("who", ()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_the_newest_compatible_version_serves_and_a_named_bundle_where_asked() {
    let supervisor = start();
    let bundles = [
        lua("b", "c@1.2", "", &says("b")),
        lua("a", "c@1.2", "", &says("a")),
        lua("old", "c@1.0", "", &says("old")),
        lua("next", "c@2", "", &says("next")),
    ];
    for bundle in &bundles {
        supervisor.load(bundle.path()).await.unwrap();
    }
    for (contract, bundle) in
        [("c@1", "a"), ("c@1.1", "a"), ("c", "next"), ("old/c@1", "old"), ("b/c", "b")]
    {
        assert_eq!(who(&supervisor, contract).await.unwrap(), bundle, "{contract}");
    }
    for missing in ["c@1.3", "c@3", "old/c@1.1", "nobody/c@1"] {
        let outcome = who(&supervisor, missing).await;
        assert!(matches!(outcome, Err(Failure::NoSuchContract { .. })), "{missing}: {outcome:?}");
    }
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_the_builder_relaxes_versions() {
    for (rule, minor, major) in [
        (Compatibility::Strict, false, false),
        (Compatibility::Relaxed, true, false),
        (Compatibility::Yolo, true, true),
    ] {
        let builder = Supervisor::builder().config(config()).compatibility(rule);
        let supervisor = builder.start().unwrap();
        let provider = lua("provider", "c@1.2", "", &says("provider"));
        supervisor.load(provider.path()).await.unwrap();
        assert_eq!(who(&supervisor, "c@1.9").await.is_ok(), minor, "{rule:?}");
        assert_eq!(who(&supervisor, "c@7").await.is_ok(), major, "{rule:?}");
        // For bundles as well, at load and at call.
        let calls = "function() return menagerie.call('c@7', 'who') end";
        let needs = "[[dependency]]\ncontract = 'c'\nmin_version = '7.0'\n";
        let user = lua("user", "user@1", needs, calls);
        let loaded = supervisor.load(user.path()).await;
        assert_eq!(loaded.is_ok(), major, "{rule:?}: {loaded:?}");
        if major {
            assert_eq!(who(&supervisor, "user@1").await.unwrap(), "provider");
        }
        supervisor.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_a_handle_outlives_reloads_and_restarts_and_no_unload() {
    let supervisor = start();
    let bundle = lua("a", "a@1", "", &says("one"));
    supervisor.load(bundle.path()).await.unwrap();
    let handle = supervisor.contract("a@1").unwrap();
    let who = || handle.call::<_, String>("who", ());
    assert_eq!(who().await.unwrap(), "one");
    bundle.write("main.lua", "return { ['a@1'] = { who = function() return 'two' end } }");
    assert_eq!(supervisor.reload("a").await.unwrap().generation, 2);
    assert_eq!(who().await.unwrap(), "two");
    supervisor.restart("lua").await.unwrap();
    assert_eq!(who().await.unwrap(), "two");
    supervisor.unload("a").await.unwrap();
    let stale = |outcome: Result<String, Failure>| {
        assert!(matches!(outcome, Err(Failure::StaleHandle { .. })), "{outcome:?}");
    };
    stale(who().await);
    // Another bundle of the same name is another bundle.
    supervisor.load(bundle.path()).await.unwrap();
    stale(who().await);
    assert_eq!(self::who(&supervisor, "a@1").await.unwrap(), "two");
    supervisor.shutdown().await;
}

/// Bundles in one folder, by name.
fn folder(bundles: &[(&str, &Bundle)]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bundle) in bundles {
        std::os::unix::fs::symlink(bundle.path(), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_owned();
    (folder, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_a_bundle_that_several_paths_lead_to_is_one() {
    let supervisor = start();
    let only = lua("only", "o@1", "", &says("o"));
    let (_folder, path) = folder(&[("only", &only)]);
    let bundle = path.join("only");
    let outcomes = supervisor.load_all(&[bundle.clone(), path, bundle.join(".")]).await;
    assert!(matches!(&outcomes[..], [(_, Ok(_))]), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_a_folder_loads_in_order_and_the_broken_are_listed_with_reasons() {
    let supervisor = start();
    let needs = |what: &str| format!("bundle_dependencies = ['{what}']");
    let first = lua("a-first", "a@1", &needs("z-last@1.1"), &says("a"));
    let last = lua("z-last", "z@1", "", &says("z"));
    let torn = Bundle::of(&[("manifest.toml", "name = 'torn'\nloader = = 'lua'\n")]);
    let throws = lua("throws", "t@1", "", "error('at load')");
    let lonely = lua("lonely", "l@1", &needs("nobody"), &says("l"));
    let modern = lua("modern", "m@1", &needs("z-last@1.9"), &says("m"));
    let ring = [
        lua("ring-1", "r1@1", &needs("ring-2"), &says("r")),
        lua("ring-2", "r2@1", &needs("ring-1"), &says("r")),
    ];
    let (_folder, path) = folder(&[
        ("a", &first),
        ("z", &last),
        ("torn-folder", &torn),
        ("throws", &throws),
        ("lonely", &lonely),
        ("modern", &modern),
        ("ring-1", &ring[0]),
        ("ring-2", &ring[1]),
    ]);
    let outcomes = supervisor.load_all(&[path]).await;
    let loaded = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    assert_eq!((loaded, outcomes.len()), (2, 8), "{outcomes:?}");
    assert_eq!(who(&supervisor, "a@1").await.unwrap(), "a");
    let problem = |name: &str| {
        let bundle = supervisor.status().bundles.into_iter().find(|b| b.name == name);
        let bundle = bundle.unwrap_or_else(|| panic!("{name} is not listed"));
        assert_eq!(bundle.state, BundleState::Failed, "{name}");
        bundle.problem.unwrap()
    };
    // A manifest that cannot be read gives no name: the folder's stands for it.
    let torn_name = torn.path().file_name().unwrap().to_str().unwrap().to_owned();
    for (name, reason) in [
        (torn_name.as_str(), "manifest.toml:2"),
        ("throws", "at load"),
        ("lonely", "needs bundle 'nobody', which is not loaded"),
        ("modern", "needs bundle 'z-last@1.9', but version 1.2.0 is loaded"),
        ("ring-1", "in a ring: ring-1 → ring-2 → ring-1"),
        ("ring-2", "in a ring"),
    ] {
        let problem = problem(name);
        assert!(problem.contains(reason), "{name}: {problem}");
    }
    // Mended, it is loaded by its name, and is broken no more.
    throws.write("main.lua", "return { ['t@1'] = { who = function() return 't' end } }");
    supervisor.reload("throws").await.unwrap();
    assert_eq!(who(&supervisor, "t@1").await.unwrap(), "t");
    supervisor.unload("lonely").await.unwrap();
    assert_eq!(supervisor.unload_cascade("modern").await.unwrap(), ["modern"]);
    let nobody = supervisor.unload_cascade("modern").await;
    assert!(matches!(nobody, Err(RuntimeError::BundleNotFound { .. })), "{nobody:?}");
    let status = supervisor.status();
    let failed = status.bundles.iter().filter(|b| b.state == BundleState::Failed).count();
    assert_eq!((status.bundles.len(), failed), (6, 3), "{status:?}");
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_bundle_in_use_is_unloaded_by_a_cascade_only() {
    let supervisor = start();
    let provider = lua("provider", "c@1", "", &says("p"));
    let needs = "[[dependency]]\ncontract = 'c@1'";
    // Its last words need the provider.
    let user = lua("user", "user@1", needs, &says("u"));
    user.write(
        "main.lua",
        "local menagerie = require 'menagerie'\n\
         return { ['user@1'] = { who = function() return 'u' end },\n\
         on_unload = function()\n\
           menagerie.log('info', 'last words: ' .. menagerie.call('c@1', 'who'))\n\
         end }",
    );
    let top = lua("top", "top@1", "bundle_dependencies = ['user']", &says("t"));
    for bundle in [&provider, &user, &top] {
        supervisor.load(bundle.path()).await.unwrap();
    }
    let recorder = Recorder::of(&supervisor);
    for (bundle, dependents) in [("provider", ["user"]), ("user", ["top"])] {
        let error = supervisor.unload(bundle).await.unwrap_err();
        let expected = dependents.map(str::to_owned).to_vec();
        assert!(
            matches!(&error, RuntimeError::DependencyInUse { dependents, .. } if *dependents == expected),
            "{error:?}"
        );
    }
    assert_eq!(who(&supervisor, "c@1").await.unwrap(), "p");
    let unloaded = supervisor.unload_cascade("provider").await.unwrap();
    assert_eq!(unloaded, ["top", "user", "provider"]);
    assert!(supervisor.status().bundles.is_empty());
    recorder
        .wait("the last one's end", |event| {
            matches!(event, EventKind::BundleUnloaded { bundle } if bundle == "provider")
                .then_some(())
        })
        .await;
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_reload_initialises_the_dependents_again_that_ask_for_it() {
    let supervisor = start();
    let provider = lua("provider", "c@1", "", &says("one"));
    supervisor.load(provider.path()).await.unwrap();
    // Each keeps what it was told when it was initialised.
    let user = |name: &str, asks: bool| {
        let needs =
            format!("needs_reinit_on_dep_reload = {asks}\n[[dependency]]\ncontract = 'c@1'\n");
        let code = "(function()\n\
                      local heard = menagerie.call('c@1', 'who')\n\
                      return function() return heard end\n\
                    end)()";
        lua(name, &format!("{name}@1"), &needs, code)
    };
    let (asks, does_not) = (user("asks", true), user("quiet", false));
    supervisor.load(asks.path()).await.unwrap();
    supervisor.load(does_not.path()).await.unwrap();
    assert_eq!(who(&supervisor, "asks@1").await.unwrap(), "one");
    provider.write("main.lua", "return { ['c@1'] = { who = function() return 'two' end } }");
    supervisor.reload("provider").await.unwrap();
    assert_eq!(who(&supervisor, "asks@1").await.unwrap(), "two");
    assert_eq!(who(&supervisor, "quiet@1").await.unwrap(), "one");
    // One that cannot be initialised goes on as it is, and is told of.
    let recorder = Recorder::of(&supervisor);
    asks.write("main.lua", "error('not again')");
    supervisor.reload("provider").await.unwrap();
    assert_eq!(who(&supervisor, "asks@1").await.unwrap(), "two");
    let reason = recorder
        .wait("the failure", |event| match event {
            EventKind::BundleFailed { bundle, step, reason }
                if bundle == "asks" && step == "reinitialise" =>
            {
                Some(reason.clone())
            }
            _ => None,
        })
        .await;
    assert!(reason.contains("not again"), "{reason}");
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_reload_that_takes_away_what_others_need_is_refused() {
    let supervisor = start();
    let provider = lua("provider", "c@1.1", "", &says("p"));
    let user = lua("user", "user@1", "[[dependency]]\ncontract = 'c@1.1'", &says("u"));
    supervisor.load(provider.path()).await.unwrap();
    supervisor.load(user.path()).await.unwrap();
    provider.write(
        "manifest.toml",
        "name = 'provider'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['c@1.0']\n",
    );
    let error = supervisor.reload("provider").await.unwrap_err();
    assert!(matches!(error, RuntimeError::DependencyInUse { .. }), "{error:?}");
    assert_eq!(who(&supervisor, "c@1.1").await.unwrap(), "p");
    supervisor.shutdown().await;
}

/// Whoever decides while a reload is under way counts on what both generations provide:
/// it may fail, and it may not.
#[tokio::test(flavor = "multi_thread")]
async fn r4_what_a_reload_is_about_to_take_away_is_not_counted_on() {
    let supervisor = start();
    let gate = Gate::new();
    let provides = |contract: &str| format!("provides = ['{contract}']");
    let [p1, p2] = ["p1", "p2"].map(|name| {
        let bundle = gate.bundle(name, "", "");
        bundle.write("main.lua", &gate.code_for(name, "", &["c@1"]));
        Gate::write_manifest(&bundle, name, &provides("c@1"));
        bundle
    });
    let needs = "[[dependency]]\ncontract = 'c@1'";
    let user =
        lua("user", "user@1", needs, "function() return menagerie.call('c@1', 'inc', 1) end");
    for bundle in [&p1, &p2, &user] {
        supervisor.load(bundle.path()).await.unwrap();
    }
    for (bundle, name) in [(&p1, "p1"), (&p2, "p2")] {
        let code = gate.code_for(name, &format!("pass '{name} loaded'"), &["d@1"]);
        bundle.write("main.lua", &code);
        Gate::write_manifest(bundle, name, &provides("d@1"));
    }
    gate.close();
    let reload = supervisor.clone();
    let reload = tokio::spawn(async move { reload.reload("p1").await });
    gate.noted("p1 loaded", 1).await;
    let in_use = |outcome: Result<(), RuntimeError>| {
        let Err(RuntimeError::DependencyInUse { dependents, .. }) = &outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(*dependents, ["user"]);
    };
    in_use(supervisor.unload("p2").await);
    in_use(supervisor.reload("p2").await.map(drop));
    // What is not there yet, or may be gone soon, is nothing to rely on.
    for (contract, bundle) in [("d@1", "p1"), ("c@1", "p1")] {
        let needs = format!("[[dependency]]\ncontract = '{contract}'\nbundle = '{bundle}'");
        let hasty = lua("hasty", "hasty@1", &needs, &says("h"));
        let outcome = supervisor.load(hasty.path()).await;
        let lacks = |e: &RuntimeError| matches!(e, RuntimeError::UnsatisfiedCapability { .. });
        assert!(outcome.as_ref().is_err_and(lacks), "{contract}: {outcome:?}");
    }
    gate.open();
    reload.await.unwrap().unwrap();
    let contract = supervisor.contract("user@1").unwrap();
    assert_eq!(contract.call::<_, i64>("who", ()).await.unwrap(), 2);
    // The reload is over: what it has brought counts.
    in_use(supervisor.unload("p2").await);
    supervisor.unload("user").await.unwrap();
    supervisor.unload("p2").await.unwrap();
    supervisor.shutdown().await;
}

/// Every bundle of a worker that has died calls its provider when it is
/// initialised again: what comes back in the wrong order would fail.
#[tokio::test(flavor = "multi_thread")]
async fn s4_after_a_crash_providers_are_back_before_their_dependents() {
    let supervisor = start_with(config());
    let calls = |contract: &str| {
        format!(
            "(function()\n\
               local heard = menagerie.call('{contract}', 'who')\n\
               return function() return heard end\n\
             end)()"
        )
    };
    let needs = |contract: &str| format!("[[dependency]]\ncontract = '{contract}'");
    // Loaded in an order of their own; a reload makes `first` need `second`.
    let first = lua("first", "first@1", "", &says("first"));
    let second = lua("second", "second@1", "", &says("second"));
    let third = lua("third", "third@1", &needs("first@1"), &calls("first@1"));
    for bundle in [&first, &second, &third] {
        supervisor.load(bundle.path()).await.unwrap();
    }
    let manifest = format!(
        "name = 'first'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['first@1']\n{}\n",
        needs("second@1")
    );
    first.write("manifest.toml", &manifest);
    let code = format!(
        "local menagerie = require 'menagerie'\n\
         return {{ ['first@1'] = {{ who = {} }} }}",
        calls("second@1")
    );
    first.write("main.lua", &code);
    supervisor.reload("first").await.unwrap();
    let before = worker(&supervisor, "lua").unwrap();
    let recorder = Recorder::of(&supervisor);
    slay(before.pid.unwrap());
    ready_after(&supervisor, "lua", before.incarnation).await;
    // Each says what it heard when it was initialised, down to the last.
    assert_eq!(who(&supervisor, "third@1").await.unwrap(), "second");
    assert_eq!(who(&supervisor, "first@1").await.unwrap(), "second");
    let order = wait_for("three bundles to be back", || {
        let loaded: Vec<String> = recorder
            .all()
            .iter()
            .filter_map(|event| match event {
                EventKind::BundleLoaded { bundle, .. } => Some(bundle.clone()),
                _ => None,
            })
            .collect();
        (loaded.len() == 3).then_some(loaded)
    })
    .await;
    assert_eq!(order, ["second", "first", "third"]);
    supervisor.shutdown().await;
}

/// A bundle of each language may call others while it is loaded, and while it
/// is unloaded: the lane is attended to then as well.
#[tokio::test(flavor = "multi_thread")]
async fn c5_a_bundle_may_call_while_it_is_loaded() {
    let supervisor = start();
    supervisor.load(Language::of("rust").bundle("greeter")).await.unwrap();
    let needs = "[[dependency]]\ncontract = 'greeter@1'\n";
    let manifest = |loader: &str, file: &str| {
        format!(
            "name = 'eager-{loader}'\nloader = '{loader}'\nfile = '{file}'\n\
             provides = ['{loader}@1']\n{needs}"
        )
    };
    let python = "import menagerie\n\
                  heard = menagerie.call('greeter@1', 'greet', 'Ada')\n\
                  @menagerie.export('python@1')\n\
                  def who() -> str:\n    return heard\n";
    let js = "import { call } from 'menagerie';\n\
              const heard = await call('greeter@1', 'greet', 'Ada');\n\
              export default { 'js@1': { who: () => heard } };\n";
    let lua = "local heard = require('menagerie').call('greeter@1', 'greet', 'Ada')\n\
               return { ['lua@1'] = { who = function() return heard end } }\n";
    for (loader, file, code) in
        [("python", "main.py", python), ("js", "main.js", js), ("lua", "main.lua", lua)]
    {
        let bundle = Bundle::of(&[("manifest.toml", &manifest(loader, file)), (file, code)]);
        supervisor.load(bundle.path()).await.unwrap();
        let heard = who(&supervisor, &format!("{loader}@1")).await.unwrap();
        assert_eq!(heard, "Hello, Ada", "{loader}");
    }
    supervisor.shutdown().await;
}

/// A list of bundles that changes, as at SIGHUP: a folder may have its bundles by links.
#[tokio::test(flavor = "multi_thread")]
async fn r3_what_a_folder_had_by_a_link_goes_with_the_link_or_the_folder() {
    let (echo, other) =
        (lua("echo", "echo@1", "", &says("echo")), lua("other", "other@1", "", &says("other")));
    for link_goes in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_owned()];
        for (name, bundle) in [("first", &echo), ("second", &other)] {
            std::os::unix::fs::symlink(bundle.path(), folder.path().join(name)).unwrap();
        }
        let supervisor = start();
        for (path, outcome) in supervisor.load_all(&paths).await {
            outcome.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let done = supervisor.reconcile(&paths, &paths).await;
        assert!(done.loaded.is_empty() && done.unloaded.is_empty(), "{done:?}");
        let (after, unloaded) = if link_goes {
            std::fs::remove_file(folder.path().join("first")).unwrap();
            (&paths[..], vec!["echo"])
        } else {
            (&[][..], vec!["echo", "other"])
        };
        let done = supervisor.reconcile(&paths, after).await;
        assert_eq!(done.unloaded, unloaded, "{done:?}");
        assert!(done.loaded.is_empty() && done.failed.is_empty(), "{done:?}");
        // And comes back with it; asked for by its own folder, it stays.
        if link_goes {
            std::os::unix::fs::symlink(echo.path(), folder.path().join("again")).unwrap();
        }
        let mut done = supervisor.reconcile(after, &paths).await;
        done.loaded.sort();
        assert_eq!(done.loaded, unloaded, "{done:?}");
        let done = supervisor.reconcile(&paths, &[echo.path(), other.path()]).await;
        assert!(done.loaded.is_empty() && done.unloaded.is_empty(), "{done:?}");
        let done = supervisor.reconcile(&[echo.path(), other.path()], &[other.path()]).await;
        assert_eq!(done.unloaded, ["echo"], "{done:?}");
        supervisor.shutdown().await;
    }
}
