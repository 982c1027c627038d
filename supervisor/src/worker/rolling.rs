//! A worker's part in a rolling restart: the process that is to take over, from
//! its start to the moment when it serves. What happens to the bundles is in
//! [`roll`].

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use menagerie_protocol::RuntimeError;
use tokio::sync::oneshot;

use super::actor::Actor;
use super::alive::Alive;
use super::crash;
use super::handle::{Command, Current};
use super::launch::{LaunchError, Launched};
use super::launching::Launching;
use super::process::Process;
use super::reap::Ended;
use super::roll::{self, Extent, Prepared};
use super::stop;
use crate::events::EventKind;
use crate::lane::lock;
use crate::lifecycle::{Action, Input, State};
use crate::to_its_end::caught;

/// A rolling restart that is under way.
pub(super) struct Rolling {
    replies: Vec<oneshot::Sender<Result<(), RuntimeError>>>,
    extent: Extent,
    pub(super) launching: Option<Launching>,
    /// The process that is to take over; none, once it has.
    pub(super) next: Option<Alive>,
    /// Where everything is loaded.
    process: Option<Arc<Process>>,
}

impl Actor {
    /// Somebody has asked for a rolling restart.
    pub(super) fn roll(&mut self, reply: oneshot::Sender<Result<(), RuntimeError>>) {
        if let Some(rolling) = &mut self.rolling {
            // The one that is under way will do.
            rolling.replies.push(reply);
            return;
        }
        if !matches!(self.life.state(), State::Ready { .. }) {
            drop(reply.send(Err(self.unavailable("it is not ready"))));
            return;
        }
        self.begin_rolling(vec![reply], Extent::All);
    }

    /// The process has done enough (S9). Whether it works out is an event.
    pub(super) fn recycle(&mut self) {
        self.begin_rolling(Vec::new(), Extent::WhatServes);
    }

    fn begin_rolling(
        &mut self,
        replies: Vec<oneshot::Sender<Result<(), RuntimeError>>>,
        extent: Extent,
    ) {
        self.rolling =
            Some(Rolling { replies, extent, launching: None, next: None, process: None });
        if let Some(standby) = self.core.standbys.take(&self.core, &self.name) {
            let _ = self.next_launched(Ok(standby));
        } else if let Some(rolling) = &mut self.rolling {
            rolling.launching = Some(Launching::begin(&self.core, &self.name, |_| {}));
        }
    }

    pub(super) fn next_launched(&mut self, outcome: Result<Launched, LaunchError>) -> Action {
        let Some(rolling) = &mut self.rolling else { return Action::None };
        rolling.launching = None;
        let incarnation = self.life.incarnation() + 1;
        match outcome {
            Ok(launched) => {
                let next = Alive::begin(&self.core, &self.name, incarnation, launched);
                let process = Arc::clone(&next.process);
                rolling.next = Some(next);
                rolling.process = Some(Arc::clone(&process));
                let (core, name) = (Arc::clone(&self.core), self.name.clone());
                let (commands, extent) = (self.commands.clone(), rolling.extent);
                let panicked = self.unavailable("the supervisor's task for it has panicked");
                tokio::spawn(async move {
                    let prepared = roll::prepare(core, name, Arc::clone(&process), extent);
                    let outcome = AssertUnwindSafe(prepared).catch_unwind().await;
                    let outcome = outcome.unwrap_or(Err(panicked));
                    if let Some(commands) = commands.upgrade() {
                        drop(commands.send(Command::Rolled(process, Box::new(outcome))));
                    }
                });
            }
            Err(LaunchError::NotStarted(error)) => self.give_up_rolling(&error),
            Err(LaunchError::Died { child, ended, reason }) => {
                let death = crash::unserved(&self.name, incarnation, *child, ended, reason);
                let error =
                    self.unavailable(&format!("its next process died: {}", death.report.cause));
                death.publish(&self.core, &self.view);
                self.give_up_rolling(&error);
            }
        }
        Action::None
    }

    /// The process that was to take over has ended: the one that serves stays.
    pub(super) fn next_died(&mut self, ended: Ended) -> Action {
        let next = self.rolling.as_mut().and_then(|rolling| rolling.next.take());
        let Some(next) = next else { return Action::None };
        let death = crash::served(&self.name, next, ended);
        let error = self.unavailable(&format!("its next process died: {}", death.report.cause));
        death.publish(&self.core, &self.view);
        self.give_up_rolling(&error);
        Action::None
    }

    pub(super) fn give_up_rolling(&mut self, error: &RuntimeError) {
        let Some(rolling) = self.rolling.take() else { return };
        if let Some(next) = rolling.next {
            tokio::spawn(stop::discard(Arc::clone(&self.core), next));
        }
        for reply in rolling.replies {
            drop(reply.send(Err(error.clone())));
        }
    }

    pub(super) fn rolled(
        &mut self,
        process: &Arc<Process>,
        outcome: Result<Prepared, RuntimeError>,
    ) {
        let rolling = self.rolling.as_ref().and_then(|rolling| rolling.process.as_ref());
        if !rolling.is_some_and(|rolling| Arc::ptr_eq(rolling, process)) {
            // Of one that was given up, and everybody knows.
            if let Ok(prepared) = outcome {
                tokio::spawn(roll::discard(prepared));
            }
            return;
        }
        let prepared = match outcome {
            Ok(prepared) => prepared,
            Err(error) => return self.give_up_rolling(&error),
        };
        let Some(Rolling { replies, next, .. }) = self.rolling.take() else { return };
        let reply = |outcome: Result<(), RuntimeError>| {
            for reply in replies {
                drop(reply.send(outcome.clone()));
            }
        };
        let Some(next) = next else {
            // The one that served died meanwhile, and this one took over and
            // has loaded everything for good.
            tokio::spawn(roll::discard(prepared));
            return reply(Ok(()));
        };
        // Another one may have taken the place of the one that served: it is as new as
        // this, and its start goes on.
        let is_ready = matches!(self.life.state(), State::Ready { .. });
        let Some(old) = self.alive.take_if(|_| is_ready) else {
            tokio::spawn(stop::discard(Arc::clone(&self.core), next));
            return reply(Err(self.unavailable("it died meanwhile")));
        };
        let (from, to) = (Arc::clone(&old.process), Arc::clone(&next.process));
        from.leave();
        {
            let mut view = lock(&self.view);
            view.show(&next.hello);
        }
        self.alive = Some(next);
        self.current.send_replace(Current::Up(Arc::clone(&to)));
        let _ = self.input(Input::Replaced);
        self.core.events.emit(EventKind::WorkerReplaced {
            worker: self.name.to_string(),
            from: from.pid,
            to: to.pid,
        });
        let (core, name) = (Arc::clone(&self.core), self.name.clone());
        let emptied = roll::change_over(Arc::clone(&core), name.clone(), prepared, from);
        let (view, commands) = (Arc::clone(&self.view), self.commands.clone());
        let refilled = self.name.clone();
        let leaving = Arc::clone(&core).leaving();
        tokio::spawn(async move {
            let changed = async {
                emptied.await;
                reply(Ok(()));
            };
            // Should the host's code panic here, the old process has gone with it.
            drop(caught(stop::replaced(Arc::clone(&core), name, old, view, changed)).await);
            drop(leaving);
            core.standbys.refill(&core, &refilled);
            // What has ended with the old process is loaded again.
            if let Some(commands) = commands.upgrade() {
                drop(commands.send(Command::Restore));
            }
        });
    }
}
