//! Which workers, runtimes and kernel features this machine has, and how to
//! get what lacks.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use menagerie_protocol::lane::wait::cpus;
use menagerie_protocol::sandbox::Kernel;
use menagerie_protocol::shm::{seal_future_writes, sealed_memfd};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::locate::{LOADERS, worker_program};

/// How long a worker may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// What this machine has and lacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One for each loader.
    pub workers: Vec<WorkerCheck>,
    /// Features of the kernel and the machine.
    pub features: Vec<FeatureCheck>,
}

/// A worker's program and runtime.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerCheck {
    /// The loader.
    pub loader: String,
    /// Where its program is.
    pub program: Option<String>,
    /// What it says of itself: its version, and its runtime's.
    pub version: Option<String>,
    /// What is wrong.
    pub problem: Option<String>,
    /// What brings what lacks.
    pub remedy: Option<String>,
}

/// A feature of the kernel or the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureCheck {
    /// The feature.
    pub feature: String,
    /// Whether it is there.
    pub present: bool,
    /// Whether nothing works without it.
    pub required: bool,
    /// What it is for.
    pub purpose: String,
    /// What brings it, if it is not there.
    pub remedy: Option<String>,
}

impl Report {
    /// Whether bundles can be run at all.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.workers.iter().any(|worker| worker.problem.is_none())
            && self.features.iter().all(|feature| feature.present || !feature.required)
    }
}

/// Looks at this machine.
///
/// ```no_run
/// let report = menagerie_supervisor::doctor::examine(&Default::default());
/// for worker in report.workers.iter().filter(|worker| worker.problem.is_some()) {
///     println!("{} lacks; {}", worker.loader, worker.remedy.as_deref().unwrap_or("?"));
/// }
/// ```
#[must_use]
pub fn examine(config: &Config) -> Report {
    Report {
        workers: LOADERS.iter().map(|loader| worker(config, loader)).collect(),
        features: features(),
    }
}

fn worker(config: &Config, loader: &str) -> WorkerCheck {
    let mut check = WorkerCheck {
        loader: loader.to_owned(),
        program: None,
        version: None,
        problem: None,
        remedy: None,
    };
    match worker_program(config, loader) {
        Err(error) => {
            check.problem = Some(error.to_string());
            check.remedy = Some(format!("cargo build --package menagerie-worker-{loader}"));
        }
        Ok(program) => {
            check.program = Some(program.display().to_string());
            match version(&program) {
                Ok(version) => {
                    // A worker whose runtime is missing still tells its version,
                    // and says that.
                    if version.contains("missing") || version.contains("not found") {
                        check.problem = Some(version.clone());
                        check.remedy = Some(remedy(loader).to_owned());
                    }
                    check.version = Some(version);
                }
                Err(problem) => {
                    check.problem = Some(problem);
                    check.remedy = Some(remedy(loader).to_owned());
                }
            }
        }
    }
    check
}

const fn remedy(loader: &str) -> &'static str {
    match loader.as_bytes() {
        b"python" => "apt-get install python3-dev, then build the worker again",
        b"dotnet" => "scripts/setup-dotnet, or install .NET 8 or later",
        _ => "build the worker again: make build",
    }
}

#[allow(clippy::disallowed_methods, reason = "asks a worker for its version; it serves nothing")]
fn version(program: &Path) -> Result<String, String> {
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                drop(child.kill());
                drop(child.wait());
                return Err(format!("{} --version does not end", program.display()));
            }
        }
    };
    let mut text = String::new();
    let mut errors = String::new();
    if let Some(mut out) = child.stdout.take() {
        drop(out.read_to_string(&mut text));
    }
    if let Some(mut out) = child.stderr.take() {
        drop(out.read_to_string(&mut errors));
    }
    if status.success() { Ok(text.trim().to_owned()) } else { Err(errors.trim().to_owned()) }
}

/// A feature that is looked for: what it is for, and what brings it.
struct Feature {
    name: &'static str,
    is_there: fn() -> bool,
    required: bool,
    purpose: &'static str,
    remedy: &'static str,
}

