//! What stays on the heap, to the byte: rounds of loading and unloading must
//! leave nothing (rule L9). Resident memory shows leaks of kilobytes; this shows
//! a name of twenty letters.

use std::process::{Command, ExitStatus};

/// How many bytes of the process' heap are in use, C's and Rust's alike. Not
/// counted is what is mapped without `malloc`: stacks, libraries, the heap of a
/// garbage collector.
fn bytes_in_use() -> usize {
    // SAFETY: it looks through all arenas under their locks, and has no
    // precondition.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// glibc's caches of free blocks come and go with their threads, and count as in use
/// (`mallinfo(3)`); this is without them (the GNU C library's manual, "Memory Allocation
/// Tunables").
const NO_CACHES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");

/// Whether this process has no caches of free blocks, so that what is kept can be counted;
/// else `test`, which is the calling test's whole name, has run in one that has none.
///
/// # Panics
///
/// It has failed there.
#[must_use]
pub fn counts_exactly(test: &str) -> bool {
    let (name, value) = NO_CACHES;
    if std::env::var_os(name).is_some_and(|set| set == value) {
        return true;
    }
    #[allow(clippy::disallowed_methods, reason = "it is no worker")]
    let again = |program| {
        Command::new(program).args(["--exact", test, "--nocapture"]).env(name, value).status()
    };
    let ran = std::env::current_exe().and_then(again);
    let passed = ran.as_ref().is_ok_and(ExitStatus::success);
    assert!(passed, "{test}, in a process of its own: {ran:?}");
    false
}

/// How many bytes stay in use with each round, in a process that
/// [counts exactly](counts_exactly). As many rounds as are counted go before, to fill
/// what is kept for good; of a number of rounds the one counts that leaves least.
pub fn kept_each(rounds: u32, mut round: impl FnMut()) -> f64 {
    let window = rounds / 4 + 1;
    let mut least_after = |rounds: u32| {
        for _ in 0..rounds {
            round();
        }
        let after = |_| {
            round();
            bytes_in_use()
        };
        (0..window).map(after).min().unwrap_or_default()
    };
    let before = least_after(rounds);
    let after = least_after(rounds);
    #[allow(clippy::cast_precision_loss, reason = "memory of this machine")]
    let grown = after as f64 - before as f64;
    grown / f64::from(rounds + window)
}
