//! What a crash costs others, and what it costs where a standby takes over.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use menagerie_supervisor::{Contract, Supervisor};
use nix::sys::signal::{Signal, kill};

use super::bundles::Subject;
use super::proc_stat::Stat;
use super::report::{Turn, Unit, row};
use super::rows::{Bench, contract, null, pid_of, revive, start, turn};
use super::{Problem, nanos};

/// How long one take of a p99 goes on.
const TAKE: Duration = Duration::from_millis(500);
/// How long a worker lives before it is killed again: as often as it can, and as
/// often as the shortest pause of the default policy lets it come back.
const LIVES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];
/// The pause between two calls of the second row.
const PAUSE: Duration = Duration::from_millis(1);
/// What the design allows beside the bundle's own load.
const TAKE_OVER: Duration = Duration::from_millis(5);

/// The p99 of calls on one worker while another one is killed again and again,
/// beside the p99 of the same calls in peace.
pub(super) fn crash(bench: &mut Bench) -> Result<(), Problem> {
    let Some(innocent) = bench.natives().into_iter().next() else { return Ok(()) };
    let victim = bench.subjects.iter().find(|subject| subject.loader == "lua");
    let Some(victim) = victim.cloned() else { return Ok(()) };
    let calls = bench.contract(&innocent)?;
    for (name, pause) in [("p99, one after the other", None), ("p99, one a ms", Some(PAUSE))] {
        p99(&calls, pause)?;
        for life in LIVES {
            let mut turns = Vec::new();
            for _ in 0..bench.slow_turns() {
                let peace = |_: &mut Bench| p99(&calls, pause);
                let kills = |bench: &mut Bench| under_kills(bench, &victim, &calls, pause, life);
                turns.push(turn(bench, peace, kills)?);
            }
            let name = format!("{name}, kills after {life:?}, {}", innocent.label);
            let floor = "the same with no kills";
            bench.rows.push(row("crash", &name, Unit::Nanoseconds, floor, None, &turns));
        }
    }
    Ok(())
}

fn p99(calls: &Contract, pause: Option<Duration>) -> Result<f64, Problem> {
    let end = Instant::now() + TAKE;
    let mut times = Vec::new();
    loop {
        let started = Instant::now();
        if started >= end {
            break;
        }
        null(calls)?;
        times.push(nanos(started.elapsed()));
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN))
}

fn under_kills(
    bench: &Bench,
    victim: &Subject,
    calls: &Contract,
    pause: Option<Duration>,
    life: Duration,
) -> Result<f64, Problem> {
    let target = bench.contract(victim)?;
    let (stop, kills) = (AtomicBool::new(false), AtomicU32::new(0));
    let (ours, killer) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // It is back, and no call runs: nobody is to blame.
                revive(&target)?;
                std::thread::sleep(life);
                strike(&bench.supervisor, victim)?;
                kills.fetch_add(1, Ordering::Relaxed);
            }
            revive(&target)
        });
        let ours = p99(calls, pause);
        stop.store(true, Ordering::Relaxed);
        (ours, killer.join())
    });
    killer.map_err(|_| Problem::new("the killer", "it has panicked"))??;
    if kills.load(Ordering::Relaxed) == 0 {
        return Err(Problem::new(victim.label, "it was never killed"));
    }
    ours
}

fn strike(supervisor: &Supervisor, subject: &Subject) -> Result<(), Problem> {
    let pid = pid_of(supervisor, subject)?;
    kill(pid, Signal::SIGKILL).map_err(|error| Problem::new("kill", &error))
}

/// Waits until a process uses no CPU time: a standby prepares itself for bundles.
/// That of .NET does it three times, with a sixth of a second between them.
fn rest(pid: u32) {
    let used = || Stat::of(pid).map(|stat| stat.cpu_seconds);
    let mut before = used();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = used();
        if now == before {
            return;
        }
        before = now;
    }
}

/// From SIGKILL until the next good answer, with a standby; beside what the
/// design allows: 5 ms, and loading the bundle.
pub(super) fn with_standby(bench: &mut Bench, subject: &Subject) -> Result<(), Problem> {
    let mut turns = Vec::new();
    for _ in 0..bench.slow_turns() {
        let mut config = bench.config.clone();
        config.standby = 1;
        let supervisor = start(&bench.runtime, &config)?;
        let failed = |error| Problem::new(subject.label, &error);
        let load = || bench.runtime.block_on(supervisor.load(&subject.dir)).map_err(failed);
        load()?;
        bench.runtime.block_on(supervisor.unload(subject.name)).map_err(failed)?;
        // The bundle's own load: into a worker that runs.
        let started = Instant::now();
        load()?;
        let own = started.elapsed();
        let contract = contract(&supervisor, subject)?;
        null(&contract)?;
        let give_up = Instant::now() + Duration::from_secs(60);
        while supervisor.status().standbys.is_empty() {
            if Instant::now() > give_up {
                return Err(Problem::new(subject.label, "it has no standby"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Healthy for as long as the policy asks, and the standby at rest.
        for standby in supervisor.status().standbys {
            rest(standby.pid);
        }
        let started = Instant::now();
        strike(&supervisor, subject)?;
        revive(&contract)?;
        let ours = nanos(started.elapsed());
        turns.push(Turn { ours, floor: nanos(TAKE_OVER + own) });
        bench.runtime.block_on(supervisor.shutdown());
    }
    let floor = "5 ms + loading the bundle";
    let name = format!("with a standby, {}", subject.label);
    bench.rows.push(row("start", &name, Unit::Nanoseconds, floor, Some(1.0), &turns));
    Ok(())
}
