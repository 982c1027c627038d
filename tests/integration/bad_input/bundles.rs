//! Bundles that cannot be loaded, in the languages whose code is text, and the
//! .NET ones that the set-up compiles.

use std::path::{Path, PathBuf};

use menagerie_supervisor::{BundleState, LoaderError, RuntimeError};

use super::Scene;
use crate::support::{Bundle, per_language};

per_language!(py, lua, js; {
    l5_code_that_does_not_parse,
    l5_an_init_that_throws,
    l5_an_init_that_throws_something_endless,
    l5_exports_that_are_missing_or_too_many,
    l5_a_dependency_of_the_bundle_that_is_missing,
    l5_a_pipe_or_a_device_is_no_module,
    l5_hooks_that_throw,
    l6_a_reload_that_fails_leaves_the_old_code_serving,
});

/// A bundle of one file, with a contract of its own, `spoilt@1`.
pub(super) struct Spoilt {
    pub(super) bundle: Bundle,
    file: &'static str,
}

impl Spoilt {
    pub(super) fn of(scene: &Scene, code: &str) -> Self {
        let file = match scene.language.suffix {
            "py" => "main.py",
            "lua" => "main.lua",
            "js" => "main.js",
            "dotnet" => "main.dll",
            _ => "libmain.so",
        };
        let spoilt = Self { bundle: Bundle::of(&[(file, code)]), file };
        spoilt.manifest(scene, "provides = ['spoilt@1']");
        spoilt
    }

    /// Writes the manifest, with these lines at its end.
    pub(super) fn manifest(&self, scene: &Scene, more: &str) {
        let (loader, file) = (scene.language.loader, self.file);
        let manifest = format!(
            "name = 'spoilt'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n{more}\n"
        );
        self.bundle.write("manifest.toml", &manifest);
    }

    pub(super) fn artifact(&self) -> PathBuf {
        self.bundle.path().join(self.file)
    }

    fn code(&self, code: &str) {
        self.bundle.write(self.file, code);
    }

    /// The load fails, and nothing of it stays behind (L5). Returns why.
    pub(super) async fn fails(&self, scene: &Scene) -> LoaderError {
        let outcome = scene.supervisor.load(self.bundle.path()).await;
        let Err(RuntimeError::Loader(error)) = outcome else {
            panic!("{}: {outcome:?}", scene.language.suffix)
        };
        assert!(scene.supervisor.contract("spoilt@1").is_err());
        let names: Vec<String> =
            scene.supervisor.status().bundles.into_iter().map(|bundle| bundle.name).collect();
        assert!(!names.contains(&"spoilt".to_owned()), "{names:?}");
        scene.goes_on().await;
        error
    }

    /// As [`fails`](Self::fails), at a step of the bundle's own.
    async fn init_fails(&self, scene: &Scene) -> (String, menagerie_supervisor::GuestError) {
        let error = self.fails(scene).await;
        let LoaderError::InitFailed { bundle, step, error } = error else { panic!("{error:?}") };
        assert_eq!(bundle, "spoilt");
        (step, error)
    }

    /// It is repaired, and loads in the same worker as if nothing had been.
    async fn is_mended(&self, scene: &Scene) {
        self.code(good(scene.language.suffix));
        self.manifest(scene, "provides = ['spoilt@1']");
        let status = scene.supervisor.load(self.bundle.path()).await.unwrap();
        assert_eq!(status.state, BundleState::Ready);
        let spoilt = scene.supervisor.contract("spoilt@1").unwrap();
        let answer: i64 = spoilt.call("answer", ()).await.unwrap();
        assert_eq!(answer, 42);
        scene.supervisor.unload("spoilt").await.unwrap();
        scene.goes_on().await;
    }
}

/// A bundle as it should be.
fn good(suffix: &str) -> &'static str {
    match suffix {
        "py" => "import menagerie\n@menagerie.export('spoilt@1')\ndef answer(): return 42\n",
        "lua" => "return { ['spoilt@1'] = { answer = function() return 42 end } }",
        _ => "export default { 'spoilt@1': { answer: () => 42 } };",
    }
}

