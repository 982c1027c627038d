//! Every setting, with its default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use menagerie_protocol::Compatibility;
use serde::{Deserialize, Serialize};

use crate::blame::BlamePolicy;
use crate::lifecycle::RestartPolicy;
use crate::locate::LOADERS;
use crate::placement::Isolation;
use crate::sandbox::{self, Grant, Sandbox};
use crate::signature::SignatureConfig;

#[cfg(test)]
mod defaults;
pub(crate) mod file;
pub(crate) mod log;
pub mod units;

/// The settings of a supervisor. The defaults are those of `DESIGN.md`.
///
/// In a file ([`ConfigFile`](crate::ConfigFile)) they have the same names;
/// `docs/menagerie.toml` has them all. Times there are text such as `"250ms"`,
/// sizes `"64MiB"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// A folder to look for worker programs in, after the running program's own
    /// and the one above that.
    pub worker_dir: Option<PathBuf>,
    /// A loader's program by its full path, before any search.
    pub worker_programs: BTreeMap<String, PathBuf>,
    /// When workers are started again.
    pub restart: RestartPolicy,
    /// Whether bundles may be reloaded while they run (L3).
    pub hot_reload: bool,
    /// How closely versions must match where contracts and bundles are looked
    /// up (R1).
    pub compatibility: Compatibility,
    /// How long a call of the host's may take, unless its
    /// [`Contract`](crate::Contract::with_timeout) says otherwise; zero means for ever
    /// (S6). A call that a bundle makes has what is left of the one that it serves.
    #[serde(with = "units::time")]
    pub deadline: Duration,
    /// How long a call may go on after its deadline before its worker is killed.
    #[serde(with = "units::time")]
    pub grace: Duration,
    /// Calls in flight for each bundle in each of its workers, at most: beyond it
    /// callers get
    /// [`Overloaded`](menagerie_protocol::Failure::Overloaded) (C7). From 1 to 65,536.
    pub max_in_flight: u32,
    /// The largest payload of a call or a result, in bytes (C2): from 4096 to 2 GiB.
    #[serde(with = "units::size")]
    pub max_payload: u64,
    /// Slots of 64 bytes in each ring of a lane; a power of two from 512 to 1,048,576.
    pub ring_slots: u32,
    /// How long loading or reloading one bundle may take.
    #[serde(with = "units::time")]
    pub load_timeout: Duration,
    /// How long a worker has to say hello; .NET and JavaScript have
    /// `slow_start_timeout` (S6).
    #[serde(with = "units::time")]
    pub start_timeout: Duration,
    /// See `start_timeout`.
    #[serde(with = "units::time")]
    pub slow_start_timeout: Duration,
    /// How long calls may still run when a worker is to stop, or a bundle to be reloaded. An
    /// unload and a rolling restart wait for each call until its own deadline; one that has
    /// none may take as long as this, or as `deadline` and `grace` if that is longer, and is
    /// asked to stop then.
    #[serde(with = "units::time")]
    pub drain: Duration,
    /// How long a worker has between SIGTERM and SIGKILL.
    #[serde(with = "units::time")]
    pub term_timeout: Duration,
    /// How often a worker is asked whether it lives.
    #[serde(with = "units::time")]
    pub heartbeat: Duration,
    /// Missed heartbeats until it is reported as unresponsive.
    pub heartbeat_warn: u32,
    /// Missed heartbeats until it is killed; more than `heartbeat_warn`.
    pub heartbeat_kill: u32,
    /// A Python virtual environment whose packages bundles may import.
    pub python_venv: Option<PathBuf>,
    /// Further environment variables for workers, beside the allow-list (P1).
    pub worker_env: BTreeMap<String, String>,
    /// The most memory that a worker may use for its data, in bytes
    /// (`RLIMIT_DATA`, setrlimit(2)); `None` for no limit. Address space that a
    /// VM only reserves, as .NET does by the gigabyte, does not count.
    #[serde(with = "units::size::option", skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// The most descriptors that a worker may have open (`RLIMIT_NOFILE`); at most the
    /// host's own hard limit, and its soft one less 512 (or half of it), as descriptors on
    /// their way in sockets count for all processes of a user.
    pub max_descriptors: u64,
    /// The most processes and threads that a worker's user may have altogether
    /// (`RLIMIT_NPROC`, setrlimit(2)), beyond which the worker starts no more of
    /// them; `None` for no limit. It is the user's own only where workers run as a
    /// user of their own, and root is not bound by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_processes: Option<u64>,
    /// Crash reports that are kept.
    pub crash_history: usize,
    /// Events that are kept, for those who come later (S10); 4 MiB of them, as JSON, at
    /// most.
    pub event_history: usize,
    /// Log records that are kept, at most.
    pub log_records: usize,
    /// The bytes that the kept log records may have together: from 64 KiB to 1 GiB.
    #[serde(with = "units::size")]
    pub log_bytes: u64,
    /// Whether bundles share their loader's worker (S9).
    pub isolation: Isolation,
    /// Another isolation for single bundles, by name.
    pub bundle_isolation: BTreeMap<String, Isolation>,
    /// Whether workers are held in a sandbox (P2). A bundle that is has a worker of its
    /// own, whatever `isolation` says, and no standby takes over from that.
    pub sandbox: Sandbox,
    /// Another sandbox for single bundles, by name.
    pub bundle_sandbox: BTreeMap<String, Sandbox>,
    /// What single bundles in the sandbox get of what their manifests want, by name (P3).
    pub grants: BTreeMap<String, Grant>,
    /// Over how many workers the calls of a loader's bundles are spread, by the
    /// loader's name, from 1 to 64; 1 where nothing is said (S9). Each of the
    /// workers has all of these bundles.
    pub replicas: BTreeMap<String, u32>,
    /// With [`Isolation::Auto`]: a bundle that was running at so many crashes
    /// within `bundle_crash_window` gets a worker of its own (S5).
    pub isolate_after: u32,
    /// A bundle that was running at so many crashes within
    /// `bundle_crash_window` is quarantined, in every isolation (S5).
    pub bundle_crash_limit: u32,
    /// See `isolate_after` and `bundle_crash_limit`. The time in which a bundle hangs until
    /// its worker is killed for it does not count.
    #[serde(with = "units::time")]
    pub bundle_crash_window: Duration,
    /// Started, empty workers that are kept for each loader, so that a crash
    /// costs only the loading of the bundles (S8); 16 at most.
    pub standby: u32,
    /// A worker that nobody has called for so long stops, and is started again
    /// by the next call; what its bundles had in memory is gone. `None` for
    /// never (S9).
    #[serde(with = "units::time::option", skip_serializing_if = "Option::is_none")]
    pub idle_stop: Option<Duration>,
    /// After so many calls another process takes over from a worker's, as at a
    /// rolling restart; `None` for never (S9).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recycle_after_calls: Option<u64>,
    /// As `recycle_after_calls`, when so many bytes are resident; once a minute at most.
    #[serde(with = "units::size::option", skip_serializing_if = "Option::is_none")]
    pub recycle_after_rss: Option<u64>,
    /// Which signatures are asked for of bundles, and whose (R5).
    pub signatures: SignatureConfig,
}

