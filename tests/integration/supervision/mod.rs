//! What becomes of bundles, workers and calls when something dies, and when an
//! operator restarts something.

mod blame;
mod by_hand;
mod copies;
mod deadlines;
mod deaths;
mod departing;
mod first_load;
mod given_up;
mod gone;
mod hooks;
mod hung_up;
mod idle;
mod leaving;
mod limits;
mod long_forms;
mod mending;
mod neighbours;
mod newcomers;
mod placement;
mod quitters;
mod remains;
mod replicas;
mod reports;
mod rolling;
mod settling;
mod shortage;
mod standby;
mod strays;
mod stumbles;
mod told;
mod unstarted;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use menagerie_supervisor::{
    BundleState, BundleStatus, Contract, Failure, RestartPolicy, Supervisor,
};

use crate::support::{Bundle, wait_for};

/// A Lua bundle with functions for the good and the bad.
fn lua(name: &str) -> Bundle {
    lua_with(name, "", "")
}

/// As [`lua`], with code that runs when it is loaded, and more manifest.
fn lua_with(name: &str, code: &str, manifest: &str) -> Bundle {
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = 'lua'\nfile = 'main.lua'\n\
         provides = ['{name}@1']\n{manifest}"
    );
    let main = format!(
        "local menagerie = require 'menagerie'\n{code}\n\
         return {{ ['{name}@1'] = {{\n\
           inc = function(n) return n + 1 end,\n\
           crash = function() menagerie.abort() end,\n\
           sleep = function(n) menagerie.sleep(n) end,\n\
           sleep_from = function(file)\n\
             io.open(file, 'w'):close()\n\
             while true do menagerie.sleep(1000) end\n\
           end,\n\
         }} }}\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), ("main.lua", &main)])
}

/// A Lua bundle that aborts its worker when it is loaded, while the file has something
/// in it.
fn lua_that_aborts_in_a_load(name: &str) -> (Bundle, tempfile::NamedTempFile) {
    let flag = tempfile::NamedTempFile::new().unwrap();
    let code = format!(
        "local file = io.open('{}', 'r')\nlocal seen = file:read('*a')\nfile:close()\n\
         if seen ~= '' then menagerie.abort() end",
        flag.path().display()
    );
    (lua_with(name, &code, ""), flag)
}

/// A bundle that was loaded; its files go with it.
struct Guest {
    contract: Contract,
    bundle: Bundle,
}

impl std::ops::Deref for Guest {
    type Target = Contract;

    fn deref(&self) -> &Contract {
        &self.contract
    }
}

/// However often a worker dies, it is started again, and without a delay.
fn at_once_and_for_ever() -> RestartPolicy {
    RestartPolicy {
        limit: u32::MAX,
        initial_delay: Duration::ZERO,
        max_delay: Duration::ZERO,
        ..RestartPolicy::default()
    }
}

async fn load(supervisor: &Supervisor, bundle: Bundle) -> Guest {
    let status = supervisor.load(bundle.path()).await.unwrap();
    let contract = supervisor.contract(&format!("{}@1", status.name)).unwrap();
    Guest { contract, bundle }
}

fn status(supervisor: &Supervisor, bundle: &str) -> BundleStatus {
    let bundles = supervisor.status().bundles;
    bundles.into_iter().find(|status| status.name == bundle).unwrap()
}

async fn in_state(supervisor: &Supervisor, bundle: &str, state: BundleState) -> BundleStatus {
    wait_for("the bundle's state", || {
        Some(status(supervisor, bundle)).filter(|status| status.state == state)
    })
    .await
}

/// The call takes its worker down.
async fn crash(contract: &Contract) {
    let outcome = contract.call::<_, ()>("crash", ()).await;
    assert!(matches!(outcome, Err(Failure::WorkerCrashed { started: true, .. })), "{outcome:?}");
}

async fn answers(contract: &Contract) {
    assert_eq!(contract.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
}

/// Somebody who calls all the time, and counts what came of it.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Failure>>>,
}

impl Load {
    fn on(contract: &Contract, callers: usize) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..callers).map(|_| {
            let (contract, stop) = (contract.clone(), Arc::clone(&stop));
            let calls = Arc::clone(&calls);
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match contract.call::<_, i64>("inc", (1,)).await {
                        Ok(value) => assert_eq!(value, 2),
                        Err(failure) => failures.push(failure),
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
                failures
            })
        });
        let tasks = tasks.collect();
        Self { stop, calls, tasks }
    }

    /// Waits until so many more calls have ended.
    async fn more(&self, count: u64) {
        let target = self.calls.load(Ordering::Relaxed) + count;
        let done = || (self.calls.load(Ordering::Relaxed) >= target).then_some(());
        wait_for("calls to go on", done).await;
    }

    /// Ends it, and returns the calls that failed.
    async fn end(self) -> Vec<Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap());
        }
        failures
    }
}
