//! What a loader sees of its lane: where it registers contracts, how it
//! answers calls, makes calls of its own, and logs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::contract::{ContractId, is_function_name};
use crate::error::{Failure, GuestError, LoaderError};
use crate::instance::{ContractInterface, Instance, Interrupt};
use crate::lane::worker::WorkerLane;
use crate::loader::Prepared;
use crate::loader::manifest::ManifestData;
use crate::message::{LogLevel, LogRecord, MAX_STATE};
use crate::{BundleId, BundleSource};

/// Where a lane's log records go; the worker's control channel, or a test.
pub type LogSink = Arc<dyn Fn(LogRecord) + Send + Sync>;

/// The runtime as one generation of one bundle sees it. It belongs to the
/// lane's thread.
pub struct Runtime {
    bundle: String,
    id: BundleId,
    generation: u32,
    source: BundleSource,
    logger: Logger,
    lane: Rc<WorkerLane>,
    pub(crate) registered: RefCell<Registered>,
    pub(crate) interrupt: InterruptSlot,
    pub(crate) after_thread: RefCell<Vec<Box<dyn FnOnce() + Send>>>,
    /// The artifact's copy that the supervisor has handed on.
    pub(crate) copy: Cell<Option<OwnedFd>>,
    /// What the loader has prepared on this thread.
    pub(crate) prepared: Cell<Option<Prepared>>,
}

/// See [`Runtime::grace`], in milliseconds; the default of the supervisor's configuration
/// where no supervisor says so.
static GRACE_MS: AtomicU64 = AtomicU64::new(500);

/// The supervisor has said how long calls have to stop.
pub(crate) fn assume_grace(grace: Duration) {
    GRACE_MS.store(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// How the control thread stops what runs on a lane.
#[derive(Default)]
pub(crate) struct InterruptControl {
    how: Mutex<Option<Arc<dyn Interrupt>>>,
    /// The call that `Instance::call` is running, or 0.
    current: AtomicU64,
    /// The call that is being asked to stop, or 0.
    stopping: AtomicU64,
}

impl fmt::Debug for InterruptControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InterruptControl({:?})", self.current)
    }
}

impl InterruptControl {
    /// `Instance::call` begins with a call. Called by the lane's thread.
    pub(crate) fn begin(&self, call: u64) {
        self.current.store(call, Ordering::Release);
    }

    /// It has returned. An interrupt that is on its way to this call has
    /// arrived when this returns: it does not hit the next one.
    pub(crate) fn end(&self, call: u64) {
        // SYNC: call ended. With `stop`: either that sees that the call has
        // ended, or we see that it is at it.
        self.current.store(0, Ordering::SeqCst);
        while self.stopping.load(Ordering::SeqCst) == call {
            std::hint::spin_loop();
        }
    }

    /// Asks a call to stop. Called by the control thread.
    pub(crate) fn stop(&self, call: u64) {
        let how = self.how.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(how) = how else { return };
        self.stopping.store(call, Ordering::SeqCst);
        // SYNC: call ended. With `end`.
        if self.current.load(Ordering::SeqCst) == call {
            how.interrupt(call);
        } else {
            how.cancel(call);
        }
        self.stopping.store(0, Ordering::SeqCst);
    }
}

pub(crate) type InterruptSlot = Arc<InterruptControl>;

/// What a loader has registered so far.
#[derive(Default)]
pub(crate) struct Registered {
    pub(crate) contracts: Vec<ContractInterface>,
    pub(crate) instance: Option<Box<dyn Instance>>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("bundle", &self.bundle)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Runtime {
    pub(crate) fn new(
        bundle: String,
        generation: u32,
        source: BundleSource,
        sink: LogSink,
        lane: Rc<WorkerLane>,
        interrupt: InterruptSlot,
    ) -> Self {
        Self {
            id: BundleId::of_name(&bundle),
            logger: Logger { bundle: Arc::from(bundle.as_str()), sink },
            bundle,
            generation,
            source,
            lane,
            registered: RefCell::default(),
            interrupt,
            after_thread: RefCell::default(),
            copy: Cell::default(),
            prepared: Cell::default(),
        }
    }

    /// The bundle's name.
    #[must_use]
    pub fn bundle_name(&self) -> &str {
        &self.bundle
    }

    /// The bundle's id.
    #[must_use]
    pub const fn bundle_id(&self) -> BundleId {
        self.id
    }

    /// How many times the bundle has been loaded, this time included.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Where this generation's code comes from.
    #[must_use]
    pub const fn source(&self) -> &BundleSource {
        &self.source
    }

    /// The copy of the artifact that this generation is to be loaded from, for
    /// [`PrivateCopy::handed_on`](crate::loader::PrivateCopy::handed_on): the
    /// first time that it is asked for, and if the supervisor has one. It hands
    /// none to loaders that have not said that they
    /// [map artifacts](crate::BundleLoader::maps_artifacts), and may hand the same
    /// one to several generations in one process, and to other processes.
    #[must_use]
    pub fn take_copy(&self) -> Option<OwnedFd> {
        self.copy.take()
    }

    /// What the loader has [prepared](crate::BundleLoader::prepare) on this thread,
    /// if it has, and the first time that it is asked for. The `T` is the loader's
    /// own: there is nothing of another type.
    #[must_use]
    pub fn take_prepared<T: 'static>(&self) -> Option<Box<T>> {
        self.prepared.take()?.downcast().ok()
    }

