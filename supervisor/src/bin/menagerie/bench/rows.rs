//! The figures, in groups.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use menagerie_supervisor::{
    ByteBuf, Bytes, Config, Contract, EventKind, NextEvent, Supervisor, WorkerState,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bundles::{Subject, find};
use super::copy::Copy;
use super::in_process::InProcess;
use super::peer::{Mode, Peer};
use super::report::{Report, Row, Turn, Unit, median, row};
use super::{Options, Problem, crashes, idle, nanos};
use crate::ending::Ending;
use crate::render;
use crate::scratch::Scratch;

/// Calls between two looks at the clock.
const BATCH: u32 = 32;

pub(super) type Measure = fn(&mut Bench) -> Result<(), Problem>;

/// The groups, in the order in which they are measured.
pub(super) const GROUPS: [(&str, Measure); 10] = [
    ("null", null_blocking),
    ("await", null_awaited),
    ("vm", null_in_vms),
    ("tasks", tasks),
    ("idle-10ms", after_idleness),
    ("bytes", bytes),
    ("noticed", noticed),
    ("start", starts),
    ("crash", crashes::crash),
    ("idle", idle_host),
];

/// What all groups work with.
pub(super) struct Bench {
    quick: bool,
    pub(super) config: Config,
    pub(super) subjects: Vec<Subject>,
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) supervisor: Supervisor,
    peer: Peer,
    pub(super) rows: Vec<Row>,
}

pub(super) fn measure(options: &Options, report: &mut Report) -> Result<(), Problem> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ending = runtime.block_on(async { Ending::new() })?;
    let scratch = Scratch::new("bench").map_err(|error| Problem::new("a folder", &error))?;
    runtime.spawn(leave_nothing(ending, scratch.path().to_owned()));
    let (subjects, mut left_out) = find(&options.bundles, scratch.path())?;
    let mut config = Config::default();
    config.worker_dir.clone_from(&options.worker_dir);
    // Crashes are provoked here, one after the other, and each is one in a row
    // of its own: what is measured is the first restart.
    config.restart.reset_after = Duration::from_millis(1);
    config.restart.limit = 10_000;
    config.restart.window = Duration::from_secs(10_000_000);
    let supervisor = start(&runtime, &config)?;
    let mut usable = Vec::new();
    for subject in subjects {
        match runtime.block_on(supervisor.load(&subject.dir)) {
            Ok(_) => usable.push(subject),
            Err(error) => {
                left_out.push(format!("{}: {}", subject.label, super::left_out::reason(&error)));
            }
        }
    }
    report.left_out = left_out;
    let mut bench = Bench {
        quick: options.quick,
        config,
        subjects: usable,
        runtime,
        supervisor,
        peer: Peer::start()?,
        rows: Vec::new(),
    };
    for (name, group) in GROUPS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            render::note(&format!("menagerie: measuring: {name}"));
            group(&mut bench)?;
        }
    }
    bench.runtime.block_on(bench.supervisor.shutdown());
    report.rows = bench.rows;
    Ok(())
}

pub(super) fn start(
    runtime: &tokio::runtime::Runtime,
    config: &Config,
) -> Result<Supervisor, Problem> {
    let _guard = runtime.enter();
    Supervisor::builder()
        .config(config.clone())
        .start()
        .map_err(|error| Problem::new("supervisor", &error))
}

/// Whoever stops it finds nothing left of it.
async fn leave_nothing(mut ending: Ending, scratch: PathBuf) {
    let name = ending.name().await;
    drop(std::fs::remove_dir_all(scratch));
    render::note(&format!("menagerie: {name}: stopped before the end"));
    std::process::exit(1);
}

impl Bench {
    /// How often a row is measured beside its floor.
    const fn turns(&self) -> u32 {
        if self.quick { 5 } else { 25 }
    }

    pub(super) const fn slow_turns(&self) -> u32 {
        if self.quick { 3 } else { 9 }
    }

    const fn batches(&self) -> u32 {
        if self.quick { 60 } else { 200 }
    }

    pub(super) fn contract(&self, subject: &Subject) -> Result<Contract, Problem> {
        contract(&self.supervisor, subject)
    }

