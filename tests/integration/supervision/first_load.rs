//! What a worker loads first is on its way before its hello, and may not be wanted any
//! more when that comes.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use menagerie_supervisor::{Config, Supervisor, worker_program};

use super::{answers, load, lua};
use crate::support::{Bundle, config, run, slay, start_with, wait_for, worker};

/// A supervisor whose Lua workers wait, before they become workers, while a gate is closed.
pub(super) struct Gated {
    pub(super) supervisor: Supervisor,
    gate: PathBuf,
    _folder: tempfile::TempDir,
}

impl Gated {
    pub(super) fn start() -> Self {
        Self::start_with(config())
    }

    pub(super) fn start_with(mut config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, gate) = (folder.path().join("worker"), folder.path().join("closed"));
        let worker = worker_program(&config, "lua").unwrap();
        let wait = format!("while [ -e '{}' ]; do sleep 0.01; done", gate.display());
        let script = format!("#!/bin/sh\n{wait}\nexec '{}'\n", worker.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        config.worker_programs.insert("lua".to_owned(), program);
        Self { supervisor: start_with(config), gate, _folder: folder }
    }

    /// Kills the worker; the next one waits, and has its first load.
    pub(super) async fn crashes(&self) {
        self.close();
        self.is_killed().await;
        // Long enough to send a message.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// From now on processes that start wait.
    pub(super) fn close(&self) {
        std::fs::write(&self.gate, "").unwrap();
    }

    /// Kills the worker, and waits for the next process.
    pub(super) async fn is_killed(&self) -> u32 {
        let pid = worker(&self.supervisor, "lua").unwrap().pid.unwrap();
        slay(pid);
        let next = || {
            let next = worker(&self.supervisor, "lua")?;
            next.pid.filter(|other| next.restarts == 1 && *other != pid)
        };
        wait_for("the next process", next).await
    }

    pub(super) fn open(&self) {
        std::fs::remove_file(&self.gate).unwrap();
    }

    pub(super) async fn ends_well(&self) {
        assert_eq!(worker(&self.supervisor, "lua").unwrap().restarts, 1);
        self.supervisor.shutdown().await;
    }
}

#[test]
fn s4_what_was_unloaded_before_the_hello_is_not_loaded() {
    run(async {
        let gated = Gated::start();
        let (one, two) = (lua("one"), lua("two"));
        drop(load(&gated.supervisor, one).await);
        let two = load(&gated.supervisor, two).await;
        gated.crashes().await;
        let supervisor = gated.supervisor.clone();
        let unloaded = tokio::spawn(async move { supervisor.unload("one").await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        gated.open();
        unloaded.await.unwrap().unwrap();
        answers(&two).await;
        assert!(gated.supervisor.contract("one@1").is_err());
        let one = load(&gated.supervisor, lua("one")).await;
        answers(&one).await;
        gated.ends_well().await;
    });
}

#[test]
fn s4_what_was_reloaded_before_the_hello_is_the_new_one() {
    run(async {
        let gated = Gated::start();
        let manifest = "name = 'versions'\nversion = '1.0.0'\nloader = 'lua'\n\
                        file = 'main.lua'\nprovides = ['versions@1']\n";
        let code = |version| {
            let number = format!("number = function() return {version} end");
            format!("return {{ ['versions@1'] = {{ {number} }} }}")
        };
        let bundle = Bundle::of(&[("manifest.toml", manifest), ("main.lua", &code(1))]);
        gated.supervisor.load(bundle.path()).await.unwrap();
        let versions = gated.supervisor.contract("versions@1").unwrap();
        assert_eq!(versions.call::<_, i64>("number", ()).await, Ok(1));
        gated.crashes().await;
        bundle.write("main.lua", &code(2));
        let supervisor = gated.supervisor.clone();
        let reloaded = tokio::spawn(async move { supervisor.reload("versions").await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        gated.open();
        reloaded.await.unwrap().unwrap();
        assert_eq!(versions.call::<_, i64>("number", ()).await, Ok(2));
        gated.ends_well().await;
    });
}

/// It does not fit into the socket while nobody reads it.
#[test]
fn s4_a_large_source_is_loaded_again_after_the_hello() {
    run(async {
        let gated = Gated::start();
        let manifest = "name = 'large'\nversion = '1.0.0'\nloader = 'lua'\n\
                        file = 'main.lua'\nprovides = ['large@1']\n";
        let comment = "-".repeat(1 << 20);
        let code =
            format!("--{comment}\nreturn {{ ['large@1'] = {{ one = function() return 1 end }} }}");
        gated.supervisor.load_code(manifest, code).await.unwrap();
        let large = gated.supervisor.contract("large@1").unwrap();
        assert_eq!(large.call::<_, i64>("one", ()).await, Ok(1));
        gated.crashes().await;
        gated.open();
        assert_eq!(large.call::<_, i64>("one", ()).await, Ok(1));
        gated.ends_well().await;
    });
}
