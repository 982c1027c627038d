//! Calling a contract's functions.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use menagerie_protocol::Failure;
use menagerie_protocol::contract::ContractId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::coop;

use crate::bundle::{Bundle, Route};
use crate::core::Core;
use crate::counters::{Ended, FunctionCounters, SAMPLE_EVERY, Taken};
use crate::events::EventKind;
use crate::lane::{
    ArgsBuffer, Done, DownSegment, Lane, LaneContract, Look, Outcome, PATIENCE, Payload, Ready,
    Refused, Ticket,
};

/// A contract of a loaded bundle. Cheap to clone, and good across reloads and
/// restarts; after an unload every call is
/// [`StaleHandle`](Failure::StaleHandle) (R2).
///
/// ```no_run
/// use std::time::Duration;
/// use menagerie_supervisor::{Bytes, Contract, Failure};
///
/// # async fn example(images: Contract) -> Result<(), Failure> {
/// // Arguments are a tuple, results what can be deserialized from the guest's.
/// let (width, height): (u32, u32) = images.call("size", ("photo.png",)).await?;
/// // Bytes are one value, and no list of numbers.
/// let images = images.with_timeout(Duration::from_millis(500));
/// match images.call::<_, u32>("checksum", (Bytes::new(&[1, 2, 3]),)).await {
///     Ok(checksum) => println!("{checksum:x}"),
///     Err(Failure::Guest(error)) => println!("the plugin's own error: {error}"),
///     Err(failure) => println!("{failure}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Contract {
    core: Arc<Core>,
    bundle: Arc<Bundle>,
    id: ContractId,
    deadline: Duration,
    /// The lane that served the bundle when the handle was made, and the
    /// contract's place there. While it takes calls it is the bundle's route:
    /// one look at it spares the route's own look-up.
    first: Option<(Arc<Lane>, usize)>,
    /// The wait of another bundle that its calls are made for, 0 for none.
    origin: u64,
}

impl Contract {
    pub(crate) fn new(core: Arc<Core>, bundle: Arc<Bundle>, id: ContractId) -> Self {
        let deadline = core.config.deadline;
        let first = match &**bundle.route() {
            Route::Up(lane) => {
                let at = lane.contracts().iter().position(|contract| contract.id.same_major(&id));
                at.map(|at| (Arc::clone(lane), at))
            }
            Route::Waiting(_) | Route::Down(..) => None,
        };
        Self { core, bundle, id, deadline, first, origin: 0 }
    }

    /// The same, for a bundle's calls: `origin` says which of its waits it is.
    pub(crate) const fn on_behalf_of(mut self, origin: u64) -> Self {
        self.origin = origin;
        self
    }

