//! The stack of a thread that dies of a signal, on standard error, where the
//! crash report has it from (S2). Native code has nobody else to tell it.
//!
//! Each line is a file and a place in it, as `addr2line -e FILE PLACE` takes
//! them. A bundle's library is a copy in memory: its own name is shown.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use menagerie_protocol::serve::{LastWords, is_own_doing};

use crate::whose;

/// What ends a program that does something impossible, or gives up.
const SIGNALS: [(c_int, &str); 5] = [
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGSEGV, "SIGSEGV"),
];
/// Callers of callers beyond these are not shown.
const MOST: u8 = 48;

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// What the signals did before; set before any handler is.
static BEFORE: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();
/// Whether a thread has told its stack: the first is the one that matters.
static TOLD: AtomicBool = AtomicBool::new(false);

/// From now on a thread that dies of a signal tells its stack first, and whose code it
/// runs if that is known. It dies of the same signal afterwards.
pub fn tell_stacks() {
    // The first call loads a library; a handler must not.
    let mut frames = [std::ptr::null_mut(); 1];
    // SAFETY: the array has room for the one frame that is asked for.
    unsafe { libc::backtrace(frames.as_mut_ptr(), 1) };
    let before = SIGNALS.map(|(signal, _)| {
        let mut action = nothing();
        // SAFETY: the new action is not given, and the old one is ours to fill in.
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        action
    });
    if BEFORE.set(before).is_err() {
        return;
    }
    let mut action = nothing();
    let handler: Handler = tell;
    action.sa_sigaction = handler as libc::sighandler_t;
    // On a stack of its own, which the standard library gives to each thread:
    // the thread's own may be what has run out.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    for (signal, _) in SIGNALS {
        // SAFETY: the action is alive; its handler does only what one may do.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
    // SAFETY: the handler is a function of this program, which is never unmapped.
    unsafe { libc::atexit(tell_exit) };
}

const fn nothing() -> libc::sigaction {
    // SAFETY: a plain C structure of integers and pointers; all zeros is `SIG_DFL`
    // with no flags and an empty mask.
    unsafe { std::mem::zeroed() }
}

/// Runs when the signal has come: no allocation, no lock of ours.
extern "C" fn tell(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    let at = SIGNALS.iter().position(|(number, _)| *number == signal);
    let name = at.and_then(|at| SIGNALS.get(at)).map_or("a signal", |(_, name)| name);
    // SAFETY: the kernel gives it to this handler.
    let own_doing = unsafe { is_own_doing(info) };
    if !TOLD.swap(true, Ordering::Relaxed) {
        // Of a lane's thread it is known; another one's stack shows it.
        let mut whose = LastWords::of_this_thread();
        if let Some(words) = whose.filter(|_| own_doing) {
            words.say();
        }
        end_soon(signal);
        let mut line = Line::new();
        line.text(name.as_bytes());
        line.text(b": the stack of the thread that got it, innermost first:");
        line.write();
        let mut frames = [std::ptr::null_mut(); MOST as usize];
        // SAFETY: the array has room for as many frames as are asked for.
        let count = unsafe { libc::backtrace(frames.as_mut_ptr(), MOST.into()) };
        let count = usize::try_from(count).unwrap_or(0);
        // The innermost is this function.
        for frame in frames.iter().take(count).skip(1) {
            if whose.is_none() && own_doing {
                whose = whose::last_words(*frame as usize);
                whose.inspect(|words| words.say());
            }
            tell_frame(*frame);
        }
    }
    let before = BEFORE.get().zip(at).and_then(|(before, at)| before.get(at)).copied();
    let before = before.unwrap_or_else(nothing);
    // SAFETY: the action is alive.
    unsafe { libc::sigaction(signal, &raw const before, std::ptr::null_mut()) };
    // SAFETY: the kernel gives its handler a structure that lives as long as it.
    let code = unsafe { (*info).si_code };
    // What the thread did itself it does again when this returns, and dies of it;
    // what was sent has to be sent again.
    if code <= 0 {
        // SAFETY: takes integers only. The signal is blocked until this returns.
        unsafe { libc::raise(signal) };
    }
}

/// What the process dies of, for [`give_up`].
static DIES_OF: AtomicI32 = AtomicI32::new(0);

/// To find out where an address is takes the dynamic loader's lock, which another
/// thread may have for as long as a constructor runs, or for ever: a second is enough.
fn end_soon(signal: c_int) {
    DIES_OF.store(signal, Ordering::Relaxed);
    let mut action = nothing();
    let handler: extern "C" fn(c_int) = give_up;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the action is alive; its handler does only what one may do.
    unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    // SAFETY: takes a number only.
    unsafe { libc::alarm(1) };
}

