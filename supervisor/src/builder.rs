//! Settings on the way to a supervisor, and its start.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use menagerie_protocol::{Compatibility, LoaderError};
use tokio::runtime::RuntimeFlavor;
use tokio::sync::watch;

use crate::Supervisor;
use crate::config::{Config, ConfigError};
use crate::core::Core;
use crate::events::EventBus;
use crate::lane::LaneLimits;
use crate::locate::LOADERS;
use crate::placement::Isolation;
use crate::registry::Registry;
use crate::runtime_dir::RuntimeDir;
use crate::sandbox::{Grant, Sandbox};
use crate::signature::{PublicKey, SignaturePolicy};
use crate::timer::Timers;
use crate::worker::listener::ControlSocket;
use crate::worker::reap::Reaper;
use crate::worker::spare::Spares;
use crate::worker::spawn::Spawner;
use crate::worker::standby::Standbys;

/// Why a supervisor could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// A loader has two programs, or the program is that of a loader that there
    /// is not (L1).
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// The tokio runtime that it is started on lacks timers or IO: it was not built with
    /// `enable_all`.
    #[error("the tokio runtime has no {what}: build it with `enable_all`")]
    Runtime {
        /// What it lacks.
        what: &'static str,
    },
    /// The system refused a folder, a socket or a thread.
    #[error("{what}: {source}")]
    System {
        /// What was refused.
        what: &'static str,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
}

/// Settings on the way to a [`Supervisor`].
///
/// ```no_run
/// use std::time::Duration;
/// use menagerie_supervisor::{Isolation, Supervisor};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let supervisor = Supervisor::builder()
///     .worker_dir("/usr/lib/my-host")
///     .deadline(Duration::from_secs(2))
///     .isolation(Isolation::Auto)
///     .standby(1)
///     .start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "nothing runs before `start`"]
pub struct SupervisorBuilder {
    config: Config,
    programs: Vec<(String, PathBuf)>,
}

