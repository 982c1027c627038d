//! The lane's loop, by a loader whose "language" is a handful of closures.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::instance::{Args, FunctionId, Instance, Interrupt};
use crate::loader::{Demand, Prepared};
use crate::message::LogLevel;
use crate::msgpack::Token;
use crate::runtime::{Host, Reply, Runtime};
use crate::{BundleId, SupportedLanguage};

#[derive(Debug, Default)]
struct Toy {
    unloaded: Arc<AtomicU32>,
    after_thread: Arc<AtomicU32>,
}

const FUNCTIONS: [&str; 7] = ["echo", "sum", "outcall", "outcall_later", "later", "drop_it", "big"];

struct ToyInstance {
    host: Host,
    state: Vec<u8>,
    late: VecDeque<Reply>,
    stop: Arc<AtomicBool>,
}

struct Stop(Arc<AtomicBool>);

impl Interrupt for Stop {
    fn interrupt(&self, _: u64) {
        panic!("no call of the toy is interrupted while it runs");
    }
    fn cancel(&self, call: u64) {
        assert_ne!(call, 0);
        self.0.store(true, Ordering::Relaxed);
    }
}

impl BundleLoader for Toy {
    fn loader_name(&self) -> &'static str {
        "toy"
    }
    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::Rust
    }
    fn supports_hot_reload(&self) -> bool {
        true
    }
    fn load(
        &self,
        _: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        let BundleSource::Code(code) = source else { panic!("the tests give code") };
        if code == "fail" {
            let error = GuestError::new("ToyError", "as asked");
            return Err(LoaderError::init(runtime.bundle_name(), "compile", error));
        }
        let functions = FUNCTIONS.iter().map(|f| (*f).to_owned()).collect();
        runtime.register(ContractInterface { contract: "toy@1".to_owned(), functions })?;
        let count = Arc::clone(&self.after_thread);
        runtime.after_thread(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let stop = Arc::new(AtomicBool::new(false));
        runtime.set_interrupt(Arc::new(Stop(Arc::clone(&stop))));
        runtime.logger().log(LogLevel::Info, "log", "loaded");
        let state = Vec::new();
        runtime.install(Box::new(ToyInstance {
            host: runtime.host(),
            state,
            late: VecDeque::new(),
            stop,
        }));
        Ok(())
    }
    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.load(manifest, runtime.source(), runtime)
    }
    fn unload(&self, _: BundleId, _: &Runtime) -> Result<(), LoaderError> {
        self.unloaded.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Instance for ToyInstance {
    fn call(&mut self, function: FunctionId, args: Args<'_>, reply: Reply) {
        let mut reader = Reader::new(args.bytes);
        let count = reader.array().unwrap();
        match FUNCTIONS[function as usize] {
            "echo" => {
                let value = reader.skip().unwrap();
                // As a VM does: the head anew, the bytes as a view.
                match Reader::new(value).token().unwrap() {
                    Token::Bin(bytes) => {
                        reply.ok_parts(&[&value[..value.len() - bytes.len()], bytes])
                    }
                    _ => reply.ok(value),
                }
            }
            "sum" => {
                let mut sum = 0;
                for _ in 0..count {
                    let Token::Int(value) = reader.token().unwrap() else {
                        reply.fail(Failure::BadArguments { message: "integers".to_owned() });
                        return;
                    };
                    sum += value;
                }
                reply.ok(&rmp_serde::to_vec(&sum).unwrap());
            }
            "outcall" => match self.host.call("other@1", "f", reader.skip().unwrap()) {
                Ok(value) => reply.ok(&value),
                Err(failure) => reply.fail(failure),
            },
            "outcall_later" => {
                let then = Box::new(move |result: Result<Vec<u8>, Failure>| match result {
                    Ok(value) => reply.ok(&value),
                    Err(failure) => reply.fail(failure),
                });
                self.host.call_async("other@1", "f", reader.skip().unwrap(), then).unwrap();
            }
            "later" => self.late.push_back(reply),
            "drop_it" => drop(reply),
            "big" => {
                let mut out = Vec::new();
                crate::msgpack::Writer::new(&mut out).bin(&vec![7; 100_000]);
                reply.ok(&out);
            }
            _ => unreachable!(),
        }
    }
    fn on_load(&mut self, state: Option<&[u8]>) -> Result<(), GuestError> {
        self.state = state.unwrap_or_default().to_vec();
        Ok(())
    }
    fn on_unload(&mut self) -> Result<Option<Vec<u8>>, GuestError> {
        self.state.push(1);
        Ok(Some(self.state.clone()))
    }
    fn poll(&mut self) -> bool {
        if self.stop.load(Ordering::Relaxed)
            && let Some(reply) = self.late.pop_back()
        {
            reply.ok(&[0xc0]);
        }
        !self.late.is_empty()
    }
    fn wait(&mut self, wake: BorrowedFd<'_>) {
        let mut fds = [PollFd::new(wake, PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(5_u8)).unwrap();
    }
}

const MANIFEST: &str = "name = \"toy\"\nloader = \"toy\"\nprovides = [\"toy@1\"]\n";

fn load() -> (Arc<Harness>, TestBundle, Arc<AtomicU32>, Arc<AtomicU32>) {
    let toy = Toy::default();
    let (unloaded, after) = (Arc::clone(&toy.unloaded), Arc::clone(&toy.after_thread));
    let harness = Harness::new(toy);
    let bundle = harness.load(MANIFEST, BundleSource::Code("good".to_owned())).unwrap();
    (harness, bundle, unloaded, after)
}

#[test]
fn lane_calls_and_answers() {
    let (_harness, bundle, ..) = load();
    assert_eq!(bundle.call::<_, i64>("toy@1", "sum", (1, 2, 39)).unwrap(), 42);
    let failure = bundle.call::<_, i64>("toy@1", "sum", ("x",)).unwrap_err();
    assert!(matches!(failure, Failure::BadArguments { .. }), "{failure}");
    for i in 0..10_000_i64 {
        assert_eq!(bundle.call::<_, i64>("toy@1", "sum", (i, 1)).unwrap(), i + 1);
    }
}

#[test]
fn c2_bytes_of_every_size_come_back() {
    let (_harness, bundle, ..) = load();
    for size in [0, 1, 39, 40, 41, 104, 2000, 4080, 4090, 4096, 5000, 100_000, 3_000_000] {
        let sent = serde_bytes::ByteBuf::from(
            (0..size).map(|i: usize| i.to_le_bytes()[0]).collect::<Vec<_>>(),
        );
        let back: serde_bytes::ByteBuf = bundle.call("toy@1", "echo", (&sent,)).unwrap();
        assert!(sent == back, "{size}");
    }
    for _ in 0..20 {
        let big: serde_bytes::ByteBuf = bundle.call("toy@1", "big", ()).unwrap();
        assert_eq!((big.len(), big[99_999]), (100_000, 7));
    }
}

#[test]
fn c3_a_reply_that_is_dropped_is_an_error() {
    let (_harness, bundle, ..) = load();
    let failure = bundle.call::<_, ()>("toy@1", "drop_it", ()).unwrap_err();
    assert!(failure.to_string().contains("without an answer"), "{failure}");
}

#[test]
fn lane_answers_out_of_order_and_wakes_for_either_side() {
    let (_harness, bundle, ..) = load();
    let none = rmp_serde::to_vec(&[0; 0]).unwrap();
    let first = bundle.begin("toy@1", "later", &none).unwrap();
    let second = bundle.begin("toy@1", "later", &none).unwrap();
    assert_eq!(bundle.call::<_, i64>("toy@1", "sum", (1,)).unwrap(), 1);
    bundle.interrupt();
    bundle.finish(second).unwrap();
    bundle.finish(first).unwrap();
}

#[test]
fn c5_a_guest_calls_and_other_calls_wait_their_turn() {
    let (harness, bundle, ..) = load();
    harness.on_call(|contract, function, args| {
        assert_eq!((contract, function), ("other@1", "f"));
        let (text,): (String,) = rmp_serde::from_slice(args).unwrap();
        if text == "fail" {
            return Err(Failure::NoSuchContract { contract: contract.to_owned() });
        }
        Ok(rmp_serde::to_vec(&format!("<{text}>")).unwrap())
    });
    for function in ["outcall", "outcall_later"] {
        let arg = (("x",),);
        let args = rmp_serde::to_vec(&arg).unwrap();
        let slow = bundle.begin("toy@1", function, &args).unwrap();
        assert_eq!(bundle.call::<_, i64>("toy@1", "sum", (2,)).unwrap(), 2);
        let value = bundle.finish(slow).unwrap();
        assert_eq!(rmp_serde::from_slice::<String>(&value).unwrap(), "<x>");
        let failure = bundle.call::<_, String>("toy@1", function, (("fail",),)).unwrap_err();
        assert!(matches!(failure, Failure::NoSuchContract { .. }), "{failure}");
        let long = "y".repeat(50_000);
        let value: String = bundle.call("toy@1", function, ((&long,),)).unwrap();
        assert_eq!(value.len(), 50_002);
    }
}

#[test]
fn l5_a_failed_load_leaves_no_lane() {
    let harness = Harness::new(Toy::default());
    let error = harness.load(MANIFEST, BundleSource::Code("fail".to_owned())).unwrap_err();
    assert!(error.to_string().contains("ToyError: as asked"), "{error}");
}

#[test]
fn l5_what_the_manifest_does_not_say_is_refused() {
    let toy = Toy::default();
    let (unloaded, after) = (Arc::clone(&toy.unloaded), Arc::clone(&toy.after_thread));
    let harness = Harness::new(toy);
    let good = || BundleSource::Code("good".to_owned());
    for (manifest, problem) in [
        ("name = \"a\"\nloader = \"toy\"\n", "not in the manifest's provides"),
        ("name = \"a\"\nloader = \"toy\"\nprovides = [\"toy@1\", \"x@1\"]\n", "does not export it"),
        ("name = \"a\"\nloader = \"toy\"\nprovides = [\"toy@2\"]\n", "does not export it"),
        (
            "name = \"a\"\nloader = \"toy\"\nprovides = [\"toy@1\"]\nfunction_count = { toy = 3 }\n",
            "should have 3 functions and has 7",
        ),
    ] {
        let error = harness.load(manifest, good()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    assert_eq!(unloaded.load(Ordering::Relaxed), 4);
    assert_eq!(after.load(Ordering::Relaxed), 4);
}

#[test]
fn l6_reload_hands_the_state_over_and_frees_the_old() {
    let (harness, bundle, unloaded, after) = load();
    bundle.reload().unwrap();
    bundle.reload().unwrap();
    assert_eq!(unloaded.load(Ordering::Relaxed), 2);
    assert_eq!(after.load(Ordering::Relaxed), 2);
    assert_eq!(bundle.call::<_, i64>("toy@1", "sum", (2, 2)).unwrap(), 4);
    bundle.unload();
    assert_eq!(after.load(Ordering::Relaxed), 3);
    harness.wait_for_log(|record| {
        record.message == "loaded" && record.bundle.as_deref() == Some("toy")
    });
}

/// A loader that prepares something, and takes it if it is told to.
struct Preparing {
    seen: Arc<Seen>,
    /// Whether it prepares until somebody waits for it.
    is_patient: bool,
}

#[derive(Default)]
struct Seen {
    made: Mutex<Vec<std::thread::ThreadId>>,
    taken: Mutex<Vec<std::thread::ThreadId>>,
    dropped: Mutex<Vec<std::thread::ThreadId>>,
}

/// What it prepares; not to be sent to another thread.
struct OfThread(Arc<Seen>, std::rc::Rc<()>);

impl Drop for OfThread {
    fn drop(&mut self) {
        lock(&self.0.dropped).push(std::thread::current().id());
    }
}

impl BundleLoader for Preparing {
    fn loader_name(&self) -> &'static str {
        "toy"
    }
    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::Rust
    }
    fn supports_hot_reload(&self) -> bool {
        true
    }
    fn prepare(&self, demand: &Demand) -> Option<Prepared> {
        // Until a bundle comes, or none will.
        while self.is_patient && !demand.comes_within(Duration::from_millis(1)) {}
        lock(&self.seen.made).push(std::thread::current().id());
        Some(Box::new(OfThread(Arc::clone(&self.seen), std::rc::Rc::default())))
    }
    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        let BundleSource::Code(code) = source else { panic!("the tests give code") };
        // One that fails does not come as far.
        if code == "take" {
            let found = runtime.take_prepared::<OfThread>();
            if let Some(found) = found {
                assert_eq!(std::rc::Rc::strong_count(&found.1), 1);
                lock(&self.seen.taken).push(std::thread::current().id());
                assert!(runtime.take_prepared::<OfThread>().is_none());
            }
        }
        Toy::default().load(manifest, source, runtime)
    }
    fn reload(&self, manifest: &ManifestData, runtime: &Runtime) -> Result<(), LoaderError> {
        self.load(manifest, runtime.source(), runtime)
    }
}

fn preparing() -> (Preparing, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    (Preparing { seen: Arc::clone(&seen), is_patient: false }, seen)
}

fn wait_until(what: &str, on: &Mutex<Vec<std::thread::ThreadId>>) {
    let deadline = Instant::now() + PATIENCE;
    while lock(on).is_empty() {
        assert!(Instant::now() < deadline, "it is never {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn code(text: &str) -> BundleSource {
    BundleSource::Code(text.to_owned())
}

#[test]
fn s8_a_standby_prepares_for_its_first_lane_and_no_other() {
    let (loader, seen) = preparing();
    let harness = Harness::standby(loader);
    let first = harness.load(MANIFEST, code("take")).unwrap();
    first.reload().unwrap();
    drop(harness.load(MANIFEST, code("take")).unwrap());
    let made = lock(&seen.made).clone();
    assert_eq!(made.len(), 1);
    assert_eq!(*lock(&seen.taken), made);
    assert_eq!(*lock(&seen.dropped), made);
}

#[test]
fn s8_what_the_first_load_does_not_take_is_dropped_on_its_thread() {
    for (text, loads) in [("good", true), ("fail", false)] {
        let (loader, seen) = preparing();
        let harness = Harness::standby(loader);
        let loaded = harness.load(MANIFEST, code(text));
        assert_eq!(loaded.is_ok(), loads);
        let made = lock(&seen.made).clone();
        assert_eq!(*lock(&seen.dropped), made);
        drop(harness.load(MANIFEST, code("take")).unwrap());
        assert!(lock(&seen.taken).is_empty());
    }
}

#[test]
fn s8_what_is_prepared_for_no_lane_is_dropped_on_its_thread() {
    let (loader, seen) = preparing();
    drop(Harness::standby(loader));
    wait_until("dropped", &seen.dropped);
    assert_eq!(*lock(&seen.dropped), *lock(&seen.made));
}

#[test]
fn s8_who_prepares_is_told_when_a_bundle_comes_and_when_none_will() {
    let (loader, seen) = preparing();
    let harness = Harness::standby(Preparing { is_patient: true, ..loader });
    drop(harness.load(MANIFEST, code("take")).unwrap());
    assert_eq!(lock(&seen.taken).len(), 1);
    let (loader, seen) = preparing();
    drop(Harness::standby(Preparing { is_patient: true, ..loader }));
    wait_until("dropped", &seen.dropped);
}

/// A worker that is no standby prepares as well, and knows that it is waited for.
#[test]
fn s3_who_starts_for_a_bundle_prepares_and_is_told_so() {
    let (loader, seen) = preparing();
    // Patient: it would go on until it is told.
    let harness = Harness::new(Preparing { is_patient: true, ..loader });
    wait_until("made", &seen.made);
    let first = harness.load(MANIFEST, code("take")).unwrap();
    drop(harness.load(MANIFEST, code("take")).unwrap());
    drop(first);
    assert_eq!(lock(&seen.made).len(), 1);
    assert_eq!(*lock(&seen.taken), *lock(&seen.made));
}