    /// The cost of a spinning round trip, now.
    fn spin(&mut self) -> Result<f64, Problem> {
        let batches = self.batches();
        Ok(median(self.peer.times(Mode::Spin, batches, BATCH)?))
    }

    /// The cost of a blocking null call, now.
    fn blocking(&self, contract: &Contract) -> Result<f64, Problem> {
        let mut times = Vec::new();
        for _ in 0..self.batches() {
            let started = Instant::now();
            for _ in 0..BATCH {
                null(contract)?;
            }
            times.push(nanos(started.elapsed()) / f64::from(BATCH));
        }
        Ok(median(times))
    }

    pub(super) fn natives(&self) -> Vec<Subject> {
        self.subjects.iter().filter(|s| s.loader == "native").cloned().collect()
    }
}

pub(super) fn contract(supervisor: &Supervisor, subject: &Subject) -> Result<Contract, Problem> {
    supervisor
        .contract(&format!("{}/probe@1", subject.name))
        .map_err(|error| Problem::new(subject.label, &error))
}

pub(super) fn null(contract: &Contract) -> Result<(), Problem> {
    contract
        .call_blocking::<_, ()>("null", ())
        .map_err(|error| Problem::new(contract.bundle(), &error))
}

/// A figure between two takes of its floor.
pub(super) fn turn(
    bench: &mut Bench,
    floor: impl Fn(&mut Bench) -> Result<f64, Problem>,
    ours: impl FnOnce(&mut Bench) -> Result<f64, Problem>,
) -> Result<Turn, Problem> {
    let before = floor(bench)?;
    let ours = ours(bench)?;
    let after = floor(bench)?;
    Ok(Turn { ours, floor: f64::midpoint(before, after) })
}

fn null_blocking(bench: &mut Bench) -> Result<(), Problem> {
    for subject in bench.natives() {
        let contract = bench.contract(&subject)?;
        bench.blocking(&contract)?;
        let mut turns = Vec::new();
        for _ in 0..bench.turns() {
            turns.push(turn(bench, Bench::spin, |bench| bench.blocking(&contract))?);
        }
        let floor = "spinning round trip";
        let row = row("null", subject.label, Unit::Nanoseconds, floor, Some(2.0), &turns);
        bench.rows.push(row);
    }
    Ok(())
}

fn null_awaited(bench: &mut Bench) -> Result<(), Problem> {
    for subject in bench.natives() {
        let contract = bench.contract(&subject)?;
        let ours = |bench: &mut Bench| {
            let batches = bench.batches();
            bench.runtime.block_on(async {
                let mut times = Vec::new();
                for _ in 0..batches {
                    let started = Instant::now();
                    for _ in 0..BATCH {
                        contract
                            .call::<_, ()>("null", ())
                            .await
                            .map_err(|error| Problem::new(contract.bundle(), &error))?;
                    }
                    times.push(nanos(started.elapsed()) / f64::from(BATCH));
                }
                Ok(median(times))
            })
        };
        ours(bench)?;
        let mut turns = Vec::new();
        for _ in 0..bench.turns() {
            turns.push(turn(bench, Bench::spin, ours)?);
        }
        let floor = "spinning round trip";
        let row = row("await", subject.label, Unit::Nanoseconds, floor, Some(2.2), &turns);
        bench.rows.push(row);
    }
    Ok(())
}

fn null_in_vms(bench: &mut Bench) -> Result<(), Problem> {
    let others = bench.subjects.iter().filter(|s| s.loader != "native").cloned();
    for subject in others.collect::<Vec<_>>() {
        let contract = bench.contract(&subject)?;
        let mut alone = InProcess::start(&bench.config, subject.loader, &subject.dir)?;
        bench.blocking(&contract)?;
        alone.measure(10_000)?;
        let calls = bench.batches() * BATCH;
        let mut turns = Vec::new();
        for _ in 0..bench.turns() {
            let own = alone.measure(calls)?;
            let mut turn = turn(bench, Bench::spin, |bench| bench.blocking(&contract))?;
            turn.floor = f64::midpoint(own, alone.measure(calls)?) + 2.0 * turn.floor;
            turns.push(turn);
        }
        let floor = "in-process call + 2 spinning round trips";
        let row = row("vm", subject.label, Unit::Nanoseconds, floor, Some(1.0), &turns);
        bench.rows.push(row);
    }
    Ok(())
}