    /// The name of the bundle that serves it.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle.name
    }

    /// The contract, with the version that the bundle provides.
    #[must_use]
    pub const fn id(&self) -> &ContractId {
        &self.id
    }

    /// The same contract with another deadline for its calls; zero for none.
    #[must_use]
    pub fn with_timeout(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Calls a function with a tuple of arguments, and waits for its result.
    ///
    /// # Errors
    ///
    /// Every outcome of rule C3 that is not a value.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call: the guest is asked to stop, and
    /// its result is thrown away.
    pub async fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        function: &str,
        args: A,
    ) -> Result<R, Failure> {
        let (payload, segment) = self.run(function, &Tuple(&args)).await?;
        payload.decode(segment.as_ref())
    }

    /// As [`call`](Self::call), from a thread that may block. It must not be
    /// called from an asynchronous task.
    ///
    /// ```no_run
    /// # fn example(greeter: menagerie_supervisor::Contract) -> Result<(), menagerie_supervisor::Failure> {
    /// let text: String = greeter.call_blocking("greet", ("Ada",))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Every outcome of rule C3 that is not a value.
    ///
    /// # Panics
    ///
    /// It is called from an asynchronous task while the bundle's worker is
    /// being restarted.
    pub fn call_blocking<A: Serialize, R: DeserializeOwned>(
        &self,
        function: &str,
        args: A,
    ) -> Result<R, Failure> {
        let (payload, segment) = self.run_blocking(function, &Tuple(&args))?;
        payload.decode(segment.as_ref())
    }

    /// Calls a function with values whose shape is not known beforehand:
    /// `args` is an array.
    ///
    /// # Errors
    ///
    /// Every outcome of rule C3 that is not a value.
    ///
    /// # Cancel safety
    ///
    /// As [`call`](Self::call).
    pub async fn call_value(
        &self,
        function: &str,
        args: &rmpv::Value,
    ) -> Result<rmpv::Value, Failure> {
        self.call(function, args).await
    }

    /// Calls with arguments that are MessagePack already.
    pub(crate) async fn call_raw(&self, function: &str, args: &[u8]) -> Result<Vec<u8>, Failure> {
        let (payload, segment) = self.run(function, &Raw(args)).await?;
        Ok(payload.into_vec(segment.as_ref()))
    }

    async fn run<A: Encode>(&self, function: &str, args: &A) -> Result<Value, Failure> {
        let mut clock = Clock::new(self.deadline);
        loop {
            let step = match self.send(function, args, &mut clock) {
                Ok(Sent::Call { lane, ticket, id }) => {
                    let call = InFlight {
                        contract: self,
                        lane: &lane,
                        ticket,
                        id,
                        clock: &mut clock,
                        patience: PATIENCE,
                        timer: None,
                        ended: false,
                    };
                    let step = call.await;
                    self.count(&lane, id, &step, &clock);
                    step
                }
                Ok(Sent::NotYet(wait)) => self.wait(wait, &mut clock).await.map(|()| Step::Again),
                Err(failure) => return Err(self.failed(function, failure)),
            };
            if let Some(outcome) = self.judge(function, step, &clock) {
                return outcome.map_err(|failure| self.failed(function, failure));
            }
        }
    }

    fn run_blocking<A: Encode>(&self, function: &str, args: &A) -> Result<Value, Failure> {
        let mut clock = Clock::new(self.deadline);
        loop {
            let step = match self.send(function, args, &mut clock) {
                Ok(Sent::Call { lane, ticket, id }) => {
                    let step = self.wait_blocking(&lane, ticket, &mut clock);
                    self.count(&lane, id, &step, &clock);
                    step
                }
                Ok(Sent::NotYet(Wait::Room)) => {
                    std::thread::sleep(Duration::from_micros(50));
                    clock.check().map(|()| Step::Again)
                }
                Ok(Sent::NotYet(wait)) => {
                    self.core.runtime.block_on(self.wait(wait, &mut clock)).map(|()| Step::Again)
                }
                Err(failure) => return Err(self.failed(function, failure)),
            };
            if let Some(outcome) = self.judge(function, step, &clock) {
                return outcome.map_err(|failure| self.failed(function, failure));
            }
        }
    }

    /// Sends the call, if it can be sent now.
    #[inline]
    fn send<A: Encode>(
        &self,
        function: &str,
        args: &A,
        clock: &mut Clock,
    ) -> Result<Sent<'_>, Failure> {
        if let Some((lane, at)) = &self.first
            && lane.is_open()
            && let Some(contract) = lane.contracts().get(*at)
        {
            return self.send_on(Road::First(lane), contract, function, args, clock);
        }
        let route = self.bundle.route();
        let lane = match &**route {
            Route::Up(lane) => lane,
            Route::Waiting(_) => return Ok(Sent::NotYet(Wait::Route)),
            Route::Down(_, failure) => return Err((**failure).clone()),
        };
        let contract = lane
            .contract(&self.id)
            .ok_or_else(|| Failure::NoSuchContract { contract: self.id.to_string() })?;
        self.send_on(Road::Now(Arc::clone(lane)), contract, function, args, clock)
    }

    #[inline]
    fn send_on<'c, A: Encode>(
        &'c self,
        lane: Road<'c>,
        contract: &LaneContract,
        function: &str,
        args: &A,
        clock: &mut Clock,
    ) -> Result<Sent<'c>, Failure> {
        let Some(id) = contract.function(function) else {
            return Err(Failure::NoSuchFunction {
                contract: self.id.to_string(),
                function: function.to_owned(),
                available: contract.functions.clone(),
            });
        };
        let (encoded, mut segment) = args.encode(&lane)?;
        if lane.samples_next(SAMPLE_EVERY) {
            clock.sample();
        }
        let sent = lane.send_call((id, self.origin), &encoded, &mut segment);
        drop(encoded);
        match sent {
            Ok(ticket) => Ok(Sent::Call { lane, ticket, id }),
            Err(Refused::Busy) => Ok(Sent::NotYet(Wait::Room)),
            Err(Refused::Dead) => Ok(Sent::NotYet(Wait::After(lane.into_owned()))),
            Err(Refused::Overloaded) => Err(Failure::Overloaded {
                bundle: self.bundle.name.clone(),
                limit: lane.limits.max_in_flight,
            }),
        }
    }

    #[inline]
    fn wait_blocking(
        &self,
        lane: &Arc<Lane>,
        ticket: Ticket,
        clock: &mut Clock,
    ) -> Result<Step, TimedOut> {
        let mut noted = false;
        let mut deadline = || {
            let deadline = clock.deadline();
            if !noted && let Some(started) = clock.started {
                noted = true;
                lane.sent_at(ticket, started);
            }
            deadline
        };
        match lane.wait_blocking(ticket, &mut deadline) {
            Some(done) => Ok(Step::Done(done)),
            None => {
                self.give_up(lane, ticket, Some(Duration::ZERO));
                Err(TimedOut)
            }
        }
    }

    /// The caller no longer waits. If the guest is at it, it is asked to stop,
    /// and killed when `left` and the grace have passed; never for `None`.
    fn give_up(&self, lane: &Arc<Lane>, ticket: Ticket, left: Option<Duration>) {
        if lane.abandon(ticket) {
            let until_kill = left.map(|left| left + self.core.config.grace);
            lane.peer.overdue(lane, ticket, until_kill);
        }
    }

    /// Waits until it is worth trying again.
    async fn wait(&self, wait: Wait, clock: &mut Clock) -> Result<(), TimedOut> {
        let deadline = clock.deadline();
        let mut changed = self.bundle.subscribe();
        changed.mark_unchanged();
        let ready = async {
            match wait {
                // The ring is full of calls; the worker is at it.
                Wait::Room => {
                    let soon = Instant::now() + Duration::from_micros(100);
                    self.core.sleep_until(Some(soon)).await;
                }
                Wait::Route => {
                    // It may have stopped because nobody called it.
                    self.core.need(&self.bundle);
                    while matches!(&**self.bundle.route(), Route::Waiting(_)) {
                        if changed.changed().await.is_err() {
                            return;
                        }
                    }
                }
                Wait::After(dead) => {
                    let same = |route: &Route| matches!(route, Route::Up(lane) if Arc::ptr_eq(lane, &dead));
                    while same(&self.bundle.route()) && !dead.is_open() {
                        if changed.changed().await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = ready => clock.check(),
            () = self.core.sleep_until(deadline) => Err(TimedOut),
        }
    }

    /// Turns a step into the call's outcome, or `None` if it is to be tried
    /// again.
    #[inline]
    fn judge(
        &self,
        function: &str,
        step: Result<Step, TimedOut>,
        clock: &Clock,
    ) -> Option<Result<Value, Failure>> {
        match step {
            Ok(Step::Done((Outcome::Value(payload), segment))) => Some(Ok((payload, segment))),
            Ok(Step::Done((Outcome::Failed(failure), _))) => {
                let crashed = matches!(*failure, Failure::WorkerCrashed { .. });
                if crashed && self.bundle.manifest().is_idempotent(&self.id.name, function) {
                    return None;
                }
                Some(Err(*failure))
            }
            // No worker had begun it: it goes to the next incarnation (C4).
            Ok(Step::Done((Outcome::NotBegun, _)) | Step::Again) => None,
            Err(TimedOut) => {
                self.core.events.emit(EventKind::DeadlineExceeded {
                    bundle: self.bundle.name.clone(),
                    function: function.to_owned(),
                });
                let deadline_ms = u64::try_from(clock.limit.as_millis()).unwrap_or(u64::MAX);
                Some(Err(Failure::DeadlineExceeded { deadline_ms }))
            }
        }
    }

    /// Takes the time of what came back; values were counted by who read them.
    /// Failures are counted when they are known to be
    /// the call's end.
    #[inline]
    fn count(&self, lane: &Lane, id: u32, step: &Result<Step, TimedOut>, clock: &Clock) {
        let Ok(Step::Done((outcome, _))) = step else { return };
        let answered = match outcome {
            Outcome::Value(_) => true,
            Outcome::Failed(failure) => matches!(**failure, Failure::Guest(_)),
            Outcome::NotBegun => false,
        };
        if answered
            && let Some(taken) = clock.taken()
            && let Some(counters) = lane.counters(id)
        {
            self.sample(counters, taken);
        }
    }

    /// Out of line: most calls have not had their time taken.
    #[cold]
    fn sample(&self, counters: &FunctionCounters, taken: Taken) {
        self.bundle.counters.sample(counters, taken);
    }

    #[cold]
    fn failed(&self, function: &str, failure: Failure) -> Failure {
        self.bundle.counters.failed(&self.id, function, &failure);
        failure
    }
}

/// A value, and the segment that it may stand in.
type Value = (Payload, Option<DownSegment>);

/// The lane that a call goes to.
enum Road<'c> {
    /// The one that its handle knows.
    First(&'c Arc<Lane>),
    /// The one that serves the bundle now.
    Now(Arc<Lane>),
}

impl Road<'_> {
    fn into_owned(self) -> Arc<Lane> {
        match self {
            Self::First(lane) => Arc::clone(lane),
            Self::Now(lane) => lane,
        }
    }
}

impl Deref for Road<'_> {
    type Target = Arc<Lane>;

    #[inline]
    fn deref(&self) -> &Arc<Lane> {
        match self {
            Self::First(lane) => lane,
            Self::Now(lane) => lane,
        }
    }
}

