//! The strict sandbox (`DESIGN.md`, rule P2): what a worker's process may reach, which
//! it gives up by itself before it runs anything of a bundle's.
//!
//! Files are Landlock's part (landlock(7)), system calls seccomp's (seccomp(2)); neither
//! can be taken back. Landlock holds for the thread that asks for it and those that it
//! starts, so a worker does it first of all ([`enter`]). It still has to connect to its
//! supervisor: the filter comes after that, for all threads at once.

mod files;
mod filter;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{CodecError, decode, encode};

/// The environment variable with a worker's [`Limits`], in hexadecimal digits; a worker
/// without it is not in a sandbox.
pub const ENV_SANDBOX: &str = "MENAGERIE_SANDBOX";

/// The feature of a worker that is in the sandbox which it was told to be in. What the
/// kernel lacks for it follows as further features, each after [`LACKS`].
pub const FEATURE_SANDBOX: &str = "sandbox";

/// See [`FEATURE_SANDBOX`].
pub const LACKS: &str = "sandbox lacks: ";

/// What one worker's process may reach, beside what its runtime and the system's
/// libraries need, and its scratch folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Files, and folders with everything below them, that may be read.
    pub read: Vec<PathBuf>,
    /// Those that may be changed as well.
    pub write: Vec<PathBuf>,
    /// Whether it may use the network.
    pub network: bool,
}

impl Limits {
    /// As text for [`ENV_SANDBOX`].
    ///
    /// # Errors
    ///
    /// A path is no UTF-8.
    pub fn to_text(&self) -> Result<String, CodecError> {
        let bytes = encode(self)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// What [`to_text`](Self::to_text) has written.
    fn from_text(text: &str) -> Option<Self> {
        let digits = text.as_bytes().chunks(2);
        let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        decode(&bytes.collect::<Option<Vec<u8>>>()?).ok()
    }
}

/// What this machine's kernel has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Landlock's version, 0 for none (landlock(7), "Landlock ABI version").
    pub landlock: u32,
    /// Whether it has seccomp filters.
    pub seccomp: bool,
}

/// What the versions of Landlock have added that the sandbox uses, with the version of
/// Linux that brought it.
const ADDED: [(u32, &str); 3] = [
    (3, "files that may be read only can be truncated (Linux 6.2)"),
    (5, "commands to devices that may be opened are not held back (Linux 6.10)"),
    (6, "signals to the user's other processes are not held back (Linux 6.12)"),
];

impl Kernel {
    /// This one's.
    #[must_use]
    pub fn current() -> Self {
        const VERSION: u32 = 1;
        let none = std::ptr::null::<libc::c_void>();
        // SAFETY: with the flag LANDLOCK_CREATE_RULESET_VERSION (1) the call takes no
        // attributes, and returns a number (landlock_create_ruleset(2)).
        let landlock =
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
        let action = libc::SECCOMP_RET_ERRNO;
        let operation = libc::SECCOMP_GET_ACTION_AVAIL;
        // SAFETY: the action is alive; the call only reads it.
        let seccomp =
            unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) } == 0;
        Self { landlock: u32::try_from(landlock).unwrap_or(0), seccomp }
    }

    /// Whether there can be a sandbox at all; why not.
    ///
    /// # Errors
    ///
    /// There is no Landlock, or there are no filters.
    pub fn check(self) -> Result<(), SandboxError> {
        if self.landlock == 0 {
            return Err(SandboxError::NoLandlock);
        }
        if self.seccomp { Ok(()) } else { Err(SandboxError::NoSeccomp) }
    }

    /// What the sandbox cannot hold back here, and would with a later kernel.
    #[must_use]
    pub fn lacks(self) -> Vec<&'static str> {
        let lacking = ADDED.into_iter().filter(|(version, _)| *version > self.landlock);
        lacking.map(|(_, what)| what).collect()
    }
}

