//! Signed bundles (rule R5), with a real worker: what is loaded is what was
//! checked, at the first load and at every later one.

use std::path::{Path, PathBuf};

use menagerie_supervisor::{
    Config, ConfigError, EventKind, Failure, LoaderError, PublicKey, RuntimeError, SIGNATURE_FILE,
    SignaturePolicy, SignatureState, SigningKey, StartError, Supervisor, sign_bundle,
};

use crate::support::{Bundle, Recorder, config, ready_after, slay, start_with, wait_for, worker};

fn code(says: &str) -> String {
    format!(
        "local util = require 'util'\nreturn {{ ['who@1'] = {{ who = function() return '{says}' .. util end }} }}\n"
    )
}

const MANIFEST: &str = "name = 'signed'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
                        provides = ['who@1']\n";

fn bundle() -> Bundle {
    let code = code("one");
    Bundle::of(&[("manifest.toml", MANIFEST), ("main.lua", &code), ("util.lua", "return '!'")])
}

fn signed(key: &SigningKey) -> Bundle {
    let bundle = bundle();
    sign_bundle(&bundle.path(), key).unwrap();
    bundle
}

fn with(policy: SignaturePolicy, trusted: &[PublicKey], store: Option<PathBuf>) -> Config {
    let mut config = config();
    config.signatures.policy = policy;
    config.signatures.trusted_keys = trusted.to_vec();
    config.signatures.trust_store = store;
    config
}

fn required(key: &SigningKey) -> Supervisor {
    start_with(with(SignaturePolicy::Required, &[key.public()], None))
}

async fn who(supervisor: &Supervisor) -> Result<String, Failure> {
    supervisor.contract("who@1")?.call("who", ()).await
}

/// Loads what is to be refused, and returns why it was. Nothing of it stays.
async fn refused(supervisor: &Supervisor, dir: &Path) -> LoaderError {
    let recorder = Recorder::of(supervisor);
    let error = match supervisor.load(dir).await {
        Err(RuntimeError::Loader(error)) => error,
        other => panic!("{other:?}"),
    };
    let told = error.to_string();
    recorder
        .wait("the event", |event| match event {
            EventKind::BundleFailed { reason, .. } if *reason == told => Some(()),
            _ => None,
        })
        .await;
    assert!(supervisor.status().bundles.is_empty());
    assert!(matches!(who(supervisor).await, Err(Failure::NoSuchContract { .. })));
    error
}

/// That a bundle is refused because of this file.
async fn refused_for(supervisor: &Supervisor, bundle: &Bundle, name: &str, told: &str) {
    match refused(supervisor, &bundle.path()).await {
        LoaderError::SignatureVerificationFailed { file, problem, .. } => {
            assert_eq!(file, bundle.path().canonicalize().unwrap().join(name));
            assert!(problem.contains(told), "{problem}");
        }
        other => panic!("{other}"),
    }
}