/// Calls in a second that the design asks for.
const CALLS_PER_SECOND: f64 = 2_000_000.0;

fn tasks(bench: &mut Bench) -> Result<(), Problem> {
    let Some(subject) = bench.natives().into_iter().next() else { return Ok(()) };
    let contract = bench.contract(&subject)?;
    let calls = if bench.quick { 100_000 } else { 400_000 };
    for count in [1_u32, 2, 8, 64] {
        let mut turns = Vec::new();
        for _ in 0..bench.slow_turns() {
            let started = Instant::now();
            let each = calls / count;
            let tasks: Vec<_> = (0..count)
                .map(|_| {
                    let contract = contract.clone();
                    bench.runtime.spawn(async move {
                        for _ in 0..each {
                            contract.call::<_, ()>("null", ()).await?;
                        }
                        Ok::<(), menagerie_supervisor::Failure>(())
                    })
                })
                .collect();
            for task in tasks {
                bench
                    .runtime
                    .block_on(task)
                    .map_err(|error| Problem::new("a task", &error))?
                    .map_err(|error| Problem::new(subject.label, &error))?;
            }
            let ours = f64::from(each * count) / started.elapsed().as_secs_f64();
            turns.push(Turn { ours, floor: CALLS_PER_SECOND });
        }
        let limit = (count >= 8).then_some(1.0);
        let name = format!("{count} tasks");
        let floor = "what the design asks for";
        let row = row("tasks", &name, Unit::CallsPerSecond, floor, limit, &turns);
        bench.rows.push(row);
    }
    Ok(())
}

/// How long a lane is left alone.
const PAUSE: Duration = Duration::from_millis(10);

fn after_idleness(bench: &mut Bench) -> Result<(), Problem> {
    for subject in bench.natives() {
        let contract = bench.contract(&subject)?;
        let floor =
            |bench: &mut Bench| Ok(median(bench.peer.times_after(Mode::Futex, 7, PAUSE)?));
        let ours = |_: &mut Bench| {
            let mut times = Vec::new();
            for _ in 0..15 {
                std::thread::sleep(PAUSE);
                let started = Instant::now();
                null(&contract)?;
                times.push(nanos(started.elapsed()));
            }
            Ok(median(times))
        };
        // The lane is cold when that is what is measured.
        ours(bench)?;
        let mut turns = Vec::new();
        for _ in 0..bench.slow_turns() {
            turns.push(turn(bench, floor, ours)?);
        }
        let floor = "futex round trip after 10 ms";
        let row = row("idle-10ms", subject.label, Unit::Nanoseconds, floor, Some(1.3), &turns);
        bench.rows.push(row);
    }
    let mut floors = Vec::new();
    for _ in 0..bench.slow_turns() {
        let spin = bench.spin()?;
        let mut of = |mode, batches| -> Result<f64, Problem> {
            Ok(median(bench.peer.times(mode, batches, BATCH)?))
        };
        floors.push((spin, of(Mode::Futex, 10)?, of(Mode::Socket, 10)?));
    }
    // The floors among themselves, for the record.
    type Pick = fn(&(f64, f64, f64)) -> f64;
    let picks: [(&str, Pick); 2] = [("futex round trip", |f| f.1), ("socket round trip", |f| f.2)];
    for (name, pick) in picks {
        let turns: Vec<Turn> = floors.iter().map(|f| Turn { ours: pick(f), floor: f.0 }).collect();
        let row = row("floor", name, Unit::Nanoseconds, "spinning round trip", None, &turns);
        bench.rows.push(row);
    }
    Ok(())
}

