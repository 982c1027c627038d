//! `menagerie run`, and what is said to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(super) const MENAGERIE: &str = env!("CARGO_BIN_EXE_menagerie");

pub(super) fn bundles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bundles")
}

/// `menagerie run`, ended with the test.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) dir: tempfile::TempDir,
}

impl Running {
    pub(super) fn start() -> Self {
        let both = [bundles().join("greeter-lua"), bundles().join("probe-lua")];
        Self::with(&[], &both, "2 of 2 bundles loaded")
    }

    /// With further arguments and these bundles; until it says that it is
    /// ready, and `expected`.
    pub(super) fn with(args: &[&str], bundles: &[PathBuf], expected: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(MENAGERIE);
        command
            .args(["run", "--log", "warn"])
            .args(args)
            .args(bundles.iter().flat_map(|dir| [Path::new("--bundles"), dir]))
            .arg("--socket")
            .arg(dir.path().join("s.sock"));
        let child = Self::ready(&mut command, expected);
        Self { child, dir }
    }

    /// Starts it, until it says that it is ready, and `expected`.
    pub(super) fn ready(command: &mut Command, expected: &str) -> Child {
        #[allow(clippy::zombie_processes, reason = "waited for by whoever has it")]
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut seen = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            seen.push_str(&line);
            seen.push('\n');
            if line.contains("ready at") {
                assert!(line.contains(expected), "{seen}");
                return child;
            }
        }
        panic!("it was never ready:\n{seen}");
    }

    pub(super) fn menagerie(&self, args: &[&str]) -> Output {
        menagerie(&self.dir.path().join("s.sock"), args)
    }

    pub(super) fn json(&self, args: &[&str]) -> Value {
        let output = self.menagerie(args);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(super) fn worker(&self) -> Value {
        self.json(&["status", "--json"])["workers"][0].clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(super) fn menagerie(socket: &Path, args: &[&str]) -> Output {
    Command::new(MENAGERIE).args(args).arg("--socket").arg(socket).output().unwrap()
}

pub(super) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Waits for its end.
pub(super) fn ended(running: &mut Running) -> std::process::ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = running.child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}
