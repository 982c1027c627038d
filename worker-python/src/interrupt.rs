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
///
/// An interrupt comes once. Where no code of its call runs at that moment (the lane
/// waits for the interpreter lock, or runs a step of another call), the call's id stays
/// noted, and the next stretch of its code begins with the exception. A stretch may be
/// of a task that the call has started: it is told, and so is its call afterwards, which
/// need not hear of the task's end. Until the call's own code goes on, so is each of its
/// tasks that does: the call has not come to cancel them yet.
#[derive(Debug)]
pub(crate) struct PythonInterrupt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    thread: u64,
    stretch: AtomicU64,
    /// The call that the stretch belongs to, or 0.
    current: AtomicU64,
    /// Whether the stretch is of a task that the call has started; written and read
    /// under the interpreter lock only.
    in_task: AtomicBool,
    /// The calls that were asked to stop, until their own code is told: often several
    /// at once.
    asked: Mutex<Vec<Asked>>,
    /// Whether there are any.
    any_asked: AtomicBool,
    /// Whether the stretch was told to stop; written and read under the interpreter
    /// lock only.
    told: AtomicBool,
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
            in_task: AtomicBool::new(false),
            asked: Mutex::default(),
            any_asked: AtomicBool::new(false),
            told: AtomicBool::new(false),
            driver: Mutex::new(None),
        }))
    }

    /// Guest code that may be interrupted begins. Called by the lane's thread, attached.
    pub(crate) fn begin(&self, _: Python<'_>, code: Code) -> Begun {
        // Only this thread writes them, so loads and stores will do.
        let stretch = self.0.stretch.load(Ordering::Relaxed);
        let outer = (stretch % 2 == 1).then(|| Outer {
            code: Code {
                call: self.0.current.load(Ordering::Relaxed),
                in_task: self.0.in_task.load(Ordering::Relaxed),
            },
            told: self.0.told.load(Ordering::Relaxed),
        });
        let asked = self.0.enter((stretch + 1) | 1, code);
        self.0.told.store(asked.is_some(), Ordering::Relaxed);
        Begun { asked, outer }
    }

    /// Guest code has ended; true if it was told to stop. Called by the lane's thread,
    /// attached.
    pub(crate) fn end(&self, py: Python<'_>, begun: &Begun) -> bool {
        let stretch = self.0.stretch.load(Ordering::Relaxed);
        let told = self.0.told.load(Ordering::Relaxed);
        if told {
            self.0.told.store(false, Ordering::Relaxed);
            raise(self.0.thread, std::ptr::null_mut());
        }
        let Some(outer) = &begun.outer else {
            self.0.stretch.store(stretch + 1, Ordering::Release);
            return told;
        };
        self.0.told.store(outer.told, Ordering::Relaxed);
        let asked = self.0.enter(stretch + 2, outer.code).is_some();
        // A task is told once.
        if asked && !(outer.code.in_task && outer.told) {
            self.0.raise_cancelled(py);
        }
        told
    }

    /// The loop cancels a call if this is true: it was asked to stop, and its own code
    /// was not told. What the loop throws into it then will do.
    pub(crate) fn cancels(&self, call: u64) -> bool {
        self.0.change_asked(|asked| {
            let found = asked.iter_mut().find(|asked| asked.call == call);
            found.map(|asked| asked.cancelled = true).is_some()
        })
    }

    /// Forgets those that were asked to stop and have ended. Called by the lane's thread.
    pub(crate) fn forget_unless(&self, goes_on: impl Fn(u64) -> bool) {
        if self.0.any_asked.load(Ordering::Relaxed) {
            self.0.change_asked(|asked| asked.retain(|asked| goes_on(asked.call)));
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

/// Whose code a stretch is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code {
    /// The call that it serves, or 0.
    pub(crate) call: u64,
    /// Whether it is that of a task that the call has started.
    pub(crate) in_task: bool,
}

/// A call that was asked to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    call: u64,
    /// Whether the loop has cancelled it: a `CancelledError` is on its way.
    pub(crate) cancelled: bool,
}

