//! A process that has said hello, with its heartbeats.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use menagerie_protocol::message::{FEATURE_COPY, FEATURE_SHARED_LOCK, Hello, LogLevel, ToWorker};
use nix::sys::signal::Signal;

use super::child::{Child, over};
use super::dying::Dying;
use super::heard::Heard;
use super::heartbeat::{Beat, Heartbeat};
use super::idle::{Account, Due, Work};
use super::launch::{Begun, Launched};
use super::process::{KillCause, Process, ProcessParts};
use crate::config::Config;
use crate::core::Core;
use crate::events::EventKind;
use crate::placement::WorkerName;
use crate::proc_stat::Stat;

/// Messages in a row, at most: the runtime's timers and the other workers have
/// their turn beside one that never stops talking.
const IN_A_ROW: u32 = 32;
/// How long a closed socket may come before the process's end.
const END_PATIENCE: Duration = Duration::from_millis(100);

/// How long a message may wait for what the machine has too little of before that is told.
const HELD_UP: Duration = Duration::from_secs(1);

/// A process that serves, or is about to.
#[derive(Debug)]
pub(super) struct Alive {
    pub(super) child: Child,
    pub(super) process: Arc<Process>,
    pub(super) hello: Hello,
    dying: Option<Dying>,
    heart: Heartbeat,
    account: Account,
    next_beat: Instant,
    /// Why it was aborted, and when it gets SIGKILL.
    given_up: Option<(String, Instant)>,
}

impl Alive {
    /// Makes a worker's process of one that was launched.
    pub(super) fn begin(
        core: &Arc<Core>,
        name: &WorkerName,
        incarnation: u64,
        launched: Launched,
    ) -> Self {
        let Launched { mut child, connected, lane, first_load, dying, rights } = launched;
        let mut channel = connected.channel;
        let process = Process::new(ProcessParts {
            worker: name.to_string(),
            seat: name.seat(),
            pid: child.pid,
            pidfd: Arc::clone(&child.pidfd),
            incarnation,
            sender: channel.sender(),
            rights,
            takes_copies: connected.hello.has(FEATURE_COPY),
            shares_a_lock: connected.hello.has(FEATURE_SHARED_LOCK),
            config: Arc::clone(&core.config),
            events: Arc::clone(&core.events),
            router: core.router(),
            gate: child.gate.clone(),
            last_words: child.last_words(),
            lane,
        });
        process.send(&ToWorker::Welcome);
        if let Some(first) = first_load {
            // Before its answer is read.
            process.expect(first);
        }
        let reader = Arc::clone(&process);
        let (all, heard) = Heard::new();
        let mut ended = child.watch();
        drop(tokio::spawn(async move {
            let mut count = 0_u32;
            let error = loop {
                tokio::select! {
                    received = channel.receive() => match received {
                        Ok(message) => reader.receive(message),
                        Err(error) => break error,
                    },
                    // Those that it has forked may have the socket still.
                    () = over(&mut ended), if !channel.is_closed() => channel.close(),
                }
                count += 1;
                if count == IN_A_ROW {
                    count = 0;
                    tokio::task::yield_now().await;
                }
            };
            all.is_heard();
            // A process that ends closes its socket too: its end is the better
            // reason, and comes at once.
            tokio::select! {
                biased;
                () = over(&mut ended) => {}
                () = tokio::time::sleep(END_PATIENCE) => {
                    let reason = format!("protocol violation: {error}");
                    reader.kill(KillCause::Violation, reason);
                }
            }
        }));
        child.belongs_to(&process, heard);
        Self {
            child,
            process,
            hello: connected.hello,
            dying,
            heart: Heartbeat::default(),
            account: Account::new(Instant::now()),
            next_beat: Instant::now() + core.config.heartbeat,
            given_up: None,
        }
    }

