//! A process that has begun to die, but not ended: its memory is being given back,
//! which can take longer than the start of the next process. That may begin now (S3), and
//! the crash is told; everything else waits for the end, which only the pidfd tells (S2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use menagerie_protocol::message::Hello;
use menagerie_protocol::robust::{FEATURE, LEN, WORDS};
use menagerie_protocol::shm::{Access, Mapping, sealed_memfd};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use tokio::sync::Notify;

use super::launch::Begun;
use super::obituary::Obituary;
use super::process::{KillCause, Process};
use super::sides::Side;
use super::spawn::{Job, Slice, outlive, set_slice};
use crate::core::Core;
use crate::lane::lock;
use crate::placement::WorkerName;
use crate::proc_stat::Stat;

/// Notices that a worker's control thread has died, tells of the crash, and begins to
/// start the next process if that is wanted.
#[derive(Debug)]
pub(crate) struct Dying {
    plan: Arc<Plan>,
    /// What the worker is sent.
    memory: Option<OwnedFd>,
    _watch: Watch,
}

/// What is done by the thread that notices: to wake a task would take as long, and longer
/// where the runtime's thread waits for the CPU of the process that dies.
#[derive(Debug, Default)]
struct Plan {
    /// Whether a thread has it in hand already: two wait, on different [sides](Side).
    taken: AtomicBool,
    begun: Notify,
    next: Mutex<Next>,
    /// Set when the worker is sent the memory.
    whose: OnceLock<(Arc<Obituary>, Weak<Process>)>,
}

impl Plan {
    /// Whether it is this thread that has it in hand.
    fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::Relaxed)
    }

    /// Returns the pid of the process that was started: it must not outlive this thread.
    fn carry_out(&self) -> Option<u32> {
        // First what takes longest.
        let job = Next::begin(&self.next);
        let pid = job.and_then(Job::run);
        if let Some((obituary, _)) = self.whose.get() {
            obituary.publish();
        }
        self.begun.notify_one();
        pid
    }

    /// Waits for the end of the process, and sees to it that it comes: it does not by
    /// itself if the control thread has ended alone, or a bundle has written the mark.
    fn see_end(&self, shared: &Shared) {
        let process = || self.whose.get().and_then(|(_, process)| process.upgrade());
        let Some(patience) = process().map(|process| process.config.term_timeout) else { return };
        if shared.is_given_up_within(patience) {
            return;
        }
        let Some(process) = process() else { return };
        if !are_ending(&Stat::of_threads(process.pid)) && !process.has_ended() {
            let reason = "protocol violation: its control thread has ended, and it has not";
            process.kill(KillCause::Violation, reason);
        } else {
            // To one that ends by itself this is nothing, and one that only looks like that
            // ends of it.
            process.signal(Signal::SIGKILL);
        }
    }
}

/// Whether these are the threads of a process that ends by itself: to give back much
/// memory takes long. Of none nothing is known, as where `/proc` cannot be read.
fn are_ending(threads: &[Stat]) -> bool {
    !threads.is_empty() && threads.iter().all(|thread| thread.is_exiting)
}

/// The process after the one that dies.
#[derive(Debug, Default)]
enum Next {
    /// Nobody wants one.
    #[default]
    None,
    /// Of this worker.
    Wanted(Weak<Core>, WorkerName),
    Begun(Box<Begun>),
}

impl Next {
    /// What is left to do to start it, if it is wanted.
    fn begin(next: &Mutex<Self>) -> Option<Job> {
        let mut next = lock(next);
        let Self::Wanted(core, name) = &*next else { return None };
        let core = core.upgrade()?;
        let _runtime = core.runtime.enter();
        // Why it cannot be is said when it is tried again.
        let (begun, job) = Begun::planned(&core, name).ok()?;
        *next = Self::Begun(Box::new(begun));
        Some(job)
    }
}

impl Dying {
    pub(crate) fn new() -> io::Result<Self> {
        let plan = Arc::<Plan>::default();
        let (watch, memory) = Watch::start(&plan)?;
        Ok(Self { plan, memory: Some(memory), _watch: watch })
    }

    /// What goes to a worker that can do its part, once. From then on it is this
    /// process's death that is noticed, and told as the obituary says.
    pub(super) fn memory_for(
        &mut self,
        hello: &Hello,
        process: &Arc<Process>,
        obituary: &Arc<Obituary>,
    ) -> Option<OwnedFd> {
        let memory = self.memory.take().filter(|_| hello.has(FEATURE))?;
        let whose = (Arc::clone(obituary), Arc::downgrade(process));
        self.plan.whose.set(whose).ok()?;
        Some(memory)
    }

