//! Where Rust and CoreCLR both want to handle signals.

use std::cell::Cell;

thread_local! {
    static GIVEN_UP: Cell<bool> = const { Cell::new(false) };
}

/// Leaves this thread's signal stack to CoreCLR; to be called before a thread
/// enters it for the first time.
///
/// CoreCLR turns a SIGSEGV at a null reference into an exception, in a handler
/// that needs far more stack than Rust's threads provide for handlers. It makes
/// a stack of its own, but only where there is none.
pub(crate) fn give_up_stack() {
    if GIVEN_UP.replace(true) {
        return;
    }
    let none =
        libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: no handler runs on this thread's signal stack now, for this code
    // is none. Rust frees the memory that it has provided when the thread ends,
    // whether it is in use or not.
    let result = unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) };
    debug_assert_eq!(result, 0, "a stack that is not in use can be disabled");
}

/// Lets SIGABRT end the process as it does everywhere; to be called when
/// CoreCLR has started.
///
/// CoreCLR's own handler, which is there for crash dumps, reads through a null
/// pointer on threads that CoreCLR does not know: a worker that its supervisor
/// aborts would be said to have died of SIGSEGV. .NET's own aborts make their
/// dump, if one is wanted, before they raise the signal.
pub(crate) fn restore_abort() {
    // SAFETY: the default action is no code of ours or anybody's, so nothing
    // that a handler may not do can happen in it.
    let previous = unsafe { libc::signal(libc::SIGABRT, libc::SIG_DFL) };
    debug_assert_ne!(previous, libc::SIG_ERR, "SIGABRT can be handled");
}
