//! The handle that a host holds.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use menagerie_protocol::contract::ContractRequest;
use menagerie_protocol::{BundleSource, Failure, ManifestData, RuntimeError};

use crate::builder::SupervisorBuilder;
use crate::call::Contract;
use crate::config::Config;
use crate::core::Core;
use crate::discovery::LoadStep;
use crate::events::{Events, now_ms};
use crate::host::HostContract;
use crate::lane::lock;
use crate::logs::LogEntry;
use crate::reconcile::Reconciled;
use crate::status::{BundleStatus, CrashReport, Status, WorkerStatus};
use crate::watch::{Watch, WatchSettings};
use crate::worker::handle::Worker;

/// Runs bundles in worker processes, and keeps them running. Cheap to clone;
/// when the last clone is dropped the workers are killed, and
/// [`shutdown`](Self::shutdown) ends them in an orderly way.
#[derive(Clone, Debug)]
pub struct Supervisor {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    core: Arc<Core>,
    /// Dropped after `core`'s workers were told to go.
    runtime: OwnRuntime,
    /// A process that this one forks has a copy of all this, and none of its threads.
    pid: u32,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // The processes are the parent's, and so are the descriptors by which its
            // threads are woken.
            std::mem::forget((Arc::clone(&self.core), self.runtime.0.take()));
            return;
        }
        self.core.end_at_once();
    }
}

