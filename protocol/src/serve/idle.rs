//! A lane's thread that has no lane yet.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::lane::worker::Outbox;
use crate::loader::{BundleLoader, Demand, Prepared};

use super::elsewhere::begin_elsewhere;
use super::last_words::AbortOnUnwind;

/// The stack of a lane's thread, in bytes: what a main thread usually has, so
/// that VMs that measure their recursion against it behave as at home.
const STACK: usize = 8 << 20;

/// A thread that waits for its lane. It ends when this is dropped, and with it what
/// was prepared there.
#[derive(Debug)]
pub(super) struct Idle {
    handle: Option<JoinHandle<()>>,
    job: mpsc::Sender<Job>,
    demand: Demand,
}

/// What a lane's thread does, with what was prepared there.
pub(super) type Job = Box<dyn FnOnce(Option<Prepared>) + Send>;

impl Idle {
    pub(super) fn start() -> io::Result<Self> {
        Self::spawn(Demand::arisen(), |_| None)
    }

    /// One on which the loader prepares. A lane that comes meanwhile waits for it:
    /// it would have to do the same itself.
    pub(super) fn prepared(
        loader: Arc<dyn BundleLoader>,
        outbox: Outbox,
        demand: Demand,
    ) -> io::Result<Self> {
        let before_hello = loader.prepares_before_hello();
        let idle = Self::spawn(demand, move |demand| {
            // As in a lane: the VM is in an unknown state then, and a lane that
            // was sent here would never be heard of again.
            let bomb = AbortOnUnwind::armed(outbox, None);
            let prepared = loader.prepare(demand);
            bomb.disarm();
            prepared
        })?;
        if let Some(thread) = idle.handle.as_ref().filter(|_| before_hello) {
            // Its starter does not sleep soon.
            begin_elsewhere(thread);
        }
        Ok(idle)
    }

    fn spawn(
        demand: Demand,
        prepare: impl FnOnce(&Demand) -> Option<Prepared> + Send + 'static,
    ) -> io::Result<Self> {
        let (job, jobs) = mpsc::channel::<Job>();
        let arisen = demand.clone();
        let run = move || {
            let prepared = prepare(&arisen);
            if let Ok(job) = jobs.recv() {
                job(prepared);
            }
        };
        let handle = std::thread::Builder::new().stack_size(STACK).spawn(run)?;
        Ok(Self { handle: Some(handle), job, demand })
    }

    /// The thread, and what gives it its lane.
    pub(super) fn into_lane(mut self) -> (Option<JoinHandle<()>>, impl FnOnce(Job)) {
        let handle = self.handle.take();
        let begin = move |job| {
            // Before: it may be preparing, and waits for nothing else afterwards.
            self.demand.arise();
            drop(self.job.send(job));
        };
        (handle, begin)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.demand.arise();
    }
}
