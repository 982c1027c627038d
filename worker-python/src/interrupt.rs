//! The soft way to stop a call (S6): an exception raised in it from outside.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use menagerie_protocol::Interrupt;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::interpreter;

/// What can be interrupted on one lane.
///
/// An interrupt that was meant for one call must never hit the next. Guest code
/// runs under an odd number, and each stretch of it has a number of its own:
/// the interrupt notes the number, and once it has the interpreter lock, it
/// raises only if the number is still the same. The lane's thread changes the
/// number, and withdraws an exception that came too late, while it holds that
/// lock as well.
#[derive(Debug)]
pub(crate) struct PythonInterrupt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    thread: u64,
    stretch: AtomicU64,
    /// The `async` call that the stretch is a step of, or 0.
    current: AtomicU64,
    /// Written and read under the interpreter lock only.
    raised: AtomicBool,
    /// The lane's event loop, once it has one.
    driver: Mutex<Option<Py<PyAny>>>,
}

impl PythonInterrupt {
    /// For the lane whose thread this is.
    pub(crate) fn of_this_thread() -> Self {
        Self(Arc::new(Shared {
            thread: thread_ident(),
            stretch: AtomicU64::new(0),
            current: AtomicU64::new(0),
            raised: AtomicBool::new(false),
            driver: Mutex::new(None),
        }))
    }

    /// Guest code that may be interrupted begins: a step of the `async` call
    /// `token`, or something else if that is 0. Called by the lane's thread,
    /// attached.
    pub(crate) fn begin(&self, _: Python<'_>, token: u64) {
        // Only this thread writes them, so loads and stores will do.
        self.0.current.store(token, Ordering::Release);
        let stretch = self.0.stretch.load(Ordering::Relaxed);
        self.0.stretch.store(stretch | 1, Ordering::Release);
    }

    /// Guest code has ended. Called by the lane's thread, attached.
    pub(crate) fn end(&self, _: Python<'_>) {
        let stretch = self.0.stretch.load(Ordering::Relaxed);
        self.0.stretch.store((stretch | 1) + 1, Ordering::Release);
        if self.0.raised.load(Ordering::Relaxed) {
            self.0.raised.store(false, Ordering::Relaxed);
            raise(self.0.thread, std::ptr::null_mut());
        }
    }

    /// Where `async` calls run; `None` when the loop is closed.
    pub(crate) fn set_driver(&self, driver: Option<Py<PyAny>>) {
        let old = {
            let mut slot = self.0.driver.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, driver)
        };
        // Not under the lock: finalizers may run here and give the interpreter
        // lock to the helper thread, which would then wait for ours.
        drop(old);
    }
}

impl PythonInterrupt {
    fn send(&self, stretch: u64, token: u64) {
        let job = Job { shared: Arc::clone(&self.0), stretch, token };
        // It fails only if there is no helper thread; the hard way is left.
        let _ = helper().send(job);
    }
}

impl Interrupt for PythonInterrupt {
    fn interrupt(&self) {
        let stretch = self.0.stretch.load(Ordering::Acquire);
        if stretch % 2 == 1 {
            self.send(stretch, 0);
        }
    }

    fn cancel(&self, call: u64) {
        let stretch = self.0.stretch.load(Ordering::Acquire);
        let current = self.0.current.load(Ordering::Acquire);
        let same = stretch == self.0.stretch.load(Ordering::Acquire);
        // A step of it that runs is interrupted; otherwise it waits in the
        // loop, which cancels it there.
        let runs = same && stretch % 2 == 1 && current == call;
        self.send(if runs { stretch } else { 0 }, call);
    }
}

/// An interrupt that waits for the interpreter lock.
struct Job {
    shared: Arc<Shared>,
    /// What ran, if it is odd.
    stretch: u64,
    /// The `async` call that is meant, if it is not 0.
    token: u64,
}

/// A thread that waits for the interpreter lock in the control thread's place:
/// guest code may keep it for long, and the control thread answers heartbeats.
fn helper() -> &'static Sender<Job> {
    static HELPER: OnceLock<Sender<Job>> = OnceLock::new();
    HELPER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        let run = move || {
            for job in jobs {
                Python::attach(|py| job.run(py));
            }
        };
        // Without the thread, sending fails, and the hard way is left.
        let _ = std::thread::Builder::new().name("interrupt".to_owned()).spawn(run);
        sender
    })
}

impl Job {
    fn run(self, py: Python<'_>) {
        let Self { shared, stretch, token } = self;
        if stretch % 2 == 1 && shared.stretch.load(Ordering::Acquire) == stretch {
            if let Ok(cancelled) = interpreter::class(py, "Cancelled") {
                shared.raised.store(true, Ordering::Relaxed);
                raise(shared.thread, cancelled.as_ptr());
            }
        } else if token != 0 {
            let driver = {
                let driver = shared.driver.lock().unwrap_or_else(PoisonError::into_inner);
                driver.as_ref().map(|driver| driver.clone_ref(py))
            };
            // It fails if the loop was closed meanwhile, and the call with it.
            let _ = driver.map(|driver| driver.call_method1(py, "cancel", (token,)));
        }
    }
}

/// Sets the exception that is raised in `thread` as soon as it runs Python
/// code; null takes back what was set. The interpreter lock must be held.
fn raise(thread: u64, exception: *mut ffi::PyObject) {
    // SAFETY: the caller holds the interpreter lock; `exception` is null or a
    // class that is alive, of which the function takes a reference of its own.
    unsafe { ffi::PyThreadState_SetAsyncExc(thread.cast_signed(), exception) };
}

/// The number by which Python knows the current thread.
fn thread_ident() -> u64 {
    // SAFETY: has no preconditions.
    unsafe { ffi::PyThread_get_thread_ident() }
}