impl Config {
    /// What holds for a bundle.
    #[must_use]
    pub fn isolation_of(&self, bundle: &str) -> Isolation {
        if self.sandbox_of(bundle) == Sandbox::Strict {
            return Isolation::Bundle;
        }
        self.bundle_isolation.get(bundle).copied().unwrap_or(self.isolation)
    }

    /// Which sandbox a bundle is in.
    #[must_use]
    pub fn sandbox_of(&self, bundle: &str) -> Sandbox {
        self.bundle_sandbox.get(bundle).copied().unwrap_or(self.sandbox)
    }

    /// Over how many workers the calls of a loader's bundles are spread.
    #[must_use]
    pub fn replicas_of(&self, loader: &str) -> u32 {
        self.replicas.get(loader).copied().unwrap_or(1)
    }

    pub(crate) fn blame_policy(&self, bundle: &str) -> BlamePolicy {
        let auto = self.isolation_of(bundle) == Isolation::Auto;
        BlamePolicy {
            isolate_after: auto.then_some(self.isolate_after),
            limit: self.bundle_crash_limit,
            window: self.bundle_crash_window,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            worker_dir: None,
            worker_programs: BTreeMap::new(),
            restart: RestartPolicy::default(),
            hot_reload: true,
            compatibility: Compatibility::Strict,
            deadline: Duration::from_secs(30),
            grace: Duration::from_millis(500),
            max_in_flight: 1024,
            max_payload: 64 << 20,
            ring_slots: menagerie_protocol::lane::DEFAULT_SLOTS,
            load_timeout: Duration::from_secs(60),
            start_timeout: Duration::from_secs(10),
            slow_start_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            term_timeout: Duration::from_secs(2),
            heartbeat: Duration::from_secs(1),
            heartbeat_warn: 3,
            heartbeat_kill: 15,
            python_venv: None,
            worker_env: BTreeMap::new(),
            memory_limit: None,
            max_descriptors: 1024,
            max_processes: None,
            crash_history: 100,
            isolation: Isolation::Shared,
            bundle_isolation: BTreeMap::new(),
            sandbox: Sandbox::Off,
            bundle_sandbox: BTreeMap::new(),
            grants: BTreeMap::new(),
            replicas: BTreeMap::new(),
            isolate_after: 2,
            bundle_crash_limit: 3,
            bundle_crash_window: Duration::from_secs(60),
            standby: 0,
            idle_stop: None,
            recycle_after_calls: None,
            recycle_after_rss: None,
            signatures: SignatureConfig::default(),
            event_history: 1000,
            log_records: 10_000,
            log_bytes: 4 << 20,
        }
    }
}

