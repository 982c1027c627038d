//! Whose stack signal handlers run on.

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
pub(crate) fn give_up() {
    if GIVEN_UP.replace(true) {
        return;
    }
    let none = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: no handler runs on this thread's signal stack now, for this code
    // is none. Rust frees the memory that it has provided when the thread ends,
    // whether it is in use or not.
    let result = unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) };
    debug_assert_eq!(result, 0, "a stack that is not in use can be disabled");
}
