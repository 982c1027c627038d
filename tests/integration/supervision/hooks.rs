//! Rule S6 for hooks that hang: the load, the reload or the unload ends with its own
//! limit and a typed failure, the worker is ended with the bundle's name, and its other
//! bundles come back.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use menagerie_supervisor::{
    Activity, Condition, Config, Contract, CrashReport, RuntimeError, Supervisor,
};
use menagerie_tests::Language;

use super::{answers, at_once_and_for_ever};
use crate::bad_input::bundles::assembly;
use crate::support::{Bundle, config, find_line, per_language, report, start_with, wait_for};

/// A bundle with hooks that hang when they are told to, and say so first.
struct Hanging {
    language: Language,
    bundle: Bundle,
    /// How often it was told.
    told: AtomicU32,
}

impl Hanging {
    fn of(language: Language) -> Self {
        let file = match language.suffix {
            "py" => "main.py",
            "lua" => "main.lua",
            "js" => "main.js",
            _ => "main.dll",
        };
        let loader = language.loader;
        let manifest = format!(
            "name = 'hanging'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
             provides = ['hanging@1']\n"
        );
        let bundle = Bundle::of(&[("manifest.toml", &manifest)]);
        if language.suffix == "dotnet" {
            std::fs::copy(assembly("hangs"), bundle.path().join(file)).unwrap();
        }
        let hanging = Self { language, bundle, told: AtomicU32::new(0) };
        hanging.hangs_in("nothing");
        hanging
    }

    /// From its next load on this hook hangs.
    fn hangs_in(&self, hook: &str) {
        self.told.fetch_add(1, Ordering::Relaxed);
        let words = self.words();
        let [on_load, on_unload] = ["on_load", "on_unload"].map(|name| name == hook);
        let (file, code) = match self.language.suffix {
            "py" => (
                "main.py",
                format!(
                    "import time\nimport menagerie\n\n\
                     @menagerie.export('hanging@1')\ndef inc(n: int) -> int:\n    return n + 1\n\n\
                     def hang(truly):\n    if truly:\n        print('{words}', flush=True)\n        \
                     time.sleep(3600)\n\n\
                     def on_load(context):\n    hang({})\n\n\
                     def on_unload():\n    hang({})\n",
                    i32::from(on_load),
                    i32::from(on_unload)
                ),
            ),
            "lua" => (
                "main.lua",
                format!(
                    "local menagerie = require 'menagerie'\n\
                     local function hang() print('{words}') menagerie.sleep(3600000) end\n\
                     return {{ ['hanging@1'] = {{ inc = function(n) return n + 1 end }},\n\
                     on_load = function() if {on_load} then hang() end end,\n\
                     on_unload = function() if {on_unload} then hang() end end }}"
                ),
            ),
            "js" => (
                "main.js",
                format!(
                    "export default {{ 'hanging@1': {{ inc: (n) => n + 1 }} }};\n\
                     const sleep = (ms) => new Promise((done) => setTimeout(done, ms));\n\
                     const hang = () => {{ print('{words}'); return sleep(3600000); }};\n\
                     export async function on_load() {{ if ({on_load}) await hang(); }}\n\
                     export async function on_unload() {{ if ({on_unload}) await hang(); }}"
                ),
            ),
            // Its hooks look into a file.
            _ => ("hangs", format!("{hook}\n{words}")),
        };
        self.bundle.write(file, &code);
    }

    /// What it says before it hangs.
    fn words(&self) -> String {
        format!("it hangs as it was told for the {}. time", self.told.load(Ordering::Relaxed))
    }

    /// Waits until it does.
    async fn hangs(&self) {
        let words = self.words();
        wait_for("the hook", || find_line(|line| line.message.contains(&words))).await;
    }
}

/// A hook has a while, and a good load much less.
fn patient_with_deaths() -> Config {
    let mut config = config();
    config.load_timeout = Duration::from_secs(4);
    config.bundle_crash_limit = u32::MAX;
    config.restart = at_once_and_for_ever();
    config
}