/// One of three texts, by language.
fn pick(scene: &Scene, [py, lua, js]: [&'static str; 3]) -> &'static str {
    match scene.language.suffix {
        "py" => py,
        "lua" => lua,
        _ => js,
    }
}

async fn l5_code_that_does_not_parse(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let code = pick(&scene, ["x = 1\ny = = 2\n", "local x = 1\ny = = 2\n", "let x = 1;\nx = = 2;"]);
    let spoilt = Spoilt::of(&scene, code);
    let (step, error) = spoilt.init_fails(&scene).await;
    assert_eq!((step.as_str(), error.type_name.as_str()), ("compile", "SyntaxError"));
    let told = format!("{}\n{}", error.message, error.stack);
    assert!(told.contains("main.") && told.contains('2'), "{told}");
    // Nor is this text at all.
    std::fs::write(spoilt.artifact(), [0x7f, b'E', b'L', b'F', 0, 0xff, 0xfe]).unwrap();
    let (_, error) = spoilt.init_fails(&scene).await;
    assert!(!error.message.is_empty());
    spoilt.is_mended(&scene).await;
    scene.end().await;
}

async fn l5_an_init_that_throws(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let code = pick(
        &scene,
        [
            "def begin():\n    raise ValueError('no begin')\nbegin()\n",
            "local function begin()\n  error('no begin')\nend\nbegin()\nreturn {}",
            "function begin() {\n  throw new RangeError('no begin');\n}\nbegin();\nexport default {};",
        ],
    );
    let spoilt = Spoilt::of(&scene, code);
    let (step, error) = spoilt.init_fails(&scene).await;
    assert_eq!(step, "initialise");
    assert!(error.message.contains("no begin"), "{error:?}");
    assert!(error.stack.contains("main.") && error.stack.contains('2'), "{error:?}");
    // It tries to leave altogether.
    let code = pick(
        &scene,
        [
            "import sys\nsys.exit(3)\n",
            "os.exit(3)\nreturn {}",
            "import { exit } from 'process';\nexport default {};",
        ],
    );
    spoilt.code(code);
    let (_, error) = spoilt.init_fails(&scene).await;
    assert!(!error.type_name.is_empty(), "{error:?}");
    spoilt.is_mended(&scene).await;
    scene.end().await;
}

/// What it says of its failure is kept and shown in several places: it is cut.
async fn l5_an_init_that_throws_something_endless(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let code = pick(
        &scene,
        [
            "raise ValueError('\\x01' * 12_000_000)\n",
            "error(string.rep('\\1', 12000000))",
            "throw new RangeError('\\u0001'.repeat(12_000_000));",
        ],
    );
    let spoilt = Spoilt::of(&scene, code);
    let (_, error) = spoilt.init_fails(&scene).await;
    assert!(error.message.contains('\u{1}') && error.message.ends_with("[…]"));
    let len = error.message.len() + error.stack.len();
    assert!(len < 40_000, "{len} bytes");
    spoilt.is_mended(&scene).await;
    scene.end().await;
}

async fn l5_exports_that_are_missing_or_too_many(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let empty = pick(&scene, ["import menagerie\n", "return {}", "export default {};"]);
    let spoilt = Spoilt::of(&scene, empty);
    let LoaderError::ContractMismatch { contract, problem, .. } = spoilt.fails(&scene).await else {
        panic!("{suffix}")
    };
    assert!(contract.starts_with("spoilt@1") && problem.contains("does not export it"));

    spoilt.code(good(suffix));
    spoilt.manifest(&scene, "provides = ['spoilt@1', 'more@2']");
    let LoaderError::ContractMismatch { contract, .. } = spoilt.fails(&scene).await else {
        panic!("{suffix}")
    };
    assert!(contract.starts_with("more@2"), "{contract}");
    spoilt.manifest(&scene, "provides = []");
    let LoaderError::ContractMismatch { contract, problem, .. } = spoilt.fails(&scene).await else {
        panic!("{suffix}")
    };
    assert!(contract.starts_with("spoilt@1") && problem.contains("not in the manifest"));

    spoilt.manifest(&scene, "provides = ['spoilt@1']\n[function_count]\nspoilt = 2");
    let error = spoilt.fails(&scene).await;
    let counts = matches!(&error, LoaderError::FunctionCountMismatch { expected: 2, found: 1, .. });
    assert!(counts, "{error:?}");

    let renamed = good(suffix).replace("answer", "theAnswer");
    spoilt.code(&renamed);
    spoilt.manifest(&scene, "provides = ['spoilt@1']");
    let LoaderError::BadFunctionName { function, .. } = spoilt.fails(&scene).await else {
        panic!("{suffix}")
    };
    assert_eq!(function, "theAnswer");
    spoilt.is_mended(&scene).await;
    scene.end().await;
}

async fn l5_a_dependency_of_the_bundle_that_is_missing(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let code = pick(
        &scene,
        [
            "import nowhere_to_be_found\n",
            "require 'nowhere_to_be_found'\nreturn {}",
            "import x from './nowhere_to_be_found.js';\nexport default {};",
        ],
    );
    let spoilt = Spoilt::of(&scene, code);
    let (step, error) = spoilt.init_fails(&scene).await;
    assert!(matches!(step.as_str(), "import" | "initialise"), "{step}");
    assert!(error.message.contains("nowhere_to_be_found"), "{error:?}");
    // One that is there and broken: its own file is named.
    let (name, code) = pick_pair(&scene);
    spoilt.code(code);
    spoilt.bundle.write(name, "\n\n(((");
    let (_, error) = spoilt.init_fails(&scene).await;
    let told = format!("{}\n{}", error.message, error.stack);
    assert!(told.contains(name), "{told}");
    spoilt.is_mended(&scene).await;
    scene.end().await;
}

/// To read either might never end: they count as modules that are not there.
async fn l5_a_pipe_or_a_device_is_no_module(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let code = pick(
        &scene,
        [
            "import odd_one\n",
            "require 'odd_one'\nreturn {}",
            "import './odd_one.js';\nexport default {};",
        ],
    );
    let spoilt = Spoilt::of(&scene, code);
    let odd = spoilt.bundle.path().join(format!("odd_one.{suffix}"));
    nix::unistd::mkfifo(&odd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (_, error) = spoilt.init_fails(&scene).await;
    assert!(error.message.contains("odd_one"), "{error:?}");
    std::fs::remove_file(&odd).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &odd).unwrap();
    let (_, error) = spoilt.init_fails(&scene).await;
    assert!(error.message.contains("odd_one"), "{error:?}");
    spoilt.is_mended(&scene).await;
    scene.end().await;
}

fn pick_pair(scene: &Scene) -> (&'static str, &'static str) {
    match scene.language.suffix {
        "py" => ("broken.py", "import broken\n"),
        "lua" => ("broken.lua", "require 'broken'\nreturn {}"),
        _ => ("broken.js", "import './broken.js';\nexport default {};"),
    }
}

async fn l5_hooks_that_throw(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let code = pick(
        &scene,
        [
            "import menagerie\n@menagerie.export('spoilt@1')\ndef answer(): return 42\n\
             def on_load(context):\n    raise KeyError('not today')\n",
            "return { ['spoilt@1'] = { answer = function() return 42 end },\n\
             on_load = function() error('not today') end }",
            "export default { 'spoilt@1': { answer: () => 42 } };\n\
             export function on_load() { throw new RangeError('not today'); }",
        ],
    );
    let spoilt = Spoilt::of(&scene, code);
    let (step, error) = spoilt.init_fails(&scene).await;
    assert!(step.contains("on_load"), "{step}");
    assert!(error.message.contains("not today"), "{error:?}");
    // It is no function.
    let code = pick(
        &scene,
        [
            "import menagerie\n@menagerie.export('spoilt@1')\ndef answer(): return 42\non_load = 5\n",
            "return { ['spoilt@1'] = { answer = function() return 42 end }, on_load = 5 }",
            "export default { 'spoilt@1': { answer: () => 42 } };\nexport const on_load = 5;",
        ],
    );
    spoilt.code(code);
    let (_, error) = spoilt.init_fails(&scene).await;
    assert!(!error.message.is_empty(), "{error:?}");
    spoilt.is_mended(&scene).await;
    scene.end().await;
}

async fn l6_a_reload_that_fails_leaves_the_old_code_serving(suffix: &str) {
    let scene = Scene::set(suffix).await;
    let spoilt = Spoilt::of(&scene, good(suffix));
    scene.supervisor.load(spoilt.bundle.path()).await.unwrap();
    let contract = scene.supervisor.contract("spoilt@1").unwrap();
    let throws =
        pick(&scene, ["raise ValueError('no')\n", "error('no')", "throw new Error('no');"]);
    let empty = pick(&scene, ["", "return {}", "export default {};"]);
    for code in ["(((", throws, empty] {
        spoilt.code(code);
        let outcome = scene.supervisor.reload("spoilt").await;
        assert!(matches!(&outcome, Err(RuntimeError::Loader(_))), "{suffix} {code}: {outcome:?}");
        assert_eq!(contract.call::<_, i64>("answer", ()).await.unwrap(), 42);
        scene.goes_on().await;
    }
    spoilt.code(&good(suffix).replace("42", "43"));
    // A manifest that is broken, or another bundle's, fails before any code runs.
    let manifest = std::fs::read_to_string(spoilt.bundle.path().join("manifest.toml")).unwrap();
    for broken in ["name = ", &manifest.replace("'spoilt'", "'other'")] {
        spoilt.bundle.write("manifest.toml", broken);
        let outcome = scene.supervisor.reload("spoilt").await;
        let named =
            matches!(&outcome, Err(RuntimeError::Loader(LoaderError::ManifestInvalid { .. })));
        assert!(named, "{suffix}: {outcome:?}");
        assert_eq!(contract.call::<_, i64>("answer", ()).await.unwrap(), 42);
    }
    spoilt.bundle.write("manifest.toml", &manifest);
    scene.supervisor.reload("spoilt").await.unwrap();
    assert_eq!(contract.call::<_, i64>("answer", ()).await.unwrap(), 43);
    scene.goes_on().await;
    scene.end().await;
}

/// Where the set-up puts the assemblies of worker-dotnet's own tests.
pub(crate) fn assembly(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let target = exe.ancestors().nth(3).unwrap();
    target.join("dotnet/fixtures").join(name).with_extension("dll")
}

#[test]
fn l5_assemblies_that_are_no_bundles() {
    crate::support::run(async {
        let scene = Scene::set("dotnet").await;
        let spoilt = Spoilt::of(&scene, "no assembly");
        let greeter = std::fs::read(scene.language.bundle("greeter").join("greeter.dll")).unwrap();
        for content in [&b""[..], b"plain text", &greeter[..300], &greeter[..1024]] {
            std::fs::write(spoilt.artifact(), content).unwrap();
            let error = spoilt.fails(&scene).await;
            let LoaderError::ArtifactUnusable { artifact, problem } = &error else {
                panic!("{error:?}")
            };
            assert!(artifact.ends_with("main.dll") && !problem.is_empty(), "{error}");
        }
        let place = |from: &Path| std::fs::copy(from, spoilt.artifact()).map(|_| ()).unwrap();
        place(&scene.language.bundle("greeter").join("greeter.dll"));
        let error = spoilt.fails(&scene).await;
        assert!(matches!(&error, LoaderError::ContractMismatch { .. }), "{error:?}");

        spoilt.manifest(&scene, "provides = ['bad@1']");
        for (name, step, words) in [
            ("bad_throws", "initialise", "not today"),
            ("bad_ref", "register", "ref or out"),
            ("bad_overload", "register", "twice"),
            ("bad_private", "register", "not public"),
        ] {
            place(&assembly(name));
            let (found, error) = spoilt.init_fails(&scene).await;
            assert_eq!(found, step, "{name}");
            assert!(error.message.contains(words), "{name}: {error:?}");
        }
        scene.end().await;
    });
}
