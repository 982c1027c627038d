//! A process's lanes: bundles are loaded on them, reloaded, and unloaded again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use menagerie_protocol::codec::{CodecError, MAX_MESSAGE};
use menagerie_protocol::message::{LaneCommand, ToSupervisor};
use menagerie_protocol::{Failure, GuestError, LoaderError, RuntimeError};
use tokio::sync::oneshot;

use super::super::connection::{MessageNumber, Unsent};
use super::super::first_load::{FirstLoad, load_message};
use super::super::operations::Operation;
use super::super::questions::Asked;
use super::{Entry, KillCause, Process};
use crate::bundle::{Bundle, Content};
use crate::lane::{Draft, Lane, LaneLimits, Undelivered, lock};
use crate::sandbox::are_same;
use crate::status::Activity;

/// How long a shortage of the system's is given to pass, each time.
const SHORTAGE: Duration = Duration::from_millis(10);

impl Process {
    /// Waits for an answer of a lane, but not longer than a step may take, and
    /// not beyond the process's death. What does not answer in time hangs in
    /// the guest's own code, and costs the process its life: nothing else would
    /// stop it.
    async fn answer(
        &self,
        answer: &mut oneshot::Receiver<ToSupervisor>,
        (step, asked): (&str, MessageNumber),
        bundle: &str,
    ) -> Result<ToSupervisor, RuntimeError> {
        let limit = self.config.load_timeout;
        let too_late = async {
            self.pause(limit).await;
            // What it was never asked is no fault of the bundle's.
            while self.sender.is_held_up(asked) {
                self.pause(limit).await;
            }
        };
        tokio::select! {
            biased;
            // Dropped unanswered, when the process has died.
            answer = answer => answer.map_err(|_| self.gone_in(Some((step, bundle)))),
            () = self.ended() => Err(self.gone_in(Some((step, bundle)))),
            () = too_late => {
                let reason = format!("'{step}' of '{bundle}' did not end within {limit:?}");
                self.kill_stuck(reason, bundle).await;
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                let (bundle, step) = (bundle.to_owned(), step.to_owned());
                Err(RuntimeError::TimedOut { bundle, step, limit_ms })
            }
        }
    }

    fn no_lane(&self, error: &std::io::Error) -> RuntimeError {
        RuntimeError::WorkerUnavailable {
            worker: self.worker.clone(),
            problem: format!("no lane can be made: {error}"),
        }
    }

    /// Makes a lane on which a bundle is being loaded from now on.
    fn begin(
        &self,
        draft: Draft,
        generation: u32,
        bundle: &Arc<Bundle>,
        content: &Arc<Content>,
    ) -> Result<Loading, RuntimeError> {
        let id = self.next_lane.fetch_add(1, Ordering::Relaxed);
        let peer: Weak<Self> = Weak::clone(&self.this);
        let lane = draft.finish(id, generation, peer);
        let pump = lane.start_pump(&self.runtime).map_err(|error| self.no_lane(&error))?;
        {
            let mut lanes = lock(&self.lanes);
            if self.is_leaving() {
                return Err(self.gone());
            }
            let entry = Entry {
                lane: Arc::clone(&lane),
                bundle: Arc::clone(bundle),
                manifest: Arc::clone(&content.manifest),
                _pump: pump,
            };
            lanes.insert(id, entry);
            lock(&self.guests).add(&bundle.name);
        }
        Ok(Loading {
            process: Weak::clone(&self.this),
            lane,
            bundle: Arc::clone(bundle),
            content: Arc::clone(content),
            running: Some(self.operations.begin(bundle, Activity::Load)),
            answer: Some(lock(&self.questions).ask(id, Asked::Load)),
            asked: MessageNumber::default(),
            keep: false,
        })
    }

