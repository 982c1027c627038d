//! Reloads that fail, each at another step, while calls come all the time: the
//! old generation serves every one of them (rule L6).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use menagerie_protocol::ManifestData;
use menagerie_supervisor::{
    BundleState, BundleStatus, Contract, Failure, LoaderError, RuntimeError,
};
use tokio::task::JoinHandle;

use super::Scene;
use super::bundles::assembly;
use super::native::compile;
use crate::support::{Bundle, per_language, wait_for};

per_language!(rust, c, py, lua, js, dotnet; {
    l6_a_reload_may_fail_at_each_step_under_load,
});

/// Where the code is text, so that a hook is written in a line.
mod hooks {
    use super::l6_a_hook_may_fail_at_a_reload_under_load;
    use crate::support::per_language;

    per_language!(py, lua, js; {
        l6_a_hook_may_fail_at_a_reload_under_load,
    });
}

/// Callers that never stop, of whom none may fail.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    callers: Vec<JoinHandle<Result<(), Failure>>>,
}

impl Load {
    fn on(contract: &Contract) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let callers = (0..2).map(|_| {
            let (contract, stop, calls) = (contract.clone(), Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let text: String = contract.call("greet", ("Ada",)).await?;
                    assert_eq!(text, "Hello, Ada");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        Self { callers: callers.collect(), stop, calls }
    }

    /// Waits until more calls have ended well than by now.
    async fn goes_on(&self) {
        let before = self.calls.load(Ordering::Relaxed);
        wait_for("a call to end well", || {
            (self.calls.load(Ordering::Relaxed) > before + 2).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap().unwrap();
        }
    }
}

/// A copy of a language's greeter, and what its files should be.
struct Subject {
    scene: Scene,
    bundle: Bundle,
    manifest: String,
    artifact: PathBuf,
    code: Vec<u8>,
}

impl Subject {
    async fn loaded(suffix: &str) -> (Self, Contract) {
        let scene = Scene::set(suffix).await;
        let bundle = Bundle::copy_of(&scene.language.bundle("greeter"), "subject", "");
        scene.supervisor.load(bundle.path()).await.unwrap();
        let contract = scene.supervisor.contract("subject/greeter@1").unwrap();
        let manifest = std::fs::read_to_string(bundle.path().join("manifest.toml")).unwrap();
        let artifact = ManifestData::read(&bundle.path()).unwrap().manifest.artifact().unwrap();
        let code = std::fs::read(&artifact).unwrap();
        (Self { scene, bundle, manifest, artifact, code }, contract)
    }

    fn restore(&self) {
        self.bundle.write("manifest.toml", &self.manifest);
        std::fs::write(&self.artifact, &self.code).unwrap();
    }

    fn status(&self) -> BundleStatus {
        let bundles = self.scene.supervisor.status().bundles;
        bundles.into_iter().find(|bundle| bundle.name == "subject").unwrap()
    }

    /// The reload fails as `wanted` says, the status names the generation that it
    /// named before, and the calls go on.
    async fn fails(&self, step: &str, load: &Load, wanted: fn(&LoaderError) -> bool) {
        let serves = self.status().generation;
        let outcome = self.scene.supervisor.reload("subject").await;
        let Err(RuntimeError::Loader(error)) = &outcome else {
            panic!("{}, {step}: {outcome:?}", self.scene.language.suffix)
        };
        assert!(wanted(error), "{}, {step}: {error:?}", self.scene.language.suffix);
        let status = self.status();
        assert_eq!((status.state, status.generation), (BundleState::Ready, serves), "{step}");
        load.goes_on().await;
        self.restore();
    }

    /// Code whose init fails with a message of its own; .NET's and native
    /// libraries are compiled.
    fn write_code_that_throws(&self) {
        let text = match self.scene.language.suffix {
            "py" => "raise ValueError('not today')\n",
            "lua" => "error('not today')",
            "js" => "throw new RangeError('not today');",
            "dotnet" => {
                std::fs::copy(assembly("bad_throws"), &self.artifact).unwrap();
                // It provides this, and no greeter.
                let manifest = self.manifest.replace("greeter@1", "bad@1");
                return self.bundle.write("manifest.toml", &manifest);
            }
            _ => {
                let source = "#include <menagerie.h>
                    int menagerie_init(const mg_host *host, mg_registrar *registrar) {
                        (void)host;
                        return mg_init_failed(registrar, \"NotToday\", \"not today\");
                    }\n";
                return compile(source, &self.artifact);
            }
        };
        std::fs::write(&self.artifact, text).unwrap();
    }
}

async fn l6_a_reload_may_fail_at_each_step_under_load(suffix: &str) {
    let (subject, contract) = Subject::loaded(suffix).await;
    let load = Load::on(&contract);
    load.goes_on().await;
    let is_text = matches!(suffix, "py" | "lua" | "js");

    std::fs::remove_file(subject.bundle.path().join("manifest.toml")).unwrap();
    let gone = |error: &LoaderError| matches!(error, LoaderError::ManifestNotFound { .. });
    subject.fails("no manifest", &load, gone).await;
    subject.bundle.write("manifest.toml", &subject.manifest[..subject.manifest.len() / 2]);
    let torn = |error: &LoaderError| matches!(error, LoaderError::ManifestInvalid { .. });
    subject.fails("half a manifest", &load, torn).await;

    std::fs::remove_file(&subject.artifact).unwrap();
    let gone = |error: &LoaderError| matches!(error, LoaderError::ArtifactNotFound { .. });
    subject.fails("no artifact", &load, gone).await;
    std::fs::write(&subject.artifact, "((( no code").unwrap();
    let garbage = if is_text {
        |error: &LoaderError| matches!(error, LoaderError::InitFailed { step, .. } if step == "compile")
    } else {
        |error: &LoaderError| matches!(error, LoaderError::ArtifactUnusable { .. })
    };
    subject.fails("garbage", &load, garbage).await;
    if !is_text {
        std::fs::write(&subject.artifact, &subject.code[..subject.code.len() / 2]).unwrap();
        subject.fails("half an artifact", &load, garbage).await;
    }

    subject.write_code_that_throws();
    let throws = |error: &LoaderError| {
        matches!(error, LoaderError::InitFailed { .. }) && error.to_string().contains("not today")
    };
    subject.fails("an init that throws", &load, throws).await;

    let more = subject.manifest.replace("[\"greeter@1\"]", "[\"greeter@1\", \"more@2\"]");
    assert_ne!(more, subject.manifest);
    subject.bundle.write("manifest.toml", &more);
    let lacks = |error: &LoaderError| matches!(error, LoaderError::ContractMismatch { contract, .. } if contract.starts_with("more@2"));
    subject.fails("a contract that is missing", &load, lacks).await;
    let counted = format!("{}\n[function_count]\ngreeter = 9\n", subject.manifest);
    subject.bundle.write("manifest.toml", &counted);
    let count = |error: &LoaderError| {
        matches!(error, LoaderError::FunctionCountMismatch { expected: 9, found: 2, .. })
    };
    subject.fails("another number of functions", &load, count).await;

    // Repaired, it is reloaded as if nothing had been.
    let before = subject.status().generation;
    assert_eq!(before, 1, "the first still serves");
    let status = subject.scene.supervisor.reload("subject").await.unwrap();
    assert!(status.generation > before);
    assert_eq!(subject.status().generation, status.generation);
    load.goes_on().await;
    load.end().await;
    subject.scene.goes_on().await;
    subject.scene.end().await;
}

/// The greeter, with a hook that throws.
fn with_hook(suffix: &str, hook: &str) -> String {
    match suffix {
        "py" => format!(
            "import menagerie\n\
             @menagerie.export('greeter@1')\ndef greet(name: str) -> str:\n    return 'Hello, ' + name\n\
             @menagerie.export('greeter@1')\ndef greet_all(names: list) -> list:\n    return names\n\
             def {hook}(*_):\n    raise ValueError('not today')\n"
        ),
        "lua" => format!(
            "return {{ ['greeter@1'] = {{ greet = function(name) return 'Hello, ' .. name end,\n\
             greet_all = function(names) return names end }},\n\
             {hook} = function() error('not today') end }}"
        ),
        _ => format!(
            "export default {{ 'greeter@1': {{ greet: (name) => `Hello, ${{name}}`,\n\
             greet_all: (names) => names }} }};\n\
             export function {hook}() {{ throw new Error('not today'); }}"
        ),
    }
}

/// The new generation's `on_load`, when the old one has handed its state over;
/// and the old one's `on_unload`.
async fn l6_a_hook_may_fail_at_a_reload_under_load(suffix: &str) {
    let (subject, contract) = Subject::loaded(suffix).await;
    let load = Load::on(&contract);
    load.goes_on().await;
    std::fs::write(&subject.artifact, with_hook(suffix, "on_load")).unwrap();
    let on_load = |error: &LoaderError| {
        matches!(error, LoaderError::InitFailed { step, .. } if step.contains("on_load"))
            && error.to_string().contains("not today")
    };
    subject.fails("on_load", &load, on_load).await;
    std::fs::write(&subject.artifact, with_hook(suffix, "on_unload")).unwrap();
    subject.scene.supervisor.reload("subject").await.unwrap();
    load.goes_on().await;
    subject.restore();
    let on_unload = |error: &LoaderError| {
        matches!(error, LoaderError::InitFailed { step, .. } if step.contains("on_unload"))
            && error.to_string().contains("not today")
    };
    subject.fails("on_unload", &load, on_unload).await;
    load.end().await;
    subject.scene.goes_on().await;
    subject.scene.end().await;
}
