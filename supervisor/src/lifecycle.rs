//! A worker's life as a pure state machine: the clock is an argument, and
//! nothing here starts or kills anything (`DESIGN.md`, rules S1 and S3).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{LONGEST, TOO_LONG, units};

/// When and how often a worker is started again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartPolicy {
    /// The delay before the second restart in a row; the first is at once. What no limit
    /// bounds, a standby or a bundle that is to be loaded again, waits for 100 ms at least.
    #[serde(with = "units::time")]
    pub initial_delay: Duration,
    /// The longest delay.
    #[serde(with = "units::time")]
    pub max_delay: Duration,
    /// After so long in `Ready`, the delays begin anew.
    #[serde(with = "units::time")]
    pub reset_after: Duration,
    /// More restarts than this within `window` quarantine the worker.
    pub limit: u32,
    /// See `limit`.
    #[serde(with = "units::time")]
    pub window: Duration,
    /// How long a quarantined worker waits for its next trial start.
    #[serde(with = "units::time")]
    pub trial_interval: Duration,
    /// By how much a delay may be longer, as a fraction of itself.
    pub jitter: f64,
}

impl Default for RestartPolicy {
    /// `DESIGN.md` rule S3.
    fn default() -> Self {
        Self {
            initial_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
            reset_after: Duration::from_secs(60),
            limit: 5,
            window: Duration::from_secs(60),
            trial_interval: Duration::from_secs(60),
            jitter: 0.1,
        }
    }
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PolicyError {
    /// The delays alone take longer than the window.
    #[error(
        "the restart limit of {limit} in {window:?} can never be reached: the delays before \
         that many restarts take {delays:?}"
    )]
    LimitNeverReached {
        /// The limit.
        limit: u32,
        /// The window.
        window: Duration,
        /// The sum of the delays.
        delays: Duration,
    },
    /// A number that makes no sense.
    #[error("{field}: {problem}")]
    Invalid {
        /// The setting.
        field: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

impl RestartPolicy {
    /// Checks that the policy can do what it says.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn check(&self) -> Result<(), PolicyError> {
        let invalid = |field, problem| Err(PolicyError::Invalid { field, problem });
        if self.max_delay < self.initial_delay {
            return invalid("max_delay", "is shorter than initial_delay");
        }
        for (field, time) in [
            ("max_delay", self.max_delay),
            ("reset_after", self.reset_after),
            ("window", self.window),
            ("trial_interval", self.trial_interval),
        ] {
            if time > LONGEST {
                return invalid(field, TOO_LONG);
            }
        }
        if self.trial_interval.is_zero() {
            return invalid("trial_interval", "must not be zero: a quarantine is a pause");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return invalid("jitter", "is not between 0 and 1");
        }
        if self.limit == 0 {
            return invalid("limit", "must be at least 1");
        }
        // The restarts counted by the window are the first `limit + 1` in a
        // row, and the first of them has no delay.
        let delays = self.delays(self.limit).mul_f64(1.0 + self.jitter);
        if delays >= self.window {
            let (limit, window) = (self.limit, self.window);
            return Err(PolicyError::LimitNeverReached { limit, window, delays });
        }
        Ok(())
    }

    /// The delays before so many restarts in a row, together; at least
    /// `window`, if they are longer than that.
    fn delays(&self, count: u32) -> Duration {
        let mut sum = Duration::ZERO;
        for n in 1..=count {
            let delay = self.delay(n);
            if delay == self.delay(n.saturating_add(1)) {
                // From here on they are all the same.
                return sum.saturating_add(delay.saturating_mul(count - n + 1));
            }
            sum = sum.saturating_add(delay);
            if sum >= self.window {
                break;
            }
        }
        sum
    }

    /// The delay before the restart after `previous` restarts in a row.
    #[must_use]
    pub fn delay(&self, previous: u32) -> Duration {
        match previous {
            0 => Duration::ZERO,
            n => self
                .initial_delay
                .saturating_mul(2_u32.saturating_pow((n - 1).min(31)))
                .min(self.max_delay),
        }
    }
}

impl RestartPolicy {
    /// As [`delay`](Self::delay), for what no limit bounds: never none but the first.
    pub(crate) fn pause(&self, previous: u32) -> Duration {
        const LEAST: Duration = Duration::from_millis(100);
        if previous == 0 { Duration::ZERO } else { self.delay(previous).max(LEAST) }
    }
}

/// Where a worker is in its life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// No process, and none wanted: before the first load, or after a stop
    /// that was asked for.
    Stopped,
    /// A process was started, and has not loaded everything yet. `trial` if it
    /// is a quarantined worker's trial start.
    Starting {
        /// Whether a failure leads back to quarantine at once.
        trial: bool,
    },
    /// It serves.
    Ready {
        /// Since when.
        since: Instant,
    },
    /// It was asked to stop: no new calls, those that run may finish.
    /// `restart` if another start follows.
    Draining {
        /// Whether another start follows.
        restart: bool,
    },
    /// It died and nobody had asked for it. Left at once for `Backoff` or
    /// `Quarantined`; it exists so that every death is a transition.
    Crashed,
    /// It will be started again at `until`.
    Backoff {
        /// When.
        until: Instant,
    },
    /// It died too often. The next trial start is at `until`, or when somebody
    /// asks for it.
    Quarantined {
        /// When.
        until: Instant,
    },
}

