use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::trust::{FirstUse, judge};
use super::*;
use crate::sandbox::Sandbox;

fn bundle() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let manifest = "name = 'b'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n";
    std::fs::write(dir.path().join("manifest.toml"), manifest).unwrap();
    std::fs::write(dir.path().join("main.lua"), "return {}").unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/with space.lua"), "").unwrap();
    dir
}

fn examine(dir: &Path) -> Result<SignatureStatus, LoaderError> {
    SignatureConfig::default().examine(dir)
}

/// The file that shows that a signature does not hold, and why.
fn flaw(dir: &Path) -> (String, String) {
    match examine(dir) {
        Err(LoaderError::SignatureVerificationFailed { bundle, file, problem }) => {
            assert!(!bundle.is_empty());
            let file = file.strip_prefix(dir).unwrap();
            (file.to_str().unwrap().to_owned(), problem)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn r5_a_signature_covers_every_file() {
    let dir = bundle();
    let dir = dir.path();
    assert!(matches!(examine(dir), Err(LoaderError::UnsignedBundle { bundle }) if bundle == "b"));
    let key = SigningKey::generate();
    let signed = sign_bundle(dir, &key).unwrap();
    assert_eq!((signed.files, signed.name.as_str()), (3, "b"));
    let status = examine(dir).unwrap();
    assert_eq!(status.to_string(), format!("valid ({})", key.public().short_id()));
    // To sign again is to sign the same.
    let before = std::fs::read(&signed.file).unwrap();
    sign_bundle(dir, &key).unwrap();
    assert_eq!(std::fs::read(&signed.file).unwrap(), before);

    let files = ["main.lua", "manifest.toml", "sub/with space.lua"];
    for file in files {
        let kept = std::fs::read(dir.join(file)).unwrap();
        std::fs::write(dir.join(file), [&kept[..], b"\n"].concat()).unwrap();
        assert_eq!(flaw(dir), (file.to_owned(), "has changed since it was signed".to_owned()));
        std::fs::remove_file(dir.join(file)).unwrap();
        assert_eq!(flaw(dir), (file.to_owned(), "was signed, and is not there".to_owned()));
        std::fs::write(dir.join(file), &kept).unwrap();
        examine(dir).unwrap();
    }
    for added in ["a", "sub/menagerie.sig", "zz"] {
        std::fs::write(dir.join(added), "").unwrap();
        assert_eq!(flaw(dir), (added.to_owned(), "is there, and was not signed".to_owned()));
        std::fs::remove_file(dir.join(added)).unwrap();
    }
}

#[test]
fn r5_only_regular_files_with_names_in_utf8_can_be_signed() {
    use std::os::unix::ffi::OsStrExt;
    let key = SigningKey::generate();
    type Make = fn(&Path);
    let make: [(&str, &str, Make); 4] = [
        ("link", "symbolic link", |path| symlink("main.lua", path).unwrap()),
        ("folder", "symbolic link", |path| symlink("/", path).unwrap()),
        ("fifo", "no regular file", |path| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("socket", "no regular file", |path| {
            drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        }),
    ];
    for (name, told, make) in make {
        let dir = bundle();
        sign_bundle(dir.path(), &key).unwrap();
        make(&dir.path().join(name));
        let (file, problem) = flaw(dir.path());
        assert!(file == name && problem.contains(told), "{file}: {problem}");
        let outcome = sign_bundle(dir.path(), &key);
        assert!(matches!(outcome, Err(LoaderError::SignatureVerificationFailed { .. })));
    }
    let dir = bundle();
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff");
    std::fs::write(dir.path().join(odd), "").unwrap();
    let (_, problem) = flaw(dir.path());
    assert!(problem.contains("UTF-8"), "{problem}");
    // A link in place of the signature itself.
    let dir = bundle();
    let signed = sign_bundle(dir.path(), &key).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::rename(&signed.file, elsewhere.path().join("sig")).unwrap();
    symlink(elsewhere.path().join("sig"), &signed.file).unwrap();
    assert!(flaw(dir.path()).1.contains("symbolic link"));
}

#[test]
fn r5_what_is_no_signature_is_told() {
    let dir = bundle();
    let signed = sign_bundle(dir.path(), &SigningKey::generate()).unwrap();
    let text = std::fs::read_to_string(&signed.file).unwrap();
    let other = SigningKey::generate().public().to_string();
    let flip = |text: &str| {
        let at = text.rfind("\"signature\": \"").unwrap() + 15;
        let digit = if text.as_bytes()[at] == b'0' { "1" } else { "0" };
        format!("{}{digit}{}", &text[..at], &text[at + 1..])
    };
    for (content, told) in [
        (String::new(), "is no signature"),
        ("{}".to_owned(), "is no signature"),
        ("\u{1}\u{2}garbage".to_owned(), "is no signature"),
        (text.replace("\"version\": 1", "\"version\": 2"), "is of version 2"),
        (text.replace("\"version\": 1", "\"version\": 1, \"more\": 1"), "is no signature"),
        (text.replace("main.lua", "../main.lua"), "no path inside the bundle"),
        (text.replace("main.lua", "/main.lua"), "no path inside the bundle"),
        (text.replace("\"path\": \"main.lua\"", "\"path\": \"main2.lua\""), "was not made"),
        (text.replace(&signed.key.to_string(), &other), "was not made"),
        (flip(&text), "was not made"),
    ] {
        assert_ne!(content, text);
        std::fs::write(&signed.file, &content).unwrap();
        let (file, problem) = flaw(dir.path());
        assert!(file == SIGNATURE_FILE && problem.contains(told), "{told}: {file} {problem}");
    }
    std::fs::write(&signed.file, vec![b' '; 9 << 20]).unwrap();
    assert!(flaw(dir.path()).1.contains("larger"));
}

#[test]
fn r5_keys_are_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let key = SigningKey::generate();
    key.write(&file).unwrap();
    assert!(matches!(key.write(&file), Err(KeyError::Io { .. })), "never overwritten");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(SigningKey::read(&file).unwrap().public(), key.public());
    let public = key.public().to_string();
    assert_eq!(public.parse::<PublicKey>().unwrap(), key.public());
    assert!(public.starts_with(&format!("ed25519:{}", key.public().short_id())));
    assert!(!format!("{key:?}").contains(&std::fs::read_to_string(&file).unwrap()[15..40]));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(SigningKey::read(&file), Err(KeyError::Exposed { mode: 0o640, .. })));
    let other = dir.path().join("other");
    for text in ["", "ed25519-secret:00", &public] {
        std::fs::write(&other, text).unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(SigningKey::read(&other), Err(KeyError::Secret { .. })), "{text}");
    }
    // The neutral element: it verifies what nobody has signed.
    let weak = format!("ed25519:01{}", "0".repeat(62));
    for text in ["", "ed25519:", &public[8..], &public[..70], &format!("{public}0"), &weak] {
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
    }
}

#[test]
fn r5_the_first_key_of_a_name_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state/trusted.toml");
    let config = SignatureConfig { trust_store: Some(store.clone()), ..SignatureConfig::default() };
    let (one, two) = (SigningKey::generate().public(), SigningKey::generate().public());
    judge(&config, "a", &one, FirstUse::Accept).unwrap();
    assert!(!store.exists());
    judge(&config, "a", &one, FirstUse::Remember).unwrap();
    assert_eq!(store.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    judge(&config, "with.dots and \"quotes\"", &two, FirstUse::Remember).unwrap();
    judge(&config, "a", &one, FirstUse::Remember).unwrap();
    for first_use in [FirstUse::Accept, FirstUse::Remember] {
        let error = judge(&config, "a", &two, first_use).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, LoaderError::UntrustedSigningKey { .. }));
        assert!(text.contains(&one.to_string()) && text.contains(&two.to_string()), "{text}");
    }
    // A key that may sign anything may sign this too.
    let pinned = SignatureConfig { trusted_keys: vec![two], ..config.clone() };
    judge(&pinned, "a", &two, FirstUse::Remember).unwrap();
    let alone = SignatureConfig { trust_store: None, ..pinned };
    judge(&alone, "a", &two, FirstUse::Remember).unwrap();
    assert!(judge(&alone, "a", &one, FirstUse::Remember).is_err());
}

