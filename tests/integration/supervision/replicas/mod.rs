//! Rule S9: `replicas = n` spreads a loader's calls over n workers.

mod deaths;
mod reloads;
mod serving;
mod workers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use menagerie_supervisor::{BundleStatus, Contract, ReplicaStatus, Supervisor, WorkerStatus};

use super::{Guest, load, status};
use crate::support::{Bundle, PATIENCE, config, start_with, wait_for};

/// The languages of these tests: each with a bundle that says where it runs.
const LOADERS: [&str; 2] = ["lua", "python"];

/// A bundle whose functions say which process and which code they are.
fn bundle(loader: &str, version: u32) -> Bundle {
    bundle_with(loader, version, "")
}

fn bundle_with(loader: &str, version: u32, manifest: &str) -> Bundle {
    let file = if loader == "lua" { "main.lua" } else { "main.py" };
    let manifest = format!(
        "name = 'one'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
         provides = ['one@1']\n{manifest}"
    );
    let bundle = Bundle::of(&[("manifest.toml", &manifest)]);
    bundle.write(file, &code(loader, version));
    bundle
}

/// `pid`, `version` and the like. `meet` waits in a folder until so many others
/// are there too: it ends only if so many calls run at the same time. `keep` and
/// `kept` are the state that is handed over.
fn code(loader: &str, version: u32) -> String {
    if loader == "lua" {
        format!(
            "local menagerie = require 'menagerie'
             local function pid()
               local file = io.open('/proc/self/stat')
               local pid = file:read('*n')
               file:close()
               return pid
             end
             local kept, keeps
             return {{
               on_load = function(context) kept = context.state; keeps = kept end,
               on_unload = function() return keeps end,
               ['one@1'] = {{
                 pid = pid,
                 version = function() return {version} end,
                 both = function() return {{ pid(), {version} }} end,
                 inc = function(n) return n + 1 end,
                 crash = function() menagerie.abort() end,
                 sleep = function(n) menagerie.sleep(n) end,
                 keep = function(value) keeps = value; return pid() end,
                 kept = function() return {{ pid(), kept }} end,
               }},
             }}"
        )
    } else {
        format!(
            "import os, time
import menagerie

def on_load(context):
    pass

def export(function):
    return menagerie.export('one@1')(function)

@export
def pid() -> int:
    return os.getpid()

@export
def version() -> int:
    return {version}

@export
def both() -> list:
    return [os.getpid(), {version}]

@export
def inc(n: int) -> int:
    return n + 1

@export
def crash() -> None:
    os.abort()

@export
def sleep(n: int) -> None:
    time.sleep(n / 1000)

@export
def meet(folder: str, count: int) -> int:
    open(os.path.join(folder, str(os.getpid())), 'w').close()
    while len(os.listdir(folder)) < count:
        time.sleep(0.002)
    return os.getpid()
"
        )
    }
}

fn start(loader: &str, replicas: u32) -> Supervisor {
    start_and(loader, replicas, |_| {})
}

fn start_and(
    loader: &str,
    replicas: u32,
    change: impl FnOnce(&mut menagerie_supervisor::Config),
) -> Supervisor {
    let mut config = config();
    config.replicas.insert(loader.to_owned(), replicas);
    // However long this machine stands still: these tests are not about time.
    config.deadline = Duration::ZERO;
    config.load_timeout = Duration::from_secs(600);
    config.heartbeat_warn = 9_999;
    config.heartbeat_kill = 10_000;
    change(&mut config);
    start_with(config)
}

async fn started(loader: &str, replicas: u32) -> (Supervisor, Guest) {
    let supervisor = start(loader, replicas);
    let one = load(&supervisor, bundle(loader, 1)).await;
    (supervisor, one)
}

fn replicas(ready: u32, wanted: u32) -> ReplicaStatus {
    ReplicaStatus { ready, wanted }
}

fn workers(supervisor: &Supervisor) -> Vec<WorkerStatus> {
    supervisor.status().workers
}

fn names(supervisor: &Supervisor) -> Vec<String> {
    workers(supervisor).into_iter().map(|worker| worker.name).collect()
}

fn pids(supervisor: &Supervisor) -> Vec<u32> {
    workers(supervisor).into_iter().filter_map(|worker| worker.pid).collect()
}

fn worker(supervisor: &Supervisor, name: &str) -> WorkerStatus {
    workers(supervisor).into_iter().find(|worker| worker.name == name).unwrap()
}

async fn all_ready(supervisor: &Supervisor, wanted: u32) -> BundleStatus {
    wait_for("all replicas to serve", || {
        Some(status(supervisor, "one")).filter(|one| one.replicas == replicas(wanted, wanted))
    })
    .await
}

/// What so many calls, one after the other, return.
async fn ask<T: serde::de::DeserializeOwned>(
    contract: &Contract,
    function: &str,
    calls: usize,
) -> Vec<T> {
    let mut answers = Vec::new();
    for _ in 0..calls {
        answers.push(contract.call(function, ()).await.unwrap());
    }
    answers
}

/// Asks until so many have answered differently.
async fn ask_until<T>(contract: &Contract, function: &str, wanted: usize) -> BTreeSet<T>
where
    T: serde::de::DeserializeOwned + Ord + std::fmt::Debug,
{
    let mut answers = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while answers.len() < wanted {
        assert!(Instant::now() < deadline, "no {wanted} answers: {answers:?}");
        answers.extend(ask(contract, function, 1).await);
    }
    answers
}

/// The processes of so many replicas.
async fn processes(contract: &Contract, replicas: usize) -> BTreeSet<u32> {
    ask_until(contract, "pid", replicas).await
}

/// What replicas say when all have this code.
fn all_have(supervisor: &Supervisor, version: u32) -> BTreeSet<(u32, u32)> {
    pids(supervisor).into_iter().map(|pid| (pid, version)).collect()
}

async fn in_replicas(supervisor: &Supervisor, wanted: ReplicaStatus) {
    wait_for("so many replicas", || (status(supervisor, "one").replicas == wanted).then_some(()))
        .await;
}