/// A state's name, as status and events show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// It does not run, and need not: it was asked to stop, or nobody has needed it.
    Stopped,
    /// Its process was started, and is not ready yet: it says hello and loads its
    /// bundles.
    Starting,
    /// It serves.
    Ready,
    /// It was asked to stop, and finishes the calls that it has begun.
    Draining,
    /// It has begun to die with nobody asking for it. What comes next is decided when its
    /// process has ended, which takes the kernel a millisecond, or more where much memory
    /// is to be given back.
    Crashed,
    /// It has crashed, or could not be started, and is started again after a delay.
    Backoff,
    /// It has done so too often: now and then a start is tried, and by hand at any time.
    Quarantined,
}

impl WorkerState {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Stopped,
        Self::Starting,
        Self::Ready,
        Self::Draining,
        Self::Crashed,
        Self::Backoff,
        Self::Quarantined,
    ];
}

impl std::fmt::Display for WorkerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Crashed => "crashed",
            Self::Backoff => "backoff",
            Self::Quarantined => "quarantined",
        })
    }
}

impl State {
    /// Its name.
    #[must_use]
    pub(crate) const fn name(&self) -> WorkerState {
        match self {
            Self::Stopped => WorkerState::Stopped,
            Self::Starting { .. } => WorkerState::Starting,
            Self::Ready { .. } => WorkerState::Ready,
            Self::Draining { .. } => WorkerState::Draining,
            Self::Crashed => WorkerState::Crashed,
            Self::Backoff { .. } => WorkerState::Backoff,
            Self::Quarantined { .. } => WorkerState::Quarantined,
        }
    }
}

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Somebody needs it: a load, or a restart by hand.
    Wanted,
    /// A call waits for it.
    Needed,
    /// Nobody has called it for long (S9).
    Idle,
    /// It said hello, and everything that should be loaded is.
    Loaded,
    /// It could not be started at all: its program is missing, for example, or no process
    /// can be had at the moment.
    CannotStart {
        /// Whether it has bundles that wait for it, and not only somebody who is told.
        needed: bool,
    },
    /// Its process has ended.
    Died,
    /// Its process has ended because of a bundle that was being loaded for the first time
    /// and is not loaded again (S5): that says nothing about the next.
    DiedOfNewcomer,
    /// What its last deaths were blamed on is not loaded into it any more
    /// (S5): they say nothing about the next.
    CulpritGone,
    /// Another process has taken over from the one that served (S8).
    Replaced,
    /// It shall stop; `restart` if it shall be started again afterwards.
    Stop {
        /// Whether another start follows.
        restart: bool,
    },
    /// The time of [`State::Backoff`] or [`State::Quarantined`] has come.
    Timer,
}

/// What has to be done after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Action {
    /// Nothing.
    None,
    /// Start a process.
    Spawn,
    /// Drain, then end the process.
    Drain,
    /// Wait until then for [`Input::Timer`].
    WaitUntil(Instant),
}

/// A worker's life.
#[derive(Clone, Debug)]
pub(crate) struct Lifecycle {
    policy: RestartPolicy,
    state: State,
    /// Restarts in a row, for the delay.
    in_a_row: u32,
    /// When the last restarts were, for the limit.
    recent: VecDeque<Instant>,
    incarnation: u64,
    restarts: u64,
    /// The states that were passed through by the last input, each with the incarnation
    /// that it was in.
    path: Vec<(WorkerState, u64)>,
}

impl Lifecycle {
    /// A worker that was never started.
    #[must_use]
    pub(crate) fn new(policy: RestartPolicy) -> Self {
        Self {
            policy,
            state: State::Stopped,
            in_a_row: 0,
            recent: VecDeque::new(),
            incarnation: 0,
            restarts: 0,
            path: Vec::new(),
        }
    }

    /// Where it is.
    #[must_use]
    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// How many times it has been started.
    #[must_use]
    pub(crate) const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// How many of the starts followed a death that nobody had asked for.
    #[must_use]
    pub(crate) const fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The states that the last input led through, in order, each with the incarnation that
    /// it was in: each is an event.
    pub(crate) fn take_path(&mut self) -> Vec<(WorkerState, u64)> {
        std::mem::take(&mut self.path)
    }

    fn enter(&mut self, state: State) {
        self.path.push((state.name(), self.incarnation));
        self.state = state;
    }

    fn spawn(&mut self, trial: bool) -> Action {
        self.incarnation += 1;
        self.enter(State::Starting { trial });
        Action::Spawn
    }

