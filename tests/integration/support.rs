//! Starting supervisors, waiting for conditions, and what else all tests use.

mod gate;
mod setup;

use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use menagerie_supervisor::{
    Config, CrashReport, EventKind, NextEvent, Supervisor, WorkerState, WorkerStatus,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub(crate) use gate::Gate;
pub(crate) use setup::{setup, setup_with};

/// A test for each of these languages, by their suffixes, and cases, which are
/// functions of the module that take a suffix.
macro_rules! per_language {
    ($($language:ident),*; $cases:tt) => {
        $($crate::support::per_language!(@ $language $cases);)*
    };
    (@ $language:ident { $($case:ident),* $(,)? }) => {
        mod $language {
            $(
                #[test]
                fn $case() {
                    $crate::support::run(super::$case(stringify!($language)));
                }
            )*
        }
    };
}
pub(crate) use per_language;

/// Long enough for any machine; a test that waits for so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn config() -> Config {
    let mut config = Config::default();
    // Cargo puts the tests into target/<profile>/deps, and nextest may run
    // them from elsewhere; the workers are one folder up.
    let exe = std::env::current_exe().unwrap();
    config.worker_dir = exe.parent().and_then(Path::parent).map(Path::to_owned);
    config
}

pub(crate) fn start_with(config: Config) -> Supervisor {
    let shown = tracing_subscriber::EnvFilter::new(
        std::env::var("RUST_LOG").unwrap_or_else(|_| "info,menagerie::bundle=warn".to_owned()),
    );
    let _ = tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_test_writer().with_filter(shown))
        .with(Ear.with_filter(LevelFilter::INFO))
        .try_init();
    Supervisor::builder().config(config).start().unwrap()
}

pub(crate) fn start() -> Supervisor {
    start_with(config())
}

/// A line of a worker or a bundle, as the host's `tracing` has it.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) level: Level,
    pub(crate) worker: Option<String>,
    pub(crate) bundle: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) message: String,
}

/// The last lines of all supervisors of this process.
static LINES: Mutex<VecDeque<Line>> = Mutex::new(VecDeque::new());

/// As many as [`LINES`] keeps: some tests flood the log.
const MAX_LINES: usize = 4096;

pub(crate) fn lines() -> Vec<Line> {
    LINES.lock().unwrap().iter().cloned().collect()
}

/// The first line like this.
pub(crate) fn find_line(like: impl Fn(&Line) -> bool) -> Option<Line> {
    LINES.lock().unwrap().iter().find(|line| like(line)).cloned()
}

/// Listens to what workers and bundles say.
struct Ear;

impl<S: Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != "menagerie::bundle" {
            return stumble(event);
        }
        let mut line = Line {
            level: *event.metadata().level(),
            worker: None,
            bundle: None,
            source: None,
            message: String::new(),
        };
        event.record(&mut line);
        let mut lines = LINES.lock().unwrap();
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Where the next line of the supervisor's own makes this host's code panic: a word of it.
static STUMBLE: Mutex<Option<&str>> = Mutex::new(None);

/// The host's `tracing` code panics at the next line that has this word, once.
pub(crate) fn stumble_at(word: &'static str) {
    *STUMBLE.lock().unwrap() = Some(word);
}

/// Waits until it has, and takes the panic out of those that fail a test.
pub(crate) async fn has_stumbled() {
    wait_for("the panic", || STUMBLE.lock().unwrap().is_none().then_some(())).await;
    wait_for("the panic", || {
        let mut panics = PANICS.lock().unwrap();
        let at = panics.iter().position(|panic| panic.contains(STUMBLES))?;
        Some(panics.remove(at))
    })
    .await;
}

const STUMBLES: &str = "the host's own code stumbles";

/// Where this host's code waits, and what for.
static HOLD: Mutex<Option<(&str, Receiver<()>)>> = Mutex::new(None);

/// The host's `tracing` code waits at the next line of the supervisor's own that has this
/// word, once, until what is returned is dropped.
pub(crate) fn hold_at(word: &'static str) -> Sender<()> {
    let (go_on, waits) = channel();
    *HOLD.lock().unwrap() = Some((word, waits));
    go_on
}

/// Waits until it does.
pub(crate) async fn is_held() {
    wait_for("the hold", || HOLD.lock().unwrap().is_none().then_some(())).await;
}

