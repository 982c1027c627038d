//! Calling a contract's functions.

mod arguments;
mod awaited;
mod clock;
mod in_flight;
mod road;
mod room;

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

use menagerie_protocol::Failure;
use menagerie_protocol::contract::ContractId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Handle, RuntimeFlavor};

use self::arguments::{Encode, Raw, Tuple};
use self::awaited::Awaited;
use self::clock::{Clock, TimedOut};
use self::in_flight::InFlight;
use self::road::{Change, NotSent, Sent, Wait};
use crate::bundle::{Bundle, Route};
use crate::chain;
use crate::core::Core;
use crate::events::EventKind;
use crate::lane::{Lane, LaneContract, Looks, Nap, Outcome, Own, Terms, Ticket, block_on, decode};
use crate::waits::Guard;

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
    /// That of the deadline, which each call would compute; and so the terms.
    nap: Nap,
    terms: Terms,
    /// The lane that served the bundle when the handle was made, and the
    /// contract as it serves it; of a bundle that has but one. While it takes
    /// calls it is the bundle's route: one look at it spares the route's own
    /// look-up.
    first: Option<(Arc<Lane>, Arc<LaneContract>)>,
}

impl Contract {
    pub(crate) fn new(core: Arc<Core>, bundle: Arc<Bundle>, id: ContractId) -> Self {
        let deadline = core.config.deadline;
        let first = match &**bundle.route() {
            Route::Up(lane) if !bundle.seats.are_many() => {
                lane.contract(&id).map(|contract| (Arc::clone(lane), Arc::clone(contract)))
            }
            Route::Up(_) | Route::Waiting(_) | Route::Down(..) => None,
        };
        let (nap, terms) = (Nap::within(deadline), Terms::new(0, deadline));
        Self { core, bundle, id, deadline, nap, terms, first }
    }

    /// The same, for a bundle's calls: `origin` says which of its waits it is.
    pub(crate) fn on_behalf_of(mut self, origin: u64) -> Self {
        self.terms = Terms::new(origin, self.deadline);
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

    /// The same contract with another deadline for its calls, instead of
    /// [`Config::deadline`](crate::Config::deadline); zero for none. A call's time begins
    /// when it is made, and it may be sent later. What the called bundle calls in it has what
    /// is left of that time.
    #[must_use]
    pub fn with_timeout(mut self, deadline: Duration) -> Self {
        (self.deadline, self.nap) = (deadline, Nap::within(deadline));
        self.terms = self.terms.within(deadline);
        self
    }

    /// Calls a function with a tuple of arguments, and waits for its result. A struct, or
    /// one in an argument, is a map with its fields' names to the guest; one instead of the
    /// tuple has its fields as arguments, in their order.
    ///
    /// # Errors
    ///
    /// Every outcome of rule C3 that is not a value; [`Failure::BadArguments`] also where
    /// `args` is no list, and [`Failure::BadValue`] where `R` cannot hold the result.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call: the guest is asked to stop, and
    /// its result is thrown away.
    pub fn call<'c, A: Serialize, R: DeserializeOwned>(
        &'c self,
        function: &'c str,
        args: A,
    ) -> impl Future<Output = Result<R, Failure>> {
        Awaited::new(self, function, args, Self::ended)
    }

    /// The end of a call that its first look has not ended.
    async fn ended<A: Serialize, R: DeserializeOwned>(
        &self,
        function: &str,
        args: A,
        mut own: Own,
        sent: Sent,
    ) -> Result<R, Failure> {
        let link = self.link(function)?;
        let contract = link.as_deref().map_or(self, |link| &link.contract);
        contract.finish(function, &Tuple(&args), &mut own, sent).await?;
        own.decode()
    }

