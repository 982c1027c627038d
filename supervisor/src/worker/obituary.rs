//! The news of a death (S2, S10), told by the thread that learns of it first: the one
//! that notices that a process dies, or the one that reaps. The actor may have to wait for
//! a thread of the host's runtime, and that one for the CPU where the next process starts;
//! what follows from the death is the actor's work still.

use std::sync::{Arc, Mutex};

use super::handle::View;
use crate::events::{EventBus, EventKind};
use crate::lane::lock;
use crate::lifecycle::WorkerState;

/// What is told as soon as a process dies.
#[derive(Debug, Default)]
pub(super) struct Obituary(Mutex<News>);

#[derive(Debug, Default)]
enum News {
    /// What its end would mean, only the actor can say.
    #[default]
    Withdrawn,
    Prepared(Crash),
    Told,
}

/// A worker's process that dies with nobody asking for it.
#[derive(Debug)]
pub(super) struct Crash {
    pub(super) worker: String,
    pub(super) incarnation: u64,
    pub(super) events: Arc<EventBus>,
    pub(super) view: Arc<Mutex<View>>,
}

impl Crash {
    fn event(&self) -> EventKind {
        EventKind::WorkerState {
            worker: self.worker.clone(),
            state: WorkerState::Crashed,
            incarnation: self.incarnation,
            pid: None,
        }
    }
}

impl Obituary {
    /// From now on the end of the process is this crash.
    pub(super) fn prepare(&self, crash: Crash) {
        let mut news = lock(&self.0);
        if let News::Withdrawn = *news {
            *news = News::Prepared(crash);
        }
    }

    /// The actor is at work, and will tell by itself. Returns whether it is too late.
    pub(super) fn withdraw(&self) -> bool {
        let mut news = lock(&self.0);
        if let News::Told = *news {
            return true;
        }
        *news = News::Withdrawn;
        false
    }

    /// The process has ended, or is about to.
    pub(super) fn publish(&self) {
        let mut news = lock(&self.0);
        if let News::Prepared(crash) = &*news {
            let mut view = lock(&crash.view);
            (view.state, view.pid) = (Some(WorkerState::Crashed), None);
            drop(view);
            // Its log line is the actor's: that is the host's code, which may block.
            crash.events.tell(crash.event());
            *news = News::Told;
        }
    }
}