    /// Whether the next process is to be started as soon as this one begins to die.
    pub(super) fn want_next(&self, wanted: Option<(&Arc<Core>, &WorkerName)>) {
        let mut next = lock(&self.plan.next);
        match (&*next, wanted) {
            (Next::None, Some((core, name))) => {
                *next = Next::Wanted(Arc::downgrade(core), name.clone());
            }
            (Next::Wanted(..), None) => *next = Next::None,
            _ => {}
        }
    }

    /// The next process, if its start has begun.
    pub(super) fn take_next(&self) -> Option<Begun> {
        let mut next = lock(&self.plan.next);
        match std::mem::replace(&mut *next, Next::None) {
            Next::Begun(begun) => Some(*begun),
            Next::None | Next::Wanted(..) => None,
        }
    }

    /// Waits until it begins to die; it does so once.
    ///
    /// # Cancel safety
    ///
    /// It can be waited for again.
    pub(super) async fn begun(&self) {
        self.plan.begun.notified().await;
    }
}

/// The end that waits for the mark; it waits no longer when this is dropped.
#[derive(Debug)]
struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mapping: Mapping,
    /// 1 when nobody wants to know any more. Each thread sleeps on a word of the memory and
    /// on this one, which no worker can write.
    given_up: AtomicU32,
}

impl Watch {
    /// Makes the memory, and threads of which one carries the plan out once it is marked:
    /// never on a kernel before Linux 5.16, which has no futex_waitv(2). Returns the
    /// descriptor that goes to the worker.
    fn start(plan: &Arc<Plan>) -> io::Result<(Self, OwnedFd)> {
        let memory = sealed_memfd("menagerie-robust", LEN)?;
        let mapping = Mapping::new(memory.as_fd(), LEN, Access::ReadOnly)?;
        // They end if one of them cannot be made.
        let watch = Self { shared: Arc::new(Shared { mapping, given_up: AtomicU32::new(0) }) };
        for (word, side) in (0..WORDS).zip(Side::all()) {
            let (plan, seen) = (Arc::clone(plan), Arc::clone(&watch.shared));
            let thread = std::thread::Builder::new().name("menagerie-dying".to_owned());
            thread.stack_size(STACK).spawn(move || {
                set_slice(Slice::Short);
                side.enter();
                if !seen.wait(word) {
                    return;
                }
                let is_first = plan.take();
                let mut next = None;
                if is_first {
                    side.leave();
                    next = plan.carry_out();
                }
                // What it takes to end a thread, the CPU where the next process starts
                // need not spend now.
                std::thread::sleep(END_LATER);
                if is_first {
                    plan.see_end(&seen);
                }
                drop((plan, seen));
                if let Some(next) = next {
                    outlive(next);
                }
            })?;
        }
        Ok((watch, memory))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.given_up.store(1, Ordering::SeqCst);
        // SAFETY: the word is aligned, and alive for as long as it is borrowed;
        // FUTEX_WAKE takes its address only.
        unsafe {
            let word = self.shared.given_up.as_ptr();
            libc::syscall(libc::SYS_futex, word, PRIVATE_WAKE, i32::MAX);
        }
    }
}

/// Enough to begin a start, in bytes.
const STACK: usize = 256 << 10;
/// An honest worker changes a word once. What is not noticed here, the pidfd tells.
const MOST_WAKES: u32 = 10_000;
/// As long as starting a process takes.
const END_LATER: Duration = Duration::from_millis(10);
/// The same number on every architecture (Linux 5.16).
const SYS_FUTEX_WAITV: libc::c_long = 449;
const PRIVATE_WAIT: libc::c_int = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
const PRIVATE_WAKE: libc::c_int = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
/// `FUTEX2_SIZE_U32`.
const SIZE_U32: u32 = 2;
/// `FUTEX2_PRIVATE`.
const PRIVATE: u32 = libc::FUTEX_PRIVATE_FLAG.unsigned_abs();

/// `struct futex_waitv`.
#[repr(C)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

impl Waiter {
    fn new(word: *const u32, value: u32, flags: u32) -> Self {
        Self { value: value.into(), address: word.addr() as u64, flags, reserved: 0 }
    }
}