/// A stretch of guest code that has begun.
#[derive(Debug)]
#[must_use]
pub(crate) struct Begun {
    /// If its call was asked to stop before: the code has to begin with that.
    pub(crate) asked: Option<Asked>,
    outer: Option<Outer>,
}

/// The stretch that one is within, in a nested loop.
#[derive(Debug)]
struct Outer {
    code: Code,
    told: bool,
}

impl Shared {
    /// Stops a call.
    fn ask(self: &Arc<Self>, call: u64) {
        self.change_asked(|asked| {
            if asked.iter().all(|other| other.call != call) {
                asked.push(Asked { call, cancelled: false });
            }
        });
        let stretch = self.stretch.load(Ordering::SeqCst);
        let current = self.current.load(Ordering::Acquire);
        let same = stretch == self.stretch.load(Ordering::Acquire);
        let runs = same && stretch % 2 == 1 && current == call;
        let job = Job { shared: Arc::clone(self), stretch: if runs { stretch } else { 0 }, call };
        // It fails only if there is no helper thread; the hard way is left.
        let _ = helper().send(job);
    }

    /// A stretch begins or goes on; something if its call was asked to stop before, and it
    /// has to be told.
    fn enter(&self, stretch: u64, code: Code) -> Option<Asked> {
        self.current.store(code.call, Ordering::Release);
        self.in_task.store(code.in_task, Ordering::Relaxed);
        // SYNC: asked to stop. With `change_asked`: either `ask` sees this stretch, or we
        // see that its call was asked.
        self.stretch.store(stretch, Ordering::SeqCst);
        if code.in_task { self.asked(code.call) } else { self.take_asked(code.call) }
    }

    /// A call that was asked to stop, if its own code was not told yet.
    fn asked(&self, call: u64) -> Option<Asked> {
        // SYNC: asked to stop. With `change_asked`.
        if !self.any_asked.load(Ordering::SeqCst) {
            return None;
        }
        self.change_asked(|asked| asked.iter().find(|asked| asked.call == call).copied())
    }

    /// The same; now it is told.
    fn take_asked(&self, call: u64) -> Option<Asked> {
        // SYNC: asked to stop. With `change_asked`.
        if !self.any_asked.load(Ordering::SeqCst) {
            return None;
        }
        self.change_asked(|asked| {
            let at = asked.iter().position(|asked| asked.call == call)?;
            Some(asked.swap_remove(at))
        })
    }

    fn change_asked<T>(&self, change: impl FnOnce(&mut Vec<Asked>) -> T) -> T {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut asked);
        // SYNC: asked to stop. With `enter`.
        self.any_asked.store(!asked.is_empty(), Ordering::SeqCst);
        changed
    }

    /// Raises `menagerie.Cancelled` in the guest code that runs; attached.
    fn raise_cancelled(&self, py: Python<'_>) {
        if let Ok(cancelled) = interpreter::class(py, "Cancelled") {
            self.told.store(true, Ordering::Relaxed);
            raise(self.thread, cancelled.as_ptr());
        }
    }
}

impl Interrupt for PythonInterrupt {
    fn interrupt(&self, call: u64) {
        self.0.ask(call);
    }

    fn cancel(&self, call: u64) {
        self.0.ask(call);
    }
}

/// An interrupt that waits for the interpreter lock.
struct Job {
    shared: Arc<Shared>,
    /// What ran of the call, if it is odd.
    stretch: u64,
    call: u64,
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
        let Self { shared, stretch, call } = self;
        let mut in_task = false;
        if stretch % 2 == 1 && shared.stretch.load(Ordering::Acquire) == stretch {
            if !shared.told.load(Ordering::Relaxed) {
                shared.raise_cancelled(py);
            }
            if !shared.in_task.load(Ordering::Relaxed) {
                shared.take_asked(call);
                return;
            }
            in_task = true;
        }
        // If it waits in the loop, it is cancelled there.
        let driver = {
            let driver = shared.driver.lock().unwrap_or_else(PoisonError::into_inner);
            driver.as_ref().map(|driver| driver.clone_ref(py))
        };
        // It fails if the loop was closed meanwhile, and the call with it.
        let _ = driver.map(|driver| driver.call_method1(py, "cancel", (call, in_task)));
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