    /// Registers a contract with its functions. [`FunctionId`]s count up
    /// through the contracts in the order of registration.
    ///
    /// [`FunctionId`]: crate::FunctionId
    ///
    /// # Errors
    ///
    /// The contract's name is none, it was registered already, or a function's
    /// name is not snake_case (B3).
    pub fn register(&self, contract: ContractInterface) -> Result<(), LoaderError> {
        let mismatch = |problem: String| LoaderError::ContractMismatch {
            bundle: self.bundle.clone(),
            contract: contract.contract.clone(),
            problem,
        };
        let id: ContractId = contract.contract.parse().map_err(|e| mismatch(format!("{e}")))?;
        for function in &contract.functions {
            if !is_function_name(function) {
                return Err(LoaderError::BadFunctionName {
                    bundle: self.bundle.clone(),
                    contract: contract.contract.clone(),
                    function: function.clone(),
                });
            }
        }
        let mut registered = self.registered.borrow_mut();
        let twice = registered.contracts.iter().any(|other| {
            other.contract.parse::<ContractId>().is_ok_and(|other| other.same_major(&id))
        });
        if twice {
            return Err(mismatch("is exported twice".to_owned()));
        }
        registered.contracts.push(contract);
        Ok(())
    }

    /// Hands over what answers the calls.
    pub fn install(&self, instance: Box<dyn Instance>) {
        self.registered.borrow_mut().instance = Some(instance);
    }

    /// Says how a call that runs on this lane can be made to stop (S6).
    pub fn set_interrupt(&self, interrupt: Arc<dyn Interrupt>) {
        let mut how = self.interrupt.how.lock().unwrap_or_else(PoisonError::into_inner);
        *how = Some(interrupt);
    }

    /// How long a call has to stop when it was asked to (S6), before it costs the worker
    /// its life.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_millis(GRACE_MS.load(Ordering::Relaxed))
    }

    /// Something to do when the lane's thread has ended, and with it the
    /// destructors of its thread-local values: `dlclose`, for example (L8).
    pub fn after_thread(&self, then: impl FnOnce() + Send + 'static) {
        self.after_thread.borrow_mut().push(Box::new(then));
    }

    /// Calls of this bundle to other bundles' contracts and the host's.
    #[must_use]
    pub fn host(&self) -> Host {
        Host { lane: Rc::clone(&self.lane), parent: 0 }
    }

    /// The bundle's log.
    #[must_use]
    pub fn logger(&self) -> Logger {
        self.logger.clone()
    }

    /// Checks what was registered against the manifest: every contract that it
    /// provides and no other, and its `function_count`.
    pub(crate) fn check_against(&self, manifest: &ManifestData) -> Result<(), LoaderError> {
        manifest.check_exports(&self.registered.borrow().contracts)
    }
}

/// The answer to one call; it ends in exactly one outcome.
///
/// Dropped unused, it answers with a [`GuestError`] that says so.
pub struct Reply {
    call: u64,
    lane: Option<Rc<WorkerLane>>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({:#x})", self.call)
    }
}

impl Reply {
    pub(crate) const fn new(call: u64, lane: Rc<WorkerLane>) -> Self {
        Self { call, lane: Some(lane) }
    }

    /// The call's id, unique among those of its lane that have not ended; never
    /// 0.
    #[must_use]
    pub const fn call_id(&self) -> u64 {
        self.call
    }

    /// Answers with one MessagePack value.
    pub fn ok(mut self, value: &[u8]) {
        if let Some(lane) = self.lane.take() {
            lane.reply_value(self.call, value);
        }
    }

    /// Answers with one MessagePack value that stands in several pieces: the
    /// large ones are copied once, from where they are into shared memory.
    #[inline]
    pub fn ok_parts(mut self, parts: &[&[u8]]) {
        if let Some(lane) = self.lane.take() {
            lane.reply(self.call, parts);
        }
    }

