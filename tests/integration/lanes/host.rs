//! A host in a process of its own, which a test looks at from outside: what it
//! does, and what its workers do.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use crate::support::PATIENCE;

/// Names the file that the host says in that it is ready.
const ENV_READY: &str = "MENAGERIE_HOST_READY";

/// The host, seen from the test; killed when this is dropped, and its workers with
/// it.
pub(super) struct Host {
    child: Child,
    /// What it has said when it was ready.
    pub(super) words: Vec<u64>,
    _folder: tempfile::TempDir,
}

impl Host {
    /// Starts the test of this name as a host, and waits until it is ready.
    #[allow(clippy::disallowed_methods, reason = "a host is no worker")]
    pub(super) fn start(test: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ENV_READY, &ready)
            .spawn()
            .unwrap();
        let mut host = Self { child, words: Vec::new(), _folder: folder };
        // Counted, not timed: the machine may stand still for a while.
        for _ in 0..PATIENCE.as_millis() / 5 {
            if let Ok(text) = std::fs::read_to_string(&ready) {
                host.words = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
                return host;
            }
            let ended = host.child.try_wait().unwrap();
            assert!(ended.is_none(), "the host has ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the host is not ready")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A number of the host's own, by its address there.
    pub(super) fn number_at(&self, address: u64) -> std::io::Result<u64> {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.pid()))?;
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, address)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs as the host, if this process was started as one: `prepare` says what the
/// test has to know. Never returns then.
pub(super) fn be_host(prepare: impl FnOnce() -> (Vec<u64>, Box<dyn FnOnce()>)) {
    let Some(ready) = std::env::var_os(ENV_READY) else { return };
    let ready = Path::new(&ready);
    // Whatever ends the test ends this process.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    std::thread::spawn(|| {
        std::thread::sleep(PATIENCE * 5);
        std::process::abort();
    });
    let (words, go_on) = prepare();
    let text: Vec<String> = words.iter().map(u64::to_string).collect();
    let draft = ready.with_extension("draft");
    std::fs::write(&draft, text.join(" ")).unwrap();
    std::fs::rename(draft, ready).unwrap();
    go_on();
    loop {
        std::thread::park();
    }
}
