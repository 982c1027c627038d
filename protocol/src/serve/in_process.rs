//! A worker without a supervisor, for benchmarks: it loads one bundle and calls
//! it in its own process. What a call costs here is what the language costs;
//! the rest of a call through a supervisor is ours.
//!
//! ```text
//! menagerie-worker-lua --in-process DIR CONTRACT FUNCTION
//! ```
//!
//! It prints `ready` when the first call has been answered. Then, for each line
//! on standard input that holds a number `n`, it makes `n` calls without
//! arguments, in batches, and prints the median cost of one in nanoseconds. It
//! ends with its standard input.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use crate::error::LoaderError;
use crate::instance::{Args, Instance};
use crate::lane::link::{Rx, Side};
use crate::lane::wait::wake_pair;
use crate::lane::worker::{LaneParts, Outbox, SegmentTable, WorkerLane};
use crate::lane::{DEFAULT_SLOTS, LaneMemory};
use crate::loader::BundleLoader;
use crate::loader::bundle_source::BundleSource;
use crate::loader::manifest::ManifestData;
use crate::ring::{FLAG_FAILURE, Shape};
use crate::runtime::{InterruptSlot, Reply, Runtime};

/// Calls between two looks at the clock.
const BATCH: u64 = 32;

/// What the command line asks for, if it asks for this.
#[derive(Debug)]
pub(super) struct InProcess {
    dir: PathBuf,
    contract: String,
    function: String,
}

impl InProcess {
    pub(super) fn from_args(args: impl Iterator<Item = String>) -> Option<Self> {
        let mut args = args.skip_while(|arg| arg != "--in-process").skip(1);
        Some(Self {
            dir: PathBuf::from(args.next()?),
            contract: args.next()?,
            function: args.next()?,
        })
    }

    pub(super) fn run<L: BundleLoader + 'static>(self, loader: L) -> ExitCode {
        // On a thread of its own, as a lane is: VMs are bound to theirs.
        let (lines, numbers) = mpsc::channel();
        let lane = std::thread::spawn(move || {
            let outcome = self.serve(&loader, &numbers);
            if let Err(problem) = &outcome {
                super::complain_text(problem);
            }
            outcome.is_ok()
        });
        for line in std::io::stdin().lock().lines() {
            let Some(number) = line.ok().and_then(|line| line.trim().parse::<u64>().ok()) else {
                break;
            };
            if lines.send(number).is_err() {
                break;
            }
        }
        drop(lines);
        let ok = lane.join().unwrap_or(false);
        super::exit_now(i32::from(!ok))
    }

    fn serve<L: BundleLoader>(
        &self,
        loader: &L,
        numbers: &mpsc::Receiver<u64>,
    ) -> Result<(), String> {
        let say = |error: &dyn std::fmt::Display| error.to_string();
        let manifest = ManifestData::read(&self.dir).map_err(|e| say(&e))?.manifest;
        let (runtime, lane, mut rx) = stand(&manifest, &self.dir).map_err(|e| say(&e))?;
        let source = BundleSource::Path(manifest.dir.clone());
        loader.load(&manifest, &source, &runtime).map_err(|e| say(&e))?;
        let function = self.function_of(&runtime)?;
        let mut instance = runtime
            .registered
            .borrow_mut()
            .instance
            .take()
            .ok_or("the loader has registered no instance")?;
        instance.on_load(None).map_err(|e| say(&e))?;
        let mut number = 1;
        let mut call = |instance: &mut dyn Instance| -> Result<(), String> {
            instance.call(
                function,
                // An empty MessagePack array.
                Args { bytes: &[0x90], segment: None },
                Reply::new(number, Rc::clone(&lane)),
            );
            number += 1;
            let frame = loop {
                match rx.peek() {
                    Ok(Some(frame)) => break frame,
                    Ok(None) => drop(instance.poll()),
                    Err(error) => return Err(error.to_string()),
                }
            };
            let failed = frame.head.flags & FLAG_FAILURE != 0;
            rx.release(frame);
            if failed { Err(format!("{} has failed", self.function)) } else { Ok(()) }
        };
        call(&mut *instance)?;
        answer("ready");
        for number in numbers {
            let mut costs = Vec::new();
            for _ in 0..number.div_ceil(BATCH).max(1) {
                let started = Instant::now();
                for _ in 0..BATCH {
                    call(&mut *instance)?;
                }
                costs.push(started.elapsed().as_nanos());
            }
            costs.sort_unstable();
            answer(&(costs[costs.len() / 2] / u128::from(BATCH)).to_string());
        }
        Ok(())
    }

    fn function_of(&self, runtime: &Runtime) -> Result<u32, String> {
        let registered = runtime.registered.borrow();
        let mut id = 0;
        for interface in &registered.contracts {
            let at = interface.functions.iter().position(|name| *name == self.function);
            if let (true, Some(at)) = (interface.contract == self.contract, at) {
                return Ok(id + u32::try_from(at).unwrap_or(u32::MAX));
            }
            id += u32::try_from(interface.functions.len()).unwrap_or(u32::MAX);
        }
        Err(format!("the bundle has no {} {}", self.contract, self.function))
    }
}

/// A lane whose both ends are here.
fn stand(
    manifest: &ManifestData,
    dir: &Path,
) -> Result<(Runtime, Rc<WorkerLane>, Rx), LoaderError> {
    let io = |error: std::io::Error| LoaderError::io("lane", &error);
    let shape = Shape::new(u64::from(DEFAULT_SLOTS));
    let memory = LaneMemory::create(shape).map_err(io)?.memory;
    // The worker's side writes `up`, which the supervisor maps for reading only:
    // here one process is both.
    let memory = LaneMemory { up: Arc::clone(&memory.down), down: memory.down };
    // One pair for both ways: nobody here sleeps on either end.
    let (event, lane_event) = wake_pair().map_err(io)?;
    let supervisor_event = lane_event.try_clone().map_err(io)?;
    let interrupt = InterruptSlot::default();
    let outbox: Outbox = Arc::new(|_| {});
    let parts = LaneParts {
        id: 1,
        bundle: manifest.name.clone(),
        memory: memory.clone(),
        shape,
        supervisor_event,
        lane_event,
        max_payload: 64 << 20,
        segments: Arc::new(SegmentTable::default()),
        interrupt: Arc::clone(&interrupt),
    };
    let lane = Rc::new(WorkerLane::new(parts, outbox));
    let runtime = Runtime::new(
        manifest.name.clone(),
        1,
        BundleSource::Path(dir.to_owned()),
        Arc::new(|_| {}),
        Rc::clone(&lane),
        interrupt,
    );
    let rx = Rx::new(&memory, shape, Side::Supervisor, Arc::new(event));
    Ok((runtime, lane, rx))
}

fn answer(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody reads any more: standard input ends too, then.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
