//! Whether ICU is installed, which .NET uses for cultures.

use std::path::Path;

/// The versions to look for, newest first, as .NET itself does.
const VERSIONS: std::ops::RangeInclusive<u32> = 50..=99;

/// Where it usually is. Loading it to find out takes milliseconds, and most
/// bundles never need it.
const FOLDERS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
];

/// Whether the system's linker finds an ICU. Without one .NET would end the
/// process at the first culture, unless it is told to do without.
pub(crate) fn is_installed() -> bool {
    let names = || VERSIONS.rev().map(|version| format!("libicui18n.so.{version}"));
    let in_folder = |folder: &str| names().any(|name| Path::new(folder).join(name).exists());
    FOLDERS.iter().any(|folder| in_folder(folder)) || names().any(|name| can_load(&name))
}

fn can_load(name: &str) -> bool {
    // SAFETY: ICU is data and functions; it has no initialisers or finalisers
    // that act on this process.
    unsafe { libloading::Library::new(name) }.is_ok()
}