fn state(supervisor: &Supervisor) -> (SignatureState, Option<String>) {
    let status = supervisor.status().bundles.pop().unwrap().signature.unwrap();
    (status.state, status.key)
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_signed_bundle_is_loaded_where_signatures_are_required() {
    let key = SigningKey::generate();
    let bundle = signed(&key);
    let builder = Supervisor::builder().config(config());
    let builder = builder.signatures(SignaturePolicy::Required).trusted_key(key.public());
    let supervisor = builder.start().unwrap();
    let status = supervisor.load(bundle.path()).await.unwrap();
    assert_eq!(who(&supervisor).await.unwrap(), "one!");
    assert_eq!(state(&supervisor), (SignatureState::Valid, Some(key.public().short_id())));
    // The folder that is shown is the user's.
    assert_eq!(status.path, Some(bundle.path().canonicalize().unwrap().display().to_string()));
    supervisor.unload("signed").await.unwrap();
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_without_a_policy_nothing_is_looked_at() {
    let bundle = bundle();
    bundle.write(SIGNATURE_FILE, "garbage");
    let supervisor = start_with(config());
    let status = supervisor.load(bundle.path()).await.unwrap();
    assert_eq!((status.signature, who(&supervisor).await.unwrap().as_str()), (None, "one!"));
    supervisor.shutdown().await;
}

#[test]
fn r5_a_policy_that_trusts_nobody_is_refused_at_start() {
    for policy in [SignaturePolicy::Warn, SignaturePolicy::Required] {
        let started = Supervisor::builder().config(config()).signatures(policy).start();
        let Err(StartError::Config(ConfigError::Invalid { setting, .. })) = started else {
            panic!("{started:?}")
        };
        assert_eq!(setting, "signatures.policy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_an_unsigned_bundle_is_refused() {
    let key = SigningKey::generate();
    let supervisor = required(&key);
    let bundle = bundle();
    let error = refused(&supervisor, &bundle.path()).await;
    assert!(matches!(&error, LoaderError::UnsignedBundle { bundle } if bundle == "signed"));
    assert!(error.to_string().contains("menagerie sign"), "{error}");
    // In memory there is nothing that could be signed.
    let outcome = supervisor.load_code(MANIFEST, code("one")).await;
    let unsigned = RuntimeError::Loader(LoaderError::UnsignedBundle { bundle: "signed".into() });
    assert_eq!(outcome.unwrap_err(), unsigned);
    // Of a folder of bundles it is listed with what is wrong.
    supervisor.load_all(&[bundle.path()]).await;
    assert_eq!(state(&supervisor), (SignatureState::Unsigned, None));
    sign_bundle(&bundle.path(), &key).unwrap();
    supervisor.reload("signed").await.unwrap();
    assert_eq!(state(&supervisor).0, SignatureState::Valid);
    assert_eq!(who(&supervisor).await.unwrap(), "one!");
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_changed_byte_is_refused() {
    let key = SigningKey::generate();
    let supervisor = required(&key);
    for (name, content) in [("util.lua", "return '?'".to_owned()), ("main.lua", code("two"))] {
        let bundle = signed(&key);
        bundle.write(name, &content);
        refused_for(&supervisor, &bundle, name, "has changed").await;
    }
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_an_added_or_removed_file_is_refused() {
    let key = SigningKey::generate();
    let supervisor = required(&key);
    let bundle = signed(&key);
    bundle.write("more.lua", "");
    refused_for(&supervisor, &bundle, "more.lua", "was not signed").await;
    let bundle = signed(&key);
    std::fs::remove_file(bundle.path().join("util.lua")).unwrap();
    refused_for(&supervisor, &bundle, "util.lua", "is not there").await;
    let bundle = signed(&key);
    std::os::unix::fs::symlink("main.lua", bundle.path().join("link")).unwrap();
    refused_for(&supervisor, &bundle, "link", "symbolic link").await;
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_changed_manifest_is_refused() {
    let key = SigningKey::generate();
    let supervisor = required(&key);
    let bundle = signed(&key);
    bundle.write("manifest.toml", &MANIFEST.replace("1.0.0", "1.0.1"));
    refused_for(&supervisor, &bundle, "manifest.toml", "has changed").await;
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_garbage_is_no_signature() {
    let key = SigningKey::generate();
    let supervisor = required(&key);
    let bundle = bundle();
    for garbage in ["", "{}", "\u{0}\u{1}\u{2}", "{\"version\": 1e99}"] {
        bundle.write(SIGNATURE_FILE, garbage);
        refused_for(&supervisor, &bundle, SIGNATURE_FILE, "is no signature").await;
    }
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_foreign_key_is_refused() {
    let (key, foreign) = (SigningKey::generate(), SigningKey::generate());
    let supervisor = required(&key);
    let error = refused(&supervisor, &signed(&foreign).path()).await;
    let expected = foreign.public().to_string();
    assert!(matches!(error, LoaderError::UntrustedSigningKey { key, .. } if key == expected));
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_after_the_first_use_another_key_is_refused() {
    let key = SigningKey::generate();
    another_key_is_refused(&key, &[]).await;
}

/// A store beside the trusted keys takes nobody in for what they have signed.
#[tokio::test(flavor = "multi_thread")]
async fn r5_after_a_trusted_key_another_key_is_refused() {
    let key = SigningKey::generate();
    another_key_is_refused(&key, &[key.public()]).await;
}

async fn another_key_is_refused(key: &SigningKey, trusted: &[PublicKey]) {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("trusted.toml");
    let other = SigningKey::generate();
    let bundle = signed(key);
    let start = || start_with(with(SignaturePolicy::Required, trusted, Some(store.clone())));
    let supervisor = start();
    supervisor.load(bundle.path()).await.unwrap();
    // A reload with another key changes nothing.
    sign_bundle(&bundle.path(), &other).unwrap();
    let error = supervisor.reload("signed").await.unwrap_err();
    let untrusted = |error: &RuntimeError| {
        matches!(error, RuntimeError::Loader(LoaderError::UntrustedSigningKey { .. }))
    };
    assert!(untrusted(&error), "{error}");
    assert_eq!(who(&supervisor).await.unwrap(), "one!");
    assert_eq!(state(&supervisor), (SignatureState::Valid, Some(key.public().short_id())));
    supervisor.shutdown().await;
    // It is remembered by the next supervisor as well.
    let supervisor = start();
    let error = supervisor.load(bundle.path()).await.unwrap_err();
    assert!(untrusted(&error), "{error}");
    sign_bundle(&bundle.path(), key).unwrap();
    supervisor.load(bundle.path()).await.unwrap();
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_what_was_checked_is_served_whatever_becomes_of_the_files() {
    let key = SigningKey::generate();
    let supervisor = required(&key);
    let bundle = signed(&key);
    supervisor.load(bundle.path()).await.unwrap();
    // Also the code that is loaded later than the check.
    bundle.write("main.lua", &code("two"));
    bundle.write("util.lua", "return '?'");
    let before = worker(&supervisor, "lua").unwrap();
    slay(before.pid.unwrap());
    let after = ready_after(&supervisor, "lua", before.incarnation).await;
    assert_eq!(who(&supervisor).await.unwrap(), "one!");
    supervisor.restart_rolling("lua").await.unwrap();
    assert_eq!(who(&supervisor).await.unwrap(), "one!");
    assert_ne!(worker(&supervisor, "lua").unwrap().pid, after.pid);
    let error = supervisor.reload("signed").await.unwrap_err();
    let failed =
        matches!(&error, RuntimeError::Loader(LoaderError::SignatureVerificationFailed { .. }));
    assert!(failed, "{error}");
    assert_eq!(who(&supervisor).await.unwrap(), "one!");
    // Signed again it is served, from that moment on.
    sign_bundle(&bundle.path(), &key).unwrap();
    assert_eq!(who(&supervisor).await.unwrap(), "one!");
    supervisor.reload("signed").await.unwrap();
    assert_eq!(who(&supervisor).await.unwrap(), "two?");
    // Not even the files have to be there.
    std::fs::remove_dir_all(bundle.path()).unwrap();
    let before = worker(&supervisor, "lua").unwrap();
    slay(before.pid.unwrap());
    ready_after(&supervisor, "lua", before.incarnation).await;
    assert_eq!(who(&supervisor).await.unwrap(), "two?");
    supervisor.shutdown().await;
}

/// The copies of the bundle `kept` that this process's supervisors have.
fn copies() -> Vec<PathBuf> {
    let bases =
        [std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(std::env::temp_dir())];
    let ours = format!("menagerie-host-{}-", std::process::id());
    let inside = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named = |path: &Path, start: &str| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
    };
    let hosts = bases.into_iter().flatten().flat_map(inside).map(|entry| entry.path());
    let copies = hosts.filter(|path| named(path, &ours)).flat_map(inside);
    let kept = |path: &PathBuf| {
        let manifest = std::fs::read_to_string(path.join("manifest.toml"));
        manifest.is_ok_and(|text| text.contains("'kept'"))
    };
    // Each bundle's are in a folder of its own.
    let bundles = copies.map(|entry| entry.path()).filter(|path| named(path, "bundle-"));
    bundles.flat_map(inside).map(|entry| entry.path()).filter(kept).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_copies_go_when_nothing_uses_them() {
    let key = SigningKey::generate();
    let supervisor = required(&key);
    let bundle = bundle();
    bundle.write("manifest.toml", &MANIFEST.replace("'signed'", "'kept'"));
    sign_bundle(&bundle.path(), &key).unwrap();
    supervisor.load(bundle.path()).await.unwrap();
    let first = copies();
    assert_eq!(first.len(), 1, "{first:?}");
    for _ in 0..3 {
        supervisor.reload("kept").await.unwrap();
    }
    wait_for("the old copies to go", || (copies().len() == 1).then_some(())).await;
    assert_ne!(copies(), first);
    // One that somebody has written to is never loaded again.
    std::fs::write(copies()[0].join("more.lua"), "").unwrap();
    let error = supervisor.restart_rolling("lua").await.unwrap_err().to_string();
    assert!(error.contains("not what was checked"), "{error}");
    assert_eq!(who(&supervisor).await.unwrap(), "one!");
    supervisor.unload("kept").await.unwrap();
    wait_for("the last copy to go", || copies().is_empty().then_some(())).await;
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_with_warn_it_is_told_and_loaded() {
    let (key, foreign) = (SigningKey::generate(), SigningKey::generate());
    let supervisor = start_with(with(SignaturePolicy::Warn, &[key.public()], None));
    let changed = signed(&key);
    changed.write("util.lua", "return '?'");
    let link = bundle();
    std::os::unix::fs::symlink("main.lua", link.path().join("link")).unwrap();
    let cases = [
        (bundle(), SignatureState::Unsigned, "is not signed"),
        (changed, SignatureState::Invalid, "has changed"),
        (link, SignatureState::Invalid, "symbolic link"),
        (signed(&foreign), SignatureState::Untrusted, "none of the trusted keys"),
    ];
    for (bundle, expected, told) in cases {
        let recorder = Recorder::of(&supervisor);
        supervisor.load(bundle.path()).await.unwrap();
        assert!(who(&supervisor).await.unwrap().starts_with("one"));
        assert_eq!(state(&supervisor).0, expected);
        let of = recorder
            .wait("the event", |event| match event {
                EventKind::BundleUnverified { bundle, reason } if reason.contains(told) => {
                    Some(bundle.clone())
                }
                _ => None,
            })
            .await;
        assert_eq!(of, "signed");
        let logged = |line: &menagerie_supervisor::LogEntry| {
            line.message.contains("unverified") && line.message.contains(told)
        };
        assert!(supervisor.logs().iter().any(logged), "{:?}", supervisor.logs());
        supervisor.unload("signed").await.unwrap();
    }
    supervisor
        .load_code(
            MANIFEST.replace("main.lua", "x").as_str(),
            "return { ['who@1'] = { who = function() return 'm' end } }",
        )
        .await
        .unwrap();
    assert_eq!(state(&supervisor), (SignatureState::Unsigned, None));
    supervisor.unload("signed").await.unwrap();
    // A good one is served from a copy, as where it is required.
    let bundle = signed(&key);
    supervisor.load(bundle.path()).await.unwrap();
    assert_eq!(state(&supervisor).0, SignatureState::Valid);
    supervisor.shutdown().await;
}

/// Nothing is said of a load that does not come about.
#[tokio::test(flavor = "multi_thread")]
async fn s10_a_bundle_is_told_to_be_unverified_when_it_is_loaded() {
    let key = SigningKey::generate();
    let supervisor = start_with(with(SignaturePolicy::Warn, &[key.public()], None));
    let recorder = Recorder::of(&supervisor);
    let unverified = || {
        let told = |event: &&EventKind| matches!(event, EventKind::BundleUnverified { .. });
        recorder.all().iter().filter(told).count()
    };
    let failed = async |why: &str| {
        let told = |event: &EventKind| match event {
            EventKind::BundleFailed { reason, .. } => reason.contains(why).then_some(()),
            _ => None,
        };
        recorder.wait("the failure", told).await;
    };
    let needs = format!("{MANIFEST}bundle_dependencies = ['nobody']\n");
    let first = bundle();
    first.write("manifest.toml", &needs);
    supervisor.load(first.path()).await.unwrap_err();
    failed("'nobody'").await;
    assert_eq!(unverified(), 0);
    first.write("manifest.toml", MANIFEST);
    supervisor.load(first.path()).await.unwrap();
    wait_for("the event", || (unverified() == 1).then_some(())).await;
    supervisor.load(bundle().path()).await.unwrap_err();
    failed("already").await;
    first.write("manifest.toml", &needs);
    supervisor.reload("signed").await.unwrap_err();
    let failures = || {
        let told = |event: &&EventKind| matches!(event, EventKind::BundleFailed { .. });
        recorder.all().iter().filter(told).count()
    };
    wait_for("the failure", || (failures() == 3).then_some(())).await;
    assert_eq!(unverified(), 1);
    first.write("manifest.toml", MANIFEST);
    supervisor.reload("signed").await.unwrap();
    wait_for("the event", || (unverified() == 2).then_some(())).await;
    supervisor.shutdown().await;
}

/// A signed bundle of every language is served from its copy: sibling files,
/// compiled artifacts, hooks.
#[tokio::test(flavor = "multi_thread")]
async fn r5_signed_bundles_of_every_language_are_served() {
    let key = SigningKey::generate();
    let supervisor = required(&key);
    for language in menagerie_tests::LANGUAGES {
        let name = format!("greeter-{}", language.suffix);
        let bundle = Bundle::copy_of(&language.bundle("greeter"), &name, "");
        sign_bundle(&bundle.path(), &key).unwrap();
        supervisor.load(bundle.path()).await.unwrap();
        let greeter = supervisor.contract(&format!("{name}/greeter@1")).unwrap();
        let said: String = greeter.call("greet", ("Ada",)).await.unwrap();
        assert!(said.contains("Ada"), "{name}: {said}");
        supervisor.reload(&name).await.unwrap();
        let said: String = greeter.call("greet", ("Grace",)).await.unwrap();
        assert!(said.contains("Grace"), "{name}: {said}");
    }
    supervisor.shutdown().await;
}