/// What became of an attempt to send.
enum Sent<'c> {
    Call {
        lane: Road<'c>,
        ticket: Ticket,
        /// The function's.
        id: u32,
    },
    NotYet(Wait),
}

/// What has to change before a call can be sent.
enum Wait {
    /// The bundle's worker comes back, or its reload ends.
    Route,
    /// This lane has ended; its end will change the route.
    After(Arc<Lane>),
    /// The ring is full.
    Room,
}

enum Step {
    Done(Done),
    Again,
}

/// The deadline has passed.
struct TimedOut;

/// A call's clock. It is read only when the call has to wait, or is sampled:
/// reading it costs a tenth of a hot call.
struct Clock {
    limit: Duration,
    started: Option<Instant>,
    /// How many calls this one stands for, if it need not wait: 0 if it is not
    /// in the sample.
    weight: u64,
}

impl Clock {
    const fn new(limit: Duration) -> Self {
        Self { limit, started: None, weight: 0 }
    }

    /// The call is in the sample.
    fn sample(&mut self) {
        self.start();
        self.weight = SAMPLE_EVERY;
    }

    /// How long it has taken, if that is known.
    #[inline]
    fn taken(&self) -> Option<Taken> {
        let took = self.started?.elapsed();
        // One that had to wait has its time taken always: it stands for itself.
        Some(Taken { took, weight: self.weight.max(1) })
    }

