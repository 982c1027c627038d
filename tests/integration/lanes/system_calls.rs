//! A lane whose two sides are awake makes no system call (`DESIGN.md`, chapter
//! Lanes): nobody sleeps, nobody is woken, nothing is read or written.
//!
//! On a busy machine the sides do sleep, and may. So what is asserted of every
//! machine is that there is nothing but sleeps and wake-ups, and not a wake-up for
//! each call; and of one with two processors that for a while there is nothing at
//! all. How long that has to be depends on how long the machine lets them run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::host::{Host, be_host};
use super::tracer::{Calls, watch};
use crate::support::{Bundle, PATIENCE, start, worker};

/// The calls that the host's thread has made.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// So many calls in a row with no system call are wanted,
const ENOUGH: u64 = 1000;
/// and so many are seen on the busiest machine: with one for each call, or for
/// each few, there would be none.
const LEAST: u64 = 100;

/// The host: one thread that calls a bundle without end.
#[test]
fn host() {
    be_host(|| {
        let supervisor = start();
        let manifest = "name = 'p'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
            provides = ['p@1']";
        let code = "return { ['p@1'] = { null = function() end } }";
        let bundle = Bundle::of(&[("manifest.toml", manifest), ("main.lua", code)]);
        supervisor.block_on(supervisor.load(&bundle.path())).unwrap();
        let contract = supervisor.contract("p@1").unwrap();
        let pid = worker(&supervisor, "lua").unwrap().pid.unwrap();
        let call = move || {
            contract.call_blocking::<_, ()>("null", ()).unwrap();
            CALLS.fetch_add(1, Ordering::Relaxed);
        };
        // What is made once is made by then.
        (0..1000).for_each(|_| call());
        let caller = u64::try_from(nix::unistd::gettid().as_raw()).unwrap();
        let address = u64::try_from(CALLS.as_ptr().addr()).unwrap();
        let go_on = move || {
            let _kept = (bundle, supervisor);
            loop {
                call();
            }
        };
        (vec![caller, pid.into(), address], Box::new(go_on))
    });
}

/// The thread of a worker that serves the lane.
fn lane_thread(worker: u64) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{worker}/task")).unwrap();
    let is_it = |task: &std::path::Path| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "lane p")
    };
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let found = tasks.find(|task| is_it(task)).unwrap();
    found.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

#[test]
fn c6_a_hot_lane_makes_no_system_calls() {
    let host = Arc::new(Host::start("lanes::system_calls::host"));
    let [caller, worker, address] = host.words[..] else { panic!("{:?}", host.words) };
    // Since when there was no system call on either side, and the most calls in
    // between.
    let (since, most) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)));
    let each = || {
        let (host, since, most) = (Arc::downgrade(&host), Arc::clone(&since), Arc::clone(&most));
        move || {
            let Some(now) = host.upgrade().and_then(|host| host.number_at(address).ok()) else {
                return;
            };
            let since = since.swap(now, Ordering::Relaxed);
            most.fetch_max(now.saturating_sub(since), Ordering::Relaxed);
        }
    };
    let watched = watch(u32::try_from(caller).unwrap(), each())
        .and_then(|caller| Ok((caller, watch(lane_thread(worker), each())?)));
    let (caller, lane) = match watched {
        Ok(watched) => watched,
        Err(error) => {
            eprintln!("not run: processes cannot be traced here: {error}");
            return;
        }
    };
    let from = host.number_at(address).unwrap();
    since.store(from, Ordering::Relaxed);
    let two = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2);
    // Counted, not timed: the machine may stand still for a while.
    for _ in 0..PATIENCE.as_millis() / 15 {
        std::thread::sleep(Duration::from_millis(5));
        let now = host.number_at(address).unwrap();
        let quiet = now.saturating_sub(since.load(Ordering::Relaxed));
        most.fetch_max(quiet, Ordering::Relaxed);
        let enough = most.load(Ordering::Relaxed) >= ENOUGH || !two;
        if enough && now - from >= 10 * ENOUGH {
            break;
        }
    }
    let made = host.number_at(address).unwrap() - from;
    let most = most.load(Ordering::Relaxed);
    let [caller, lane] = [caller, lane].map(|calls| Calls::clone(&calls.lock().unwrap()));
    eprintln!("{made} calls, {most} of them in a row without a system call");
    eprintln!("the caller: {caller:?}\nthe lane: {lane:?}");
    let others = caller.others() + lane.others();
    assert!(others <= 50 + made / 100, "{others} system calls that neither sleep nor wake");
    let (waits, wakes) = (caller.waits + lane.waits, caller.wakes + lane.wakes);
    assert!(wakes <= 50 + 2 * waits + made / 100, "{wakes} wake-ups for {waits} sleeps");
    if two {
        assert!(most >= LEAST, "only {most} calls in a row without a system call");
    }
}
