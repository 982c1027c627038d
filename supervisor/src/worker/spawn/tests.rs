use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::*;

const DESCRIPTORS: u64 = 77;
const MEMORY: u64 = 256 << 20;
/// Nobody starts any here; all of the user's count.
const PROCESSES: u64 = 54_321;

/// A program that only waits; it is killed and reaped when this is dropped.
struct Child(Spawned);

impl Child {
    fn start() -> Self {
        Self::with(Limits {
            memory: Some(MEMORY),
            descriptors: DESCRIPTORS,
            processes: Some(PROCESSES),
        })
    }

    fn with(limits: Limits) -> Self {
        Self::with_descriptor(limits, None)
    }

    fn with_descriptor(limits: Limits, descriptor: Option<OwnedFd>) -> Self {
        let request = SpawnRequest {
            // It takes no arguments and reads nothing, and stays: nobody reads
            // what it writes.
            program: PathBuf::from("/usr/bin/yes"),
            env: BTreeMap::new(),
            dir: std::env::temp_dir(),
            stdio: Stdio::new().unwrap(),
            descriptor,
            limits,
        };
        Self(spawn(request).unwrap())
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.pid)).unwrap()
    }

    /// What it was started with, which shows a moment after its start: the kernel lets
    /// its parent go on when the old memory has gone, and not when the new is filled.
    fn read_filled(&self, file: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = self.read(file);
            if !text.is_empty() {
                return text;
            }
            assert!(Instant::now() < deadline, "{file} stays empty");
            std::thread::yield_now();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        end(&self.0.pidfd);
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
    assert_eq!(limit("Max processes"), [PROCESSES.to_string(), PROCESSES.to_string()]);
}

#[test]
fn p1_a_host_that_is_limited_more_than_that_starts_workers_all_the_same() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Still more than any other test opens: none can raise it again.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let own = hard.min(900);
    setrlimit(Resource::RLIMIT_NOFILE, own, own).unwrap();
    let limits = Limits { memory: None, descriptors: 1 << 40, processes: None };
    let child = Child::with(limits);
    let limits = child.read("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    // Half of it: the other half is the host's for descriptors on their way.
    assert!(line.contains(&format!(" {} ", own - own / 2)), "{line}");
}

/// Descriptors that are on their way count for all of a user's processes together, and each
/// compares them with its own limit.
#[test]
fn p1_workers_may_not_send_descriptors_until_the_host_can_send_none() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let soft = hard.min(2000);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let child = Child::with(Limits { memory: None, descriptors: 2000, processes: None });
    let limits = child.read("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(line.contains(&format!(" {} ", soft - 512)), "{line}");
}

/// And the one that it is given, if it is.
#[test]
fn p1_a_worker_has_no_descriptor_of_its_host_but_the_three() {
    // A descriptor that outlives an exec, as a careless host may have it.
    // SAFETY: takes integers only, and standard error is open.
    let leaky = unsafe { libc::fcntl(2, libc::F_DUPFD, 50) };
    assert!(leaky >= 50, "{}", io::Error::last_os_error());
    // SAFETY: it was opened above, and nobody else knows it.
    let leaky = unsafe { OwnedFd::from_raw_fd(leaky) };

    let given = tempfile::tempfile().unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&given.metadata().unwrap());
    for (given, expected) in [(None, 0..=2), (Some(given.into()), 0..=3)] {
        let limits = Limits { memory: None, descriptors: DESCRIPTORS, processes: None };
        let child = Child::with_descriptor(limits, given);
        let open = || -> BTreeSet<i32> {
            let entries = fs::read_dir(format!("/proc/{}/fd", child.0.pid)).unwrap();
            let number = |entry: io::Result<fs::DirEntry>| {
                entry.unwrap().file_name().to_str().unwrap().parse().unwrap()
            };
            entries.map(number).collect()
        };
        // The dynamic linker has files open for a moment; what is leaked stays.
        let deadline = Instant::now() + Duration::from_secs(30);
        while open() != expected.clone().collect() {
            assert!(Instant::now() < deadline, "open in a worker: {:?}", open());
            std::thread::sleep(Duration::from_millis(2));
        }
        if expected.contains(&FIRST_DESCRIPTOR) {
            let file = fs::metadata(format!("/proc/{}/fd/{FIRST_DESCRIPTOR}", child.0.pid));
            assert_eq!(std::os::unix::fs::MetadataExt::ino(&file.unwrap()), inode);
        }
    }
    drop(leaky);
}