fn bytes(bench: &mut Bench) -> Result<(), Problem> {
    let Some(subject) = bench.natives().into_iter().next() else { return Ok(()) };
    let contract = bench.contract(&subject)?;
    for (name, len, limit) in [
        ("64 B", 64_usize, None),
        ("1 KiB", 1 << 10, None),
        ("4 KiB", 4 << 10, None),
        ("64 KiB", 64 << 10, None),
        ("256 KiB", 256 << 10, None),
        ("1 MiB", 1 << 20, Some(2.2)),
        ("4 MiB", 4 << 20, None),
        ("16 MiB", 16 << 20, None),
    ] {
        let data = vec![0x5a_u8; len];
        let mut copy = Copy::of(len);
        let rounds = (if bench.quick { 16 << 20 } else { 64 << 20 } / len).clamp(5, 300);
        // Payloads on the ring are compared with the ring's own floor beside
        // the copy: the copy alone is next to nothing there.
        let small = len < 64 << 10;
        let mut turns = Vec::new();
        let echo = || -> Result<f64, Problem> {
            let mut times = Vec::new();
            for _ in 0..rounds {
                let started = Instant::now();
                let back: ByteBuf = contract
                    .call_blocking("echo", (Bytes::new(&data),))
                    .map_err(|error| Problem::new(subject.label, &error))?;
                times.push(nanos(started.elapsed()));
                if back.len() != len {
                    return Err(Problem::new(subject.label, "the echo has another length"));
                }
            }
            Ok(median(times))
        };
        echo()?;
        for _ in 0..bench.slow_turns() {
            let spin = if small { bench.spin()? } else { 0.0 };
            let mut times = Vec::new();
            for _ in 0..rounds {
                times.push(nanos(copy.time()));
            }
            turns.push(Turn { ours: echo()?, floor: spin + median(times) });
        }
        let floor = if small { "spinning round trip + memcpy" } else { "memcpy" };
        let row = row("bytes", name, Unit::Nanoseconds, floor, limit, &turns);
        bench.rows.push(row);
    }
    Ok(())
}

fn noticed(bench: &mut Bench) -> Result<(), Problem> {
    let Some(subject) = bench.natives().into_iter().next() else { return Ok(()) };
    let contract = bench.contract(&subject)?;
    let mut turns = Vec::new();
    for _ in 0..bench.slow_turns() {
        let floor = kill_to_pidfd(bench, &subject)?;
        null(&contract)?;
        let pid = pid_of(&bench.supervisor, &subject)?;
        let mut events = bench.supervisor.events();
        let ours = bench.runtime.block_on(async {
            let started = Instant::now();
            kill(pid, Signal::SIGKILL).map_err(|e| Problem::new("kill", &e))?;
            loop {
                match events.next().await {
                    Some(NextEvent::Event(event)) => {
                        // The report, which is another event, waits for what the
                        // process wrote last.
                        let crashed = WorkerState::Crashed;
                        if matches!(event.kind, EventKind::WorkerState { state, .. } if state == crashed)
                        {
                            return Ok(nanos(started.elapsed()));
                        }
                    }
                    Some(NextEvent::Missed(_)) => {}
                    None => return Err(Problem::new("events", "they have ended")),
                }
            }
        })?;
        turns.push(Turn { ours, floor });
        revive(&contract)?;
    }
    let floor = "kill to pidfd, of the same worker";
    let row = row("noticed", subject.label, Unit::Nanoseconds, floor, Some(2.0), &turns);
    bench.rows.push(row);
    Ok(())
}

/// From SIGKILL until the pidfd of a worker that nobody supervises is readable.
fn kill_to_pidfd(bench: &Bench, subject: &Subject) -> Result<f64, Problem> {
    let alone = InProcess::start(&bench.config, subject.loader, &subject.dir)?;
    let pid = Pid::from_raw(i32::try_from(alone.pid()).unwrap_or(i32::MAX));
    let pidfd = pidfd_open(pid)?;
    let started = Instant::now();
    kill(pid, Signal::SIGKILL).map_err(|e| Problem::new("kill", &e))?;
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(10_000_u16)).map_err(|e| Problem::new("poll", &e))?;
    Ok(nanos(started.elapsed()))
}