impl SupervisorBuilder {
    /// Replaces all settings.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// A folder with worker programs, looked in after the running program's
    /// own.
    pub fn worker_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.worker_dir = Some(dir.into());
        self
    }

    /// A loader's worker program, in place of any search. One that has another
    /// program already, here or in [`Config::worker_programs`], makes
    /// [`start`](Self::start) fail with [`LoaderError::DuplicateLoader`] (L1).
    pub fn worker_program(mut self, loader: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.programs.push((loader.into(), file.into()));
        self
    }

    /// How long a call may take; zero for ever.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// Whether bundles may be reloaded while they run (L3).
    pub fn hot_reload(mut self, enabled: bool) -> Self {
        self.config.hot_reload = enabled;
        self
    }

    /// How closely versions must match where contracts and bundles are looked
    /// up (R1).
    pub fn compatibility(mut self, compatibility: Compatibility) -> Self {
        self.config.compatibility = compatibility;
        self
    }

    /// Whether bundles share their loader's worker (S9).
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.config.isolation = isolation;
        self
    }

    /// Another isolation for one bundle, by its name.
    pub fn isolate(mut self, bundle: impl Into<String>, isolation: Isolation) -> Self {
        self.config.bundle_isolation.insert(bundle.into(), isolation);
        self
    }

    /// Whether bundles are held in a sandbox (P2).
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.config.sandbox = sandbox;
        self
    }

    /// What one bundle in the sandbox gets of what it wants, by its name (P3).
    pub fn grant(mut self, bundle: impl Into<String>, grant: Grant) -> Self {
        self.config.grants.insert(bundle.into(), grant);
        self
    }

    /// Over how many workers the calls of a loader's bundles are spread, from 1
    /// to 64 (S9). Each of them has all of these bundles.
    pub fn replicas(mut self, loader: impl Into<String>, count: u32) -> Self {
        self.config.replicas.insert(loader.into(), count);
        self
    }

    /// At how many crashes, within which time, a bundle may be running before
    /// it is quarantined (S5).
    pub fn bundle_crash_limit(mut self, limit: u32, window: Duration) -> Self {
        self.config.bundle_crash_limit = limit;
        self.config.bundle_crash_window = window;
        self
    }

    /// How many started, empty workers are kept for each loader (S8).
    pub fn standby(mut self, count: u32) -> Self {
        self.config.standby = count;
        self
    }

    /// What becomes of a bundle that is not signed by a trusted key (R5). Unless
    /// it is off, [`trusted_key`](Self::trusted_key) or
    /// [`trust_store`](Self::trust_store) has to say whose signatures count.
    pub fn signatures(mut self, policy: SignaturePolicy) -> Self {
        self.config.signatures.policy = policy;
        self
    }

    /// One more key that may sign any bundle (R5).
    pub fn trusted_key(mut self, key: PublicKey) -> Self {
        self.config.signatures.trusted_keys.push(key);
        self
    }

    /// A file that remembers the key of each bundle from its first use on (R5).
    pub fn trust_store(mut self, file: impl Into<PathBuf>) -> Self {
        self.config.signatures.trust_store = Some(file.into());
        self
    }

    /// Starts the supervisor: on the tokio runtime that this is called in, or
    /// with a small one of its own where there is none, or one of a single thread,
    /// which runs only while its host waits in it. No worker is started before the
    /// first bundle needs it.
    ///
    /// A host may poll the supervisor's futures by any executor. A runtime that is used has
    /// to have IO and timers (`enable_all`).
    ///
    /// # Errors
    ///
    /// [`StartError`]. A runtime without IO or timers tells so by a panic only, which is
    /// caught: the host's panic hook sees it before.
    pub fn start(mut self) -> Result<Supervisor, StartError> {
        self.config.check()?;
        for (loader, file) in self.programs {
            if !LOADERS.contains(&loader.as_str()) {
                let available = LOADERS.map(str::to_owned).to_vec();
                return Err(LoaderError::NoLoaderForName { loader, available }.into());
            }
            let other = self.config.worker_programs.insert(loader.clone(), file.clone());
            if other.is_some_and(|other| other != file) {
                return Err(LoaderError::DuplicateLoader { loader }.into());
            }
        }
        let system = |what| move |source| StartError::System { what, source };
        self.config.absolute_paths().map_err(system("current folder"))?;
        // A runtime of one thread runs only while its host waits in it: between that,
        // and while the host blocks, nobody would look after the workers.
        let host = tokio::runtime::Handle::try_current().ok();
        let host = host.filter(|host| host.runtime_flavor() != RuntimeFlavor::CurrentThread);
        let (runtime, own) = match host {
            Some(handle) => {
                if let Some(what) = lack_of(&handle) {
                    return Err(StartError::Runtime { what });
                }
                (handle, None)
            }
            None => {
                let own = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .thread_name("menagerie")
                    .enable_all()
                    .build()
                    .map_err(system("runtime"))?;
                (own.handle().clone(), Some(own))
            }
        };
        let _guard = runtime.enter();
        let events = Arc::new(EventBus::new(&self.config));
        let dir = RuntimeDir::create().map_err(system("runtime folder"))?;
        let socket = dir.path().join("control.sock");
        let control =
            ControlSocket::bind(socket, Arc::clone(&events)).map_err(system("control socket"))?;
        let spares = Spares::new(dir.path(), LaneLimits::of(&self.config));
        spares.refill();
        let spawner = Spawner::start().map_err(system("spawning thread"))?;
        let reaper = Reaper::start().map_err(system("reaping thread"))?;
        let compatibility = self.config.compatibility;
        let core = Arc::new_cyclic(|this| Core {
            config: Arc::new(self.config),
            timers: Timers::of(&runtime),
            runtime: runtime.clone(),
            events,
            spawner,
            control,
            dir,
            stopping: watch::Sender::new(false),
            registry: Mutex::new(Registry::new(compatibility)),
            broken: Mutex::default(),
            host: Arc::default(),
            workers: Mutex::new(BTreeMap::new()),
            standbys: Standbys::default(),
            blame: Mutex::default(),
            leaving: watch::Sender::new(0),
            spares,
            reaper,
            copies: AtomicU64::new(0),
            crashes: Mutex::default(),
            waits: crate::waits::Waits::default(),
            started: Instant::now(),
            this: this.clone(),
        });
        Ok(Supervisor::new(core, own))
    }
}

/// What a runtime lacks of what the supervisor needs. tokio has no other way to ask.
fn lack_of(runtime: &tokio::runtime::Handle) -> Option<&'static str> {
    let _guard = runtime.enter();
    if catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_err() {
        return Some("timers");
    }
    let io = catch_unwind(|| drop(tokio::net::UnixDatagram::unbound()));
    io.is_err().then_some("IO")
}
