//! Stopping a call that runs for too long (rule S6).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use deno_core::v8;
use menagerie_protocol::Interrupt;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How long a continuation may go on, at most, while a call that may be its own is to be
/// cancelled. It is ended only then, as calls that wait go with it.
const PATIENCE: Duration = Duration::from_millis(400);

/// Between two looks at a continuation that may have to be ended.
const PAUSE: Duration = Duration::from_millis(5);

/// What the low bits of the gate's state say; the others count the entries.
const PHASE: u64 = 7;
/// No script runs: an interrupt has no effect.
const IDLE: u64 = 0;
/// A call runs, or a hook, or the main module.
const CALL: u64 = 1;
/// Continuations and timers run.
const TURN: u64 = 2;
/// An interrupt is on its way to the engine.
const INTERRUPTING: u64 = 3;
/// The engine has been told to stop, and must be told to go on again.
const INTERRUPTED: u64 = 4;

/// Knows which script runs, so that an interrupt that comes just after the end
/// of one cannot hit the next.
pub(crate) struct Gate {
    state: AtomicU64,
    /// The call that waits for the continuation that runs, or 0 if it is nobody's.
    serving: AtomicU64,
    isolate: v8::IsolateHandle,
    /// Calls that are to be cancelled while they wait, and whether there are
    /// any; the lane's thread sees to them.
    cancelled: Mutex<Vec<u64>>,
    any_cancelled: AtomicBool,
    wake: EventFd,
    /// [`PATIENCE`], or less where calls have less time to stop.
    patience: Duration,
    /// The state of the continuation that was last watched for that.
    watched: AtomicU64,
    this: Weak<Self>,
}

