//! Where Rust and CoreCLR both want to handle signals.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::Once;

use menagerie_protocol::serve::{LastWords, is_own_doing};

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

/// A thread that aborts, or ends the process by exit(3), says for which bundle it works,
/// if it does. Nobody else can tell what a timer has done, or a thread, by
/// `Environment.Exit`, `FailFast`, or an overflow of its stack.
///
/// To be called before CoreCLR starts, which restores what it has found before it aborts,
/// and when it has started.
///
/// CoreCLR's own handler of SIGABRT, which is there for crash dumps, reads through a null
/// pointer on threads that CoreCLR does not know: a worker that its supervisor aborts
/// would be said to have died of SIGSEGV. .NET's own aborts make their dump, if one is
/// wanted, before they raise the signal.
pub(crate) fn tell_ends() {
    static EXITS: Once = Once::new();
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = aborts;
    // SAFETY: a plain C structure of integers and pointers, of which all zeros is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // After an overflow the thread's own stack has no room. Then the default action.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: the action is alive; its handler does only what one may do.
    let result = unsafe { libc::sigaction(libc::SIGABRT, &raw const action, std::ptr::null_mut()) };
    debug_assert_eq!(result, 0, "SIGABRT can be handled");
    EXITS.call_once(|| {
        // SAFETY: the handler is a function of this program, which is never unmapped.
        unsafe { libc::atexit(exits) };
    });
}

extern "C" fn aborts(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives it to this handler.
    if unsafe { is_own_doing(info) } {
        exits();
    }
    // SAFETY: takes an integer only. The signal is blocked until this returns, and is
    // not handled again.
    unsafe { libc::raise(signal) };
}

/// This program itself calls no exit(3) while it has bundles.
extern "C" fn exits() {
    if let Some(words) = LastWords::of_this_thread() {
        words.say();
    }
}
