use menagerie_protocol::{BundleSource, LoaderError};

use crate::support::{Folder, harness};

const PROVIDES: &str = r#"["broken@1"]"#;

const WORKS: &str = r#"
#include <menagerie.h>
static int one(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_i64(call, 1);
}
int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    return mg_add_function(registrar, "broken@1", "one", "", one, NULL);
}
"#;

fn problem(folder: &Folder) -> String {
    let harness = harness();
    let error = folder.load_fails(&harness);
    let LoaderError::ArtifactUnusable { artifact, problem } = error else { panic!("{error}") };
    assert_eq!(artifact, folder.library().canonicalize().unwrap());
    assert_eq!(folder.maps(), [""; 0]);
    // The worker is alive, and the next load is as good as any.
    folder.compile(WORKS, &[]);
    let bundle = folder.load(&harness);
    assert_eq!(bundle.call::<_, i64>("broken@1", "one", ()).unwrap(), 1);
    bundle.unload();
    problem
}

fn problem_of_bytes(name: &str, bytes: &[u8]) -> String {
    let folder = Folder::new(name, PROVIDES);
    std::fs::write(folder.library(), bytes).unwrap();
    problem(&folder)
}

fn problem_of_source(name: &str, source: &str) -> String {
    problem(&Folder::c(name, PROVIDES, source))
}

#[test]
fn files_that_are_no_libraries_are_named() {
    assert_eq!(problem_of_bytes("empty", b""), "is empty");
    assert_eq!(problem_of_bytes("text", &[b'x'; 500]), "is not an ELF shared library");
    assert_eq!(
        problem_of_bytes("script", b"#!/bin/sh\n"),
        "is a script, not an ELF shared library"
    );
}

#[test]
fn libraries_that_are_cut_short_do_not_kill_the_worker() {
    let folder = Folder::c("cut_short", PROVIDES, WORKS);
    let whole = std::fs::read(folder.library()).unwrap();
    for len in [64, 100, 1000, 5000, whole.len() - 1] {
        std::fs::write(folder.library(), &whole[..len]).unwrap();
        assert!(problem(&folder).contains("cut short"), "{len}");
    }
}

#[test]
fn libraries_for_other_machines_are_named() {
    let folder = Folder::c("other_machine", PROVIDES, WORKS);
    let mut bytes = std::fs::read(folder.library()).unwrap();
    bytes[18] = 243;
    std::fs::write(folder.library(), &bytes).unwrap();
    assert!(problem(&folder).starts_with("is compiled for RISC-V, and this machine is "));
}

#[test]
fn unresolved_symbols_are_named() {
    let source =
        format!("extern int nowhere(void);\nint somewhere(void) {{ return nowhere(); }}\n{WORKS}");
    let problem = problem_of_source("unresolved", &source);
    assert_eq!(problem, "cannot be loaded: undefined symbol: nowhere");
}

#[test]
fn libraries_that_are_no_bundles_are_named() {
    let problem = problem_of_source("no_version", "int answer(void) { return 42; }\n");
    assert!(problem.contains("menagerie_abi_version"), "{problem}");
    let problem = problem_of_source("no_entry", "#include <menagerie.h>\n");
    assert!(problem.contains("exports no menagerie_init"), "{problem}");
}

#[test]
fn other_versions_of_the_interface_are_refused_before_anything_is_called() {
    for (name, version) in
        [("newer_minor", "0x10002"), ("newer_major", "0x20000"), ("older_major", "0")]
    {
        let source = format!(
            "#include <stdlib.h>\nconst unsigned menagerie_abi_version = {version};\n\
             int menagerie_init(void) {{ abort(); }}\n"
        );
        let problem = problem_of_source(name, &source);
        assert!(problem.contains("and this worker has 1.1"), "{problem}");
    }
}

/// As those that were compiled before the table was appended to.
#[test]
fn libraries_for_an_older_minor_of_the_interface_are_loaded() {
    let older = "#define menagerie_abi_version another\n\
                 #include <menagerie.h>\n\
                 #undef menagerie_abi_version\n\
                 MG_EXPORT extern const uint32_t menagerie_abi_version;\n\
                 const uint32_t menagerie_abi_version = 0x10000;\n";
    let source = WORKS.replace("#include <menagerie.h>\n", older);
    let bundle = Folder::c("older_minor", PROVIDES, &source).load(&harness());
    assert_eq!(bundle.call::<_, i64>("broken@1", "one", ()).unwrap(), 1);
    bundle.unload();
}

#[test]
fn an_init_that_fails_tells_why_and_leaves_nothing() {
    let init = |name: &str, body: &str| {
        let source = format!(
            "#include <menagerie.h>\nint menagerie_init(const mg_host *host, mg_registrar *registrar) {{\n\
             (void)host; (void)registrar;\n{body}\n}}\n"
        );
        let folder = Folder::c(name, PROVIDES, &source);
        let error = folder.load_fails(&harness());
        assert_eq!(folder.maps(), [""; 0]);
        let LoaderError::InitFailed { bundle, step, error } = error else { panic!("{error}") };
        assert_eq!((bundle.as_str(), step.as_str()), (name, "initialise"));
        (error.type_name, error.message)
    };
    let (type_name, message) =
        init("refuses", r#"return mg_init_failed(registrar, "NoDevice", "there is no camera");"#);
    assert_eq!((type_name.as_str(), message.as_str()), ("NoDevice", "there is no camera"));
    assert!(init("says_nothing", "return 7;").1.contains("returned 7"));
    let (_, message) = init(
        "no_function",
        r#"mg_add_function(registrar, "broken@1", "one", "", NULL, NULL); return MG_OK;"#,
    );
    assert!(message.contains("without a function"), "{message}");
}

#[test]
fn declarations_that_do_not_parse_fail_the_init() {
    let source = WORKS.replace(r#""one", """#, r#""one", "n: int""#);
    let folder = Folder::c("bad_params", PROVIDES, &source);
    let error = folder.load_fails(&harness()).to_string();
    assert!(error.contains("the parameter 'n: int' should be NAME: KIND"), "{error}");
}

#[test]
fn l5_what_does_not_fit_the_manifest_leaves_nothing() {
    for (name, provides) in [("too_few", r#"["broken@1", "more@1"]"#), ("too_many", "[]")] {
        let folder = Folder::c(name, provides, WORKS);
        let error = folder.load_fails(&harness());
        assert!(matches!(error, LoaderError::ContractMismatch { .. }), "{error}");
        assert_eq!(folder.maps(), [""; 0]);
    }
    let folder = Folder::c("bad_name", PROVIDES, &WORKS.replace("\"one\"", "\"One\""));
    let error = folder.load_fails(&harness());
    assert!(matches!(error, LoaderError::BadFunctionName { .. }), "{error}");
    assert_eq!(folder.maps(), [""; 0]);
}

#[test]
fn a_missing_file_is_named() {
    let error = Folder::new("missing", PROVIDES).load_fails(&harness());
    assert!(matches!(error, LoaderError::ArtifactNotFound { .. }), "{error}");
}

#[test]
fn l4_native_takes_paths_only() {
    let manifest = "name = \"memory\"\nversion = \"1.0.0\"\nloader = \"native\"\nprovides = []\n";
    for source in [BundleSource::Code("int x;".to_owned()), BundleSource::Bytes(vec![1])] {
        let kind = source.kind();
        let error = harness().load(manifest, source).unwrap_err();
        let expected = LoaderError::UnsupportedBundleSource {
            loader: "native".to_owned(),
            kind: kind.to_owned(),
        };
        assert_eq!(error, expected);
    }
}
