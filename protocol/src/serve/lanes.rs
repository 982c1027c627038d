//! A worker's lanes: one thread each, and others that see them off.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crate::error::LoaderError;
use crate::instance::Instance;
use crate::lane::LaneMemory;
use crate::lane::worker::{LaneParts, Outbox, SegmentTable, WorkerLane};
use crate::loader::{BundleLoader, Demand, Prepared};
use crate::message::{LaneId, LoadRequest, LogLevel, LogRecord, ToSupervisor};
use crate::ring::Shape;
use crate::runtime::{InterruptSlot, LogSink, Runtime};
use crate::shm::{Access, Segment};

use super::idle::Idle;
use super::last_words::{AbortOnUnwind, LastWords, ended_its_thread, last_words};
use super::reapers::Reapers;
use super::settle::Libraries;

/// All lanes of a worker.
#[derive(Debug)]
pub struct Lanes {
    shared: Arc<Shared>,
    /// The thread of the first lane, which waits for it: a recovery is the shorter
    /// by what it takes to start one, and by what the loader can prepare on it.
    first: Mutex<Option<Idle>>,
}

struct Shared {
    loader: Arc<dyn BundleLoader>,
    outbox: Outbox,
    running: Mutex<HashMap<LaneId, Entry>>,
    /// How many of them load their bundle.
    loading: AtomicUsize,
    /// What was mapped when the VM ran, and no bundle did.
    libraries: OnceLock<Libraries>,
    /// The threads that see lanes off.
    reapers: Reapers,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("loader", &self.loader.loader_name()).finish_non_exhaustive()
    }
}

/// What the control thread needs of a lane.
struct Entry {
    thread: Option<JoinHandle<()>>,
    bundle: String,
    system_thread: SystemThread,
    interrupt: InterruptSlot,
    segments: Arc<SegmentTable>,
}

/// What is left to do when a lane's thread has ended.
struct Farewell {
    lane: LaneId,
    then: Vec<Box<dyn FnOnce() + Send>>,
    last_word: ToSupervisor,
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<LaneId, Entry>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// No lanes yet; the loader [prepares](BundleLoader::prepare) for the first one,
    /// on its thread.
    #[must_use]
    pub fn new(loader: Arc<dyn BundleLoader>, outbox: Outbox) -> Self {
        Self::with_demand(loader, outbox, Demand::arisen())
    }

    /// The same of a standby (S8), in which no bundle waits.
    #[must_use]
    pub fn of_standby(loader: Arc<dyn BundleLoader>, outbox: Outbox) -> Self {
        Self::with_demand(loader, outbox, Demand::default())
    }

    fn with_demand(loader: Arc<dyn BundleLoader>, outbox: Outbox, demand: Demand) -> Self {
        // If there is no thread to spare, the first load says so.
        let first = Idle::prepared(Arc::clone(&loader), Arc::clone(&outbox), demand).ok();
        let shared = Arc::new(Shared {
            loader,
            outbox,
            running: Mutex::default(),
            loading: AtomicUsize::new(0),
            libraries: OnceLock::new(),
            reapers: Reapers::default(),
        });
        Self { shared, first: Mutex::new(first) }
    }

    /// Starts a lane and loads a bundle on it; the outcome is sent as
    /// [`ToSupervisor::Loaded`] or [`ToSupervisor::LoadFailed`]. `copy` is the
    /// artifact's, if the supervisor has handed one on.
    pub fn load(&self, request: LoadRequest, fds: [OwnedFd; 4], copy: Option<OwnedFd>) {
        let lane = request.lane;
        let interrupt = InterruptSlot::default();
        let segments = Arc::new(SegmentTable::default());
        let thread = LaneThread {
            shared: Arc::clone(&self.shared),
            interrupt: Arc::clone(&interrupt),
            segments: Arc::clone(&segments),
            system_thread: SystemThread::default(),
        };
        let entry = Entry {
            thread: None,
            bundle: request.manifest.name.clone(),
            system_thread: thread.system_thread.clone(),
            interrupt,
            segments,
        };
        // The entry stands before the thread runs: its end looks for it.
        self.shared.running().insert(lane, entry);
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first.map_or_else(Idle::start, Ok) {
            Ok(idle) => {
                let (handle, begin) = idle.into_lane();
                if let Some(entry) = self.shared.running().get_mut(&lane) {
                    entry.thread = handle;
                }
                begin(Box::new(move |prepared| {
                    thread.run(request, fds, Given { copy, prepared });
                }));
            }
            Err(error) => {
                self.shared.running().remove(&lane);
                let error = LoaderError::no_thread(&error);
                (self.shared.outbox)(ToSupervisor::LoadFailed { lane, error });
            }
        }
    }

