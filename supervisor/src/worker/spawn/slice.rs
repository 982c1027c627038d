//! How long a thread may run before others have their turn.

/// A thread's slices of time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slice {
    /// So short that it may interrupt whoever has longer ones, as soon as it is woken
    /// (Linux 6.12, EEVDF: `PREEMPT_SHORT`). Else, woken on the CPU where a dying
    /// process gives its memory back, or beside a runtime that has much to do just
    /// then, it would wait for them, and a restart with it.
    Short,
    /// The kernel's own choice.
    Usual,
}

/// Sets this thread's; it makes system calls only. Where it does not work it is no
/// harm. What the thread forks inherits them.
pub(crate) fn set_slice(slice: Slice) {
    // SAFETY: a plain C structure of integers; all zeros is the policy that threads have.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0);
    attributes.sched_runtime = match slice {
        // In nanoseconds: the least that the kernel takes.
        Slice::Short => 100_000,
        Slice::Usual => 0,
    };
    // The call sets the nice value too: it stays what it is.
    // SAFETY: takes integers only.
    attributes.sched_nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: points to a live structure of the size that it names.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> libc::sched_attr {
        // SAFETY: as in `set_slice`.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the structure is alive, and as large as is said.
        let got =
            unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
        assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
        attributes
    }

    #[test]
    fn slices_can_be_set_back_and_leave_the_nice_value() {
        std::thread::spawn(|| {
            // SAFETY: takes integers only; a thread may always be nicer.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 7) };
            let before = attributes();
            set_slice(Slice::Short);
            let short = attributes();
            set_slice(Slice::Usual);
            let after = attributes();
            assert_eq!(
                (short.sched_nice, after.sched_nice),
                (before.sched_nice, before.sched_nice)
            );
            assert_eq!(after.sched_runtime, before.sched_runtime);
            assert_eq!(short.sched_policy, before.sched_policy);
        })
        .join()
        .unwrap();
    }
}