/// A setting that cannot be what it is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The restart policy contradicts itself.
    #[error("restart: {0}")]
    Restart(#[from] crate::lifecycle::PolicyError),
    /// A number outside its range.
    #[error("{setting}: {problem}")]
    Invalid {
        /// The setting.
        setting: &'static str,
        /// What is wrong, and what would be right.
        problem: &'static str,
    },
    /// A number of replicas outside its range.
    #[error("replicas: {loader}: must be from 1 to {MAX_REPLICAS}, and is {replicas}")]
    Replicas {
        /// The loader.
        loader: String,
        /// The number.
        replicas: u32,
    },
    /// A worker program of a loader that there is not.
    #[error("worker_programs: there is no loader '{loader}'; there are {}", LOADERS.join(", "))]
    NoSuchProgram {
        /// The name.
        loader: String,
    },
    /// What cannot be in an environment.
    #[error("worker_env: '{name}': a name has no '=' and is not empty; none has a zero byte")]
    Variable {
        /// Its name.
        name: String,
    },
    /// A grant that cannot be given.
    #[error("grants: {bundle}: {problem}")]
    Grant {
        /// The bundle that it is for.
        bundle: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A bundle that is in the sandbox and is to share a worker.
    #[error(
        "bundle_isolation: {bundle}: it is in the strict sandbox, and has a worker of its own; \
         set bundle_sandbox.{bundle} to 'off', or take this out"
    )]
    Shared {
        /// The bundle.
        bundle: String,
    },
    /// Replicas of a loader that there is not.
    #[error("replicas: there is no loader '{loader}'; there are {}", LOADERS.join(", "))]
    NoSuchLoader {
        /// The name.
        loader: String,
    },
}

/// The longest time that may be waited for. What is longer is a slip of the pen, and
/// clocks have an end: the supervisor adds such times to them, and to each other.
pub(crate) const LONGEST: Duration = Duration::from_secs(87_600 * 3600);
pub(crate) const TOO_LONG: &str = "must be at most 87600h, which is ten years";
/// With less of them no worker comes as far as saying why it does not start.
const MIN_MEMORY: u64 = 1 << 20;
const MIN_DESCRIPTORS: u64 = 16;

/// Workers that one loader's calls are spread over, at most.
const MAX_REPLICAS: u32 = 64;