    /// The libraries that were there before the first bundle; none, before it comes.
    pub(super) fn libraries(&self) -> &Libraries {
        static NONE: Libraries = Libraries::none();
        self.shared.libraries.get().unwrap_or(&NONE)
    }

    /// Whether a bundle is being loaded.
    #[must_use]
    pub fn are_loading(&self) -> bool {
        self.shared.loading.load(Ordering::Relaxed) > 0
    }

    /// A lane whose thread is gone although the lane is not: its bundle's code has ended
    /// it, by the system call or by a library's function for it. Nobody will ever
    /// answer on that lane; this says so, as this worker's last words.
    pub(super) fn broken(&self) -> Option<LogRecord> {
        let running = self.shared.running();
        let entry = running.values().find(|entry| entry.system_thread.is_gone())?;
        Some(last_words(Some(entry.bundle.clone()), ended_its_thread(&entry.bundle)))
    }

    /// Asks a call on a lane to stop.
    pub fn interrupt(&self, lane: LaneId, call: u64) {
        let slot = self.shared.running().get(&lane).map(|entry| Arc::clone(&entry.interrupt));
        if let Some(slot) = slot {
            slot.stop(call);
        }
    }

    /// Adds a segment to a lane.
    pub fn segment(&self, lane: LaneId, segment: Segment, access: Access) {
        if let Some(entry) = self.shared.running().get(&lane) {
            entry.segments.insert(segment, access);
        }
    }
}

impl Shared {
    /// What is left to do when a lane's thread has ended, for a thread that sees it off.
    /// Its bundle's code runs there once more: destructors.
    fn see_off(&self, farewell: Farewell) {
        let Farewell { lane, then, last_word } = farewell;
        // `load` has stored the handle before the thread began.
        let of_lane = self
            .running()
            .get_mut(&lane)
            .map(|entry| (entry.thread.take(), entry.bundle.clone(), entry.system_thread.clone()));
        let Some((thread, bundle, system_thread)) = of_lane else { return };
        if let Some(thread) = thread {
            // The thread's thread-local destructors have run after this.
            drop(thread.join());
        }
        let bomb = AbortOnUnwind::armed(Arc::clone(&self.outbox), Some(bundle.clone()));
        LastWords::belong_to_this_thread(Some(LastWords::of(&bundle)));
        system_thread.begin();
        for then in then {
            then();
        }
        system_thread.end();
        LastWords::belong_to_this_thread(None);
        bomb.disarm();
        self.running().remove(&lane);
        (self.outbox)(last_word);
    }
}

/// A lane's thread, as the system knows it; 0 before it begins and when it has done
/// all that it has to.
#[derive(Clone, Debug, Default)]
struct SystemThread(Arc<AtomicI32>);

impl SystemThread {
    fn begin(&self) {
        self.0.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn is_gone(&self) -> bool {
        let thread = self.0.load(Ordering::Relaxed);
        if thread == 0 {
            return false;
        }
        let process = std::process::id();
        // SAFETY: numbers only. Signal 0 is sent to nobody; it is looked whether it
        // could be.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) };
        // It may have come to its end since it was looked at.
        sent == -1
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
            && self.0.load(Ordering::Relaxed) == thread
    }
}

/// What was made for a load beforehand.
struct Given {
    copy: Option<OwnedFd>,
    prepared: Option<Prepared>,
}

/// What a lane's thread works with.
struct LaneThread {
    shared: Arc<Shared>,
    interrupt: InterruptSlot,
    segments: Arc<SegmentTable>,
    system_thread: SystemThread,
}

impl LaneThread {
    fn run(self, request: LoadRequest, fds: [OwnedFd; 4], given: Given) {
        // A panic here is a bug of the loader, and its VM is in an unknown
        // state: the process ends, and the supervisor starts a new one.
        let outbox = Arc::clone(&self.shared.outbox);
        let bomb = AbortOnUnwind::armed(outbox, Some(request.manifest.name.clone()));
        self.system_thread.begin();
        LastWords::belong_to_this_thread(Some(LastWords::of(&request.manifest.name)));
        let lane = request.lane;
        // Linux keeps 15 characters of a thread's name.
        if let Ok(name) = CString::new(format!("lane {}", request.manifest.name)) {
            let _ = nix::sys::prctl::set_name(&name);
        }
        let (last_word, then) = self.live(request, fds, given);
        self.system_thread.end();
        let shared = Arc::clone(&self.shared);
        let farewell = Farewell { lane, then, last_word };
        self.shared.reapers.leave(Box::new(move || shared.see_off(farewell)));
        bomb.disarm();
    }

