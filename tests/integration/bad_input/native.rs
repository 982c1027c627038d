//! Native libraries that are no bundles: none of them may take the worker down.

use std::path::Path;
use std::process::{Command, Stdio};

use menagerie_supervisor::LoaderError;

use super::Scene;
use super::bundles::Spoilt;

/// Compiles C into the artifact's place.
#[allow(clippy::disallowed_methods, reason = "it is no worker that is started here")]
pub(crate) fn compile(source: &str, to: &Path) {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker-native/guest/include");
    let file = to.with_extension("c");
    std::fs::write(&file, source).unwrap();
    let status = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-std=c99", "-shared", "-fPIC", "-I"])
        .args([include.as_os_str(), file.as_os_str(), "-o".as_ref(), to.as_os_str()])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

/// A bundle in C that works, with `body` as its init's.
fn source(body: &str) -> String {
    format!(
        "#include <menagerie.h>
         static int answer(mg_call *call, void *userdata) {{
             (void)userdata;
             return mg_return_i64(call, 42);
         }}
         int menagerie_init(const mg_host *host, mg_registrar *registrar) {{
             (void)host; (void)answer; (void)registrar;
             {body}
         }}\n"
    )
}

const REGISTERS: &str =
    r#"return mg_add_function(registrar, "spoilt@1", "answer", "", answer, NULL);"#;

async fn unusable(scene: &Scene, spoilt: &Spoilt) -> String {
    let error = spoilt.fails(scene).await;
    let LoaderError::ArtifactUnusable { artifact, problem } = error else { panic!("{error:?}") };
    assert!(artifact.ends_with("libmain.so"), "{}", artifact.display());
    problem
}

#[test]
fn l5_files_that_are_no_libraries() {
    crate::support::run(async {
        let scene = Scene::set("c").await;
        let spoilt = Spoilt::of(&scene, "");
        let whole =
            std::fs::read(scene.language.bundle("greeter").join("libgreeter_c.so")).unwrap();
        let mut other_machine = whole.clone();
        other_machine[18] = 243;
        let files: [(&[u8], &str); 7] = [
            (b"", "empty"),
            (b"#!/bin/sh\necho hello\n", "script"),
            (&[b'x'; 5000], "not an ELF"),
            (&whole[..64], "cut short"),
            (&whole[..5000], "cut short"),
            (&whole[..whole.len() - 1], "cut short"),
            (&other_machine, "RISC-V"),
        ];
        for (content, words) in files {
            std::fs::write(spoilt.artifact(), content).unwrap();
            let problem = unusable(&scene, &spoilt).await;
            assert!(problem.contains(words), "{problem}");
        }
        scene.end().await;
    });
}

#[test]
fn l5_c_libraries_that_are_no_bundles() {
    crate::support::run(async {
        let scene = Scene::set("c").await;
        let spoilt = Spoilt::of(&scene, "");
        let works = source(REGISTERS);
        let unresolved =
            format!("extern int nowhere(void);\nint use(void) {{ return nowhere(); }}\n{works}");
        let libraries = [
            ("int answer(void) { return 42; }\n", "menagerie_abi_version"),
            ("#include <menagerie.h>\n", "menagerie_init"),
            (
                "const unsigned menagerie_abi_version = 0x20000;\nint menagerie_init(void) { *(volatile int *)0 = 1; return 0; }\n",
                "this worker has 1.1",
            ),
            (unresolved.as_str(), "nowhere"),
        ];
        for (source, words) in libraries {
            compile(source, &spoilt.artifact());
            let problem = unusable(&scene, &spoilt).await;
            assert!(problem.contains(words), "{problem}");
        }
        let inits = [
            (r#"return mg_init_failed(registrar, "NoDevice", "there is no camera");"#, "no camera"),
            ("return 7;", "returned 7"),
            (
                r#"mg_add_function(registrar, "spoilt@1", "answer", "", NULL, NULL); return MG_OK;"#,
                "without a function",
            ),
            (
                r#"return mg_add_function(registrar, "spoilt@1", "answer", "n: int", answer, NULL);"#,
                "should be NAME: KIND",
            ),
        ];
        for (body, words) in inits {
            compile(&source(body), &spoilt.artifact());
            let error = spoilt.fails(&scene).await;
            assert!(matches!(error, LoaderError::InitFailed { .. }), "{error:?}");
            assert!(error.to_string().contains(words), "{error}");
        }
        compile(&source("return MG_OK;"), &spoilt.artifact());
        let error = spoilt.fails(&scene).await;
        assert!(matches!(error, LoaderError::ContractMismatch { .. }), "{error:?}");
        let camel = works.replace("\"answer\"", "\"theAnswer\"");
        compile(&camel, &spoilt.artifact());
        let error = spoilt.fails(&scene).await;
        assert!(matches!(error, LoaderError::BadFunctionName { .. }), "{error:?}");

        // Repaired, it loads in the same worker.
        compile(&works, &spoilt.artifact());
        scene.supervisor.load(spoilt.bundle.path()).await.unwrap();
        let contract = scene.supervisor.contract("spoilt@1").unwrap();
        assert_eq!(contract.call::<_, i64>("answer", ()).await.unwrap(), 42);
        scene.goes_on().await;
        scene.end().await;
    });
}
