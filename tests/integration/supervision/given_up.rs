//! Rule L5 for loads that nobody waits for any more, as whoever asked has gone: what the
//! worker had begun to load is unloaded again.

use std::path::PathBuf;
use std::time::Duration;

use menagerie_supervisor::{Activity, Supervisor};

use super::first_load::Gated;
use super::{answers, load, lua};
use crate::support::{Bundle, config, report, run, start_with, wait_for, worker};

/// A bundle that takes its time to load while a gate is closed, and takes notes.
struct Slow {
    bundle: Bundle,
    folder: tempfile::TempDir,
}

impl Slow {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = "name = 'slow'\nversion = '1.0.0'\nloader = 'lua'\n\
                        file = 'main.lua'\nprovides = ['slow@1']\n";
        let code = format!(
            "local menagerie = require 'menagerie'\n\
             local function note(word)\n\
               local file = io.open('{notes}', 'a')\n\
               file:write(word, '\\n')\n\
               file:close()\n\
             end\n\
             local function is_closed()\n\
               local file = io.open('{gate}')\n\
               return file and file:close()\n\
             end\n\
             note 'begun'\n\
             while is_closed() do menagerie.sleep(5) end\n\
             return {{\n\
               ['slow@1'] = {{ inc = function(n) return n + 1 end }},\n\
               on_unload = function() note 'unloaded' end,\n\
             }}\n",
            notes = folder.path().join("notes").display(),
            gate = folder.path().join("closed").display()
        );
        let bundle = Bundle::of(&[("manifest.toml", manifest), ("main.lua", &code)]);
        Self { bundle, folder }
    }

    fn gate(&self) -> PathBuf {
        self.folder.path().join("closed")
    }

    fn close(&self) {
        std::fs::write(self.gate(), "").unwrap();
    }

    fn open(&self) {
        std::fs::remove_file(self.gate()).unwrap();
    }

    /// Waits until this was noted so often.
    async fn noted(&self, word: &str, times: usize) {
        wait_for(&format!("{times} notes of {word}"), || {
            let notes = std::fs::read_to_string(self.folder.path().join("notes")).ok()?;
            let count = notes.lines().filter(|line| *line == word).count();
            assert!(count <= times, "{notes}");
            (count == times).then_some(())
        })
        .await;
    }

    /// Begins to load it while the gate is closed, and has it not wait for the end.
    async fn load_in_vain(&self, supervisor: &Supervisor, nth: usize) {
        self.close();
        let (supervisor, path) = (supervisor.clone(), self.bundle.path());
        let loading = tokio::spawn(async move { supervisor.load(path).await });
        self.noted("begun", nth).await;
        loading.abort();
        assert!(loading.await.unwrap_err().is_cancelled());
    }
}

/// Its threads, of which each lane has one.
fn threads(supervisor: &Supervisor) -> usize {
    let pid = worker(supervisor, "lua").unwrap().pid.unwrap();
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn l5_a_load_that_is_given_up_leaves_nothing() {
    run(async {
        let supervisor = start_with(config());
        let slow = Slow::new();
        let other = load(&supervisor, lua("other")).await;
        let mut before = None;
        for n in 1..=3 {
            slow.load_in_vain(&supervisor, n).await;
            assert!(supervisor.contract("slow@1").is_err());
            slow.open();
            slow.noted("unloaded", n).await;
            answers(&other).await;
            let before = *before.get_or_insert_with(|| threads(&supervisor));
            wait_for("its thread to end", || (threads(&supervisor) <= before).then_some(())).await;
        }
        // While the one before is loading still.
        slow.load_in_vain(&supervisor, 4).await;
        let (loading, path) = (supervisor.clone(), slow.bundle.path());
        let loading = tokio::spawn(async move { loading.load(path).await });
        slow.noted("begun", 5).await;
        slow.open();
        loading.await.unwrap().unwrap();
        slow.noted("unloaded", 4).await;
        answers(&supervisor.contract("slow@1").unwrap()).await;
        assert_eq!(worker(&supervisor, "lua").unwrap().incarnation, 1);
        supervisor.shutdown().await;
    });
}

/// It is the bundle's doing, also where nobody waits.
#[test]
fn s6_a_load_that_is_given_up_has_its_limit() {
    run(async {
        let mut config = config();
        config.load_timeout = Duration::from_secs(2);
        let supervisor = start_with(config);
        let slow = Slow::new();
        let other = load(&supervisor, lua("other")).await;
        slow.load_in_vain(&supervisor, 1).await;
        let report = report(&supervisor, "lua", 1).await;
        let reason = report.reason.clone().unwrap_or_default();
        assert!(reason.contains("'load' of 'slow' did not end"), "{report:?}");
        let ran: Vec<_> = report.running.iter().map(|r| (&*r.bundle, r.activity)).collect();
        assert_eq!(ran, [("slow", Activity::Load)]);
        answers(&other).await;
        supervisor.shutdown().await;
    });
}

/// It was sent before the worker's hello, and what is wanted has changed meanwhile.
#[test]
fn l5_what_was_unloaded_before_the_hello_is_unloaded_after_it() {
    run(async {
        let gated = Gated::start();
        let slow = Slow::new();
        gated.supervisor.load(slow.bundle.path()).await.unwrap();
        let other = load(&gated.supervisor, lua("other")).await;
        gated.crashes().await;
        gated.supervisor.unload("slow").await.unwrap();
        slow.close();
        gated.open();
        slow.noted("begun", 2).await;
        answers(&other).await;
        slow.open();
        slow.noted("unloaded", 1).await;
        gated.ends_well().await;
    });
}
