use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;

use menagerie_protocol::testing::Harness;
use menagerie_protocol::{BundleLoader, BundleSource, LoaderError, SupportedLanguage};
use menagerie_worker_dotnet::{DotnetLoader, Search};

use crate::support::{
    bundle_dir, fixture, guest_error, harness, init_failure, load, manifest, search,
};

#[test]
fn l1_loader_is_named_dotnet() {
    let loader = DotnetLoader::new(Search::default());
    assert_eq!(loader.loader_name(), "dotnet");
    assert_eq!(loader.loader_language(), SupportedLanguage::Dotnet);
    assert!(loader.supports_hot_reload());
}

#[test]
fn runtime_calls_itself_what_the_search_has_found() {
    let _harness = harness!();
    let loader = DotnetLoader::new(search());
    assert_eq!(format!(".NET {}", loader.start().unwrap()), search().runtime_version());
}

#[test]
fn a_missing_runtime_is_said_with_a_remedy() {
    let search = Search { runtimes: vec!["/nowhere".into()], bridges: Vec::new() };
    let harness = Harness::new(DotnetLoader::new(search));
    let source = BundleSource::Bytes(Vec::new());
    match harness.load(&manifest("any", &["any@1"]), source) {
        Err(LoaderError::RuntimeMissing { runtime, problem, remedy }) => {
            assert_eq!(runtime, ".NET");
            assert!(problem.contains("/nowhere"), "{problem}");
            assert!(remedy.contains("DOTNET_ROOT"), "{remedy}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn b3_exports_are_sorted_and_snake_case() {
    let harness = harness!();
    let bundle = load(&harness, "hooks", &["first@1", "another@2.1"]);
    let contracts = bundle.contracts();
    assert_eq!(contracts.len(), 2);
    assert_eq!(contracts[0].contract, "another@2.1");
    // Neither Dispose nor the hooks of another class.
    assert_eq!(
        contracts[0].functions,
        ["log_all", "print", "print_error", "print_from_thread", "print_pieces"]
    );
    assert_eq!(contracts[1].contract, "first@1");
    assert_eq!(contracts[1].functions, ["context", "loads"]);

    let bundle = load(&harness, "values", &["values@1"]);
    assert_eq!(bundle.call::<_, String>("values@1", "http_get", ()).unwrap(), "acronym");
    assert_eq!(bundle.call::<_, String>("values@1", "renamed", ()).unwrap(), "renamed");
}

#[test]
fn l4_code_is_no_source_for_dotnet() {
    let harness = harness!();
    match harness.load(&manifest("code", &["a@1"]), BundleSource::Code("class A {}".to_owned())) {
        Err(LoaderError::UnsupportedBundleSource { loader, kind }) => {
            assert_eq!((&*loader, &*kind), ("dotnet", "code"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn l4_a_sibling_of_bytes_is_an_error_that_says_so() {
    let bundle = load(&harness!(), "uses_helper", &["shout@1"]);
    let error = guest_error(bundle.call::<_, String>("shout@1", "shout", ("hey",)));
    let text = format!("{error:?}");
    assert!(text.contains("loaded from memory") && text.contains("'helper'"), "{text}");
}

#[test]
fn a_second_assembly_is_found_beside_the_first() {
    let harness = harness!();
    let dir = bundle_dir("uses_helper", &["shout@1"]);
    fs::write(dir.path().join("helper.dll"), fixture("helper")).unwrap();
    let bundle = harness.load_dir(dir.path()).unwrap();
    assert_eq!(bundle.call::<_, String>("shout@1", "shout", ("hey",)).unwrap(), "HEY!");
}

#[test]
fn a_missing_second_assembly_is_an_error_of_the_call() {
    let harness = harness!();
    let dir = bundle_dir("uses_helper", &["shout@1"]);
    let bundle = harness.load_dir(dir.path()).unwrap();
    let error = guest_error(bundle.call::<_, String>("shout@1", "shout", ("hey",)));
    assert_eq!(error.type_name, "System.IO.FileNotFoundException");
}

/// To read either might never end: a pipe counts as a file that is not there.
#[test]
fn l5_a_pipe_or_a_device_is_no_assembly() {
    let harness = harness!();
    let dir = bundle_dir("uses_helper", &["shout@1"]);
    let at = |name: &str| dir.path().join(name);
    let pipe = |name: &str| {
        let path = CString::new(at(name).into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path is NUL-terminated, and outlives the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    };
    pipe("uses_helper.pdb");
    pipe("helper.dll");
    let bundle = harness.load_dir(dir.path()).unwrap();
    let fails = || guest_error(bundle.call::<_, String>("shout@1", "shout", ("hey",)));
    assert_eq!(fails().type_name, "System.IO.FileNotFoundException");
    fs::remove_file(at("helper.dll")).unwrap();
    symlink("/dev/zero", at("helper.dll")).unwrap();
    bundle.reload().unwrap();
    assert_eq!(fails().type_name, "System.IO.FileLoadException");
    fs::remove_file(at("helper.dll")).unwrap();
    fs::write(at("helper.dll"), fixture("helper")).unwrap();
    pipe("helper.pdb");
    bundle.reload().unwrap();
    assert_eq!(bundle.call::<_, String>("shout@1", "shout", ("hey",)).unwrap(), "HEY!");
}

/// As in the other languages: links within the folder are followed, and what
/// leads out of it, or is too large to be meant, is not read.
#[test]
fn b2_siblings_are_files_of_the_bundles_own_folder() {
    let harness = harness!();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("helper.dll"), fixture("helper")).unwrap();
    let dir = bundle_dir("uses_helper", &["shout@1"]);
    let at = |name: &str| dir.path().join(name);
    symlink(outside.path().join("helper.dll"), at("helper.dll")).unwrap();
    let bundle = harness.load_dir(dir.path()).unwrap();
    let shout = || bundle.call::<_, String>("shout@1", "shout", ("hey",));
    let is_refused = |why: &str| {
        let error = guest_error(shout());
        assert_eq!(error.type_name, "System.IO.FileLoadException");
        let text = format!("{error:?}");
        assert!(text.contains(why) && text.contains("'helper'"), "{text}");
    };
    is_refused("leads out of the bundle's folder");
    fs::remove_file(at("helper.dll")).unwrap();
    fs::File::create(at("helper.dll")).unwrap().set_len(1 << 30).unwrap();
    bundle.reload().unwrap();
    is_refused("larger than 512 MiB");
    fs::remove_file(at("helper.dll")).unwrap();
    fs::create_dir(at("own")).unwrap();
    fs::write(at("own/real.dll"), fixture("helper")).unwrap();
    symlink("own/real.dll", at("helper.dll")).unwrap();
    // Debug information that is none of the folder's is done without.
    symlink(outside.path().join("helper.dll"), at("helper.pdb")).unwrap();
    bundle.reload().unwrap();
    assert_eq!(shout().unwrap(), "HEY!");
}

#[test]
fn what_is_no_assembly_is_refused() {
    let harness = harness!();
    let dir = bundle_dir("version_one", &["version@1"]);
    let artifact = dir.path().join("version_one.dll");
    let mut damaged = fixture("version_one");
    damaged.truncate(300);
    for content in [b"".to_vec(), b"plain text".to_vec(), damaged] {
        fs::write(&artifact, &content).unwrap();
        match harness.load_dir(dir.path()) {
            Err(LoaderError::ArtifactUnusable { artifact: at, problem }) => {
                assert_eq!(at, artifact.canonicalize().unwrap());
                assert!(problem.contains("no .NET assembly"), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
    let (step, error) = init_failure(
        harness.load(&manifest("bytes", &["a@1"]), BundleSource::Bytes(b"plain text".to_vec())),
    );
    assert_eq!((&*step, &*error.type_name), ("import", "System.BadImageFormatException"));
}

#[test]
fn b1_what_does_not_fit_a_contract_is_refused() {
    let harness = harness!();
    for (name, expected) in [
        ("bad_ref", "Bad.Swap has the ref or out parameter 'a'"),
        ("bad_overload", "exports 'f' twice"),
        ("bad_parameter", "Bad.At has the parameter 'when': values of type System.DateTime cannot"),
        ("bad_own_type", "Bad.All has a result: values of type Own cannot"),
        ("bad_async_void", "Bad.F is async void"),
        ("bad_private", "Bad has [Contract] but is not public"),
        ("bad_static", "Bad has [Contract] but is static"),
        ("bad_constructor", "Bad has no public constructor without parameters"),
        ("bad_generic", "Bad.F is generic"),
        ("bad_hooks", "both Bad and Other implement IBundle"),
    ] {
        let source = BundleSource::Bytes(fixture(name));
        let (step, error) = init_failure(harness.load(&manifest(name, &["bad@1"]), source));
        assert_eq!(step, "register", "{name}");
        assert_eq!(error.type_name, "Menagerie.ContractException");
        assert!(error.message.contains(expected), "{name}: {error}");
    }
}

#[test]
fn l5_an_exception_in_a_constructor_fails_the_load() {
    let harness = harness!();
    let source = BundleSource::Bytes(fixture("bad_throws"));
    let (step, error) = init_failure(harness.load(&manifest("bad_throws", &["bad@1"]), source));
    assert_eq!(step, "initialise");
    assert_eq!(
        (&*error.type_name, &*error.message),
        ("System.InvalidOperationException", "not today")
    );
    assert!(error.stack.contains("Bad..ctor"), "{}", error.stack);
    // Nothing of it stays: the lane would have warned.
    assert!(harness.logs().is_empty(), "{:?}", harness.logs());
}

#[test]
fn an_assembly_without_a_contract_does_not_provide_one() {
    let harness = harness!();
    let source = BundleSource::Bytes(fixture("bad_none"));
    match harness.load(&manifest("bad_none", &["bad@1"]), source) {
        Err(LoaderError::ContractMismatch { contract, problem, .. }) => {
            assert_eq!(contract, "bad@1");
            assert!(problem.contains("does not export it"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

/// Its message is asked for again and again on the way.
#[test]
fn l5_a_constructors_error_is_told_although_its_message_throws() {
    let harness = harness!();
    let source = BundleSource::Bytes(fixture("bad_throws_nameless"));
    let (step, error) = init_failure(harness.load(&manifest("nameless", &["bad@1"]), source));
    assert_eq!((&*step, &*error.type_name), ("initialise", "Nameless"));
}

#[test]
fn methods_of_a_bundles_own_base_classes_are_functions() {
    let bundle = load(&harness!(), "inherits", &["hides@1", "inherits@1"]);
    let contracts = bundle.contracts();
    assert_eq!(contracts[1].functions, ["count", "kind", "own"]);
    assert_eq!(bundle.call::<_, i32>("inherits@1", "count", ()).unwrap(), 1);
    assert_eq!(bundle.call::<_, String>("inherits@1", "kind", ()).unwrap(), "derived");
    assert_eq!(bundle.call::<_, String>("inherits@1", "own", ()).unwrap(), "no function");
    // Those that the class hides, or that can be none, are left out.
    assert_eq!(contracts[0].functions, ["f", "h", "hidden", "kept"]);
    assert_eq!(bundle.call::<_, i32>("hides@1", "f", ()).unwrap(), 2);
    assert_eq!(bundle.call::<_, String>("hides@1", "h", (1,)).unwrap(), "derived");
    assert_eq!(bundle.call::<_, String>("hides@1", "hidden", ()).unwrap(), "derived");
    assert_eq!(bundle.call::<_, String>("hides@1", "kept", ()).unwrap(), "kept");
}
