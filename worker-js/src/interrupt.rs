//! Stopping a call that runs for too long (rule S6).

use std::sync::atomic::{AtomicU8, Ordering};

use deno_core::v8;
use menagerie_protocol::Interrupt;

/// No script runs: an interrupt has no effect.
const IDLE: u8 = 0;
/// A script runs.
const RUNNING: u8 = 1;
/// An interrupt is on its way to the engine.
const INTERRUPTING: u8 = 2;
/// The engine has been told to stop, and must be told to go on again.
const INTERRUPTED: u8 = 3;

/// Knows whether a script runs, so that an interrupt that comes just after the
/// end of one call cannot hit the next.
pub(crate) struct Gate {
    state: AtomicU8,
    isolate: v8::IsolateHandle,
}

impl Gate {
    /// The gate of an engine in which nothing runs.
    pub(crate) const fn new(isolate: v8::IsolateHandle) -> Self {
        Self { state: AtomicU8::new(IDLE), isolate }
    }

    /// A script is about to run.
    pub(crate) fn enter(&self) {
        self.state.store(RUNNING, Ordering::Release);
    }

    /// Whether the script that runs has been interrupted.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.state.load(Ordering::Acquire) != RUNNING
    }

    /// The script has ended; true if it was interrupted. The engine can run
    /// scripts again either way.
    pub(crate) fn leave(&self) -> bool {
        if self.state.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return false;
        }
        // The interrupting thread is between its two stores: a few instructions.
        while self.state.load(Ordering::Acquire) != INTERRUPTED {
            std::hint::spin_loop();
        }
        self.isolate.cancel_terminate_execution();
        self.state.store(IDLE, Ordering::Release);
        true
    }
}

impl Interrupt for Gate {
    fn interrupt(&self) {
        let running =
            self.state.compare_exchange(RUNNING, INTERRUPTING, Ordering::AcqRel, Ordering::Acquire);
        if running.is_ok() {
            self.isolate.terminate_execution();
            self.state.store(INTERRUPTED, Ordering::Release);
        }
    }
}