impl Gate {
    /// The gate of an engine in which nothing runs. A call that is to be cancelled costs
    /// the worker its life if it has not ended after the `grace`.
    pub(crate) fn new(isolate: v8::IsolateHandle, grace: Duration) -> io::Result<Arc<Self>> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags)?;
        Ok(Arc::new_cyclic(|this| Self {
            state: AtomicU64::new(IDLE),
            serving: AtomicU64::new(0),
            isolate,
            cancelled: Mutex::default(),
            any_cancelled: AtomicBool::new(false),
            wake,
            // The rest of it is for what there is to do afterwards.
            patience: PATIENCE.min(grace / 5 * 4),
            watched: AtomicU64::new(0),
            this: this.clone(),
        }))
    }

    /// A call is about to run.
    pub(crate) fn enter_call(&self) {
        self.enter(CALL);
    }

    /// Continuations are about to run.
    pub(crate) fn enter_turn(&self) {
        self.enter(TURN);
    }

    fn enter(&self, phase: u64) {
        self.serving.store(0, Ordering::Relaxed);
        // Only this thread changes an idle state.
        let state = self.state.load(Ordering::Relaxed);
        self.state.store(next_entry(state) | phase, Ordering::Release);
    }

    /// The function of this call has returned, and continuations follow that may be other
    /// calls'. False if it was interrupted, which stays so.
    pub(crate) fn enter_microtasks(&self, call: u64) -> bool {
        self.serving.store(call, Ordering::Relaxed);
        self.change(CALL, TURN)
    }

    /// They have run, and its result is read, which costs nobody else anything.
    pub(crate) fn enter_result(&self) {
        let _ = self.change(TURN, CALL);
    }

    fn change(&self, from: u64, to: u64) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let next = next_entry(state) | to;
        state & PHASE == from
            && self.state.compare_exchange(state, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The next continuation of a turn is about to run, for this call or, with 0,
    /// for none that waits.
    pub(crate) fn enter_continuation(&self, call: u64) {
        self.serving.store(call, Ordering::Relaxed);
        // An entry of its own, so that it is not hit for the one before. It fails if the
        // turn has been interrupted just now, which stays so.
        let _ = self.change(TURN, TURN);
    }

    /// Whether the script that runs has been interrupted.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.state.load(Ordering::Acquire) & PHASE >= INTERRUPTING
    }

    /// The script has ended; true if it was interrupted. The engine can run
    /// scripts again either way.
    pub(crate) fn leave(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let idle = state & !PHASE;
        let running = state & PHASE < INTERRUPTING;
        if running
            && self.state.compare_exchange(state, idle, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            return false;
        }
        // The interrupting thread is between its two stores: a few instructions.
        while self.state.load(Ordering::Acquire) & PHASE != INTERRUPTED {
            std::hint::spin_loop();
        }
        self.isolate.cancel_terminate_execution();
        self.state.store(idle, Ordering::Release);
        true
    }

    /// Ends the script of this very state, if it is still running.
    fn terminate(&self, state: u64) {
        let interrupting = (state & !PHASE) | INTERRUPTING;
        let same =
            self.state.compare_exchange(state, interrupting, Ordering::AcqRel, Ordering::Acquire);
        if same.is_ok() {
            self.isolate.terminate_execution();
            self.state.store((state & !PHASE) | INTERRUPTED, Ordering::Release);
        }
    }

    /// Ends the script of this very state if it does not end by itself.
    fn end_in_time(&self, state: u64) {
        let began = Instant::now();
        while let Some(left) = self.patience.checked_sub(began.elapsed()) {
            if self.state.load(Ordering::Acquire) != state {
                return;
            }
            std::thread::sleep(left.min(PAUSE));
        }
        self.terminate(state);
    }

    /// This call is to be cancelled; the lane's thread sees to it.
    fn note(&self, call: u64) {
        let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        cancelled.push(call);
        self.any_cancelled.store(true, Ordering::Release);
        drop(cancelled);
        // It fails when the counter is full: then it is readable already.
        let _ = self.wake.write(1);
    }

    /// Has a continuation that runs in this state, and may be this call's, ended if it does
    /// not end by itself. Another call's is left alone: this one is seen to after it.
    fn watch(&self, call: u64, state: u64) {
        let serving = self.serving.load(Ordering::Relaxed);
        if state & PHASE != TURN || (serving != 0 && serving != call) {
            return;
        }
        // No two entries have one state.
        if self.watched.swap(state, Ordering::Relaxed) == state {
            return;
        }
        // This thread is the one that stops other bundles' calls.
        let this = self.this.clone();
        let watch = move || this.upgrade().map(|this| this.end_in_time(state));
        let watcher = std::thread::Builder::new().name("js-watch".to_owned());
        if watcher.spawn(watch).is_err() {
            self.end_in_time(state);
        }
    }

    /// Readable when there are calls to be cancelled.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Whether there are calls to be cancelled.
    pub(crate) fn any_cancelled(&self) -> bool {
        self.any_cancelled.load(Ordering::Acquire)
    }

    /// Whether this call is to be cancelled.
    pub(crate) fn is_cancelled(&self, call: u64) -> bool {
        self.any_cancelled()
            && self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).contains(&call)
    }

    /// Takes the calls that are to be cancelled.
    pub(crate) fn take_cancelled(&self) -> Vec<u64> {
        let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        self.any_cancelled.store(false, Ordering::Release);
        // It fails when it was read already.
        let _ = self.wake.read();
        std::mem::take(&mut cancelled)
    }
}

/// The entry after that of `state`.
const fn next_entry(state: u64) -> u64 {
    (state & !PHASE) + PHASE + 1
}

impl Interrupt for Gate {
    /// Its function may not have been called yet, or have returned just now: then it is
    /// answered as one that waits.
    fn interrupt(&self, call: u64) {
        self.note(call);
        let state = self.state.load(Ordering::Acquire);
        if state & PHASE == CALL {
            self.terminate(state);
        } else {
            self.watch(call, state);
        }
    }

    fn cancel(&self, call: u64) {
        self.note(call);
        self.watch(call, self.state.load(Ordering::Acquire));
    }
}
