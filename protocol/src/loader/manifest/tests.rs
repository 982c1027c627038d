use super::*;

fn parse(text: &str) -> Result<ParsedManifest, LoaderError> {
    ManifestData::parse(text)
}

const MINIMAL: &str = "name = \"a\"\nloader = \"lua\"\n";

#[test]
fn b1_the_manifest_of_the_design_is_read_whole() {
    let text = r#"
name = "greeter-py"
version = "1.2.0"
loader = "python"
file = "main.py"
provides = ["greeter@1"]
bundle_dependencies = ["image-decoder@1.0"]
needs_reinit_on_dep_reload = true
[function_count]
greeter = 1
[[dependency]]
kind = "guest"
contract = "image.decode"
min_version = "1.0.0"
bundle = "image-decoder"
[[dependency]]
kind = "host"
contract = "kv@2"
min_version = "2.1"
[idempotent]
greeter = ["greet"]
"#;
    let ParsedManifest { manifest, warnings } = parse(text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(manifest.id, BundleId::of_name("greeter-py"));
    assert_eq!(manifest.provides[0].to_string(), "greeter@1");
    assert_eq!(manifest.bundle_dependencies[0].bundle, "image-decoder");
    assert_eq!(manifest.function_count["greeter"], 1);
    assert_eq!(manifest.dependencies[0].bundle.as_deref(), Some("image-decoder"));
    assert_eq!(manifest.dependencies[1].kind, DependencyKind::Host);
    assert_eq!(manifest.dependencies[1].contract.to_string(), "kv@2.1.0");
    assert!(manifest.needs_reinit_on_dep_reload);
    assert!(manifest.is_idempotent("greeter", "greet"));
}

#[test]
fn b1_a_polyplug_manifest_is_read_unchanged() {
    let name = "cpp_transformer";
    let id = BundleId::of_name(name).get();
    let text = format!(
        r#"
name = "{name}"
id = {id}
version = "1.0.0"
loader = "native"
provides = ["data.Transformer@1"]
function_count = {{ "data.Transformer@1" = 1 }}
needs_reinit_on_dep_reload = false
[file]
linux.aarch64 = "libt.so"
linux.x86_64 = "libt.so"
macos.aarch64 = "libt.dylib"
[[dependency]]
kind = "contract"
contract = "math"
contract_id = 42
min_version = "1.0"
[[dependency]]
kind = "bundle"
contract = "math"
contract_id = 18446744073709551615
bundle = "math-bundle"
bundle_id = 99
min_version = "1.0"
"#
    );
    let ParsedManifest { manifest, warnings } = parse(&text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(manifest.file, "libt.so");
    assert_eq!(manifest.function_count_of(&manifest.provides[0]), Some(1));
    assert_eq!(manifest.dependencies.len(), 2);
}

#[test]
fn b1_unknown_keys_warn_with_their_line() {
    let parsed = parse(&format!("{MINIMAL}colour = 1\n")).unwrap();
    assert_eq!(parsed.warnings, ["manifest.toml:3: unknown key 'colour'"]);
}

#[test]
fn b1_wrong_types_name_file_key_and_line() {
    for (addition, key) in [
        ("version = 1", "version"),
        ("provides = \"x\"", "provides"),
        ("provides = [1]", "provides"),
        ("provides = [\"a b\"]", "provides"),
        ("provides = [\"a@1\", \"a@1.2\"]", "provides"),
        ("file = 3", "file"),
        ("file = \" \"", "file"),
        ("needs_reinit_on_dep_reload = \"yes\"", "needs_reinit_on_dep_reload"),
        ("function_count = { a = -1 }", "function_count.a"),
        ("idempotent = { a = \"f\" }", "idempotent.a"),
        ("dependency = [{ min_version = \"1\" }]", "dependency.contract"),
        ("dependency = [{ contract = \"a\", min_version = \"x\" }]", "dependency.min_version"),
        ("bundle_dependencies = [\"@1\"]", "bundle_dependencies"),
        ("bundle_dependencies = [\"a@latest\"]", "bundle_dependencies"),
        ("id = \"7\"", "id"),
    ] {
        match parse(&format!("{MINIMAL}{addition}\n")) {
            Err(LoaderError::ManifestInvalid { line, key: found, .. }) => {
                assert_eq!((line, found.as_str()), (Some(3), key), "{addition}");
            }
            other => panic!("{addition}: {other:?}"),
        }
    }
}

#[test]
fn p3_what_a_bundle_wants_is_read_or_refused_with_its_place() {
    let read = |wants: &str| parse(&format!("{MINIMAL}[wants]\n{wants}"));
    assert_eq!(parse(MINIMAL).unwrap().manifest.wants, Wants::default());
    let text = "network = true\nread = [\"/srv/a b\"]\nwrite = [\"/srv/c\", \"/\"]";
    let wants = Wants {
        network: true,
        read: vec!["/srv/a b".into()],
        write: vec!["/srv/c".into(), "/".into()],
    };
    assert_eq!(read(text).unwrap().manifest.wants, wants);
    let warnings = read("netwrok = true").unwrap().warnings;
    assert!(warnings[0].contains("unknown key 'wants.netwrok'"), "{warnings:?}");
    let many = format!("read = [{}]", "\"/a\", ".repeat(101));
    let long = format!("write = [\"/{}\"]", "a".repeat(256));
    for (wrong, key) in [
        ("network = 1", "wants.network"),
        ("read = \"/srv\"", "wants.read"),
        ("read = [1]", "wants.read"),
        ("write = [\"srv\"]", "wants.write"),
        ("write = [\"~/srv\"]", "wants.write"),
        (&*many, "wants.read"),
        (&*long, "wants.write"),
    ] {
        let error = read(wrong).unwrap_err();
        let LoaderError::ManifestInvalid { line, key: named, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((*line, &**named), (Some(4), key), "{error}");
    }
}

#[test]
fn b1_broken_toml_names_the_line() {
    let error = parse("name = \"a\"\nloader = = 3\n").unwrap_err();
    assert!(matches!(error, LoaderError::ManifestInvalid { line: Some(2), .. }), "{error:?}");
    assert!(error.to_string().starts_with("manifest.toml:2: "), "{error}");
}

#[test]
fn b1_missing_name_or_loader_is_said() {
    let error = parse("loader = \"lua\"").unwrap_err().to_string();
    assert_eq!(error, "manifest.toml: name: is missing");
    let error = parse("name = \"a\"").unwrap_err().to_string();
    assert_eq!(error, "manifest.toml: loader: is missing");
}

#[test]
fn b1_names_with_slashes_or_nul_are_refused() {
    for name in ["", "a/b", "..", ".hidden", "a\\u0000b", "a\\nb"] {
        let error = parse(&format!("name = \"{name}\"\nloader = \"lua\"")).unwrap_err();
        assert!(
            matches!(error, LoaderError::ManifestInvalid { ref key, .. } if key == "name"),
            "{error:?}"
        );
    }
}

#[test]
fn b1_an_id_that_disagrees_is_tampering() {
    let error = parse(&format!("{MINIMAL}id = 7\n")).unwrap_err();
    assert!(matches!(error, LoaderError::BundleTampered { .. }), "{error:?}");
    let right = BundleId::of_name("a").get();
    parse(&format!("{MINIMAL}id = {right}\n")).unwrap();
    #[allow(clippy::cast_possible_wrap)]
    let negative = right as i64;
    parse(&format!("{MINIMAL}id = {negative}\n")).unwrap();
}

#[test]
fn b1_a_platform_that_is_not_there_lists_those_that_are() {
    let error = parse(&format!("{MINIMAL}[file]\nplan9.mips = \"a\"\n")).unwrap_err().to_string();
    assert!(error.contains("plan9.mips"), "{error}");
    let error = parse(&format!("{MINIMAL}[file]\nlinux = \"a.so\"\n")).unwrap_err().to_string();
    assert!(error.contains("manifest.toml:4: file.linux: expected a table"), "{error}");
}

fn bundle(file: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(MANIFEST_FILE), format!("{MINIMAL}file = {file:?}\n")).unwrap();
    dir
}

#[test]
fn b2_a_file_inside_the_folder_is_found() {
    let dir = bundle("./sub/main.lua");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/main.lua"), "").unwrap();
    let manifest = ManifestData::read(dir.path()).unwrap().manifest;
    assert!(manifest.artifact().unwrap().ends_with("sub/main.lua"));
}

#[test]
fn b2_a_file_outside_the_folder_is_an_escape() {
    for file in ["../x.lua", "/etc/passwd", "sub/../../x"] {
        let error = ManifestData::read(bundle(file).path()).unwrap_err();
        assert!(matches!(error, LoaderError::ArtifactPathEscape { .. }), "{file}: {error:?}");
    }
    let dir = bundle("link.lua");
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.lua")).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(matches!(error, LoaderError::ArtifactPathEscape { .. }), "{error:?}");
}

#[test]
fn b2_a_missing_or_irregular_file_is_said() {
    let error = ManifestData::read(bundle("main.lua").path()).unwrap_err();
    assert!(error.to_string().ends_with("'main.lua' does not exist"), "{error}");
    let dir = bundle("sub");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(error.to_string().ends_with("is no regular file"), "{error}");
}

#[test]
fn b1_a_folder_without_manifest_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(matches!(error, LoaderError::ManifestNotFound { .. }), "{error:?}");
}

#[test]
fn b1_a_manifest_that_is_a_device_or_huge_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join(MANIFEST_FILE)).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(MANIFEST_FILE), " ".repeat(2 << 20)).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
}