impl Config {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        self.restart.check()?;
        let invalid = |setting, problem| Err(ConfigError::Invalid { setting, problem });
        if !self.ring_slots.is_power_of_two() || !(512..=1 << 20).contains(&self.ring_slots) {
            return invalid("ring_slots", "must be a power of two from 512 to 1048576");
        }
        if !(1..=65_536).contains(&self.max_in_flight) {
            return invalid("max_in_flight", "must be from 1 to 65536");
        }
        if !(4096..=1 << 31).contains(&self.max_payload) {
            return invalid("max_payload", "must be from 4096 bytes to 2 GiB");
        }
        self.check_times()?;
        if self.heartbeat_kill <= self.heartbeat_warn {
            return invalid("heartbeat_kill", "must be greater than heartbeat_warn");
        }
        // Each under its own name, so that a file's line can be told.
        for (setting, count) in [
            ("isolate_after", u64::from(self.isolate_after)),
            ("bundle_crash_limit", u64::from(self.bundle_crash_limit)),
            ("recycle_after_calls", self.recycle_after_calls.unwrap_or(1)),
            ("recycle_after_rss", self.recycle_after_rss.unwrap_or(1)),
            ("max_processes", self.max_processes.unwrap_or(1)),
            ("crash_history", u64::from(self.crash_history > 0)),
            ("event_history", u64::from(self.event_history > 0)),
            ("log_records", u64::from(self.log_records > 0)),
        ] {
            if count == 0 {
                return invalid(setting, "must be at least 1");
            }
        }
        if self.memory_limit.is_some_and(|bytes| bytes < MIN_MEMORY) {
            return invalid("memory_limit", "must be at least 1 MiB: no worker starts with less");
        }
        if self.max_descriptors < MIN_DESCRIPTORS {
            return invalid("max_descriptors", "must be at least 16: no worker starts with less");
        }
        if self.standby > 16 {
            return invalid("standby", "must be from 0 to 16");
        }
        let strange = |loader: &&String| !LOADERS.contains(&loader.as_str());
        if let Some(loader) = self.worker_programs.keys().find(strange) {
            return Err(ConfigError::NoSuchProgram { loader: loader.clone() });
        }
        // What execve(2) takes: NAME=VALUE, and a zero byte at its end.
        let no_variable = |(name, value): &(&String, &String)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        if let Some((name, _)) = self.worker_env.iter().find(no_variable) {
            return Err(ConfigError::Variable { name: name.clone() });
        }
        for (loader, replicas) in &self.replicas {
            let (loader, replicas) = (loader.clone(), *replicas);
            if !LOADERS.contains(&loader.as_str()) {
                return Err(ConfigError::NoSuchLoader { loader });
            }
            if !(1..=MAX_REPLICAS).contains(&replicas) {
                return Err(ConfigError::Replicas { loader, replicas });
            }
        }
        if !(64 << 10..=1 << 30).contains(&self.log_bytes) {
            return invalid("log_bytes", "must be from 64 KiB to 1 GiB");
        }
        if let Some((bundle, problem)) = sandbox::problem(&self.grants) {
            return Err(ConfigError::Grant { bundle, problem });
        }
        let shares = |(bundle, isolation): &(&String, &Isolation)| {
            **isolation != Isolation::Bundle && self.sandbox_of(bundle) == Sandbox::Strict
        };
        if let Some((bundle, _)) = self.bundle_isolation.iter().find(shares) {
            return Err(ConfigError::Shared { bundle: bundle.clone() });
        }
        if let Some(problem) = self.signatures.problem() {
            return invalid("signatures.policy", problem);
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let never_zero = [
            ("load_timeout", self.load_timeout),
            ("start_timeout", self.start_timeout),
            ("slow_start_timeout", self.slow_start_timeout),
            ("heartbeat", self.heartbeat),
            ("bundle_crash_window", self.bundle_crash_window),
            // A worker that stops as soon as it is started serves nobody.
            ("idle_stop", self.idle_stop.unwrap_or(LONGEST)),
        ];
        let others = [
            ("deadline", self.deadline),
            ("grace", self.grace),
            ("drain", self.drain),
            ("term_timeout", self.term_timeout),
        ];
        let invalid = |setting, problem| Err(ConfigError::Invalid { setting, problem });
        if let Some((setting, _)) = never_zero.iter().find(|(_, time)| time.is_zero()) {
            return invalid(setting, "must not be zero");
        }
        match never_zero.iter().chain(&others).find(|(_, time)| *time > LONGEST) {
            Some((setting, _)) => invalid(setting, TOO_LONG),
            None => Ok(()),
        }
    }