    /// From now on its worker may answer a load that was sent before the hello.
    pub(in super::super) fn expect(&self, first: FirstLoad) {
        let FirstLoad { bundle, content, generation, lane, .. } = first;
        match self.begin(lane, generation, &bundle, &content) {
            Ok(loading) => *lock(&self.first) = Some(loading),
            Err(error) => self.kill(KillCause::Supervisor, error.to_string()),
        }
    }

    /// The load that was sent before the hello, if it is this one. Another one of the
    /// same bundle is not wanted any more.
    fn first(&self, bundle: &Arc<Bundle>, content: &Arc<Content>) -> Option<Loading> {
        let first = lock(&self.first).take_if(|first| Arc::ptr_eq(&first.bundle, bundle))?;
        Some(first).filter(|first| Arc::ptr_eq(&first.content, content))
    }

    /// Nobody will wait any more for the load that was sent before the hello.
    pub(in super::super) fn leave_first(&self) {
        let first = lock(&self.first).take();
        drop(first);
    }

    /// Whether its sandbox, if it is in one, is that of this content: another bundle of its
    /// name may have been what it was started for.
    pub(crate) fn suits(&self, content: &Content) -> bool {
        are_same(self.rights.as_ref(), content.rights.as_ref())
    }

    /// Loads a bundle on a new lane. Who makes it serve has its seat locked meanwhile.
    pub(crate) async fn load(
        &self,
        bundle: &Arc<Bundle>,
        content: &Arc<Content>,
        reload: bool,
    ) -> Result<Loaded, RuntimeError> {
        // Its lane may have been begun already, before the hello.
        if self.is_leaving() {
            return Err(self.gone());
        }
        if !self.suits(content) {
            let other = format!("its sandbox was made for another bundle than '{}'", bundle.name);
            self.kill(KillCause::Supervisor, other);
            return Err(self.gone());
        }
        let first = self.first(bundle, content).filter(|_| !reload);
        let loading = match first {
            Some(loading) => loading,
            None => self.send_load(bundle, content, reload).await?,
        };
        self.loaded(loading).await
    }

    /// Asks the worker to load a bundle on a new lane.
    async fn send_load(
        &self,
        bundle: &Arc<Bundle>,
        content: &Arc<Content>,
        reload: bool,
    ) -> Result<Loading, RuntimeError> {
        content.check(&self.worker).await?;
        let copy = content.copy(self.takes_copies).await;
        let generation = bundle.next_generation();
        let made = lock(&self.draft).take();
        let draft = made.map_or_else(|| Draft::new(LaneLimits::of(&self.config)), Ok);
        let mut draft = draft.map_err(|error| self.no_lane(&error))?;
        let mut fds = draft.take_descriptors();
        let mut loading = self.begin(draft, generation, bundle, content)?;
        let id = loading.lane.id;
        let message = load_message(&self.config, content, id, generation, reload, copy.is_some());
        fds.extend(copy);
        match self.sender.send(&message, fds) {
            Ok(asked) => loading.asked = asked,
            Err(error) => {
                lock(&self.questions).take_back(id);
                loading.answer = None;
                return Err(self.cannot_send(&bundle.name, &error));
            }
        }
        Ok(loading)
    }

    /// Waits for the outcome of a load.
    async fn loaded(&self, mut loading: Loading) -> Result<Loaded, RuntimeError> {
        let (id, bundle) = (loading.lane.id, &loading.bundle);
        let Some(answer) = &mut loading.answer else { return Err(self.gone()) };
        let answer = self.answer(answer, ("load", loading.asked), &bundle.name).await;
        loading.answer = None;
        let contracts = match answer? {
            ToSupervisor::Loaded { contracts, .. } => {
                // The worker has checked the same, if it is honest.
                if let Err(odd) = loading.content.manifest.check_exports(&contracts) {
                    let odd: String = odd.to_string().chars().take(300).collect();
                    let reason = format!("protocol violation on lane {id}: {odd}");
                    self.kill(KillCause::Violation, reason);
                    return Err(self.gone());
                }
                contracts
            }
            ToSupervisor::LoadFailed { error, .. } => {
                // Should it be the copy's fault, the next one is another.
                loading.content.artifact.give_back().await;
                let error = error.shortened(&loading.bundle.name);
                return Err(RuntimeError::Loader(loading.content.relocate(error)));
            }
            _ => return Err(self.gone()),
        };
        if self.is_dead() {
            return Err(self.gone());
        }
        loading.lane.serves(&contracts, &bundle.counters);
        loading.keep = true;
        Ok(Loaded {
            lane: Arc::clone(&loading.lane),
            bundle: loading.bundle.name.clone(),
            _content: Arc::clone(&loading.content),
        })
    }

