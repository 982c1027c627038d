//! A worker's next process, before the one that serves has ended: what is to be
//! done at the end of that one is said beforehand, so that it can be done as soon
//! as it begins to die.

use std::sync::Arc;
use std::time::Instant;

use super::actor::Actor;
use super::alive::Alive;
use super::launching::{Early, Launching};
use super::obituary::Crash;
use crate::lane::lock;
use crate::lifecycle::{State, WorkerState};

impl Actor {
    /// Whether the end of the process that serves would be followed by a start at once.
    fn starts_next(&self) -> bool {
        self.rolling.is_none() && self.life.starts_after_death(Instant::now())
    }

    /// Says what is to be done as soon as the process that serves begins to die (a
    /// standby is chosen by us, as others may need it more), and when it has ended.
    pub(super) fn foresee(&self) {
        let Some(alive) = &self.alive else { return };
        let starts = self.core.config.standby == 0 && self.starts_next();
        alive.want_next(starts.then_some((&self.core, &self.name)));
        self.foretell(alive);
    }

    /// Says what its end would mean.
    fn foretell(&self, alive: &Alive) {
        if matches!(self.life.state(), State::Starting { .. } | State::Ready { .. }) {
            alive.child.obituary.prepare(Crash {
                worker: self.name.to_string(),
                incarnation: self.life.incarnation(),
                events: Arc::clone(&self.core.events),
                view: Arc::clone(&self.view),
            });
        }
    }

    /// The process that serves has begun to die, and nobody has told it: who has noticed it
    /// found this actor at work.
    pub(super) fn tell(&mut self) {
        if let Some(alive) = &self.alive {
            self.foretell(alive);
            alive.child.obituary.publish();
            self.crash_is_told = alive.child.obituary.withdraw();
        }
    }

    /// The process that serves has begun to die: what will be started when it has
    /// ended is started now, or chosen, unless it was already.
    pub(super) fn choose_next(&mut self) {
        self.take_begun();
        if !self.starts_next() {
            self.early = None;
            return;
        }
        let claimed = self.claim();
        self.early = Some(claimed.unwrap_or_else(|| Early::Starts(self.launch())));
    }

    /// Takes the next process, if its start has begun where the death was noticed.
    pub(super) fn take_begun(&mut self) {
        if let Some(begun) = self.alive.as_ref().and_then(Alive::take_next) {
            self.early = Some(Early::Starts(Launching::of(Ok(begun), self.shown())));
        }
    }

    /// What can be the next process with no start of its own: the one that was begun
    /// early, else a standby.
    pub(super) fn claim(&mut self) -> Option<Early> {
        let is_gone = |early: &Early| match early {
            Early::Waits(standby) => !standby.child.is_running(),
            Early::Starts(_) => false,
        };
        self.early.take().filter(|early| !is_gone(early)).or_else(|| {
            let standby = self.core.standbys.take(&self.core, &self.name)?;
            Some(Early::Waits(Box::new(standby)))
        })
    }

    pub(super) fn launch(&self) -> Launching {
        Launching::begin(&self.core, &self.name, self.shown())
    }

    /// Shows the pid of a process that starts, unless the one before has not ended yet.
    fn shown(&self) -> impl FnOnce(u32) + Send + 'static {
        let view = Arc::clone(&self.view);
        move |pid| {
            let mut view = lock(&view);
            if view.state == Some(WorkerState::Starting) {
                view.pid.get_or_insert(pid);
            }
        }
    }
}