    fn live(
        &self,
        request: LoadRequest,
        fds: [OwnedFd; 4],
        given: Given,
    ) -> (ToSupervisor, Vec<Box<dyn FnOnce() + Send>>) {
        let id = request.lane;
        let shape = Shape::new(u64::from(request.ring_slots));
        let [down, up, supervisor_event, lane_event] = fds;
        let memory = match LaneMemory::open(&down, &up, shape) {
            Ok(memory) => memory,
            Err(error) => {
                let error = LoaderError::io("lane", &error);
                return (ToSupervisor::LoadFailed { lane: id, error }, Vec::new());
            }
        };
        let parts = LaneParts {
            id,
            bundle: request.manifest.name.clone(),
            memory,
            shape,
            supervisor_event,
            lane_event,
            max_payload: request.max_payload,
            segments: Arc::clone(&self.segments),
            interrupt: Arc::clone(&self.interrupt),
        };
        let outbox = Arc::clone(&self.shared.outbox);
        let lane = Rc::new(WorkerLane::new(parts, Arc::clone(&outbox)));
        let sink: LogSink = {
            let outbox = Arc::clone(&outbox);
            Arc::new(move |record: LogRecord| outbox(ToSupervisor::Log(record)))
        };
        let runtime = Runtime::new(
            request.manifest.name.clone(),
            request.generation,
            request.source.clone(),
            sink,
            Rc::clone(&lane),
            Arc::clone(&self.interrupt),
        );
        runtime.copy.set(given.copy);
        runtime.prepared.set(given.prepared);
        self.shared.loading.fetch_add(1, Ordering::Relaxed);
        let loaded = self.load(&request, &runtime);
        self.shared.loading.fetch_sub(1, Ordering::Relaxed);
        let last_word = match loaded {
            Ok(mut instance) => {
                let contracts = runtime.registered.borrow().contracts.clone();
                outbox(ToSupervisor::Loaded { lane: id, contracts });
                let finished = lane.run(&mut *instance);
                self.end(&request, &runtime, instance, !finished);
                ToSupervisor::Unloaded { lane: id }
            }
            Err(error) => ToSupervisor::LoadFailed { lane: id, error },
        };
        (last_word, runtime.after_thread.take())
    }

    /// Loads, checks what was registered, and runs `on_load` (not at a reload:
    /// the old generation has the state still).
    fn load(
        &self,
        request: &LoadRequest,
        runtime: &Runtime,
    ) -> Result<Box<dyn Instance>, LoaderError> {
        let loader = &self.shared.loader;
        let manifest = &request.manifest;
        loader.start_vm();
        // Each lane comes by here before its bundle's code runs.
        self.shared.libraries.get_or_init(Libraries::look);
        let loaded = if request.reload {
            loader.reload(manifest, runtime)
        } else {
            loader.load(manifest, &request.source, runtime)
        };
        // What it has not taken by now, nobody will.
        drop(runtime.prepared.take());
        loaded?;
        let checked = runtime.check_against(manifest);
        let instance = runtime.registered.borrow_mut().instance.take();
        let Some(mut instance) = instance else {
            drop(loader.unload(manifest.id, runtime));
            return Err(checked.err().unwrap_or_else(|| no_instance(manifest.name.clone())));
        };
        let ready = checked.and_then(|()| {
            if request.reload {
                return Ok(());
            }
            instance
                .on_load(None)
                .map_err(|error| LoaderError::init(manifest.name.clone(), "run on_load", error))
        });
        match ready {
            Ok(()) => Ok(instance),
            Err(error) => {
                self.end(request, runtime, instance, false);
                Err(error)
            }
        }
    }

    fn end(
        &self,
        request: &LoadRequest,
        runtime: &Runtime,
        mut instance: Box<dyn Instance>,
        run_hook: bool,
    ) {
        let report = |step: &str, problem: String| {
            runtime.logger().log(
                LogLevel::Error,
                "menagerie",
                &format!("{step} failed: {problem}"),
            );
        };
        if run_hook && let Err(error) = instance.on_unload() {
            report("on_unload", error.to_string());
        }
        drop(instance);
        if let Err(error) = self.shared.loader.unload(request.manifest.id, runtime) {
            report("unload", error.to_string());
        }
    }
}

fn no_instance(bundle: String) -> LoaderError {
    LoaderError::ContractMismatch {
        bundle,
        contract: String::new(),
        problem: "was loaded without an instance: a bug of the loader".to_owned(),
    }
}
