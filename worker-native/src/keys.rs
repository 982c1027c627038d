//! Thread-specific keys that libraries forget.
//!
//! A process has 1,024 keys of `pthread_key_create(3)`. Rust's standard library
//! takes one when it first asks which thread it runs on, and never gives it
//! back; each generation of a Rust bundle has a standard library of its own. So
//! after a thousand reloads the process would abort ("out of TLS keys"), and
//! keys would stay whose destructors are no longer there. This program's own
//! `pthread_key_create` comes before the C library's in the search order of
//! the libraries that it loads; it notes the keys, and they are deleted with
//! the library that their destructors belong to.

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Destructor = unsafe extern "C" fn(*mut c_void);
type Create = unsafe extern "C" fn(*mut libc::pthread_key_t, Option<Destructor>) -> c_int;
type Delete = unsafe extern "C" fn(libc::pthread_key_t) -> c_int;

/// The keys that exist, with the addresses of their destructors.
static KEYS: Mutex<Vec<(libc::pthread_key_t, usize)>> = Mutex::new(Vec::new());

fn keys() -> MutexGuard<'static, Vec<(libc::pthread_key_t, usize)>> {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The C library's own function of a name, when it has been asked for.
///
/// To ask takes the dynamic loader's lock, and so may wait for another library's
/// constructors; they may want a key, and wait for [`KEYS`]. So nobody asks who
/// has that. Of two that ask at once neither waits for the other: the one could
/// be such a constructor.
struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn get(&self) -> *mut c_void {
        let known = self.found.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name is a C string.
        let function = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        assert!(!function.is_null(), "the C library has no {:?}", self.name);
        self.found.store(function, Ordering::Relaxed);
        function
    }
}

static CREATE: Next = Next::new(c"pthread_key_create");
static DELETE: Next = Next::new(c"pthread_key_delete");

/// The C library's `pthread_key_delete`.
fn delete() -> Delete {
    // SAFETY: the C library's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, Delete>(DELETE.get()) }
}

/// `pthread_key_create(3)`.
///
/// # Safety
///
/// As the manual page says.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_key_create(
    key: *mut libc::pthread_key_t,
    destructor: Option<Destructor>,
) -> c_int {
    // SAFETY: the C library's function of this name has this type.
    let create = unsafe { std::mem::transmute::<*mut c_void, Create>(CREATE.get()) };
    // Whoever deletes the key need not ask any more, nor wait.
    DELETE.get();
    // Held throughout, so that nobody gets this key's number again, and notes
    // it, before it is noted here.
    let mut keys = keys();
    // SAFETY: the caller keeps the manual page's promises.
    let status = unsafe { create(key, destructor) };
    if status == 0
        && let Some(destructor) = destructor
    {
        // SAFETY: the function has just written the key there.
        keys.push((unsafe { key.read() }, destructor as usize));
    }
    status
}

/// `pthread_key_delete(3)`.
///
/// # Safety
///
/// As the manual page says.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_key_delete(key: libc::pthread_key_t) -> c_int {
    let delete = delete();
    let mut keys = keys();
    keys.retain(|(known, _)| *known != key);
    // SAFETY: the caller keeps the manual page's promises.
    unsafe { delete(key) }
}

/// Deletes the keys whose destructors are in `code`, which is about to be
/// unmapped: nobody can use them any more.
pub(crate) fn delete_those_of(code: &[Range<usize>]) {
    let delete = delete();
    keys().retain(|(key, destructor)| {
        let stays = !code.iter().any(|range| range.contains(destructor));
        if !stays {
            // SAFETY: the key exists, or the functions above would have
            // removed it here; its owner, the library, runs no more.
            unsafe { delete(*key) };
        }
        stays
    });
}