/// A store beside the trusted keys is for the bundles of others: it opens no way to
/// those that a trusted key has signed.
#[test]
fn r5_what_a_trusted_key_has_signed_no_other_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("trusted.toml");
    let [one, two, foreign, other] = [(); 4].map(|()| SigningKey::generate().public());
    let config = SignatureConfig {
        trusted_keys: vec![one, two],
        trust_store: Some(store.clone()),
        ..SignatureConfig::default()
    };
    let remember = |config: &SignatureConfig, bundle: &str, key: &PublicKey| {
        judge(config, bundle, key, FirstUse::Remember)
    };
    let refused = |config: &SignatureConfig, key: &PublicKey| {
        for first_use in [FirstUse::Accept, FirstUse::Remember] {
            let error = judge(config, "a", key, first_use).unwrap_err();
            assert!(matches!(error, LoaderError::UntrustedSigningKey { .. }), "{error:?}");
            let told = error.to_string();
            assert!(told.contains("trusted keys") && told.contains("trusted.toml"), "{told}");
        }
    };
    // To look remembers nothing.
    judge(&config, "a", &one, FirstUse::Accept).unwrap();
    assert!(!store.exists());
    remember(&config, "a", &one).unwrap();
    refused(&config, &foreign);
    // Any of the trusted keys may follow any other, and there and back.
    remember(&config, "a", &two).unwrap();
    remember(&config, "a", &one).unwrap();
    refused(&config, &foreign);
    // One that is not trusted any more is as foreign as others are.
    let revoked = SignatureConfig { trusted_keys: vec![two], ..config.clone() };
    refused(&revoked, &one);
    remember(&revoked, "a", &two).unwrap();
    // Others' bundles have the store, as without trusted keys, until a trusted key
    // has signed them.
    remember(&config, "b", &foreign).unwrap();
    remember(&config, "b", &foreign).unwrap();
    assert!(remember(&config, "b", &other).is_err());
    remember(&config, "b", &two).unwrap();
    assert!(remember(&config, "b", &foreign).is_err());
    // Who removes the line means it.
    let text = std::fs::read_to_string(&store).unwrap();
    std::fs::write(&store, text.replace("a = ", "c = ")).unwrap();
    remember(&config, "a", &foreign).unwrap();
    refused_by_first_use(&config, "a", &other);
}