fn stumble(event: &tracing::Event<'_>) {
    let is_here = |hold: &mut (&str, _)| format!("{event:?}").contains(hold.0);
    let held = HOLD.lock().unwrap().take_if(is_here);
    if let Some((_, waits)) = held {
        let _ = waits.recv();
    }
    let mut wanted = STUMBLE.lock().unwrap();
    let Some(word) = *wanted else { return };
    if format!("{event:?}").contains(word) {
        *wanted = None;
        drop(wanted);
        panic!("{STUMBLES}");
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value = value.to_owned();
        match field.name() {
            "worker" => self.worker = Some(value),
            "bundle" => self.bundle = Some(value),
            "source" => self.source = Some(value),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

/// Waits until `condition` says something.
pub(crate) async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Panics of any thread since [`run`] began.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a test on a runtime of its own. It fails if it does not end, even if
/// it blocks the runtime's threads for ever, and if any thread panics, the
/// supervisor's included.
pub(crate) fn run(test: impl Future<Output = ()> + Send + 'static) {
    run_within(PATIENCE * 3, test);
}

/// As [`run`], with a supervisor that is shut down when the test has ended well.
pub(crate) fn run_with<F>(config: Config, test: impl FnOnce(Supervisor) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    run(async {
        let supervisor = start_with(config);
        test(supervisor.clone()).await;
        supervisor.shutdown().await;
    });
}

/// As [`run`], with a future that is made, and stays, on the thread that runs it: so a
/// test can be a closure that borrows what was made for it.
pub(crate) fn run_here<F>(test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    run_on(two_threads(), PATIENCE * 3, test);
}

/// As [`run`], for a test that is asked to do so much that it takes longer.
pub(crate) fn run_within(limit: Duration, test: impl Future<Output = ()> + Send + 'static) {
    run_on(two_threads(), limit, || test);
}

fn two_threads() -> tokio::runtime::Builder {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2);
    builder
}

/// As [`run`], with the supervisor's tasks and the test on one thread.
pub(crate) fn run_on_one_thread(test: impl Future<Output = ()> + Send + 'static) {
    // A runtime without workers would be the test's alone: the supervisor takes none
    // of these.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1);
    run_on(builder, PATIENCE * 3, || async { tokio::spawn(test).await.unwrap() });
}

fn run_on<F>(
    mut builder: tokio::runtime::Builder,
    limit: Duration,
    test: impl FnOnce() -> F + Send + 'static,
) where
    F: Future<Output = ()>,
{
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.lock().unwrap().push(panic.to_string());
        default(panic);
    }));
    let (done, ended) = channel();
    let thread = std::thread::spawn(move || {
        let runtime = builder.enable_all().build().unwrap();
        // Never dropped: that would wait for threads that a failed test blocks.
        let runtime = std::mem::ManuallyDrop::new(runtime);
        runtime.block_on(test());
        done.send(()).unwrap();
    });
    match ended.recv_timeout(limit) {
        Ok(()) => assert_eq!(*PANICS.lock().unwrap(), [""; 0], "somebody panicked"),
        Err(RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err());
        }
    }
}

/// The status of a loader's worker.
pub(crate) fn worker(supervisor: &Supervisor, loader: &str) -> Option<WorkerStatus> {
    supervisor.status().workers.into_iter().find(|worker| worker.loader == loader)
}

/// Waits until a loader's worker is ready in an incarnation after `before`.
pub(crate) async fn ready_after(
    supervisor: &Supervisor,
    loader: &str,
    before: u64,
) -> WorkerStatus {
    wait_for("the worker to be ready", || {
        worker(supervisor, loader)
            .filter(|worker| worker.state == WorkerState::Ready && worker.incarnation > before)
    })
    .await
}

/// Waits for a worker's crash report number `count`.
pub(crate) async fn report(supervisor: &Supervisor, loader: &str, count: usize) -> CrashReport {
    wait_for("the crash report", || {
        supervisor.crashes().into_iter().filter(|crash| crash.worker == loader).nth(count - 1)
    })
    .await
}

/// Every event since it was made.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<EventKind>>>);

impl Recorder {
    pub(crate) fn of(supervisor: &Supervisor) -> Self {
        let recorder = Self::default();
        let (seen, mut events) = (Arc::clone(&recorder.0), supervisor.events());
        tokio::spawn(async move {
            while let Some(next) = events.next().await {
                if let NextEvent::Event(event) = next {
                    seen.lock().unwrap().push(event.kind);
                }
            }
        });
        recorder
    }

    pub(crate) fn all(&self) -> Vec<EventKind> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for an event.
    pub(crate) async fn wait<T>(&self, what: &str, pick: impl Fn(&EventKind) -> Option<T>) -> T {
        wait_for(what, || self.all().iter().find_map(&pick)).await
    }
}

/// The folder of a worker's supervisor; `None` until the worker's own program runs.
pub(crate) fn runtime_dir(pid: u32) -> Option<PathBuf> {
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
    let scratch = environment.split('\0').find_map(|v| v.strip_prefix("MENAGERIE_SCRATCH="))?;
    Some(Path::new(scratch).parent()?.to_owned())
}

/// Whether a process is there, dead ones that nobody has reaped included.
pub(crate) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Sends a process SIGKILL.
pub(crate) fn slay(pid: u32) {
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

/// A bundle made for one test.
pub(crate) struct Bundle {
    folder: tempfile::TempDir,
}

impl Bundle {
    /// A bundle of these files: names and contents.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        Self { folder }
    }

    /// A copy of a bundle under another name; `more` is added to its manifest.
    pub(crate) fn copy_of(dir: &Path, name: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
        }
        let manifest = std::fs::read_to_string(dir.join("manifest.toml")).unwrap();
        let rest = manifest.lines().filter(|line| !line.starts_with("name"));
        let rest: Vec<&str> = rest.collect();
        let manifest = format!("name = '{name}'\n{}\n{more}\n", rest.join("\n"));
        std::fs::write(folder.path().join("manifest.toml"), manifest).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }
}

/// Says now and then how far a long run has come; a short one says nothing.
pub(crate) struct Progress {
    what: &'static str,
    all: u64,
    begun: Instant,
    next: Instant,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(10);

    pub(crate) fn of(what: &'static str, all: u64) -> Self {
        let begun = Instant::now();
        Self { what, all, begun, next: begun + Self::EVERY }
    }

    /// So many are done.
    pub(crate) fn at(&mut self, done: u64) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + Self::EVERY;
            let seconds = self.begun.elapsed().as_secs();
            eprintln!("{done} of {} {} in {seconds} s", self.all, self.what);
        }
    }
}
