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
    assert_eq!(manifest.function_count["data.Transformer"], 1);
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
    let error = parse(&format!("{MINIMAL}[file]\nprovides = []\n")).unwrap_err().to_string();
    assert!(error.contains("stand above [file]"), "{error}");
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

proptest::proptest! {
    #[test]
    fn b1_any_text_is_read_or_refused(text in "\\PC*") {
        let _ = parse(&text);
    }
}