    /// Answers with a failure: [`Failure::Guest`], [`Failure::BadArguments`],
    /// [`Failure::Cancelled`], or one that an inner call ended in.
    pub fn fail(mut self, failure: impl Into<Failure>) {
        if let Some(lane) = self.lane.take() {
            let failure = match failure.into() {
                Failure::Guest(error) => error.cut().into(),
                other => other,
            };
            lane.fail(self.call, &failure);
        }
    }
}

impl Drop for Reply {
    #[inline]
    fn drop(&mut self) {
        #[cold]
        fn unused(call: u64, lane: &WorkerLane) {
            let error = GuestError::new("Dropped", "the call was dropped without an answer");
            lane.fail(call, &error.into());
        }
        if let Some(lane) = self.lane.take() {
            unused(self.call, &lane);
        }
    }
}

/// What is done with the answer of a call that a guest made.
pub type OnReply = Box<dyn FnOnce(Result<Vec<u8>, Failure>)>;

/// Calls from this bundle into others, and into the host.
#[derive(Clone)]
pub struct Host {
    lane: Rc<WorkerLane>,
    parent: u64,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl Host {
    /// The same, for calls that serve this call ([`Reply::call_id`]; 0 where it
    /// is not known). Without it they serve the one that
    /// [`Instance::call`] is running, which an
    /// asynchronous function has left when it goes on after an await.
    #[must_use]
    pub fn for_call(&self, call: u64) -> Self {
        Self { lane: Rc::clone(&self.lane), parent: call }
    }

    /// How large a payload may be, in bytes: a result, or a guest's own call with its
    /// contract and function; more is [`Failure::PayloadTooLarge`]. An encoder may stop
    /// there: values that share their parts may be small in the guest and endless here.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.lane.max_payload()
    }

    /// How large a state may be, in bytes, that [`Instance::on_unload`] returns; an encoder
    /// may stop there, too. It is more than a state may have, whatever a payload may: one
    /// that is a little too large is told so, and given back to the bundle, by the lane.
    #[must_use]
    pub fn max_state(&self) -> usize {
        self.max_payload().max(2 * MAX_STATE)
    }

    fn serving(&self) -> u64 {
        if self.parent == 0 { self.lane.current() } else { self.parent }
    }

    /// Calls `function` of `contract` (as the bundle writes it: `kv@1`, or
    /// `bundle/kv@1`) with a MessagePack array of arguments, and blocks the
    /// lane's thread until the answer, a MessagePack value, is there. Calls to
    /// this bundle that arrive meanwhile wait.
    ///
    /// # Errors
    ///
    /// Any [`Failure`].
    pub fn call(&self, contract: &str, function: &str, args: &[u8]) -> Result<Vec<u8>, Failure> {
        let answer = Rc::new(Cell::new(None));
        let slot = Rc::clone(&answer);
        let then = Box::new(move |result| slot.set(Some(result)));
        self.lane.call((contract, function, args), self.serving(), true, then)?;
        loop {
            if let Some(result) = answer.take() {
                return result;
            }
            self.lane.wait_for_reply()?;
        }
    }

    /// Waits with `wait` until the descriptor is readable, and calls what
    /// [`call_async`](Self::call_async) was given for the answers that have come;
    /// calls to this bundle go on waiting. For a hook that has to wait: only
    /// when it has ended the lane does this itself.
    pub fn wait_for_answers(&self, wait: impl FnOnce(BorrowedFd<'_>)) {
        self.lane.wait_for_replies(wait);
    }

    /// Begins such a call; `then` is called with the answer, on the lane's
    /// thread, while no other code of this bundle runs.
    ///
    /// # Errors
    ///
    /// The call could not be sent; `then` is not called.
    pub fn call_async(
        &self,
        contract: &str,
        function: &str,
        args: &[u8],
        then: OnReply,
    ) -> Result<(), Failure> {
        self.lane.call_deferred((contract, function, args), self.serving(), then)
    }
}

/// A bundle's log; it may be used from any thread.
#[derive(Clone)]
pub struct Logger {
    bundle: Arc<str>,
    sink: LogSink,
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logger({})", self.bundle)
    }
}

impl Logger {
    /// Sends a record to the host's `tracing`. `target` says where it came
    /// from: `stdout`, `stderr`, `console`, `logging.NAME`, `log`.
    pub fn log(&self, level: LogLevel, target: &str, message: &str) {
        (self.sink)(LogRecord {
            bundle: Some(self.bundle.to_string()),
            level,
            target: target.to_owned(),
            message: message.to_owned(),
        });
    }
}