/// Why a process is not in the sandbox that it should be in.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The kernel has no Landlock.
    #[error(
        "the strict sandbox needs Landlock: a kernel of version 5.13 or later, started with \
         lsm=landlock among its modules"
    )]
    NoLandlock,
    /// The kernel has no seccomp filters.
    #[error("the strict sandbox needs a kernel with seccomp filters (CONFIG_SECCOMP_FILTER)")]
    NoSeccomp,
    /// The limits are not to be read.
    #[error("{ENV_SANDBOX} is not what a supervisor writes")]
    Garbled,
    /// Threads would stay outside.
    #[error("the process has {0} threads, and those before the sandbox are not in it")]
    Threads(usize),
    /// The worker's program has not entered it.
    #[error("this worker's program does not enter the sandbox that it was started for")]
    NotEntered,
    /// Landlock's own words.
    #[error("the sandbox cannot be made: {0}")]
    Landlock(#[from] RulesetError),
    /// Landlock is there, and does nothing.
    #[error("the sandbox does not hold: the kernel calls it not enforced")]
    NotEnforced,
    /// The filter's own words.
    #[error("the sandbox's filter cannot be made: {0}")]
    Filter(String),
    /// The system's own words.
    #[error("the sandbox cannot be made: {0}")]
    Io(#[from] std::io::Error),
}

/// How it went for this process; unset where nobody has asked for a sandbox.
static ENTERED: OnceLock<Result<Limits, SandboxError>> = OnceLock::new();

/// Enters the sandbox that the supervisor asks for, if it does. A worker's `main` calls
/// it when only its main thread runs, and before it runs anything of a bundle's;
/// [`serve`](crate::serve::serve) says what went wrong. `runtime_files` are the files and
/// folders that its runtime reads, beside the system's libraries.
///
/// Afterwards no program can be executed, and no file be opened but those.
pub fn enter(runtime_files: impl FnOnce() -> Vec<PathBuf>) {
    if let Some(text) = std::env::var_os(ENV_SANDBOX) {
        let limits = text.to_str().and_then(Limits::from_text).ok_or(SandboxError::Garbled);
        let entered = limits.and_then(|limits| {
            hold_files(&limits, &runtime_files())?;
            Ok(limits)
        });
        // Once is enough, and a second time changes nothing.
        let _ = ENTERED.set(entered);
    }
}

/// The limits of the sandbox that this process has entered; `None` if it should be in none.
pub(crate) fn entered() -> Result<Option<&'static Limits>, &'static SandboxError> {
    if std::env::var_os(ENV_SANDBOX).is_none() {
        return Ok(None);
    }
    ENTERED.get_or_init(|| Err(SandboxError::NotEntered)).as_ref().map(Some)
}

/// The second part, when the process is connected to its supervisor: which system calls
/// it gives up. What its hello says of the sandbox.
pub(crate) fn seal(limits: &Limits) -> Result<Vec<String>, SandboxError> {
    filter::install(limits.network)?;
    let lacks = Kernel::current().lacks().into_iter().map(|what| format!("{LACKS}{what}"));
    Ok(std::iter::once(FEATURE_SANDBOX.to_owned()).chain(lacks).collect())
}

/// The rights that the sandbox rules over: those of the version that it was tested with.
const ABI_USED: ABI = ABI::V6;

fn hold_files(limits: &Limits, runtime_files: &[PathBuf]) -> Result<(), SandboxError> {
    Kernel::current().check()?;
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(SandboxError::Threads(threads));
    }
    let all = AccessFs::from_all(ABI_USED);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Nothing is ever executed, and no devices or sockets are made.
    let never = AccessFs::Execute
        | AccessFs::IoctlDev
        | AccessFs::MakeBlock
        | AccessFs::MakeChar
        | AccessFs::MakeSock;
    let write = all & !never;
    let mut handled = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(ABI_USED))?;
    if !limits.network {
        handled = handled.handle_access(AccessNet::from_all(ABI_USED))?;
    }
    let scratch = std::env::var_os(crate::message::ENV_SCRATCH).map(PathBuf::from);
    // What is not there cannot be reached.
    let status = handled
        .create()?
        .add_rules(path_beneath_rules(files::of_system(limits.network), read))?
        .add_rules(path_beneath_rules(runtime_files, read))?
        .add_rules(exact(&limits.read, read))?
        .add_rules(path_beneath_rules(files::DEVICES, read | AccessFs::WriteFile))?
        .add_rules(exact(&limits.write, write))?
        .add_rules(path_beneath_rules(&scratch, write))?
        .restrict_self()?;
    drop_capabilities()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err(SandboxError::NotEnforced),
    }
}

/// Gives up every capability, where the user is root or has some: of those that look at
/// other processes Landlock does not know all (capabilities(7), `CAP_PERFMON`). None comes
/// back, as no program is executed.
fn drop_capabilities() -> std::io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    /// `_LINUX_CAPABILITY_VERSION_3` (capget(2)): each set has 64 bits, in two halves.
    const VERSION: u32 = 0x2008_0522;
    let header = Header { version: VERSION, pid: 0 };
    // Effective, permitted and inheritable, of the low half and of the high one.
    let none = [[0_u32; 3]; 2];
    // SAFETY: the header is of the version that takes so much data; both are alive.
    let outcome = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// As [`path_beneath_rules`], for paths that were looked at before: one that leads elsewhere
/// by now, by a link that somebody has put there, leads nowhere.
fn exact<'p>(
    paths: impl IntoIterator<Item = &'p PathBuf>,
    access: BitFlags<AccessFs>,
) -> impl Iterator<Item = Result<PathBeneath<OwnedFd>, RulesetError>> {
    let opened = paths.into_iter().filter_map(|path| open_without_links(path).ok());
    opened.map(move |(file, is_folder)| {
        let of_file = AccessFs::from_file(ABI_USED);
        Ok(PathBeneath::new(file, if is_folder { access } else { access & of_file }))
    })
}

fn open_without_links(path: &Path) -> std::io::Result<(OwnedFd, bool)> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = File::from(openat2(AT_FDCWD, path, how)?);
    let is_folder = file.metadata()?.is_dir();
    Ok((file.into(), is_folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p2_limits_are_text_and_garbled_text_is_refused() {
        let limits = Limits {
            read: vec!["/srv/tiles".into(), "/ä\nb".into()],
            write: Vec::new(),
            network: true,
        };
        let text = limits.to_text().unwrap();
        assert_eq!(Limits::from_text(&text), Some(limits));
        for garbled in ["", "0", "zz", "äö", &text[2..], &format!("{text}00")] {
            assert_eq!(Limits::from_text(garbled), None, "{garbled}");
        }
        assert!(Limits::default().to_text().is_ok());
    }

    #[test]
    fn p2_what_an_older_kernel_lacks_is_said() {
        let lacks = |landlock| Kernel { landlock, seccomp: true }.lacks().len();
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(lacks), [3, 3, 2, 2, 1, 0, 0]);
        let without = |landlock, seccomp| Kernel { landlock, seccomp }.check().unwrap_err();
        assert!(matches!(without(0, true), SandboxError::NoLandlock));
        assert!(matches!(without(1, false), SandboxError::NoSeccomp));
        assert!(Kernel { landlock: 1, seccomp: true }.check().is_ok());
    }

    /// They are compiled for this machine's processor.
    #[test]
    fn p2_the_filters_are_small_enough_for_the_kernel() {
        for network in [false, true] {
            for program in filter::programs(network).unwrap() {
                // BPF_MAXINSNS (seccomp(2)).
                assert!((10..4096).contains(&program.len()), "{}", program.len());
            }
        }
    }
}
