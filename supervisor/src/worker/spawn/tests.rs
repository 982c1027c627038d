use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::*;

const DESCRIPTORS: u64 = 77;
const MEMORY: u64 = 256 << 20;

/// A program that only waits; it is killed and reaped when this is dropped.
struct Child(Spawned);

impl Child {
    fn start() -> Self {
        let request = SpawnRequest {
            // It takes no arguments and reads nothing, and stays: nobody reads
            // what it writes.
            program: PathBuf::from("/usr/bin/yes"),
            env: BTreeMap::new(),
            dir: std::env::temp_dir(),
            limits: Limits { memory: Some(MEMORY), descriptors: DESCRIPTORS },
        };
        Self(spawn(request).unwrap())
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.pid)).unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        signal(&self.0.pidfd, Signal::SIGKILL);
        crate::worker::reap::reap_soon(&self.0.pidfd);
    }
}

#[test]
fn p1_a_worker_gains_no_privileges_and_has_a_session_of_its_own() {
    let child = Child::start();
    let status = child.read("status");
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.0.pid).unwrap());
    assert_eq!(nix::unistd::getsid(Some(pid)), Ok(pid));
}

#[test]
fn p1_a_workers_limits_are_those_of_the_configuration_and_it_leaves_no_core() {
    let child = Child::start();
    let limits = child.read("limits");
    let limit = |name: &str| -> Vec<&str> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().take(2).collect()
    };
    // The soft and the hard ones: no worker can raise them again.
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max open files"), [DESCRIPTORS.to_string(), DESCRIPTORS.to_string()]);
    assert_eq!(limit("Max data size"), [MEMORY.to_string(), MEMORY.to_string()]);
}

#[test]
fn p1_a_worker_has_no_descriptor_of_its_host_but_the_three() {
    // A descriptor that outlives an exec, as a careless host may have it.
    // SAFETY: takes integers only, and standard error is open.
    let leaky = unsafe { libc::fcntl(2, libc::F_DUPFD, 50) };
    assert!(leaky >= 50, "{}", io::Error::last_os_error());
    // SAFETY: it was opened above, and nobody else knows it.
    let leaky = unsafe { OwnedFd::from_raw_fd(leaky) };

    let child = Child::start();
    let open = || -> BTreeSet<u32> {
        let entries = fs::read_dir(format!("/proc/{}/fd", child.0.pid)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    // The dynamic linker has files open for a moment; what is leaked stays.
    let deadline = Instant::now() + Duration::from_secs(30);
    while open() != BTreeSet::from([0, 1, 2]) {
        assert!(Instant::now() < deadline, "open in a worker: {:?}", open());
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(leaky);
}