fn pidfd_open(pid: Pid) -> Result<OwnedFd, Problem> {
    // SAFETY: pidfd_open(2) takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn pid_of(supervisor: &Supervisor, subject: &Subject) -> Result<Pid, Problem> {
    supervisor
        .status()
        .workers
        .iter()
        .find(|worker| worker.loader == subject.loader)
        .and_then(|worker| i32::try_from(worker.pid?).ok())
        .map(Pid::from_raw)
        .ok_or_else(|| Problem::new(subject.label, "it has no worker"))
}

/// Calls until there is an answer again. The first calls may still meet the
/// old process.
pub(super) fn revive(contract: &Contract) -> Result<(), Problem> {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        match null(contract) {
            Ok(()) => return Ok(()),
            Err(problem) if Instant::now() > give_up => return Err(problem),
            Err(_) => {}
        }
    }
}

/// A worker is healthy for as long as the policy asks before it is killed, so that it is a
/// first crash. Its floor has the same pause: CPUs that have slept start anything slower.
const REST: Duration = Duration::from_millis(20);

/// How long a bare worker takes until its first answer, started after a pause.
fn first_answer(bench: &Bench, subject: &Subject, pause: Duration) -> Result<f64, Problem> {
    std::thread::sleep(pause);
    let alone = InProcess::start(&bench.config, subject.loader, &subject.dir)?;
    Ok(nanos(alone.started))
}

fn starts(bench: &mut Bench) -> Result<(), Problem> {
    let mut seen = Vec::new();
    for subject in bench.subjects.clone() {
        if seen.contains(&subject.loader) {
            continue;
        }
        seen.push(subject.loader);
        let (mut cold, mut recovered) = (Vec::new(), Vec::new());
        for _ in 0..bench.turns() {
            let rested = first_answer(bench, &subject, REST)?;
            let floor = first_answer(bench, &subject, Duration::ZERO)?;
            let supervisor = start(&bench.runtime, &bench.config)?;
            let started = Instant::now();
            bench
                .runtime
                .block_on(supervisor.load(&subject.dir))
                .map_err(|error| Problem::new(subject.label, &error))?;
            let contract = contract(&supervisor, &subject)?;
            null(&contract)?;
            cold.push(Turn { ours: nanos(started.elapsed()), floor });
            std::thread::sleep(REST);
            let pid = pid_of(&supervisor, &subject)?;
            let started = Instant::now();
            kill(pid, Signal::SIGKILL).map_err(|e| Problem::new("kill", &e))?;
            revive(&contract)?;
            let ours = nanos(started.elapsed());
            let floor = f64::midpoint(rested, first_answer(bench, &subject, REST)?);
            recovered.push(Turn { ours, floor });
            bench.runtime.block_on(supervisor.shutdown());
        }
        let floor = "the bare worker's first answer";
        let cold = row("cold start", subject.label, Unit::Nanoseconds, floor, None, &cold);
        bench.rows.push(cold);
        let floor = "the same after the same pause";
        let recovered =
            row("recovered", subject.label, Unit::Nanoseconds, floor, Some(1.3), &recovered);
        bench.rows.push(recovered);
        crashes::with_standby(bench, &subject)?;
    }
    Ok(())
}

fn idle_host(bench: &mut Bench) -> Result<(), Problem> {
    let mut loaders: Vec<&Subject> = Vec::new();
    for subject in &bench.subjects {
        if loaders.iter().all(|other| other.loader != subject.loader) {
            loaders.push(subject);
        }
    }
    let dirs: Vec<PathBuf> = loaders.iter().map(|subject| subject.dir.clone()).collect();
    let name = format!("{} workers", dirs.len());
    let found = idle::measure(&dirs, &bench.config)?;
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let memory = Turn { ours: found.added as f64, floor: f64::from(5 << 20) };
    let floor = "what the design allows";
    let memory = row("memory", &name, Unit::Bytes, floor, Some(1.0), &[memory]);
    // One a second is noise: the design asks for none.
    let switches = Turn { ours: found.switches, floor: 1.0 };
    let switches =
        row("switches", &name, Unit::SwitchesPerSecond, "one a second", Some(1.0), &[switches]);
    bench.rows.extend([memory, switches]);
    Ok(())
}
