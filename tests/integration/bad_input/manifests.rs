//! Manifests and sources that are wrong, whatever the language: refused by the
//! supervisor itself, with file, key and line.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use menagerie_supervisor::{LoaderError, RuntimeError};

use super::Scene;
use crate::support::{Bundle, config, run, start_with};

const GOOD: &str = "name = 'spoilt'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n";

/// The load fails, and the scene does not notice.
async fn fails(scene: &Scene, bundle: &Bundle) -> LoaderError {
    let outcome = scene.supervisor.load(bundle.path()).await;
    let Err(RuntimeError::Loader(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(scene.supervisor.status().bundles.len(), 2);
    scene.goes_on().await;
    error
}

#[test]
fn b1_what_is_wrong_in_a_manifest_is_named_by_file_key_and_line() {
    run(async {
        let scene = Scene::set("lua").await;
        let bundle = Bundle::of(&[("main.lua", "return {}")]);
        for (more, key) in [
            ("provides = 'x'", "provides"),
            ("provides = [1]", "provides"),
            ("provides = ['a b']", "provides"),
            ("provides = ['a@1', 'a@1.2']", "provides"),
            ("needs_reinit_on_dep_reload = 'yes'", "needs_reinit_on_dep_reload"),
            ("function_count = { a = -1 }", "function_count.a"),
            ("idempotent = { a = 'f' }", "idempotent.a"),
            ("dependency = [{ min_version = '1' }]", "dependency.contract"),
            ("dependency = 'greeter'", "dependency"),
            ("bundle_dependencies = [7]", "bundle_dependencies"),
            ("id = '7'", "id"),
            ("id = 1.5", "id"),
        ] {
            bundle.write("manifest.toml", &format!("{GOOD}{more}\n"));
            let error = fails(&scene, &bundle).await;
            let LoaderError::ManifestInvalid { file, line, key: found, message } = &error else {
                panic!("{more}: {error:?}")
            };
            assert!(file.ends_with("manifest.toml") && !message.is_empty(), "{error}");
            assert_eq!((*line, found.as_str()), (Some(5), key), "{more}");
            assert!(error.to_string().contains(&format!("manifest.toml:5: {key}: ")), "{error}");
        }
        for (text, line) in [
            ("name = 'a'\nloader = = 3\n", 2),
            ("name = 'a'\nname = 'b'\n", 2),
            ("name = 'a'\n\n[file\n", 3),
            ("\u{7f}", 1),
        ] {
            bundle.write("manifest.toml", text);
            let error = fails(&scene, &bundle).await;
            let found =
                matches!(&error, LoaderError::ManifestInvalid { line: Some(l), .. } if *l == line);
            assert!(found, "{text:?}: {error:?}");
        }
        scene.end().await;
    });
}

#[test]
fn b1_what_lacks_in_a_manifest_is_named() {
    run(async {
        let scene = Scene::set("lua").await;
        let bundle = Bundle::of(&[("main.lua", "return {}")]);
        for key in ["name", "loader", "file"] {
            let without: Vec<&str> = GOOD.lines().filter(|line| !line.starts_with(key)).collect();
            bundle.write("manifest.toml", &without.join("\n"));
            let error = fails(&scene, &bundle).await;
            let named = matches!(&error, LoaderError::ManifestInvalid { key: k, message, .. }
                if k == key && message.contains("missing"));
            assert!(named, "{key}: {error:?}");
        }
        for name in ["", "a/b", "..", ".hidden", "a\\u0000b"] {
            let text = GOOD.replace("'spoilt'", &format!("\"{name}\""));
            bundle.write("manifest.toml", &text);
            let error = fails(&scene, &bundle).await;
            let named = matches!(&error, LoaderError::ManifestInvalid { key, line: Some(1), .. } if key == "name");
            assert!(named, "{name:?}: {error:?}");
        }
        bundle.write("manifest.toml", &format!("{GOOD}id = 7\n"));
        let error = fails(&scene, &bundle).await;
        assert!(matches!(error, LoaderError::BundleTampered { .. }), "{error:?}");
        for loader in ["cobol", "Lua", "lua ", ""] {
            let text = GOOD.replace("'lua'", &format!("'{loader}'"));
            bundle.write("manifest.toml", &text);
            let error = fails(&scene, &bundle).await;
            let LoaderError::NoLoaderForName { loader: told, available } = &error else {
                panic!("{loader}: {error:?}")
            };
            assert_eq!((told.as_str(), available.len()), (loader, 5));
        }
        // Not even text.
        std::fs::write(bundle.path().join("manifest.toml"), [0xff, 0xfe, 0]).unwrap();
        let error = fails(&scene, &bundle).await;
        assert!(error.to_string().contains("not UTF-8"), "{error}");
        std::fs::remove_file(bundle.path().join("manifest.toml")).unwrap();
        let error = fails(&scene, &bundle).await;
        assert!(matches!(error, LoaderError::ManifestNotFound { .. }), "{error:?}");
        scene.end().await;
    });
}

/// Where the system itself has no answer, it is no missing manifest; as a reload
/// it costs the bundle nothing.
#[test]
fn b1_what_the_system_cannot_read_is_told_in_its_words() {
    run(async {
        let scene = Scene::set("lua").await;
        let bundle = Bundle::of(&[("main.lua", "return {}"), ("manifest.toml", GOOD)]);
        let looped = bundle.path().join("manifest.toml");
        scene.supervisor.load(bundle.path()).await.unwrap();
        let before = scene.supervisor.status().bundles;
        std::fs::remove_file(&looped).unwrap();
        symlink("manifest.toml", &looped).unwrap();
        let outcome = scene.supervisor.reload("spoilt").await;
        let Err(RuntimeError::Loader(LoaderError::Io { path, problem })) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(path == looped && problem.contains("symbolic links"), "{path:?}: {problem}");
        let after = scene.supervisor.status().bundles;
        let told = |bundles: &[menagerie_supervisor::BundleStatus]| {
            bundles.iter().map(|b| (b.name.clone(), b.state, b.generation)).collect::<Vec<_>>()
        };
        assert_eq!(told(&before), told(&after));
        scene.supervisor.unload("spoilt").await.unwrap();

        let unreadable = std::ffi::OsStr::from_bytes(b"not \xff UTF-8");
        let odd = bundle.path().join(unreadable);
        std::fs::create_dir(&odd).unwrap();
        std::fs::write(odd.join("manifest.toml"), GOOD).unwrap();
        std::fs::write(odd.join("main.lua"), "return {}").unwrap();
        for (path, wanted) in [
            (bundle.path(), "symbolic links"),
            (PathBuf::from("/").join("x".repeat(300)), "name too long"),
            (PathBuf::from("with\0nul"), "NUL byte"),
            (odd, "not valid UTF-8"),
        ] {
            let outcome = scene.supervisor.load(&path).await;
            let Err(RuntimeError::Loader(LoaderError::Io { problem, .. })) = &outcome else {
                panic!("{path:?}: {outcome:?}")
            };
            assert!(problem.contains(wanted), "{path:?}: {problem}");
            scene.goes_on().await;
        }
        scene.end().await;
    });
}

#[test]
fn b2_files_that_are_missing_or_outside_the_bundle() {
    run(async {
        let scene = Scene::set("lua").await;
        let bundle = Bundle::of(&[("secret/main.lua", "return {}")]);
        symlink("/etc/passwd", bundle.path().join("link.lua")).unwrap();
        symlink("loop.lua", bundle.path().join("loop.lua")).unwrap();
        for (file, escapes) in [
            ("main.lua", false),
            ("secret", false),
            ("secret/main.lua/x", false),
            ("loop.lua", false),
            ("../x.lua", true),
            ("/etc/passwd", true),
            ("secret/../../x", true),
            ("link.lua", true),
        ] {
            bundle.write("manifest.toml", &GOOD.replace("'main.lua'", &format!("'{file}'")));
            let error = fails(&scene, &bundle).await;
            match &error {
                LoaderError::ArtifactPathEscape { artifact, .. } if escapes => {
                    assert_eq!(artifact, file);
                }
                LoaderError::ArtifactNotFound { artifact, problem, .. } if !escapes => {
                    assert!(artifact == file && !problem.is_empty(), "{error}");
                }
                _ => panic!("{file}: {error:?}"),
            }
        }
        scene.end().await;
    });
}

#[test]
fn l4_sources_that_a_loader_does_not_take() {
    run(async {
        let scene = Scene::set("lua").await;
        let manifest =
            |loader: &str| format!("name = 'spoilt'\nloader = '{loader}'\nprovides = []\n");
        let refused = |outcome: Result<_, RuntimeError>, wanted: &str| {
            let Err(RuntimeError::Loader(LoaderError::UnsupportedBundleSource { loader, kind })) =
                outcome.map(|_: menagerie_supervisor::BundleStatus| ())
            else {
                panic!("{wanted}")
            };
            assert_eq!(format!("{loader} {kind}"), wanted);
        };
        for loader in ["native", "dotnet"] {
            let outcome = scene.supervisor.load_code(&manifest(loader), "code").await;
            refused(outcome, &format!("{loader} code"));
        }
        for loader in ["native", "python", "lua", "js"] {
            let outcome = scene.supervisor.load_bytes(&manifest(loader), [1, 2, 3]).await;
            refused(outcome, &format!("{loader} bytes"));
        }
        let outcome = scene.supervisor.load_code("name = ", "return {}").await;
        let named =
            matches!(&outcome, Err(RuntimeError::Loader(LoaderError::ManifestInvalid { .. })));
        assert!(named, "{outcome:?}");
        // A control message has its limit; beyond it the load fails at once.
        let huge = format!("return {{}} --{}", "x".repeat(17 << 20));
        let outcome = scene.supervisor.load_code(&manifest("lua"), huge).await;
        let Err(RuntimeError::Loader(LoaderError::SourceTooLarge { size, limit, .. })) = outcome
        else {
            panic!("{outcome:?}")
        };
        assert!(size > limit && limit == 16 << 20, "{size}");
        scene.goes_on().await;
        scene.end().await;
    });
}

#[test]
fn r_bundles_that_others_or_nobody_knows() {
    run(async {
        let scene = Scene::set("lua").await;
        let again = scene.supervisor.load(scene.language.bundle("greeter")).await;
        assert!(matches!(again, Err(RuntimeError::AlreadyLoaded { .. })), "{again:?}");
        let needed = scene.supervisor.unload("greeter-lua").await;
        let Err(RuntimeError::DependencyInUse { dependents, .. }) = needed else {
            panic!("{needed:?}")
        };
        assert_eq!(dependents, ["probe-lua"]);
        for name in ["", "nobody", "greeter-lua ", "greeter@1", "../greeter-lua"] {
            let unloaded = scene.supervisor.unload(name).await;
            assert!(matches!(unloaded, Err(RuntimeError::BundleNotFound { .. })), "{name}");
            let reloaded = scene.supervisor.reload(name).await;
            assert!(matches!(reloaded, Err(RuntimeError::BundleNotFound { .. })), "{name}");
            let cascade = scene.supervisor.unload_cascade(name).await;
            assert!(matches!(cascade, Err(RuntimeError::BundleNotFound { .. })), "{name}");
        }
        let bundle = Bundle::of(&[("main.lua", "return {}")]);
        let lacks = [
            ("bundle_dependencies = ['nobody']", "nobody"),
            ("dependency = [{ contract = 'nothing@1' }]", "nothing@1"),
            ("dependency = [{ contract = 'greeter@7' }]", "greeter@7"),
            ("dependency = [{ contract = 'greeter', bundle = 'nobody' }]", "greeter"),
        ];
        for (more, lacking) in lacks {
            bundle.write("manifest.toml", &format!("{GOOD}{more}\n"));
            let outcome = scene.supervisor.load(bundle.path()).await;
            match &outcome {
                Err(RuntimeError::DependencyNotFound { dependency, .. }) => {
                    assert_eq!(dependency, lacking);
                }
                Err(RuntimeError::UnsatisfiedCapability { contract, .. }) => {
                    assert!(contract.starts_with(lacking), "{contract}");
                }
                other => panic!("{more}: {other:?}"),
            }
            scene.goes_on().await;
        }
        scene.end().await;
    });
}

#[test]
fn a_worker_program_that_is_missing_is_the_affair_of_its_language_only() {
    run(async {
        let mut config = config();
        config.worker_programs.insert("js".to_owned(), "/nonexistent/worker-js".into());
        let supervisor = start_with(config);
        let js = menagerie_tests::Language::of("js");
        for _ in 0..2 {
            let outcome = supervisor.load(js.bundle("greeter")).await;
            let Err(RuntimeError::WorkerNotFound { program, looked_in }) = &outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(program, "menagerie-worker-js");
            assert_eq!(looked_in, &["/nonexistent/worker-js"]);
        }
        let lua = menagerie_tests::Language::of("lua");
        supervisor.load(lua.bundle("greeter")).await.unwrap();
        let greeter = supervisor.contract("greeter@1").unwrap();
        let text: String = greeter.call("greet", ("Ada",)).await.unwrap();
        assert_eq!(text, "Hello, Ada");
        supervisor.shutdown().await;
    });
}