fn refused_by_first_use(config: &SignatureConfig, bundle: &str, key: &PublicKey) {
    let told = judge(config, bundle, key, FirstUse::Accept).unwrap_err().to_string();
    assert!(told.contains("is not the one that it had before"), "{told}");
}

/// What is remembered already needs the store to be read, and no more; what is not is
/// not passed over in silence.
#[test]
fn r5_a_trusted_key_needs_a_store_that_it_can_be_remembered_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("trusted.toml");
    let key = SigningKey::generate().public();
    let config = SignatureConfig {
        trusted_keys: vec![key],
        trust_store: Some(store.clone()),
        ..SignatureConfig::default()
    };
    judge(&config, "a", &key, FirstUse::Remember).unwrap();
    // As on a file system that has become read-only; also for root, who may do all else.
    let lock = dir.path().join("trusted.toml.lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    judge(&config, "a", &key, FirstUse::Remember).unwrap();
    let error = judge(&config, "b", &key, FirstUse::Remember).unwrap_err();
    assert!(matches!(error, LoaderError::TrustStoreUnusable { .. }), "{error:?}");
    std::fs::write(&store, "a = 'nonsense'").unwrap();
    let error = judge(&config, "a", &key, FirstUse::Remember).unwrap_err();
    assert!(matches!(error, LoaderError::TrustStoreUnusable { .. }), "{error:?}");
    // To look is to ask for the key, which is trusted in any case.
    judge(&config, "a", &key, FirstUse::Accept).unwrap();
}

/// The bundle and its key may be as they should; it is the supervisor's own file that is
/// not.
#[test]
fn r5_a_store_that_cannot_be_used_is_no_key_that_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("trusted.toml");
    let config = SignatureConfig { trust_store: Some(store.clone()), ..SignatureConfig::default() };
    let key = SigningKey::generate().public();
    let unusable = |config: &SignatureConfig, first_use, told: &str| {
        let error = judge(config, "a", &key, first_use).unwrap_err();
        assert!(matches!(error, LoaderError::TrustStoreUnusable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(told) && text.contains("`trust_store` under [signatures]"), "{text}");
        let status = SignatureStatus::of_error(&error).unwrap();
        assert_eq!((status.state, status.key), (SignatureState::Untrusted, Some(key.short_id())));
        text
    };
    judge(&config, "a", &key, FirstUse::Remember).unwrap();
    for first_use in [FirstUse::Accept, FirstUse::Remember] {
        // One that others may write, or that is none, is not relied on.
        std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o666)).unwrap();
        unusable(&config, first_use, "trusted.toml: others may write it (mode 0666); chmod 600 it");
        std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o600)).unwrap();
        let kept = std::fs::read(&store).unwrap();
        std::fs::write(&store, "a = 'nonsense'").unwrap();
        unusable(&config, first_use, "trusted.toml: is no store of keys");
        std::fs::write(&store, kept).unwrap();
    }
    // Where nothing can be written; also for root, who may do all else.
    let below = store.join("below/trusted.toml");
    let nowhere = SignatureConfig { trust_store: Some(below), ..config };
    unusable(&nowhere, FirstUse::Remember, "trusted.toml: Not a directory");
}

#[test]
fn r5_first_uses_side_by_side_are_all_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("trusted.toml");
    let config = SignatureConfig { trust_store: Some(store.clone()), ..SignatureConfig::default() };
    std::thread::scope(|scope| {
        for at in 0..8 {
            let config = &config;
            scope.spawn(move || {
                let key = SigningKey::generate().public();
                judge(config, &format!("bundle-{at}"), &key, FirstUse::Remember).unwrap();
            });
        }
    });
    let text = std::fs::read_to_string(&store).unwrap();
    assert_eq!(text.matches("ed25519:").count(), 8, "{text}");
}