#[test]
fn b1_keys_below_the_table_of_platforms_are_the_bundles() {
    // As generators write it that put [file] first.
    let text = r#"
name = "reporter"
[file]
linux.x86_64 = "libreporter.so"
linux.aarch64 = "libreporter.so"
version = "1.2.3"
loader = "native"
provides = ["data.Reporter@1.2.3", "data.Reporter@2"]
function_count = { "data.Reporter@1" = 2, "data.Reporter@2" = 3, "other" = 4 }
needs_reinit_on_dep_reload = true
bundle_dependencies = ["math-bundle@1.0", "plain"]
colour = "red"
[[file.dependency]]
kind = "guest"
contract = "math@1"
min_version = "1.4"
[file.idempotent]
"data.Reporter" = ["report"]
"#;
    let ParsedManifest { manifest, warnings } = parse(text).unwrap();
    assert_eq!((manifest.file.as_str(), manifest.loader.as_str()), ("libreporter.so", "native"));
    assert_eq!(manifest.version, "1.2.3");
    assert_eq!(manifest.bundle_dependencies.len(), 2);
    assert_eq!(manifest.dependencies[0].contract.to_string(), "math@1.4.0");
    assert!(manifest.needs_reinit_on_dep_reload);
    assert!(manifest.is_idempotent("data.Reporter", "report"));
    let counts: Vec<_> =
        manifest.provides.iter().map(|id| manifest.function_count_of(id)).collect();
    assert_eq!(counts, [Some(2), Some(3)]);
    assert!(warnings.iter().any(|w| w == "manifest.toml:12: unknown key 'file.colour'"));
    assert!(warnings.iter().any(|w| w.starts_with("manifest.toml:6: 'version' stands below")));
    // What stands above counts.
    let text =
        format!("{MINIMAL}[file]\nlinux.x86_64 = \"a\"\nlinux.aarch64 = \"a\"\nloader = \"js\"\n");
    let ParsedManifest { manifest, warnings } = parse(&text).unwrap();
    assert_eq!(manifest.loader, "lua");
    assert!(warnings[0].contains("stands twice"), "{warnings:?}");
}