    /// Makes all paths absolute: workers run in folders of their own, and the
    /// host may change its own folder.
    pub(crate) fn absolute_paths(&mut self) -> std::io::Result<()> {
        let places = self.worker_dir.iter_mut().chain(&mut self.python_venv);
        let places = places.chain(&mut self.signatures.trust_store);
        let places = places.chain(self.grants.values_mut().flat_map(Grant::paths_mut));
        for path in places.chain(self.worker_programs.values_mut()) {
            *path = std::path::absolute(&*path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_paths_are_made_absolute() {
        let here = std::env::current_dir().unwrap();
        let mut config = Config {
            worker_dir: Some("workers".into()),
            python_venv: Some("/venv".into()),
            ..Config::default()
        };
        config.worker_programs.insert("lua".to_owned(), "./lua/../worker".into());
        config.absolute_paths().unwrap();
        assert_eq!(config.worker_dir, Some(here.join("workers")));
        assert_eq!(config.python_venv, Some("/venv".into()));
        assert_eq!(config.worker_programs["lua"], here.join("lua/../worker"));
    }

    #[test]
    fn s9_replicas_are_from_1_to_64_and_of_a_loader_that_there_is() {
        let with = |loader: &str, replicas: u32| {
            let mut config = Config::default();
            config.replicas.insert(loader.to_owned(), replicas);
            config.check()
        };
        for loader in LOADERS {
            assert_eq!((with(loader, 1), with(loader, 64)), (Ok(()), Ok(())));
            for replicas in [0, 65, u32::MAX] {
                let refused = ConfigError::Replicas { loader: loader.to_owned(), replicas };
                assert_eq!(with(loader, replicas), Err(refused));
            }
        }
        let refused = with("pyhton", 2).unwrap_err();
        assert_eq!(refused, ConfigError::NoSuchLoader { loader: "pyhton".to_owned() });
        assert!(refused.to_string().contains("python"), "{refused}");
    }

    #[test]
    fn config_times_are_no_longer_than_clocks_go() {
        let times: [fn(&mut Config) -> &mut Duration; 13] = [
            |c| &mut c.bundle_crash_window,
            |c| &mut c.restart.window,
            |c| &mut c.restart.reset_after,
            |c| &mut c.deadline,
            |c| &mut c.grace,
            |c| &mut c.load_timeout,
            |c| &mut c.start_timeout,
            |c| &mut c.slow_start_timeout,
            |c| &mut c.drain,
            |c| &mut c.term_timeout,
            |c| &mut c.heartbeat,
            |c| &mut c.restart.max_delay,
            |c| &mut c.restart.trial_interval,
        ];
        for time in times {
            let mut config = Config::default();
            *time(&mut config) = Duration::MAX;
            let refused = config.check().unwrap_err().to_string();
            assert!(refused.contains(TOO_LONG), "{refused}");
        }
        let mut config = Config { idle_stop: Some(Duration::MAX), ..Config::default() };
        assert!(config.check().unwrap_err().to_string().contains(TOO_LONG));
        // Each of them at once: what is allowed can be added up.
        config = Config { deadline: LONGEST, grace: LONGEST, drain: LONGEST, ..Config::default() };
        config.check().unwrap();
        assert!(std::time::Instant::now().checked_add(config.deadline + config.grace).is_some());
    }

    #[test]
    fn config_defaults_are_sound_and_nonsense_is_refused() {
        Config::default().check().unwrap();
        let broken: [fn(&mut Config); 21] = [
            |c| c.slow_start_timeout = Duration::ZERO,
            |c| c.idle_stop = Some(Duration::ZERO),
            |c| c.restart.trial_interval = Duration::ZERO,
            |c| c.memory_limit = Some(0),
            |c| c.max_descriptors = 0,
            |c| c.max_processes = Some(0),
            |c| drop(c.worker_programs.insert("pyhton".to_owned(), "/bin/true".into())),
            |c| drop(c.worker_env.insert("A=B".to_owned(), String::new())),
            |c| drop(c.worker_env.insert(String::new(), String::new())),
            |c| drop(c.worker_env.insert("A".to_owned(), "\0".to_owned())),
            |c| c.ring_slots = 1000,
            |c| c.max_in_flight = 0,
            |c| c.max_payload = 1,
            |c| c.heartbeat = Duration::ZERO,
            |c| c.heartbeat_kill = 3,
            |c| c.restart.limit = 1000,
            |c| c.bundle_crash_limit = 0,
            |c| c.standby = 1000,
            |c| c.log_records = 0,
            |c| c.log_bytes = 1,
            |c| c.signatures.policy = crate::SignaturePolicy::Required,
        ];
        for change in broken {
            let mut config = Config::default();
            change(&mut config);
            assert!(config.check().is_err(), "{config:?}");
        }
    }
}
