//! Whether ICU is installed, which .NET uses for cultures.

/// The versions to look for, newest first, as .NET itself does.
const VERSIONS: std::ops::RangeInclusive<u32> = 50..=99;

/// Whether the system's linker finds an ICU. Without one .NET would end the
/// process at the first culture, unless it is told to do without.
pub(crate) fn is_installed() -> bool {
    VERSIONS.rev().any(|version| {
        // SAFETY: ICU is data and functions; it has no initialisers or
        // finalisers that act on this process.
        unsafe { libloading::Library::new(format!("libicui18n.so.{version}")) }.is_ok()
    })
}