/// The death that a hook has cost, and that its neighbour is back.
async fn cost_the_worker(
    supervisor: &Supervisor,
    loader: &str,
    neighbour: &Contract,
    (step, activity): (&str, Activity),
    count: usize,
) -> CrashReport {
    let report = report(supervisor, loader, count).await;
    let expected = format!("'{step}' of 'hanging' did not end within 4s");
    assert_eq!(report.reason.as_deref(), Some(&*expected), "{report:?}");
    assert_eq!(report.signal, Some(9), "{report:?}");
    assert_eq!(report.condition, Some(Condition::Waiting), "{report:?}");
    let running: Vec<_> = report.running.iter().map(|r| (&*r.bundle, r.activity)).collect();
    assert_eq!(running, [("hanging", activity)], "{report:?}");
    answers(neighbour).await;
    report
}

fn timed_out<T: std::fmt::Debug>(outcome: Result<T, RuntimeError>, step: &str) {
    let Err(RuntimeError::TimedOut { step: found, limit_ms: 4000, .. }) = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(found, step);
}

async fn s6_a_hook_that_hangs_ends_its_operation(suffix: &str) {
    let supervisor = start_with(patient_with_deaths());
    let language = Language::of(suffix);
    let loader = language.loader;
    supervisor.load(language.bundle("greeter")).await.unwrap();
    supervisor.load(language.bundle("probe")).await.unwrap();
    let neighbour = supervisor.contract("probe@1").unwrap();
    answers(&neighbour).await;
    let hanging = Hanging::of(language);

    hanging.hangs_in("on_load");
    timed_out(supervisor.load(hanging.bundle.path()).await, "load");
    assert!(supervisor.contract("hanging@1").is_err());
    cost_the_worker(&supervisor, loader, &neighbour, ("load", Activity::Load), 1).await;

    // A reload's on_load runs when the old generation has handed over. The next
    // process loads what stands on disk then.
    hanging.hangs_in("nothing");
    supervisor.load(hanging.bundle.path()).await.unwrap();
    let contract = supervisor.contract("hanging@1").unwrap();
    answers(&contract).await;
    hanging.hangs_in("on_load");
    let reloading = {
        let supervisor = supervisor.clone();
        tokio::spawn(async move { supervisor.reload("hanging").await })
    };
    hanging.hangs().await;
    hanging.hangs_in("nothing");
    timed_out(reloading.await.unwrap(), "on_load");
    cost_the_worker(&supervisor, loader, &neighbour, ("on_load", Activity::OnLoad), 2).await;
    supervisor.reload("hanging").await.unwrap();
    answers(&contract).await;

    // And a reload's on_unload is the old one's.
    hanging.hangs_in("on_unload");
    supervisor.reload("hanging").await.unwrap();
    answers(&contract).await;
    timed_out(supervisor.reload("hanging").await, "on_unload");
    cost_the_worker(&supervisor, loader, &neighbour, ("on_unload", Activity::OnUnload), 3).await;
    answers(&contract).await;

    // What is unloaded is gone, however it ends.
    supervisor.unload("hanging").await.unwrap();
    assert!(supervisor.contract("hanging@1").is_err());
    cost_the_worker(&supervisor, loader, &neighbour, ("unload", Activity::OnUnload), 4).await;
    let names: Vec<String> = supervisor.status().bundles.into_iter().map(|b| b.name).collect();
    assert!(!names.contains(&"hanging".to_owned()), "{names:?}");
    hanging.hangs_in("nothing");
    supervisor.load(hanging.bundle.path()).await.unwrap();
    answers(&supervisor.contract("hanging@1").unwrap()).await;
    supervisor.shutdown().await;
}

per_language!(py, lua, js, dotnet; {
    s6_a_hook_that_hangs_ends_its_operation,
});
