//! What every process reads of the system, whatever its runtime.

use std::path::PathBuf;

/// The system's libraries and their data: what is installed for everybody, and no
/// user's own. Programs among them can be read, and not executed.
const SYSTEM: [&str; 33] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/share",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    // Not their neighbours with private keys.
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    // How many CPUs there are, and how much memory a group of processes may have.
    "/sys/devices/system",
];

/// The process's own state. Of other processes it is what everybody may see: what
/// asks for the right to trace one (ptrace(2)), such as its memory, its environment
/// and its descriptors, Landlock holds back.
const STATE: [&str; 2] = ["/proc", "/sys/fs/cgroup"];

/// How a name becomes an address.
const NETWORK: [&str; 8] = [
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/run/resolvconf",
    "/run/systemd/resolve",
];

/// Devices that hold nothing of anybody's.
pub(super) const DEVICES: [&str; 5] =
    ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

/// All of them; with those that the network needs, or without.
pub(super) fn of_system(network: bool) -> Vec<PathBuf> {
    let network = NETWORK.into_iter().filter(|_| network);
    let fixed = SYSTEM.into_iter().chain(STATE).chain(network).map(PathBuf::from);
    fixed.chain(libraries()).collect()
}

/// The program's own file, the libraries that it was started with, and what the operator has
/// named by the environment: where the system's loader looks for more (ld.so(8)), and whom
/// OpenSSL trusts.
fn libraries() -> Vec<PathBuf> {
    let program = std::env::current_exe().into_iter();
    let folders = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    let certificates = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os);
    let folders = folders.into_iter().chain(certificates.map(PathBuf::from));
    // An empty one means the folder that the process runs in, which is its scratch folder.
    let folders = folders.filter(|folder| folder.is_absolute());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped: std::collections::BTreeSet<PathBuf> =
        maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..]))).collect();
    program.chain(folders).chain(mapped).collect()
}