#[test]
fn b1_manifests_of_polyplugs_generator_are_read_unchanged() {
    // With `bundle_id` and `runtime`, as its releases before 0.1 wrote them.
    let text = r#"# THIS FILE IS AUTO-GENERATED. DO NOT EDIT.
name = "cpp_reporter"
bundle_id = 15350991390643604722
version = "1.0.0"
runtime = "native"
provides = ["data.Reporter@1"]
function_count = { "data.Reporter@1" = 1 }
needs_reinit_on_dep_reload = false
[file]
linux.aarch64 = "libreporter.so"
linux.x86_64 = "libreporter.so"
macos.aarch64 = "libreporter.dylib"
windows.x86_64 = "reporter.dll"
"#;
    let ParsedManifest { manifest, warnings } = parse(text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((manifest.loader.as_str(), manifest.file.as_str()), ("native", "libreporter.so"));
    let error = parse(&text.replace("15350991390643604722", "1")).unwrap_err();
    assert!(matches!(error, LoaderError::BundleTampered { .. }), "{error:?}");
    // Either of two that disagree.
    let text = format!("{text}id = 7\n").replace("bundle_id", "id = 7\nbundle_id");
    let text = text.trim_end_matches("id = 7\n");
    assert!(matches!(parse(text), Err(LoaderError::BundleTampered { .. })));
}

/// What cannot be held against a bundle's version is refused, and not met by any.
#[test]
fn r1_a_version_that_is_asked_for_can_be_read() {
    let of = |version: &str| {
        parse(&format!("{MINIMAL}bundle_dependencies = [\"ok\", \"dep@{version}\"]\n"))
    };
    for version in ["1", "1.2", "1.2.3", "0.0.0", "v1.2", "^1.2", "1.2.0-rc.1", "1.2.0+b7"] {
        let dependencies = of(version).unwrap().manifest.bundle_dependencies;
        assert_eq!(dependencies[1].version, version);
    }
    for version in [
        "",
        " ",
        ">=2.0",
        "~> 2.0",
        "~2.0",
        "=2.0",
        "x2",
        "2.x",
        "*",
        "latest",
        "2.",
        "2..0",
        "99999999999.0",
        "1.99999999999",
        "1.2.3.4",
        " 1.0",
        "1.0 ",
        "-1",
        "1.0,<2",
        "1.0@2",
    ] {
        match of(version) {
            Err(LoaderError::ManifestInvalid { line, key, message, .. }) => {
                assert_eq!((line, key.as_str()), (Some(3), "bundle_dependencies"), "{version}");
                let told = format!("'dep@{version}'");
                assert!(message.contains(&told) && message.contains("MAJOR"), "{message}");
            }
            other => panic!("{version}: {other:?}"),
        }
    }
}

/// `min_version` says how new the contract must be, and never makes another one of it.
#[test]
fn r1_min_version_counts_within_the_contracts_major() {
    for (contract, least, asked, warns) in [
        ("mv", "1.5.0", "mv@1.5.0", false),
        ("mv@1", "1.5", "mv@1.5.0", false),
        ("mv@1.2", "1.5.1", "mv@1.5.1", false),
        ("mv@1.7.3", "1.5.9", "mv@1.7.3", false),
        ("mv@2", "1.5.0", "mv@2", true),
        ("mv@2.1", "1.5.0", "mv@2.1", true),
        ("mv@1", "2.0", "mv@1", true),
    ] {
        let text = format!(
            "{MINIMAL}[[dependency]]\ncontract = \"{contract}\"\nmin_version = \"{least}\"\n"
        );
        let ParsedManifest { manifest, warnings } = parse(&text).unwrap();
        assert_eq!(manifest.dependencies[0].contract.to_string(), asked, "{contract} {least}");
        assert_eq!(!warnings.is_empty(), warns, "{contract} {least}: {warnings:?}");
        assert!(warnings.iter().all(|w| w.starts_with("manifest.toml:5: ")), "{warnings:?}");
    }
}

#[test]
fn b1_a_dependency_is_by_contract_or_by_bundle() {
    let text = format!(
        "{MINIMAL}dependency = [\n\
         {{ kind = \"contract\", contract = \"math\", contract_id = 42, min_version = \"1.0\" }},\n\
         {{ kind = \"bundle\", contract = \"math@2.3.1\", contract_id = -1, min_version = \"2.3.1\",\n\
         bundle = \"m\", bundle_id = 99 }},\n]\n"
    );
    let ParsedManifest { manifest, warnings } = parse(&text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let [by_contract, by_bundle] = &manifest.dependencies[..] else { panic!() };
    assert_eq!(by_contract.contract.to_string(), "math@1.0.0");
    assert_eq!((by_contract.kind, by_contract.bundle.as_deref()), (DependencyKind::Guest, None));
    assert_eq!(by_bundle.contract.to_string(), "math@2.3.1");
    assert_eq!(by_bundle.bundle.as_deref(), Some("m"));
}

/// A pipe that takes its place while it is read would keep the reader for ever.
#[test]
fn b1_a_manifest_that_becomes_a_pipe_holds_up_nobody() {
    const ROUNDS: usize = 10_000;
    let dir = bundle("main.lua");
    std::fs::write(dir.path().join("main.lua"), "").unwrap();
    let (at, pipe) = (dir.path().join(MANIFEST_FILE), dir.path().join("pipe"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    let folder = dir.path().to_owned();
    std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            match ManifestData::read(&folder) {
                Ok(_) => {}
                Err(LoaderError::ManifestInvalid { message, .. }) => {
                    assert_eq!(message, "is no regular file");
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        done.send(()).unwrap();
    });
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let exchange = || {
        let names = (at.as_path(), pipe.as_path());
        let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
        nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, names.0, nix::fcntl::AT_FDCWD, names.1, flags)
    };
    while let Err(std::sync::mpsc::TryRecvError::Empty) = is_done.try_recv() {
        assert!(std::time::Instant::now() < deadline, "it waits for ever");
        exchange().unwrap();
    }
}

#[test]
fn b2_links_devices_fifos_and_huge_files_are_typed_errors() {
    use nix::sys::stat::Mode;
    let problem = |dir: &Path| match ManifestData::read(dir) {
        Err(LoaderError::ArtifactNotFound { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    let fifo = bundle("main.lua");
    nix::unistd::mkfifo(&fifo.path().join("main.lua"), Mode::S_IRWXU).unwrap();
    assert_eq!(problem(fifo.path()), "is no regular file");
    let socket = bundle("main.lua");
    let _listener = std::os::unix::net::UnixListener::bind(socket.path().join("main.lua")).unwrap();
    assert_eq!(problem(socket.path()), "is no regular file");
    // Sparse: it takes no room, and nobody reads it.
    let huge = bundle("main.lua");
    let file = std::fs::File::create(huge.path().join("main.lua")).unwrap();
    file.set_len(1 << 30).unwrap();
    assert_eq!(problem(huge.path()), "is larger than 512 MiB");
    let dangling = bundle("main.lua");
    std::os::unix::fs::symlink("nowhere", dangling.path().join("main.lua")).unwrap();
    assert_eq!(problem(dangling.path()), "does not exist");
    let ring = bundle("main.lua");
    std::os::unix::fs::symlink("main.lua", ring.path().join("main.lua")).unwrap();
    assert!(problem(ring.path()).starts_with("cannot be opened"));
    let nul = bundle("ma\0in.lua");
    let text = format!("{MINIMAL}file = \"ma\\u0000in.lua\"\n");
    std::fs::write(nul.path().join(MANIFEST_FILE), text).unwrap();
    assert_eq!(problem(nul.path()), "contains a NUL");
    for target in ["/dev/zero", "/proc/self/mem", "/etc"] {
        let dir = bundle("main.lua");
        std::os::unix::fs::symlink(target, dir.path().join("main.lua")).unwrap();
        let error = ManifestData::read(dir.path()).unwrap_err();
        assert!(matches!(error, LoaderError::ArtifactPathEscape { .. }), "{target}: {error:?}");
    }
    // A folder on the way that leads out.
    let dir = bundle("sub/main.lua");
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("main.lua"), "").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("sub")).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(matches!(error, LoaderError::ArtifactPathEscape { .. }), "{error:?}");
}

#[test]
fn b1_manifests_that_are_no_files_or_huge_are_typed_errors() {
    use nix::sys::stat::Mode;
    let dir = tempfile::tempdir().unwrap();
    nix::unistd::mkfifo(&dir.path().join(MANIFEST_FILE), Mode::S_IRWXU).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join(MANIFEST_FILE)).unwrap().set_len(1 << 30).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(MANIFEST_FILE), b"name = \"\xff\"").unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("is not UTF-8 text"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(MANIFEST_FILE)).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}

#[test]
fn b1_folders_of_any_name_are_read_or_refused() {
    use std::os::unix::ffi::OsStrExt;
    let parent = tempfile::tempdir().unwrap();
    let make = |name: &[u8]| {
        let dir = parent.path().join(std::ffi::OsStr::from_bytes(name));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("main.lua"), "").unwrap();
        let text = format!("{MINIMAL}file = \"main.lua\"\n");
        std::fs::write(dir.join(MANIFEST_FILE), text).unwrap();
        ManifestData::read(&dir)
    };
    for name in ["with spaces ", "ünïcode \u{1F600}", "-rf", "quo'te\"s", "new\nline"] {
        let manifest = make(name.as_bytes()).unwrap().manifest;
        assert!(manifest.artifact().unwrap().starts_with(&manifest.dir), "{name}");
    }
    let error = make(b"not \xff UTF-8").unwrap_err();
    assert!(error.to_string().contains("not valid UTF-8"), "{error}");
    let error = ManifestData::read(Path::new("with\0nul")).unwrap_err();
    assert!(matches!(error, LoaderError::Io { .. }), "{error:?}");
    // Of a file inside it as well.
    let dir = bundle("main.lua");
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff.lua"));
    std::fs::write(&odd, "").unwrap();
    std::os::unix::fs::symlink(&odd, dir.path().join("main.lua")).unwrap();
    let error = ManifestData::read(dir.path()).unwrap_err();
    assert!(error.to_string().contains("not valid UTF-8"), "{error}");
}

/// TOML values of every type, nested.
fn any_value() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:?}").replace("NaN", "nan")),
        Just("1979-05-27".to_owned()),
        "[a-z@./ 0-9-]{0,12}".prop_map(|text| format!("{text:?}")),
        Just("\"greeter@1\"".to_owned()),
        Just("\"main.lua\"".to_owned()),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            Just("contract"),
            Just("kind"),
            Just("linux"),
            Just("x86_64"),
            Just("min_version"),
            Just("bundle"),
            Just("name"),
            Just("provides"),
            Just("greeter")
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            proptest::collection::btree_map(key, inner, 0..4).prop_map(|pairs| {
                let pairs: Vec<String> =
                    pairs.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!("{{ {} }}", pairs.join(", "))
            }),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn b1_any_text_is_read_or_refused(text in "\\PC*") {
        let _ = parse(&text);
    }

    /// Every key with a value of any type: what is refused names the file, and
    /// the key with its line, or what is missing.
    #[test]
    fn b1_any_value_of_any_key_is_read_or_refused_with_its_place(
        values in proptest::collection::btree_map(
            proptest::sample::select(&[
                "name", "id", "bundle_id", "version", "loader", "runtime", "file", "provides",
                "bundle_dependencies", "needs_reinit_on_dep_reload", "function_count",
                "dependency", "idempotent", "colour",
            ][..]),
            any_value(),
            0..8,
        )
    ) {
        let mut text = String::new();
        for (at, key) in ["name", "loader"].iter().enumerate() {
            if !values.contains_key(key) {
                text.push_str(MINIMAL.lines().nth(at).unwrap());
                text.push('\n');
            }
        }
        for (key, value) in &values {
            text.push_str(&format!("{key} = {value}\n"));
        }
        match parse(&text) {
            Ok(parsed) => assert!(!parsed.manifest.name.is_empty()),
            Err(LoaderError::ManifestInvalid { file, line, key, message }) => {
                assert_eq!(file, Path::new(MANIFEST_FILE));
                assert!(line.is_some() || message == "is missing", "{text}\n{message}");
                assert!(!key.is_empty() || line.is_some(), "{text}\n{message}");
                let lines = u32::try_from(text.lines().count()).unwrap();
                assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{text}");
            }
            Err(LoaderError::BundleTampered { .. }) => {}
            Err(error) => panic!("{text}\n{error:?}"),
        }
    }

    /// A good manifest with one byte changed, dropped or doubled.
    #[test]
    fn b1_a_manifest_that_was_torn_is_read_or_refused(at in 0..400_usize, with in 0..128_u8, how in 0..3) {
        let text = "name = \"greeter-py\"\nversion = \"1.2.0\"\nloader = \"python\"\n\
                    provides = [\"greeter@1\"]\nbundle_dependencies = [\"image-decoder@1.0\"]\n\
                    [file]\nlinux.x86_64 = \"main.py\"\nlinux.aarch64 = \"main.py\"\n\
                    [function_count]\ngreeter = 1\n[[dependency]]\nkind = \"guest\"\n\
                    contract = \"image.decode\"\nmin_version = \"1.0.0\"\n";
        parse(text).unwrap();
        let mut bytes = text.as_bytes().to_vec();
        let at = at % bytes.len();
        match how {
            0 => bytes[at] = with,
            1 => drop(bytes.remove(at)),
            _ => bytes.truncate(at),
        }
        let torn = String::from_utf8(bytes).unwrap();
        if let Err(error) = parse(&torn) {
            assert!(error.to_string().starts_with("manifest.toml"), "{error}");
        }
    }
}
