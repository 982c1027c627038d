//! The soft cancel (S6): a flag that a count hook looks at.

use std::sync::atomic::{AtomicU64, Ordering};
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

/// How many values cross, where no hook is called, between two looks at the flag.
pub(crate) const LOOK_EVERY: usize = 4096;

/// What the guest's code sees raised; the call itself ends in `Cancelled`.
pub(crate) const CANCELLED: &str = "the call was cancelled";

/// Which call runs, and which one has been asked to stop.
#[derive(Debug, Default)]
pub(crate) struct Interrupter {
    /// 0 if none does: a hook or the main chunk.
    running: AtomicU64,
    stopping: AtomicU64,
    /// Wakes a sleeping guest.
    sleeper: Mutex<()>,
    stopped: Condvar,
}

impl Interrupter {
    /// A call begins, which may have been asked to stop already.
    pub(crate) fn begin(&self, call: u64) {
        self.running.store(call, Ordering::Release);
    }

    /// The call has ended.
    pub(crate) fn end(&self) {
        self.running.store(0, Ordering::Release);
    }

    /// Whether the running call was asked to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        let running = self.running.load(Ordering::Acquire);
        running != 0 && running == self.stopping.load(Ordering::Acquire)
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
    fn interrupt(&self, call: u64) {
        self.stopping.store(call, Ordering::Release);
        // With the lock held, a sleeper either has not looked at the flag yet or
        // waits already: it cannot miss this.
        let _guard = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.notify_all();
    }

    /// The call has ended, or is about to begin.
    fn cancel(&self, call: u64) {
        self.interrupt(call);
    }
}
