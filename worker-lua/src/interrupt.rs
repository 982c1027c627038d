//! The soft cancel (S6): a flag that a count hook looks at.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use menagerie_protocol::Interrupt;
use mlua::{HookTriggers, Lua, VmState};

/// How many VM instructions pass between two looks at the flag: some 50 µs.
///
/// The hook is always set, because setting it from another thread while the VM
/// runs would be a data race. With LuaJIT it costs compiled code nothing and a
/// tight interpreted loop a third; with PUC Lua a tight loop runs at half its
/// speed, ordinary code some percent slower.
const INSTRUCTIONS: u32 = 10_000;

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const STOP: u8 = 2;

/// What the guest's code sees raised; the call itself ends in `Cancelled`.
pub(crate) const CANCELLED: &str = "the call was cancelled";

/// Whether the bundle's code runs, and whether it has been asked to stop.
#[derive(Debug, Default)]
pub(crate) struct Interrupter {
    state: AtomicU8,
    /// Wakes a sleeping guest.
    sleeper: Mutex<()>,
    stopped: Condvar,
}

impl Interrupter {
    /// A call begins: an interrupt that came too late for the last one is
    /// forgotten.
    pub(crate) fn begin(&self) {
        self.state.store(RUNNING, Ordering::Release);
    }

    /// The call has ended; true if it was asked to stop.
    pub(crate) fn end(&self) -> bool {
        // One that comes between these two finds the call ended, as it has.
        let stopped = self.is_stopped();
        self.state.store(IDLE, Ordering::Release);
        stopped
    }

    /// Whether the running call was asked to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.load(Ordering::Acquire) == STOP
    }

    /// The error to raise in the guest, if it is to stop.
    pub(crate) fn check(&self) -> mlua::Result<()> {
        if self.is_stopped() { Err(mlua::Error::runtime(CANCELLED)) } else { Ok(()) }
    }

    /// Sleeps, but no longer than until the call is asked to stop.
    pub(crate) fn sleep(&self, duration: Duration) {
        // Too long for the clock: until it is asked to stop.
        let until = Instant::now().checked_add(duration);
        let mut guard = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_stopped() {
            let rest = until
                .map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if rest.is_zero() {
                return;
            }
            let woken = self.stopped.wait_timeout(guard, rest);
            guard = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes every coroutine of `lua` look at this flag now and then.
    pub(crate) fn install(self: &Arc<Self>, lua: &Lua) -> mlua::Result<()> {
        let this = Arc::clone(self);
        let triggers = HookTriggers::new().every_nth_instruction(INSTRUCTIONS);
        // It raises again and again, for code that catches everything.
        lua.set_global_hook(triggers, move |_, _| this.check().map(|()| VmState::Continue))
    }
}

impl Interrupt for Interrupter {
    fn interrupt(&self, _: u64) {
        let hit =
            self.state.compare_exchange(RUNNING, STOP, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if hit {
            // With the lock held, a sleeper either has not looked at the flag
            // yet or waits already: it cannot miss this.
            let _guard = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
            self.stopped.notify_all();
        }
    }
}