/// On whichever thread: if it is the one that tells its stack, it has the signal blocked.
extern "C" fn give_up(_: c_int) {
    let signal = DIES_OF.load(Ordering::Relaxed);
    // SAFETY: the default action is no code.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: all zeros is a value, the empty set.
    let mut only: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours to change.
    unsafe { libc::sigaddset(&raw mut only, signal) };
    // SAFETY: the set is alive, and the one before is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut()) };
    // SAFETY: takes an integer only.
    unsafe { libc::raise(signal) };
}

/// Runs when a thread has called exit(3): this program itself does not, while it has
/// bundles.
extern "C" fn tell_exit() {
    if let Some(words) = LastWords::of_this_thread() {
        return words.say();
    }
    let mut frames = [std::ptr::null_mut(); MOST as usize];
    // SAFETY: the array has room for as many frames as are asked for.
    let count = unsafe { libc::backtrace(frames.as_mut_ptr(), MOST.into()) };
    let count = usize::try_from(count).unwrap_or(0);
    let mut whose = frames.iter().take(count).map(|frame| whose::last_words(*frame as usize));
    if let Some(words) = whose.find_map(|words| words) {
        words.say();
    }
}

/// `  libgreeter.so +0x1a2b (name)`.
fn tell_frame(address: *mut c_void) {
    let mut line = Line::new();
    line.text(b"  ");
    let mut found = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: any address may be asked for, and the structure is ours to fill in.
    let known = unsafe { libc::dladdr(address, found.as_mut_ptr()) } != 0;
    // SAFETY: all zeros is a valid value, and the call may have filled it in.
    let found = unsafe { found.assume_init() };
    if known && !found.dli_fname.is_null() {
        // SAFETY: a C string that lives as long as the library is mapped, which it
        // is while a thread runs in it.
        let file = unsafe { CStr::from_ptr(found.dli_fname) };
        line.file(file);
        line.text(b" +0x");
        line.hex((address as usize).wrapping_sub(found.dli_fbase as usize));
        if !found.dli_sname.is_null() {
            // SAFETY: as above.
            let symbol = unsafe { CStr::from_ptr(found.dli_sname) };
            line.text(b" (");
            line.text(symbol.to_bytes());
            line.text(b")");
        }
    } else {
        line.text(b"0x");
        line.hex(address as usize);
    }
    line.write();
}

/// A line on its way, where nothing can be allocated; what is too long is cut.
struct Line {
    bytes: [u8; 200],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; 200], len: 0 }
    }

    fn text(&mut self, text: &[u8]) {
        // The last byte is the line's end.
        let room = self.bytes.len().saturating_sub(1).saturating_sub(self.len);
        for (to, from) in self.bytes.iter_mut().skip(self.len).take(room).zip(text) {
            *to = *from;
        }
        self.len += room.min(text.len());
    }

    fn hex(&mut self, number: usize) {
        let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let value = (number >> (4 * digit)) & 0xf;
            self.text(b"0123456789abcdef".get(value..=value).unwrap_or(b"?"));
        }
    }

    /// A file's own name, without its folder. The copy of a bundle's library is
    /// `/proc/self/fd/7`, a link to `/memfd:libgreeter.so (deleted)`.
    fn file(&mut self, file: &CStr) {
        let mut target = [0_u8; 128];
        // SAFETY: a C string, and a buffer of the length that is said.
        let len =
            unsafe { libc::readlink(file.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
        let linked = usize::try_from(len).ok().and_then(|len| target.get(..len));
        let copy = linked.and_then(|linked| linked.strip_prefix(b"/memfd:"));
        let path = match copy {
            Some(copy) => copy.strip_suffix(b" (deleted)").unwrap_or(copy),
            None => file.to_bytes(),
        };
        self.text(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path));
    }

    fn write(mut self) {
        if let Some(end) = self.bytes.get_mut(self.len) {
            *end = b'\n';
            self.len += 1;
        }
        // SAFETY: so many bytes were filled in. If nobody reads it any more, nobody
        // misses it.
        unsafe { libc::write(2, self.bytes.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_a_line_of_a_stack_is_cut_and_written_in_hexadecimal() {
        let mut line = Line::new();
        for number in [0, 0xf, 0x10, 0x1a2b, usize::MAX] {
            line.hex(number);
            line.text(b" ");
        }
        assert_eq!(&line.bytes[..line.len], b"0 f 10 1a2b ffffffffffffffff ");
        line.text(&[b'x'; 1000]);
        assert_eq!(line.len, 199);
        let mut line = Line::new();
        line.file(c"/usr/lib/libc.so.6");
        assert_eq!(&line.bytes[..line.len], b"libc.so.6");
    }
}