/// The kernel's versions are those of the system calls' man pages.
const FEATURES: [Feature; 8] = [
    Feature {
        name: "sealed memfds",
        is_there: || sealed_memfd("menagerie-doctor", 4096).is_ok(),
        required: true,
        purpose: "lanes in shared memory",
        remedy: "a kernel of version 3.17 or later, and a seccomp policy that allows memfd_create",
    },
    Feature {
        name: "F_SEAL_FUTURE_WRITE",
        is_there: || {
            let memfd = sealed_memfd("menagerie-doctor", 4096);
            memfd.is_ok_and(|fd| seal_future_writes(fd.as_fd()).is_ok())
        },
        required: false,
        purpose: "what the supervisor writes is read-only to workers",
        remedy: "a kernel of version 5.1 or later",
    },
    Feature {
        name: "pidfd",
        is_there: pidfd,
        required: true,
        purpose: "noticing a worker's death",
        remedy: "a kernel of version 5.4 or later, and a seccomp policy that allows pidfd_open",
    },
    Feature {
        name: "landlock",
        is_there: || Kernel::current().landlock > 0,
        required: false,
        purpose: "the strict sandbox: files",
        remedy: "a kernel of version 5.13 or later, started with lsm=landlock among its modules",
    },
    Feature {
        name: "landlock, version 6",
        is_there: || Kernel::current().lacks().is_empty(),
        required: false,
        purpose: "the strict sandbox: signals and all else, as a worker's status says",
        remedy: "a kernel of version 6.12 or later",
    },
    Feature {
        name: "seccomp filters",
        is_there: || Kernel::current().seccomp,
        required: false,
        purpose: "the strict sandbox: network, programs, other processes",
        remedy: "a kernel with CONFIG_SECCOMP_FILTER",
    },
    Feature {
        name: "two CPUs or more",
        is_there: || cpus().get() >= 2,
        required: false,
        purpose: "calls in under a microsecond: with one CPU lanes never spin",
        remedy: "a machine, a container or a CPU set with two CPUs",
    },
    Feature {
        name: "XDG_RUNTIME_DIR",
        is_there: || std::env::var_os("XDG_RUNTIME_DIR").is_some(),
        required: false,
        purpose: "a private place for sockets; else a folder in /tmp",
        remedy: "loginctl enable-linger, or RuntimeDirectory= in a unit file",
    },
];

impl Feature {
    fn check(&self, present: bool) -> FeatureCheck {
        FeatureCheck {
            feature: self.name.to_owned(),
            present,
            required: self.required,
            purpose: self.purpose.to_owned(),
            remedy: (!present).then(|| self.remedy.to_owned()),
        }
    }
}

fn features() -> Vec<FeatureCheck> {
    FEATURES.iter().map(|feature| feature.check((feature.is_there)())).collect()
}

fn pidfd() -> bool {
    // SAFETY: takes integers only; opens a descriptor of this very process.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0_u32) };
    let Ok(fd) = i32::try_from(fd) else { return false };
    if fd < 0 {
        return false;
    }
    // SAFETY: just opened, and used by nobody else.
    unsafe { libc::close(fd) };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doctor_names_what_lacks_and_how_to_get_it() {
        let check = worker(&Config::default(), "cobol");
        assert!(check.problem.unwrap().contains("menagerie-worker-cobol"));
        assert_eq!(check.remedy.unwrap(), "cargo build --package menagerie-worker-cobol");
    }

    #[test]
    fn doctor_says_what_brings_a_feature_that_lacks() {
        for feature in &FEATURES {
            assert_eq!(feature.check(true).remedy, None);
            assert!(feature.check(false).remedy.is_some_and(|remedy| !remedy.is_empty()));
        }
    }

    #[test]
    fn doctor_finds_what_the_tests_need() {
        let features = features();
        assert!(features.iter().all(|f| f.present || !f.required), "{features:?}");
    }
}
