//! Stopping a call that runs for too long (rule S6).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deno_core::v8;
use menagerie_protocol::Interrupt;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How long a continuation may go on whose call is to be cancelled, before it is
/// ended: with it go those of other calls that were ready as well.
const PATIENCE: Duration = Duration::from_millis(10);

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
}

impl Gate {
    /// The gate of an engine in which nothing runs.
    pub(crate) fn new(isolate: v8::IsolateHandle) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            state: AtomicU64::new(IDLE),
            serving: AtomicU64::new(0),
            isolate,
            cancelled: Mutex::default(),
            any_cancelled: AtomicBool::new(false),
            wake: EventFd::from_value_and_flags(0, flags)?,
        })
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

    /// The next continuation of a turn is about to run, for this call or, with 0,
    /// for none that waits.
    pub(crate) fn enter_continuation(&self, call: u64) {
        self.serving.store(call, Ordering::Relaxed);
        let state = self.state.load(Ordering::Relaxed);
        if state & PHASE == TURN {
            // An entry of its own, so that it is not hit for the one before. It
            // fails if the turn has been interrupted just now, which stays so.
            let next = next_entry(state) | TURN;
            let _ = self.state.compare_exchange(state, next, Ordering::AcqRel, Ordering::Acquire);
        }
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

    /// Readable when there are calls to be cancelled.
    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Whether there are calls to be cancelled.
    pub(crate) fn any_cancelled(&self) -> bool {
        self.any_cancelled.load(Ordering::Acquire)
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
    fn interrupt(&self, _: u64) {
        let state = self.state.load(Ordering::Acquire);
        if state & PHASE == CALL {
            self.terminate(state);
        }
    }

    fn cancel(&self, call: u64) {
        {
            let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
            cancelled.push(call);
            self.any_cancelled.store(true, Ordering::Release);
        }
        // It fails when the counter is full: then it is readable already.
        let _ = self.wake.write(1);
        let state = self.state.load(Ordering::Acquire);
        let serving = self.serving.load(Ordering::Relaxed);
        // Another call's is left alone: this one waits, and is seen to after it.
        if state & PHASE != TURN || (serving != 0 && serving != call) {
            return;
        }
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            std::thread::sleep(PATIENCE / 20);
            if self.state.load(Ordering::Acquire) != state {
                return;
            }
        }
        self.terminate(state);
    }
}