impl Shared {
    /// Waits until it is given up, for so long at most.
    fn is_given_up_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.given_up.load(Ordering::SeqCst) == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let left = TimeSpec::from_duration(left);
            // SAFETY: the word is aligned and alive for as long as it is borrowed, and the
            // timeout as long as the call; the kernel only reads them.
            unsafe {
                let word = self.given_up.as_ptr();
                libc::syscall(libc::SYS_futex, word, PRIVATE_WAIT, 0, left.as_ref());
            }
        }
        true
    }

    /// Whether this word was marked before all was given up; or before the worker has
    /// changed it or woken this thread so often that it would keep it at work for ever.
    fn wait(&self, word: usize) -> bool {
        let marked = &self.mapping.words()[word];
        let word = marked.as_ptr().cast::<u32>().cast_const();
        let mut wakes = 0;
        while self.given_up.load(Ordering::SeqCst) == 0 && wakes < MOST_WAKES {
            wakes += 1;
            #[allow(clippy::cast_possible_truncation, reason = "the low half is the futex")]
            let value = marked.load(Ordering::Acquire) as u32;
            if value & libc::FUTEX_OWNER_DIED != 0 {
                return true;
            }
            let waiters = [
                Waiter::new(word, value, SIZE_U32),
                Waiter::new(self.given_up.as_ptr(), 0, SIZE_U32 | PRIVATE),
            ];
            let forever: *const libc::timespec = std::ptr::null();
            // SAFETY: two waiters of the kernel's layout, whose words are aligned and
            // mapped for as long as `self`; the kernel only reads them.
            let woken = unsafe {
                libc::syscall(
                    SYS_FUTEX_WAITV,
                    &raw const waiters,
                    2,
                    0,
                    forever,
                    libc::CLOCK_MONOTONIC,
                )
            };
            let error = io::Error::last_os_error().raw_os_error();
            // Woken, changed meanwhile, or interrupted: look again.
            if woken < 0 && !matches!(error, Some(libc::EAGAIN | libc::EINTR)) {
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use menagerie_protocol::robust::mark_at_death;
    use tokio::task::JoinHandle;

    use super::super::launch::{LaunchError, Launched};
    use super::*;
    use crate::{Config, Supervisor};

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn s2_the_end_of_a_control_thread_is_noticed() {
        let mut dying = Dying::new().unwrap();
        let memory = dying.memory.take().unwrap();
        let (end, ends) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            mark_at_death(&memory).unwrap();
            let _ = ends.recv();
        });
        let early = tokio::time::timeout(Duration::from_millis(20), dying.begun()).await;
        assert!(early.is_err(), "it lives");
        drop(end);
        tokio::time::timeout(PATIENCE, dying.begun()).await.unwrap();
        thread.join().unwrap();
    }

    /// Their threads wait on different CPUs.
    #[tokio::test]
    async fn s2_each_word_is_noticed_by_itself() {
        for at in 0..Side::all().len() {
            let dying = Dying::new().unwrap();
            let memory = dying.memory.as_ref().unwrap();
            let mapping = Mapping::new(memory.as_fd(), LEN, Access::ReadWrite).unwrap();
            let word = &mapping.words()[at];
            word.store(u64::from(libc::FUTEX_OWNER_DIED), Ordering::Release);
            // SAFETY: the word is mapped; FUTEX_WAKE takes its address only.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
            tokio::time::timeout(PATIENCE, dying.begun()).await.unwrap();
        }
    }

    fn supervisor() -> Supervisor {
        let mut config = Config::default();
        // It says no hello, and stays.
        config.worker_programs.insert("native".to_owned(), "/usr/bin/yes".into());
        Supervisor::builder().config(config).start().unwrap()
    }

    /// What was begun when a control thread had died of which this was wanted.
    async fn next_after_death(wanted: impl FnOnce(&Dying)) -> Option<Begun> {
        let mut dying = Dying::new().unwrap();
        wanted(&dying);
        let memory = dying.memory.take().unwrap();
        std::thread::spawn(move || mark_at_death(&memory).unwrap()).join().unwrap();
        tokio::time::timeout(PATIENCE, dying.begun()).await.unwrap();
        dying.take_next()
    }

    /// The process that was begun when a control thread had died of which one was wanted:
    /// the task that waits for its hello, and its pid.
    async fn launched_after_death(
        supervisor: &Supervisor,
    ) -> (JoinHandle<Result<Launched, LaunchError>>, u32) {
        let native = WorkerName::shared("native");
        let wanted = Some((supervisor.core(), &native));
        let next = next_after_death(|dying| dying.want_next(wanted)).await;
        let (sender, pid) = mpsc::channel();
        let launched = tokio::spawn(next.expect("it was wanted").launched(None, move |pid| {
            let _ = sender.send(pid);
        }));
        let pid = tokio::task::spawn_blocking(move || pid.recv_timeout(PATIENCE)).await;
        (launched, pid.unwrap().unwrap())
    }

    #[tokio::test]
    async fn s3_the_next_process_is_begun_as_soon_as_one_begins_to_die() {
        let supervisor = supervisor();
        let (launched, pid) = launched_after_death(&supervisor).await;
        let stat = format!("/proc/{pid}/stat");
        assert!(std::fs::exists(&stat).unwrap());
        // Who waits no longer ends it.
        launched.abort();
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::fs::exists(&stat).unwrap() {
            assert!(std::time::Instant::now() < deadline, "it goes on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The kernel would end it with the thread (S7).
    #[tokio::test]
    async fn s7_a_thread_outlives_the_process_that_it_has_started() {
        let supervisor = supervisor();
        let threads = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let name = |task: io::Result<std::fs::DirEntry>| {
                std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
            };
            tasks.map(name).filter(|name| name == "menagerie-dying\n").count()
        };
        let until_there_are = async |count: usize| {
            let deadline = Instant::now() + PATIENCE;
            while threads() != count {
                assert!(Instant::now() < deadline, "there are {}", threads());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // Those of one process are made ahead, and go to it.
        let of_one = Side::all().len();
        until_there_are(of_one).await;
        let (launched, pid) = launched_after_death(&supervisor).await;
        // Whoever had noticed the death is gone for long, and the thread has done its work.
        tokio::time::sleep(END_LATER * 10).await;
        assert!(Stat::of(pid).is_some_and(|stat| stat.parent == std::process::id()));
        assert_eq!(threads(), of_one + 1);
        launched.abort();
        until_there_are(0).await;
    }

    #[tokio::test]
    async fn s3_no_process_is_begun_that_nobody_wants() {
        let supervisor = supervisor();
        let (native, cobol) = (WorkerName::shared("native"), WorkerName::shared("cobol"));
        let wanted = |name| Some((supervisor.core(), name));
        assert!(next_after_death(|_| {}).await.is_none());
        // A process that stops because it should.
        let next = next_after_death(|dying| {
            dying.want_next(wanted(&native));
            dying.want_next(None);
        });
        assert!(next.await.is_none());
        // One that cannot be started is tried again, by whoever can say why.
        let next = next_after_death(|dying| dying.want_next(wanted(&cobol)));
        assert!(next.await.is_none());
    }

    #[test]
    fn s7_a_watch_that_is_dropped_ends_its_threads() {
        let Dying { plan, _watch: watch, .. } = Dying::new().unwrap();
        drop(watch);
        ends(&plan);
        // One that has done its work, and would look whether the process ends.
        let Dying { plan, _watch: watch, memory } = Dying::new().unwrap();
        std::thread::spawn(move || mark_at_death(&memory.unwrap()).unwrap()).join().unwrap();
        drop(watch);
        ends(&plan);
    }

    #[test]
    fn s7_a_worker_that_wakes_for_nothing_is_not_watched_any_more() {
        let Dying { plan, _watch: watch, memory } = Dying::new().unwrap();
        let mapping = Mapping::new(memory.unwrap().as_fd(), LEN, Access::ReadWrite).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while Arc::strong_count(&plan) > 1 {
            assert!(Instant::now() < deadline, "it goes on");
            for word in &mapping.words()[..WORDS] {
                word.fetch_xor(1, Ordering::Relaxed);
                // SAFETY: the word is mapped; FUTEX_WAKE takes its address only.
                unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
            }
        }
        drop(watch);
    }

    #[test]
    fn s2_threads_that_cannot_be_seen_are_not_known_to_end() {
        let threads = Stat::of_threads(std::process::id());
        assert!(!are_ending(&threads));
        let ending = |thread| Stat { is_exiting: true, ..thread };
        let threads: Vec<Stat> = threads.into_iter().map(ending).collect();
        assert!(are_ending(&threads));
        assert!(!are_ending(&[]));
    }

    /// A thread's share of the plan goes with it.
    fn ends(plan: &Arc<Plan>) {
        let deadline = Instant::now() + PATIENCE;
        while Arc::strong_count(plan) > 1 {
            assert!(Instant::now() < deadline, "it goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