    /// A lane is no more.
    fn forget(&self, lane: &Arc<Lane>) {
        if let Some(entry) = lock(&self.lanes).remove(&lane.id) {
            self.ended_calls.fetch_add(entry.lane.ended_calls(), Ordering::Relaxed);
        }
        lane.end(|| Failure::Cancelled);
    }

    fn cannot_send(&self, bundle: &str, error: &Unsent) -> RuntimeError {
        match error {
            Unsent::Codec(CodecError::TooLarge(size)) => {
                RuntimeError::Loader(LoaderError::SourceTooLarge {
                    bundle: bundle.to_owned(),
                    size: *size as u64,
                    limit: MAX_MESSAGE as u64,
                })
            }
            other => {
                self.kill(KillCause::Violation, format!("protocol violation: {other}"));
                self.gone()
            }
        }
    }

    /// A hook begins, unless its lane is no more.
    fn operation(&self, loaded: &Loaded, activity: Activity) -> Option<Operation> {
        let lanes = lock(&self.lanes);
        let entry = lanes.get(&loaded.lane.id)?;
        Some(self.operations.begin(&entry.bundle, activity))
    }

    /// Sends a command on a lane's ring, and waits for its answer.
    async fn command(
        &self,
        loaded: &Loaded,
        command: LaneCommand,
        asked: Asked,
        step: &str,
    ) -> Result<ToSupervisor, RuntimeError> {
        let Loaded { lane, bundle, .. } = loaded;
        let limit = Instant::now() + self.config.load_timeout;
        let mut answer = lock(&self.questions).ask(lane.id, asked);
        loop {
            match lane.send_command(&command) {
                Ok(()) => {
                    let asked = MessageNumber::default();
                    return self.answer(&mut answer, (step, asked), bundle).await;
                }
                // The ring is full of calls; the lane works them off.
                Err(Undelivered::Busy) if Instant::now() < limit => {
                    self.pause(Duration::from_millis(1)).await;
                }
                Err(short @ Undelivered::Short(_)) => {
                    lock(&self.questions).take_back(lane.id);
                    let (worker, problem) = (self.worker.clone(), short.to_string());
                    return Err(RuntimeError::WorkerUnavailable { worker, problem });
                }
                Err(Undelivered::Busy | Undelivered::Dead) => {
                    lock(&self.questions).take_back(lane.id);
                    if !self.is_dead() && !lane.is_dead() {
                        let reason = format!("lane {} of '{bundle}' reads nothing", lane.id);
                        self.kill(KillCause::Timeout, reason);
                    }
                    return Err(self.gone());
                }
            }
        }
    }

    /// Runs the lane's `on_unload`, and returns the state.
    pub(crate) async fn finish(
        &self,
        loaded: &Loaded,
    ) -> Result<Result<Option<Vec<u8>>, GuestError>, RuntimeError> {
        let _running = self.operation(loaded, Activity::OnUnload);
        match self.command(loaded, LaneCommand::Finish, Asked::Finish, "on_unload").await? {
            ToSupervisor::Finished { state, .. } => Ok(state.map_err(GuestError::shortened)),
            _ => Err(self.gone()),
        }
    }

