//! Which system calls a process in the sandbox gives up. It is a list of what is
//! refused: VMs and libraries use hundreds of others, and other ones in each version.
//!
//! Refused is what Landlock does not see: commands to other processes, to the kernel and
//! to sockets, and what changes a file that may only be read. The call fails with
//! `EPERM`; a newer variant, whose arguments a filter cannot see, with `ENOSYS`, as on a
//! kernel that does not have it, so that the C library takes the older one. Attributes of
//! files fail with `ENOTSUP`, as on a file system that has none.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::SandboxError;

/// Refused altogether.
const REFUSED: &[c_long] = &[
    // No other program: nothing of the system's is executed in a bundle's name.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes, beside what Landlock holds back.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Rights and times of files: a file that may be read could be made unreadable.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
    // Files by handle, which have no path; and other roots and namespaces.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_fanotify_init,
    // Memory, messages and keys that processes of one user share by name.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

// Newer than what the C library's crate knows of every processor (Linux 6.6 to 6.17); their
// numbers are the same everywhere.
const SYS_FCHMODAT2: c_long = 452;
const SYS_SETXATTRAT: c_long = 463;
const SYS_GETXATTRAT: c_long = 464;
const SYS_LISTXATTRAT: c_long = 465;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_OPEN_TREE_ATTR: c_long = 467;
const SYS_FILE_SETATTR: c_long = 469;

/// Those that only this processor's kernels have.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[c_long] = &[libc::SYS_kexec_file_load];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const REFUSED_HERE: &[c_long] = &[];

/// As on a kernel without them: what they are told lies in memory, where no filter sees
/// it.
const UNKNOWN: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Extended attributes by a path, which Landlock does not look at: programs put down in them
/// where a file is from. Those of an open file are told, as it may be read.
const UNSUPPORTED: &[c_long] = &[
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    SYS_GETXATTRAT,
    SYS_LISTXATTRAT,
];

/// Of a process without network.
const SOCKETS: &[c_long] = &[libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// Refused where an argument is, or is not, what is said.
type Condition = (u8, SeccompCmpOp, u64);

/// Flags of clone(2): namespaces, and a process that would be the host's child, which nobody
/// waits for.
const CLONES: libc::c_int = libc::CLONE_PARENT
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
/// Commands to files (ioctl(2)) that need no right to write them: attributes, version (and
/// that of ext4), project, encryption, and integrity, which would make the file read-only
/// for good (`linux/fs.h`, `fs/ext4/ext4.h`, `linux/fscrypt.h`, `linux/fsverity.h`).
const FILE_COMMANDS: [u64; 6] =
    [0x4008_6602, 0x4008_7602, 0x4008_6604, 0x401c_5820, 0x800c_6613, 0x4080_6685];
/// One process or thread (`linux/ioprio.h`), and not all of a user's.
const IOPRIO_WHO_PROCESS: u64 = 1;
/// Of a socket's type the part that is no flag.
const TYPE: u64 = 0xf;

#[allow(clippy::cast_sign_loss, reason = "constants of the C library, none of them negative")]
fn conditional(network: bool) -> Vec<(c_long, Vec<Condition>)> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let unix = |number: libc::c_int| number as u64;
    let itself = |call| (call, vec![(0, Ne, 0)]);
    let mut rules = vec![
        // Another process's limits and times on a CPU; a thread's own have the number 0.
        itself(libc::SYS_prlimit64),
        itself(libc::SYS_sched_setaffinity),
        itself(libc::SYS_sched_setattr),
        itself(libc::SYS_sched_setparam),
        itself(libc::SYS_sched_setscheduler),
        (libc::SYS_setpriority, vec![(0, Ne, unix(libc::PRIO_PROCESS as libc::c_int))]),
        (libc::SYS_setpriority, vec![(1, Ne, 0)]),
        (libc::SYS_ioprio_set, vec![(0, Ne, IOPRIO_WHO_PROCESS)]),
        (libc::SYS_ioprio_set, vec![(1, Ne, 0)]),
        // It ends with its host.
        (libc::SYS_prctl, vec![(0, Eq, unix(libc::PR_SET_PDEATHSIG))]),
        // What it is can be asked for.
        (libc::SYS_personality, vec![(0, Ne, 0xffff_ffff)]),
        // It would reach any socket of the user's that takes datagrams, by its path; a raw
        // one of this family is the same. Other families may have the like.
        (libc::SYS_socketpair, vec![(0, Ne, unix(libc::AF_UNIX))]),
        (libc::SYS_socketpair, vec![(1, MaskedEq(TYPE), unix(libc::SOCK_DGRAM))]),
        (libc::SYS_socketpair, vec![(1, MaskedEq(TYPE), unix(libc::SOCK_RAW))]),
        // Types into a terminal (ioctl_tty(2)).
        (libc::SYS_ioctl, vec![(1, Eq, libc::TIOCSTI)]),
        (libc::SYS_ioctl, vec![(1, Eq, libc::TIOCLINUX)]),
        // Who opens the file waits for whoever has a lease of it (fcntl(2)).
        (libc::SYS_fcntl, vec![(1, Eq, unix(libc::F_SETLEASE))]),
        (libc::SYS_fcntl, vec![(1, Eq, unix(libc::F_NOTIFY))]),
    ];
    rules.extend(FILE_COMMANDS.map(|command| (libc::SYS_ioctl, vec![(1, Eq, command)])));
    for bit in (0..31).map(|bit| 1 << bit).filter(|bit| CLONES & bit != 0) {
        rules.push((libc::SYS_clone, vec![(0, MaskedEq(unix(bit)), unix(bit))]));
    }
    if network {
        // No sockets of this machine's own, which the user's other programs listen on:
        // whoever reaches them acts as the user. Routes are how addresses are looked up.
        let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        rules.push((libc::SYS_socket, families.map(|family| (0, Ne, unix(family))).to_vec()));
        let netlink = (0, Eq, unix(libc::AF_NETLINK));
        rules.push((libc::SYS_socket, vec![netlink, (2, Ne, unix(libc::NETLINK_ROUTE))]));
        for family in [libc::AF_INET, libc::AF_INET6] {
            let raw = (1, MaskedEq(TYPE), unix(libc::SOCK_RAW));
            rules.push((libc::SYS_socket, vec![(0, Eq, unix(family)), raw]));
        }
    }
    rules
}

/// Installs the filters for all threads of this process, and for what it starts.
pub(super) fn install(network: bool) -> Result<(), SandboxError> {
    for program in programs(network)? {
        apply_filter_all_threads(&program).map_err(wrong)?;
    }
    Ok(())
}

fn wrong(error: impl std::fmt::Display) -> SandboxError {
    SandboxError::Filter(error.to_string())
}

pub(super) fn programs(network: bool) -> Result<[BpfProgram; 3], SandboxError> {
    let mut refused = Rules::default();
    let sockets = SOCKETS.iter().filter(|_| !network);
    for call in REFUSED.iter().chain(REFUSED_HERE).chain(sockets) {
        refused.always(*call);
    }
    for (call, conditions) in conditional(network) {
        refused.if_all(call, conditions)?;
    }
    refused.0.extend(foreign().map(|number| (number, Vec::new())));
    let all = |calls: &[c_long]| {
        let mut rules = Rules::default();
        calls.iter().for_each(|call| rules.always(*call));
        rules
    };
    let [unknown, unsupported] = [UNKNOWN, UNSUPPORTED].map(all);
    Ok([
        refused.program(libc::EPERM)?,
        unknown.program(libc::ENOSYS)?,
        unsupported.program(libc::ENOTSUP)?,
    ])
}

#[derive(Default)]
struct Rules(BTreeMap<i64, Vec<SeccompRule>>);

impl Rules {
    /// Without a condition.
    fn always(&mut self, call: c_long) {
        for number in numbers(call) {
            self.0.insert(number, Vec::new());
        }
    }

    /// Where all of these hold; several for one call are alternatives.
    fn if_all(&mut self, call: c_long, conditions: Vec<Condition>) -> Result<(), SandboxError> {
        let conditions = conditions.into_iter().map(|(argument, operation, value)| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)
        });
        let conditions = conditions.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let rule = SeccompRule::new(conditions).map_err(wrong)?;
        for number in numbers(call) {
            self.0.entry(number).or_default().push(rule.clone());
        }
        Ok(())
    }

    fn program(self, errno: libc::c_int) -> Result<BpfProgram, SandboxError> {
        let refuse = SeccompAction::Errno(errno.unsigned_abs());
        let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(wrong)?;
        let filter = SeccompFilter::new(self.0, SeccompAction::Allow, refuse, arch);
        filter.and_then(TryInto::try_into).map_err(wrong)
    }
}

/// A call's numbers: programs of the x32 kind have others in the same process, where the
/// kernel knows them (syscall(2)).
#[cfg(target_arch = "x86_64")]
fn numbers(call: c_long) -> impl Iterator<Item = i64> {
    [call, call | X32].into_iter()
}

/// What marks a call's number as one of that kind.
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

/// Those that only x32 has.
#[cfg(target_arch = "x86_64")]
fn foreign() -> impl Iterator<Item = i64> {
    (512..=547).map(|number| number | X32)
}

#[cfg(not(target_arch = "x86_64"))]
fn numbers(call: c_long) -> impl Iterator<Item = i64> {
    std::iter::once(call)
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign() -> impl Iterator<Item = i64> {
    std::iter::empty()
}