    fn respawn(&mut self, now: Instant, trial: bool) -> Action {
        self.restarts += 1;
        self.in_a_row += 1;
        self.recent.push_back(now);
        self.spawn(trial)
    }

    /// Whether a process would be started at once if the one that runs ended now.
    #[must_use]
    pub(crate) fn starts_after_death(&self, now: Instant) -> bool {
        self.clone().on(Input::Died, now, 0.0) == Action::Spawn
    }

    /// Takes note of what happened. `jitter` is a random number from 0 to 1.
    pub(crate) fn on(&mut self, input: Input, now: Instant, jitter: f64) -> Action {
        match (&self.state, input) {
            (State::Stopped, Input::Wanted | Input::Needed) => self.spawn(false),
            // Somebody comes while it is about to stop: it is started again.
            (State::Draining { restart: false }, Input::Wanted | Input::Needed) => {
                self.state = State::Draining { restart: true };
                Action::None
            }
            (State::Ready { .. }, Input::Idle) => {
                self.enter(State::Draining { restart: false });
                Action::Drain
            }
            // So does a restart by hand, which may come at any time: what its
            // caller saw need not be so any more.
            (State::Stopped, Input::Stop { restart: true }) => self.spawn(false),
            (State::Draining { restart: false }, Input::Stop { restart: true }) => {
                self.state = State::Draining { restart: true };
                Action::None
            }
            // By hand, at any time (S3).
            (State::Quarantined { .. } | State::Backoff { .. }, Input::Wanted) => {
                self.respawn(now, false)
            }
            (State::Starting { .. }, Input::CannotStart { needed: false }) => {
                self.enter(State::Stopped);
                Action::None
            }
            (State::Starting { trial }, Input::CannotStart { needed: true }) => {
                self.start_again(*trial, now, jitter)
            }
            (State::Starting { .. }, Input::Loaded) => {
                self.enter(State::Ready { since: now });
                Action::None
            }
            (State::Ready { .. }, Input::Replaced) => {
                self.incarnation += 1;
                self.enter(State::Ready { since: now });
                Action::None
            }
            (_, Input::CulpritGone) => {
                self.in_a_row = 0;
                self.recent.clear();
                Action::None
            }
            (State::Starting { .. } | State::Ready { .. }, Input::Stop { restart }) => {
                self.enter(State::Draining { restart });
                Action::Drain
            }
            (State::Draining { .. }, Input::Stop { restart: false }) => {
                self.state = State::Draining { restart: false };
                Action::None
            }
            (State::Backoff { .. } | State::Quarantined { .. }, Input::Stop { restart: false }) => {
                self.enter(State::Stopped);
                Action::None
            }
            (State::Backoff { .. } | State::Quarantined { .. }, Input::Stop { restart: true }) => {
                self.respawn(now, false)
            }
            (State::Draining { restart: false }, Input::Died | Input::DiedOfNewcomer) => {
                self.enter(State::Stopped);
                Action::None
            }
            (State::Draining { restart: true }, Input::Died | Input::DiedOfNewcomer) => {
                self.enter(State::Stopped);
                self.spawn(false)
            }
            (State::Starting { .. } | State::Ready { .. }, Input::Died) => {
                let trial = self.crash(now);
                self.start_again(trial, now, jitter)
            }
            (State::Starting { .. } | State::Ready { .. }, Input::DiedOfNewcomer) => {
                // Neither the limit nor the delays count it.
                let trial = self.crash(now);
                self.enter(State::Backoff { until: now });
                self.restarts += 1;
                self.spawn(trial)
            }
            (State::Backoff { until }, Input::Timer) if now >= *until => self.respawn(now, false),
            (State::Quarantined { until }, Input::Timer) if now >= *until => {
                self.respawn(now, true)
            }
            (State::Backoff { until } | State::Quarantined { until }, Input::Timer) => {
                Action::WaitUntil(*until)
            }
            _ => Action::None,
        }
    }

    /// Returns whether it was a trial start.
    fn crash(&mut self, now: Instant) -> bool {
        let before = self.state.clone();
        if let State::Ready { since } = before
            && now.saturating_duration_since(since) >= self.policy.reset_after
        {
            self.in_a_row = 0;
        }
        self.enter(State::Crashed);
        before == State::Starting { trial: true }
    }

    /// At once, after a delay, or from quarantine; after a trial start it is quarantine.
    fn start_again(&mut self, trial: bool, now: Instant, jitter: f64) -> Action {
        while self
            .recent
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= self.policy.window)
        {
            self.recent.pop_front();
        }
        let too_often = self.recent.len() >= self.policy.limit as usize;
        let until = if trial || too_often {
            let until = now + self.policy.trial_interval;
            self.enter(State::Quarantined { until });
            until
        } else {
            let delay = self.policy.delay(self.in_a_row);
            let until = now + delay.mul_f64(1.0 + self.policy.jitter * jitter.clamp(0.0, 1.0));
            self.enter(State::Backoff { until });
            if until <= now {
                return self.respawn(now, false);
            }
            until
        };
        Action::WaitUntil(until)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