#[test]
fn p1_signals_are_as_a_fresh_process_has_them() {
    // Rust programs ignore SIGPIPE; this one blocks another signal as well.
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(Signal::SIGUSR1);
    set.thread_block().unwrap();
    let child = Child::start();
    let blocked = nix::sys::signal::SigSet::thread_get_mask().unwrap();
    assert!(blocked.contains(Signal::SIGUSR1) && !blocked.contains(Signal::SIGUSR2));
    set.thread_unblock().unwrap();
    let status = child.read("status");
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let set = u64::from_str_radix(line.unwrap().trim_start_matches(":\t"), 16).unwrap();
        // Signals 32 and 33 are the C library's own, which lets nobody change them;
        // whoever has started this program may have left them ignored.
        assert_eq!(set & !(0b11 << 31), 0, "{status}");
    }
}

#[test]
fn spawn_says_why_a_program_cannot_be_started_and_leaves_nothing() {
    for (program, dir, error) in [
        ("/nonexistent/program", "/", libc::ENOENT),
        ("/etc/passwd", "/", libc::EACCES),
        ("/usr/bin/yes", "/nonexistent/folder", libc::ENOENT),
    ] {
        let request = SpawnRequest {
            program: program.into(),
            env: BTreeMap::new(),
            dir: dir.into(),
            stdio: Stdio::new().unwrap(),
            descriptor: None,
            limits: Limits { memory: None, descriptors: DESCRIPTORS, processes: None },
        };
        let problem = spawn(request).unwrap_err();
        assert_eq!(problem.raw_os_error(), Some(error), "{program}: {problem}");
    }
    // This thread has no child left, dead or alive.
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let any = waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WNOTHREAD));
    assert_eq!(any, Err(nix::errno::Errno::ECHILD));
}

#[test]
fn spawn_gives_a_program_its_environment_and_its_folder() {
    let request = SpawnRequest {
        program: "/usr/bin/yes".into(),
        env: BTreeMap::from([("A".into(), "1=2".into()), ("B".into(), "".into())]),
        dir: "/usr/bin".into(),
        stdio: Stdio::new().unwrap(),
        descriptor: None,
        limits: Limits { memory: None, descriptors: DESCRIPTORS, processes: None },
    };
    let child = Child(spawn(request).unwrap());
    assert_eq!(child.read_filled("environ"), "A=1=2\0B=\0");
    assert_eq!(child.read_filled("cmdline"), "/usr/bin/yes\0");
    let dir = fs::read_link(format!("/proc/{}/cwd", child.0.pid)).unwrap();
    assert_eq!(dir, std::path::Path::new("/usr/bin").canonicalize().unwrap());
}

#[test]
fn spawn_ends_what_nobody_waits_for() {
    let spawner = Spawner::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (job, spawning) = Job::new(SpawnRequest {
        program: "/usr/bin/yes".into(),
        env: BTreeMap::new(),
        dir: dir.path().to_owned(),
        stdio: Stdio::new().unwrap(),
        descriptor: None,
        limits: Limits { memory: None, descriptors: DESCRIPTORS, processes: None },
    });
    spawner.carry_out(job);
    let is_its = |entry: fs::DirEntry| {
        fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir.path())
    };
    let runs = || fs::read_dir("/proc").unwrap().any(|entry| entry.is_ok_and(is_its));
    let deadline = Instant::now() + Duration::from_secs(60);
    // Whether its answer has come meanwhile or not.
    while !runs() {
        assert!(Instant::now() < deadline, "it does not start");
    }
    drop(spawning);
    while runs() {
        assert!(Instant::now() < deadline, "it goes on");
    }
}