/// A runtime of the supervisor's own. It may be dropped anywhere, also in an
/// asynchronous task of another runtime, where waiting for it is forbidden.
#[derive(Debug)]
struct OwnRuntime(Option<tokio::runtime::Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Supervisor {
    /// Settings to start from.
    pub fn builder() -> SupervisorBuilder {
        SupervisorBuilder::default()
    }

    /// The handle of what was started; `own` is its runtime, if it has one of its own.
    pub(crate) fn new(core: Arc<Core>, own: Option<tokio::runtime::Runtime>) -> Self {
        let (runtime, pid) = (OwnRuntime(own), std::process::id());
        Self { owner: Arc::new(Owner { core, runtime, pid }) }
    }

    /// Runs a future of this supervisor to its end, for hosts that have no
    /// runtime: `supervisor.block_on(supervisor.load("bundles/greeter"))`.
    ///
    /// # Panics
    ///
    /// It is called from an asynchronous task.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.core().runtime.block_on(future)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.owner.core
    }

    /// Loads a bundle from its folder, and starts its worker if that does not
    /// run yet.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let supervisor = menagerie_supervisor::Supervisor::builder().start()?;
    /// let bundle = supervisor.load("plugins/greeter").await?;
    /// println!("{} {} in {}", bundle.name, bundle.version, bundle.loader);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`RuntimeError`]; nothing of the bundle stays behind (L5). One that takes longer
    /// than [`Config::load_timeout`] is [`RuntimeError::TimedOut`].
    ///
    /// # Cancel safety
    ///
    /// Nor does anything if the future is dropped: what the worker has begun to load is
    /// unloaded as soon as it has loaded, within [`Config::load_timeout`].
    pub async fn load(&self, dir: impl AsRef<Path>) -> Result<BundleStatus, RuntimeError> {
        self.core().load_dir(dir.as_ref()).await
    }

    /// Loads a bundle from source text in memory; `manifest` is the text of its
    /// manifest (L4).
    ///
    /// ```no_run
    /// # async fn example(supervisor: menagerie_supervisor::Supervisor)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let manifest = "name = 'twice'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['twice@1']";
    /// let code = "return { ['twice@1'] = { twice = function(n) return 2 * n end } }";
    /// supervisor.load_code(manifest, code).await?;
    /// let four: i64 = supervisor.contract("twice@1")?.call("twice", (2,)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    ///
    /// As [`load`](Self::load).
    pub async fn load_code(
        &self,
        manifest: &str,
        code: impl Into<String>,
    ) -> Result<BundleStatus, RuntimeError> {
        let parsed = ManifestData::parse(manifest)?;
        self.core().load_from_memory(parsed, BundleSource::Code(code.into())).await
    }

    /// Loads a bundle from a compiled artifact in memory (L4).
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    ///
    /// As [`load`](Self::load).
    pub async fn load_bytes(
        &self,
        manifest: &str,
        bytes: impl Into<Vec<u8>>,
    ) -> Result<BundleStatus, RuntimeError> {
        let parsed = ManifestData::parse(manifest)?;
        self.core().load_from_memory(parsed, BundleSource::Bytes(bytes.into())).await
    }

    /// Loads several bundles, each path a bundle or a folder of bundles, in the
    /// order of their dependencies (R3). One that fails does not stop the
    /// others; the status lists it with its reason until it is loaded, or
    /// [`unload`](Self::unload)ed.
    ///
    /// # Cancel safety
    ///
    /// What was loaded stays if the future is dropped; the load that is under way is undone,
    /// and those after it do not begin.
    pub async fn load_all(
        &self,
        paths: &[PathBuf],
    ) -> Vec<(PathBuf, Result<BundleStatus, RuntimeError>)> {
        self.core().load_all(paths).await
    }

    /// As [`load_all`](Self::load_all), and `before` is told of each load before it
    /// begins: the loads come one after the other, and each may take
    /// [`load_timeout`](crate::Config::load_timeout).
    ///
    /// # Cancel safety
    ///
    /// As [`load_all`](Self::load_all).
    pub async fn load_all_with(
        &self,
        paths: &[PathBuf],
        before: impl FnMut(LoadStep<'_>),
    ) -> Vec<(PathBuf, Result<BundleStatus, RuntimeError>)> {
        self.core().load_all_with(paths, before).await
    }

    /// Makes what is loaded what a changed list of bundles says, each path a
    /// bundle or a folder of bundles: what `before` asked for and `after` does
    /// not is unloaded, dependents first; what `after` asks for and is not
    /// loaded, or could not be loaded again after a restart, is loaded. Bundles
    /// that came by other ways stay, as does one that another bundle that stays
    /// needs, and whatever was loaded from a path that cannot be read now: these
    /// are told.
    ///
    /// # Cancel safety
    ///
    /// Steps that have not begun do not begin if the future is dropped; an unload that has
    /// goes on, and a load is undone. To ask again with the same lists does the rest.
    pub async fn reconcile(&self, before: &[PathBuf], after: &[PathBuf]) -> Reconciled {
        self.core().reconcile(before, after).await
    }

    /// Loads a bundle's code anew while it serves (L6): callers wait for the
    /// hand-over only, and if anything fails the old code goes on.
    ///
    /// ```no_run
    /// # async fn example(supervisor: menagerie_supervisor::Supervisor) {
    /// match supervisor.reload("greeter").await {
    ///     Ok(bundle) => println!("generation {} serves", bundle.generation),
    ///     Err(error) => println!("the old one goes on: {error}"),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Any [`RuntimeError`]; it names the step.
    ///
    /// # Cancel safety
    ///
    /// What has begun goes on if the future is dropped, with the bundles that are
    /// initialised again; events tell how it ends.
    pub async fn reload(&self, name: &str) -> Result<BundleStatus, RuntimeError> {
        self.core().reload(name).await
    }

    /// Unloads a bundle: new calls are refused at once, those in flight finish
    /// (L7), each within its own deadline; for one that has none see
    /// [`Config::drain`].
    ///
    /// # Errors
    ///
    /// [`RuntimeError::BundleNotFound`], [`RuntimeError::DependencyInUse`]; and
    /// [`RuntimeError::Panicked`] and [`RuntimeError::ShuttingDown`] when the bundle is out
    /// of reach already.
    ///
    /// # Cancel safety
    ///
    /// What has begun goes on if the future is dropped;
    /// [`EventKind::BundleUnloaded`](crate::EventKind::BundleUnloaded) tells of its end.
    pub async fn unload(&self, name: &str) -> Result<(), RuntimeError> {
        self.core().unload(name).await
    }

    /// Unloads a bundle, and before it the bundles that depend on it (R4).
    /// Returns their names in the order in which they were unloaded.
    ///
    /// # Errors
    ///
    /// As [`unload`](Self::unload), but for [`RuntimeError::DependencyInUse`].
    ///
    /// # Cancel safety
    ///
    /// As [`unload`](Self::unload), for all of these bundles.
    pub async fn unload_cascade(&self, name: &str) -> Result<Vec<String>, RuntimeError> {
        self.core().unload_cascade(name).await
    }

    /// Stops a worker in an orderly way and starts it again with its bundles;
    /// a quarantined one gets its trial now. Calls wait meanwhile, unless there
    /// are replicas. `name` is a worker's, what replicas are called together, or a
    /// loader's for all of its workers: these one after the other, and the last
    /// one's status is returned.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::WorkerUnavailable`] if it does not come back, or no bundle needs one
    /// of that name; an error that says which loaders there are if it is no worker's name at
    /// all; [`RuntimeError::ShuttingDown`].
    ///
    /// # Cancel safety
    ///
    /// What has begun goes on if the future is dropped, for all of these workers.
    pub async fn restart(&self, name: &str) -> Result<WorkerStatus, RuntimeError> {
        self.core().restart(name).await
    }

    /// As [`restart`](Self::restart), without a pause: another process is
    /// started and loads the bundles, calls go over to it, and the old one ends
    /// when its last call has. No call fails or waits, unless it has no deadline and takes
    /// longer than [`Config::drain`] lets it: that one is asked to stop.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::WorkerUnavailable`] if it is not ready, or the other
    /// process does not come up, and what the loading of a bundle fails with;
    /// the old process goes on serving.
    ///
    /// # Cancel safety
    ///
    /// As [`restart`](Self::restart).
    pub async fn restart_rolling(&self, name: &str) -> Result<WorkerStatus, RuntimeError> {
        self.core().restart_rolling(name).await
    }

    /// A contract that some loaded bundle provides: `greeter@1`, or
    /// `bundle/greeter@1` for that bundle's and no other's (R1).
    ///
    /// ```no_run
    /// # async fn example(supervisor: menagerie_supervisor::Supervisor)
    /// # -> Result<(), menagerie_supervisor::Failure> {
    /// let greeter = supervisor.contract("greeter@1")?;
    /// let text: String = greeter.call("greet", ("Ada",)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Failure::NoSuchContract`], also if the name is none.
    pub fn contract(&self, name: &str) -> Result<Contract, Failure> {
        let no_such = || Failure::NoSuchContract { contract: name.to_owned() };
        let (bundle, contract) = match name.split_once('/') {
            Some((bundle, contract)) => (Some(bundle), contract),
            None => (None, name),
        };
        let request: ContractRequest = contract.parse().map_err(|_| no_such())?;
        let resolved = lock(&self.core().registry).resolve(&request, bundle);
        let (bundle, id) = resolved.map_err(|_| no_such())?;
        Ok(Contract::new(Arc::clone(self.core()), bundle, id))
    }

    /// A contract of the host's own, for bundles that declare it as a
    /// `[[dependency]]` of `kind = "host"`. It has to be there when the first of
    /// them is loaded. A name that is none is told by [`HostContract::done`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let supervisor = menagerie_supervisor::Supervisor::builder().start()?;
    /// supervisor
    ///     .host_contract("kv@1")
    ///     .function("get", |key: String| async move { std::env::var(key) })
    ///     .function("sum", |a: i64, b: i64| async move { a + b })
    ///     .done()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn host_contract(&self, name: &str) -> HostContract {
        HostContract::new(&self.core().host, name)
    }

    /// Watches the files of bundles: one whose files have changed and come to
    /// rest is reloaded, and one that has come new into a folder of bundles is
    /// loaded. A reload that fails is told by an event and changes nothing.
    ///
    /// `paths` are those that [`load_all`](Self::load_all) is given, best before
    /// that: what changes in between is seen then. They are read before this returns.
    ///
    /// ```no_run
    /// # async fn example(supervisor: menagerie_supervisor::Supervisor) {
    /// let folders = ["plugins".into()];
    /// let watch = supervisor.watch(&folders, Default::default());
    /// supervisor.load_all(&folders).await;
    /// // … until it is dropped:
    /// drop(watch);
    /// # }
    /// ```
    pub fn watch(&self, paths: &[PathBuf], settings: WatchSettings) -> Watch {
        Watch::start(self.core(), paths, settings)
    }

    /// What happens from now on (S10), until a [`shutdown`](Self::shutdown) has ended, or
    /// the last supervisor has gone, and its workers have: who only watches has this, and no
    /// supervisor, which would keep the workers.
    ///
    /// ```no_run
    /// use menagerie_supervisor::{EventKind, NextEvent};
    ///
    /// # async fn example(supervisor: &menagerie_supervisor::Supervisor) {
    /// let mut events = supervisor.events();
    /// while let Some(next) = events.next().await {
    ///     if let NextEvent::Event(event) = next
    ///         && let EventKind::WorkerCrashed(report) = &event.kind
    ///     {
    ///         eprintln!("{} died of {}", report.worker, report.cause);
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        self.core().events.subscribe()
    }

    /// The last of what bundles, workers and the supervisor have logged, oldest
    /// first.
    #[must_use]
    pub fn logs(&self) -> Vec<LogEntry> {
        let kept = self.core().events.logs.0.after(0, usize::MAX);
        kept.items.iter().map(|entry| LogEntry::clone(entry)).collect()
    }

    /// Everything at a glance.
    #[must_use]
    pub fn status(&self) -> Status {
        let core = self.core();
        let workers: Vec<Arc<Worker>> = lock(&core.workers).values().map(Arc::clone).collect();
        let bundles = lock(&core.registry).all();
        let mut bundles: Vec<BundleStatus> = bundles.iter().map(|bundle| bundle.status()).collect();
        bundles.extend(lock(&core.broken).values().cloned());
        // Of those of one name, those that run stay first.
        bundles.sort_by(|a, b| a.name.cmp(&b.name));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(core.started.elapsed().as_millis()).unwrap_or(now_ms()),
            isolation: core.config.isolation,
            workers: workers.iter().map(|worker| core.worker_status(worker)).collect(),
            standbys: core.standbys.status(),
            bundles,
        }
    }

    /// The last crashes, oldest first.
    #[must_use]
    pub fn crashes(&self) -> Vec<CrashReport> {
        lock(&self.core().crashes).iter().cloned().collect()
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.core().config
    }

    /// Ends everything in an orderly way: calls in flight may finish, bundles
    /// run their `on_unload`, workers exit, and those that do not are killed. That
    /// takes 30 s at most, or [`drain`](crate::Config::drain), three times
    /// [`term_timeout`](crate::Config::term_timeout) and 5 s if that is longer. What runs
    /// then is killed, and its end waited for, which takes 2 s at most: whoever waits for
    /// a call there learns that its worker was killed.
    ///
    /// When it has ended, the functions of [host contracts](Self::host_contract) are
    /// dropped with all that they hold, and [`events`](Self::events) end.
    ///
    /// # Cancel safety
    ///
    /// What has begun goes on if the future is dropped, and the shutdown can be
    /// waited for again.
    pub async fn shutdown(&self) {
        self.core().end_in_order().await;
    }
}