    fn start(&mut self) -> Instant {
        *self.started.get_or_insert_with(Instant::now)
    }

    /// When the call's time is up; `None` for never.
    fn deadline(&mut self) -> Option<Instant> {
        let started = self.start();
        self.weight = 0;
        if self.limit.is_zero() { None } else { started.checked_add(self.limit) }
    }

    fn left(&mut self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn check(&mut self) -> Result<(), TimedOut> {
        if self.left() == Some(Duration::ZERO) { Err(TimedOut) } else { Ok(()) }
    }
}

/// Arguments that can be written to a lane, again if need be.
trait Encode {
    fn encode<'l>(&self, lane: &'l Lane) -> Result<Ready<'l>, Failure>;
}

struct Tuple<'a, A>(&'a A);

impl<A: Serialize> Encode for Tuple<'_, A> {
    #[inline]
    fn encode<'l>(&self, lane: &'l Lane) -> Result<Ready<'l>, Failure> {
        lane.encode(self.0)
    }
}

struct Raw<'a>(&'a [u8]);

impl Encode for Raw<'_> {
    fn encode<'l>(&self, lane: &'l Lane) -> Result<Ready<'l>, Failure> {
        use std::io::Write;
        let mut buffer = ArgsBuffer::new(lane);
        buffer.write_all(self.0).map_err(|error| match buffer.too_large {
            Some(size) => Failure::PayloadTooLarge { size, limit: lane.limits.max_payload },
            None => Failure::BadValue { message: error.to_string() },
        })?;
        Ok(buffer.finish())
    }
}

/// A call that was sent, as a future; dropped early, it is cancelled (C7).
struct InFlight<'c> {
    contract: &'c Contract,
    lane: &'c Arc<Lane>,
    ticket: Ticket,
    /// The function's.
    id: u32,
    clock: &'c mut Clock,
    patience: u32,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    ended: bool,
}

impl Future for InFlight<'_> {
    type Output = Result<Step, TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // A task whose calls are answered at once would never let another one
        // run. What tokio's budget does here as well: the call is on its way
        // when the task yields, so that tasks on one lane get in step, and the
        // worker has several calls at a time.
        let Poll::Ready(progress) = coop::poll_proceed(cx) else { return Poll::Pending };
        match this.lane.poll_wait(cx, this.ticket, &mut this.patience) {
            Look::Done(done) => {
                progress.made_progress();
                this.ended = true;
                return Poll::Ready(Ok(Step::Done(done)));
            }
            // No time has passed that a timer would notice.
            Look::Again => return Poll::Pending,
            Look::Asleep => {}
        }
        if this.timer.is_none() {
            let deadline = this.clock.deadline();
            if let Some(started) = this.clock.started {
                this.lane.sent_at(this.ticket, started);
            }
            let Some(deadline) = deadline else { return Poll::Pending };
            this.timer = Some(this.contract.core.timer(deadline));
        }
        if let Some(timer) = &mut this.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            this.ended = true;
            this.contract.give_up(this.lane, this.ticket, Some(Duration::ZERO));
            this.lane.pump();
            return Poll::Ready(Err(TimedOut));
        }
        Poll::Pending
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let left = self.clock.left();
            self.contract.give_up(self.lane, self.ticket, left);
            if let Some(counters) = self.lane.counters(self.id) {
                counters.failed(Ended::Cancelled);
            }
            // This task may have been the one that read for all.
            self.lane.pump();
        }
    }
}