    /// The same contract for a host function that a bundle has called, if it is one that
    /// calls: with the wait that this bundle is in meanwhile (C5).
    // In a box, as nearly no call has one.
    #[inline]
    fn link(&self, function: &str) -> Result<Option<Box<Link<'_>>>, Failure> {
        if chain::is_called() { self.chain_link(function) } else { Ok(None) }
    }

    #[cold]
    fn chain_link(&self, function: &str) -> Result<Option<Box<Link<'_>>>, Failure> {
        let wait = chain::enter(&self.core, &self.bundle.name)
            .map_err(|chain| self.failed(function, Failure::CycleDetected { chain }))?;
        Ok(wait.map(|wait| {
            Box::new(Link { contract: self.clone().on_behalf_of(wait.id()), _wait: wait })
        }))
    }

    /// As [`call`](Self::call), from a thread that may block. An asynchronous task may
    /// as well: other tasks of a runtime of several threads get another one meanwhile, those
    /// of any other executor wait.
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
    /// As [`call`](Self::call).
    pub fn call_blocking<A: Serialize, R: DeserializeOwned>(
        &self,
        function: &str,
        args: A,
    ) -> Result<R, Failure> {
        let mut own = ManuallyDrop::new(Own::new(Looks::Always(self.nap)));
        let args = Tuple(&args);
        let sent = self.sends_at_once(function, &args, &mut own);
        if let Some(value) = own.small_value() {
            // It owns nothing: not to drop it spares the code that would.
            return decode(value);
        }
        let mut own = ManuallyDrop::into_inner(own);
        let link = self.link(function)?;
        let contract = link.as_deref().map_or(self, |link| &link.contract);
        giving_way(|| contract.finish_blocking(function, &args, &mut own, sent))?;
        own.decode()
    }

    /// Calls a function with values whose shape is not known beforehand:
    /// `args` is an array.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
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
        let mut own = Own::new(Looks::IfAlone);
        self.finish(function, &Raw(args), &mut own, Sent::Not).await?;
        own.into_vec()
    }

    /// Waits until the call has ended, which [was sent at once](Self::sends_at_once) or
    /// not, tries again where it may, and leaves its value in `own`.
    #[inline]
    async fn finish<A: Encode>(
        &self,
        function: &str,
        args: &A,
        own: &mut Own,
        sent: Sent,
    ) -> Result<(), Failure> {
        let mut clock = Clock::new(self.deadline);
        let tried = match self.road(sent, function, args, &mut clock, own) {
            Ok(lane) => self.wait(&lane, own, &mut clock).await,
            Err(not_sent) => Err(not_sent),
        };
        if own.has_value() {
            return Ok(());
        }
        // Boxed, as it is rare and large: every call's future would be moved with it.
        Box::pin(self.try_again(function, args, own, (clock, tried))).await
    }

    /// Waits for the end of a call that was sent.
    #[inline]
    async fn wait(&self, lane: &Arc<Lane>, own: &mut Own, clock: &mut Clock) -> Tried {
        if own.has_value() {
            self.count(lane, own, clock);
            return Ok(Ok(()));
        }
        Ok(InFlight::new(self, lane, own, clock).await)
    }

    /// What to do with a first try that has not ended in a value, and further ones.
    async fn try_again<A: Encode>(
        &self,
        function: &str,
        args: &A,
        own: &mut Own,
        (mut clock, mut tried): (Clock, Tried),
    ) -> Result<(), Failure> {
        loop {
            let sent = match tried {
                Ok(waited) => {
                    if self.has_ended(function, waited, own, &clock)? {
                        return Ok(());
                    }
                    self.send(function, args, &mut clock, own)
                }
                Err(NotSent::Wait(wait)) => {
                    let unsent = Unsent { contract: self, function };
                    let sent = match wait {
                        Wait::Room(lane) => {
                            self.send_in_turn(&lane, function, args, &mut clock, own).await
                        }
                        Wait::Change(change) => {
                            let waited = self.wait_until(change, &mut clock).await;
                            waited.map(|()| self.send(function, args, &mut clock, own))
                        }
                    };
                    std::mem::forget(unsent);
                    sent.map_err(|TimedOut| self.late(function, &clock))?
                }
                Err(NotSent::Failed(failure)) => return Err(self.failed(function, *failure)),
            };
            tried = match sent {
                Ok(lane) => self.wait(&lane, own, &mut clock).await,
                Err(not_sent) => Err(not_sent),
            };
        }
    }

    /// As [`finish`](Self::finish), on this thread.
    // Out of line: a hot call's answer is there already.
    #[inline(never)]
    fn finish_blocking(
        &self,
        function: &str,
        args: &dyn Encode,
        own: &mut Own,
        sent: Sent,
    ) -> Result<(), Failure> {
        let mut clock = Clock::new(self.deadline);
        let mut tried = self
            .road(sent, function, args, &mut clock, own)
            .map(|lane| self.wait_blocking(&lane, own, &mut clock));
        loop {
            let sent = match tried {
                Ok(waited) => {
                    if self.has_ended(function, waited, own, &clock)? {
                        return Ok(());
                    }
                    own.hurry();
                    self.send(function, args, &mut clock, own)
                }
                Err(NotSent::Wait(wait)) => {
                    let sent = match wait {
                        Wait::Room(lane) => {
                            self.send_in_turn_blocking(&lane, function, args, &mut clock, own)
                        }
                        Wait::Change(change) => {
                            let until = clock.deadline();
                            let waits = self.wait_until(change, &mut clock);
                            let waited = block_on(waits, until).unwrap_or(Err(TimedOut));
                            own.hurry();
                            waited.map(|()| self.send(function, args, &mut clock, own))
                        }
                    };
                    sent.map_err(|TimedOut| self.late(function, &clock))?
                }
                Err(NotSent::Failed(failure)) => return Err(self.failed(function, *failure)),
            };
            tried = sent.map(|lane| self.wait_blocking(&lane, own, &mut clock));
        }
    }

    fn wait_blocking(
        &self,
        lane: &Arc<Lane>,
        own: &mut Own,
        clock: &mut Clock,
    ) -> Result<(), TimedOut> {
        if own.has_value() {
            self.count(lane, own, clock);
            return Ok(());
        }
        clock.ran(own.slept);
        let mut noted = false;
        let mut deadline = |ticket| {
            let deadline = clock.deadline();
            if !noted && let Some(started) = clock.started {
                noted = true;
                lane.sent_at(ticket, started, deadline);
            }
            deadline
        };
        if lane.wait_blocking(own, &mut deadline) {
            self.count(lane, own, clock);
            return Ok(());
        }
        self.give_up(lane, own.ticket, Some(Duration::ZERO));
        Err(TimedOut)
    }

    /// The caller no longer waits. If the guest is at it, it is asked to stop,
    /// and killed when `left` and the grace have passed; never for `None`. If it is
    /// begun later, it has the time then that it would have had.
    fn give_up(&self, lane: &Arc<Lane>, ticket: Ticket, left: Option<Duration>) {
        let begun = lane.is_running(ticket);
        if lane.abandon(ticket) {
            let left = left.map(|left| if begun { left } else { self.deadline });
            let until_kill = left.map(|left| left + self.core.config.grace);
            lane.tell(|peer| peer.overdue(lane, ticket, until_kill));
        }
        if !begun && left == Some(Duration::ZERO) && lane.begins_nothing().is_some() {
            lane.tell(|peer| peer.stuck(lane));
        }
    }

    /// Waits until it is worth trying again.
    async fn wait_until(&self, change: Change, clock: &mut Clock) -> Result<(), TimedOut> {
        let deadline = clock.deadline();
        let mut changed = self.bundle.subscribe();
        changed.mark_unchanged();
        let ready = async {
            match change {
                Change::Route => {
                    // It may have stopped because nobody called it.
                    self.core.need(&self.bundle);
                    while matches!(&**self.bundle.route(), Route::Waiting(_)) {
                        if changed.changed().await.is_err() {
                            return;
                        }
                    }
                }
                Change::After(dead) => {
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

    /// Whether the call has ended, with a value; `false` if it is to be tried
    /// again.
    fn has_ended(
        &self,
        function: &str,
        waited: Result<(), TimedOut>,
        own: &mut Own,
        clock: &Clock,
    ) -> Result<bool, Failure> {
        if own.has_value() {
            return Ok(true);
        }
        if let Err(TimedOut) = waited {
            return Err(self.late(function, clock));
        }
        // What no worker had begun goes to the next incarnation (C4).
        own.segment = None;
        let Some(Outcome::Failed(failure)) = own.outcome.take() else { return Ok(false) };
        let crashed = matches!(*failure, Failure::WorkerCrashed { .. });
        if crashed && self.bundle.manifest().is_idempotent(&self.id.name, function) {
            return Ok(false);
        }
        Err(self.failed(function, *failure))
    }

    /// The failure of a call whose time is up.
    #[cold]
    fn late(&self, function: &str, clock: &Clock) -> Failure {
        // Without its runtime nobody would look after the worker.
        if self.core.timers.are_over() {
            return self.failed(function, Failure::ShuttingDown);
        }
        self.core.events.emit(EventKind::DeadlineExceeded {
            bundle: self.bundle.name.clone(),
            function: function.to_owned(),
        });
        let deadline_ms = u64::try_from(clock.limit.as_millis()).unwrap_or(u64::MAX);
        self.failed(function, Failure::DeadlineExceeded { deadline_ms })
    }

    /// Takes the time of what came back; values were counted by who read them.
    /// Failures are counted when they are known to be the call's end.
    #[inline]
    fn count(&self, lane: &Lane, own: &Own, clock: &Clock) {
        if clock.started.is_some() {
            self.sample(lane, own, clock);
        }
    }

    /// Out of line: most calls have not had their time taken.
    #[cold]
    fn sample(&self, lane: &Lane, own: &Own, clock: &Clock) {
        let by_guest = |failure: &Failure| matches!(failure, Failure::Guest(_));
        let answered = own.has_value()
            || matches!(&own.outcome, Some(Outcome::Failed(failure)) if by_guest(failure));
        if answered
            && let Some(taken) = clock.taken()
            && let Some(counters) = lane.counters(own.function)
        {
            self.bundle.counters.sample(counters, taken);
        }
    }

    #[cold]
    fn failed(&self, function: &str, failure: Failure) -> Failure {
        self.bundle.counters.failed(&self.id, function, &failure);
        failure
    }
}

/// Runs what blocks. A worker of a runtime hands on what waits for it, which nobody else
/// could take: the task that was woken last, by this very call perhaps, and needed for it.
// Out of line: a hot call's answer is there already.
#[inline(never)]
fn giving_way<T>(blocks: impl FnOnce() -> T) -> T {
    let has_others = |runtime: Handle| runtime.runtime_flavor() == RuntimeFlavor::MultiThread;
    if tokio::runtime::worker_index().is_some() && Handle::try_current().is_ok_and(has_others) {
        tokio::task::block_in_place(blocks)
    } else {
        blocks()
    }
}

/// A contract that a host function calls on, and the wait that this makes of the call which
/// the function serves.
struct Link<'c> {
    contract: Contract,
    _wait: Guard<'c>,
}

/// A call that was not sent yet, and waits until it can be: dropped meanwhile, it is
/// cancelled, which nobody else would count.
struct Unsent<'c> {
    contract: &'c Contract,
    function: &'c str,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.contract.failed(self.function, Failure::Cancelled);
    }
}

/// How a try went: what its wait said, or why it was not sent.
type Tried = Result<Result<(), TimedOut>, NotSent>;