    /// Runs the lane's `on_load` with a state.
    pub(crate) async fn resume(
        &self,
        loaded: &Loaded,
        state: Option<Vec<u8>>,
    ) -> Result<Result<(), GuestError>, RuntimeError> {
        let _running = self.operation(loaded, Activity::OnLoad);
        let command = LaneCommand::Resume { state };
        match self.command(loaded, command, Asked::Resume, "on_load").await? {
            ToSupervisor::Resumed { outcome, .. } => Ok(outcome.map_err(GuestError::shortened)),
            _ => Err(self.gone()),
        }
    }

    /// Runs the lane's `on_load` with the state that it has left itself, as nothing comes of
    /// the next generation. There is no other way back, so what the system is short of is
    /// waited for.
    pub(crate) async fn go_on(
        &self,
        loaded: &Loaded,
        state: Option<Vec<u8>>,
    ) -> Result<Result<(), GuestError>, RuntimeError> {
        let limit = Instant::now() + self.config.load_timeout;
        loop {
            let outcome = self.resume(loaded, state.clone()).await;
            let Err(error) = &outcome else { return outcome };
            if self.is_ending() {
                return outcome;
            }
            if Instant::now() >= limit {
                // Nobody's doing: none of its hooks runs.
                let bundle = &loaded.bundle;
                let reason = format!("'{bundle}' cannot have its state back: {error}");
                self.kill(KillCause::Supervisor, reason);
                return outcome;
            }
            self.pause(SHORTAGE).await;
        }
    }

    /// Ends the lane; everything of its generation is freed when this returns.
    pub(crate) async fn unload(&self, loaded: Loaded) -> Result<(), RuntimeError> {
        let running = self.operation(&loaded, Activity::OnUnload);
        let outcome = self.command(&loaded, LaneCommand::Unload, Asked::Unload, "unload").await;
        drop(running);
        self.forget(&loaded.lane);
        outcome.map(drop)
    }
}

/// A lane that has loaded its bundle.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) lane: Arc<Lane>,
    pub(crate) bundle: String,
    /// Its files stay as long as it does.
    _content: Arc<Content>,
}

/// A lane whose bundle is being loaded; forgotten if nothing comes of it. If nobody waits
/// for it any more, it is unloaded as soon as it has loaded: until then it is a load like
/// any other, with the same limit, and the bundle's doing if the worker dies of it.
pub(super) struct Loading {
    process: Weak<Process>,
    lane: Arc<Lane>,
    bundle: Arc<Bundle>,
    content: Arc<Content>,
    /// Until it has ended.
    running: Option<Operation>,
    answer: Option<oneshot::Receiver<ToSupervisor>>,
    /// The message that asks for it, if it came that way.
    asked: MessageNumber,
    keep: bool,
}

impl Drop for Loading {
    fn drop(&mut self) {
        let Some(process) = self.process.upgrade().filter(|_| !self.keep) else { return };
        let (Some(mut answer), false) = (self.answer.take(), process.is_dead()) else {
            return process.forget(&self.lane);
        };
        let (running, bundle) = (self.running.take(), self.bundle.name.clone());
        let (lane, content) = (Arc::clone(&self.lane), Arc::clone(&self.content));
        let asked = self.asked;
        process.runtime.clone().spawn(async move {
            let answer = process.answer(&mut answer, ("load", asked), &bundle).await;
            drop(running);
            match answer {
                Ok(ToSupervisor::Loaded { .. }) => {
                    let loaded = Loaded { lane, bundle, _content: content };
                    drop(process.unload(loaded).await);
                }
                _ => process.forget(&lane),
            }
        });
    }
}

/// A reload's or a load's failure at a step of the guest's own.
pub(crate) fn hook_failed(bundle: &str, hook: &str, error: GuestError) -> RuntimeError {
    RuntimeError::Loader(LoaderError::init(bundle, format!("run {hook}"), error))
}
