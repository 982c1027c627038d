//! What stays on the heap, to the byte: rounds of loading and unloading must
//! leave nothing (rule L9). Resident memory shows leaks of kilobytes; this shows
//! a name of twenty letters.

/// How many bytes of the process' heap are in use, C's and Rust's alike. Not
/// counted is what is mapped without `malloc`: stacks, libraries, the heap of a
/// garbage collector.
fn bytes_in_use() -> usize {
    // SAFETY: it looks through all arenas under their locks, and has no
    // precondition.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// How many bytes stay in use with each round. As many rounds as are counted go
/// before, to fill what is kept for good. Threads' caches of free blocks come
/// and go, and count as in use: so the least after any of a number of rounds is
/// compared with the least after any of as many later.
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