#[test]
fn r5_a_snapshot_is_private_whole_and_goes_away() {
    let dir = bundle();
    let runtime = tempfile::tempdir().unwrap();
    let copy = runtime.path().join("bundle-1");
    let snapshot = Snapshot::take(dir.path(), copy.clone()).unwrap();
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_to_string(copy.join("main.lua")).unwrap(), "return {}");
    std::fs::write(dir.path().join("main.lua"), "changed").unwrap();
    snapshot.check("b").unwrap();
    // An error speaks of the folder that the user knows.
    let inside = LoaderError::ArtifactUnusable {
        artifact: snapshot.dir().join("main.lua"),
        problem: String::new(),
    };
    let LoaderError::ArtifactUnusable { artifact, .. } = snapshot.relocate(inside) else {
        panic!("it is the same error")
    };
    assert_eq!(artifact, dir.path().join("main.lua"));
    std::fs::write(copy.join("sub/more.lua"), "").unwrap();
    let error = snapshot.check("b").unwrap_err();
    assert!(matches!(error, LoaderError::SignatureVerificationFailed { .. }), "{error}");
    drop(snapshot);
    assert!(!copy.exists());
    // What cannot be copied leaves nothing behind.
    symlink("/", dir.path().join("link")).unwrap();
    assert!(Snapshot::take(dir.path(), copy.clone()).is_err());
    assert!(!copy.exists());
}

/// What several workers load, with no signature asked for.
#[test]
fn s9_an_unsigned_copy_follows_links_and_is_the_bundles_own() {
    let dir = bundle();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir(elsewhere.path().join("lib")).unwrap();
    std::fs::write(elsewhere.path().join("lib/linked.lua"), "linked").unwrap();
    symlink(elsewhere.path().join("lib"), dir.path().join("lib")).unwrap();
    symlink("main.lua", dir.path().join("same.lua")).unwrap();
    // What has no bytes, or no end.
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    symlink("..", dir.path().join("sub/round")).unwrap();
    symlink("/", dir.path().join("root")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap());
    let runtime = tempfile::tempdir().unwrap();
    let copy = runtime.path().join("bundle-1");
    let snapshot = Snapshot::take_unsigned(dir.path(), copy.clone(), Sandbox::Off).unwrap();
    let read = |name: &str| std::fs::read_to_string(copy.join(name)).unwrap();
    assert_eq!((read("lib/linked.lua"), read("same.lua")), ("linked".into(), "return {}".into()));
    for left_out in ["dangling", "sub/round", "root", "socket"] {
        assert!(copy.join(left_out).symlink_metadata().is_err(), "{left_out}");
    }
    // It may write there, as in its folder.
    std::fs::write(copy.join("main.lua"), "changed").unwrap();
    snapshot.check("b").unwrap();
    drop(snapshot);
    assert!(!copy.exists());
}

/// Its workers read the copy, and may not read what the links lead to.
#[test]
fn p2_an_unsigned_copy_of_a_bundle_in_the_sandbox_follows_no_link_out_of_its_folder() {
    let dir = bundle();
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().canonicalize().unwrap();
    std::fs::write(elsewhere.join("secret"), "secret").unwrap();
    let links = [
        ("out", &*elsewhere),
        ("sub/secret", &*elsewhere.join("secret")),
        ("up", Path::new("../..")),
        ("inside", &*dir.path().join("sub")),
        ("same.lua", Path::new("main.lua")),
        ("dangling", Path::new("nowhere")),
        ("sub/round", Path::new("..")),
    ];
    for (link, target) in links {
        symlink(target, dir.path().join(link)).unwrap();
    }
    let runtime = tempfile::tempdir().unwrap();
    let copy = runtime.path().join("bundle-1");
    let snapshot = Snapshot::take_unsigned(dir.path(), copy.clone(), Sandbox::Strict).unwrap();
    // They lead where they did, and nothing of that is in the copy.
    for (link, target) in [("out", "."), ("sub/secret", "secret"), ("inside/secret", "secret")] {
        let target = elsewhere.join(target).canonicalize().unwrap();
        assert_eq!(std::fs::read_link(copy.join(link)).unwrap(), target, "{link}");
    }
    assert!(copy.join("up").is_symlink());
    for inside in ["same.lua", "inside/with space.lua", "sub/with space.lua"] {
        assert!(copy.join(inside).symlink_metadata().unwrap().is_file(), "{inside}");
    }
    for left_out in ["dangling", "sub/round"] {
        assert!(copy.join(left_out).symlink_metadata().is_err(), "{left_out}");
    }
    drop(snapshot);
    assert!(!copy.exists() && elsewhere.join("secret").exists());
}