    /// From now on it tells when it begins to die, if it can: it has loaded what it
    /// should, and nobody waits.
    pub(super) fn watch_for_death(&mut self) {
        let Self { dying, hello, process, child, .. } = self;
        let memory = |dying: &mut Dying| dying.memory_for(hello, process, &child.obituary);
        if let Some(memory) = dying.as_mut().and_then(memory) {
            process.send_with(&ToWorker::RobustFutex, vec![memory]);
        }
    }

    /// Whether the next process is to be started as soon as this one begins to die.
    pub(super) fn want_next(&self, wanted: Option<(&Arc<Core>, &WorkerName)>) {
        if let Some(dying) = &self.dying {
            dying.want_next(wanted);
        }
    }

    /// The next process, if its start has begun.
    pub(super) fn take_next(&self) -> Option<Begun> {
        self.dying.as_ref()?.take_next()
    }

    /// Waits until it begins to die, where that can be told; it does so once.
    pub(super) async fn dying(&self) {
        match &self.dying {
            Some(dying) => dying.begun().await,
            None => std::future::pending().await,
        }
    }

    /// When [`beat`](Self::beat) is due.
    pub(super) fn wake_at(&self) -> Instant {
        match &self.given_up {
            Some((_, kill_at)) => *kill_at,
            None => self.next_beat,
        }
    }

    /// Its resident memory.
    pub(super) fn rss_bytes(&self) -> Option<u64> {
        Stat::of(self.child.pid).map(|stat| stat.rss_bytes)
    }

    /// Whether it has nothing to do, or has done enough.
    pub(super) fn look_at_work(
        &mut self,
        config: &Config,
        memory_not_before: &mut Option<Instant>,
    ) -> Due {
        let work = Work {
            calls: self.process.calls(),
            busy: self.process.is_busy(),
            rss_bytes: config.recycle_after_rss.and_then(|_| self.rss_bytes()),
        };
        self.account.look(work, Instant::now(), config, memory_not_before)
    }

    /// Heartbeats that it has not answered.
    pub(super) fn missed(&self) -> u32 {
        self.heart.missed(self.process.pong.load(Ordering::Relaxed))
    }

    /// Why it was aborted, if it was.
    pub(super) fn given_up(&self) -> Option<&str> {
        self.given_up.as_ref().map(|(reason, _)| reason.as_str())
    }

    /// Says so, once each time, if messages to it cannot be sent.
    fn look_at_messages(&self, core: &Core) {
        let shortage = self.process.shortage(HELD_UP).filter(|shortage| shortage.is_news);
        let Some(shortage) = shortage else { return };
        let worker = &self.process.worker;
        let text = format!("worker {worker} cannot be sent what it needs: {shortage}");
        tracing::warn!("{text}");
        core.events.logs.push(LogLevel::Warn, Some(worker), None, "supervisor", &text);
    }

    /// Sends a heartbeat, if it is due, or ends the process that has missed too
    /// many: SIGABRT, and SIGKILL after a while.
    pub(super) fn beat(&mut self, core: &Core) {
        let (now, config) = (Instant::now(), &core.config);
        if let Some((_, kill_at)) = &mut self.given_up {
            if now >= *kill_at {
                self.child.signal(Signal::SIGKILL);
                *kill_at = now + config.term_timeout;
            }
            return;
        }
        if now < self.next_beat {
            return;
        }
        self.next_beat = now + config.heartbeat;
        self.look_at_messages(core);
        let answered = self.process.pong.load(Ordering::Relaxed);
        let nonce = match self.heart.beat(answered, config) {
            Beat::Ping(nonce) => nonce,
            Beat::Unresponsive(nonce, missed) => {
                self.process.look_at_condition();
                let worker = self.process.worker.clone();
                core.events.emit(EventKind::WorkerUnresponsive { worker, missed });
                nonce
            }
            Beat::GiveUp(missed) => {
                self.process.look_at_condition();
                self.child.signal(Signal::SIGABRT);
                let reason = format!("{missed} missed heartbeats");
                self.given_up = Some((reason, now + config.term_timeout));
                return;
            }
        };
        self.process.ping(nonce);
    }
}
