//! Rule S4 where the supervisor keeps what a worker maps: a native bundle's
//! private copy is made once and handed on, and what is loaded is what stands on
//! disk all the same.
//!
//! These tests count descriptors of their own process: cargo-nextest gives each
//! one to itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use menagerie_supervisor::{
    BundleState, Config, Contract, EventKind, SignaturePolicy, SigningKey, Supervisor, WorkerState,
    sign_bundle,
};

use super::{at_once_and_for_ever, in_state, status};
use crate::bad_input::native::compile;
use crate::support::{
    Bundle, PATIENCE, Recorder, config, ready_after, run_with, run_within, slay, start_with,
    wait_for, worker,
};

const MANIFEST: &str = "name = 'counting'\nversion = '1.0.0'\nloader = 'native'\n\
                        file = 'libcounting.so'\nprovides = ['counting@1']\n";

/// A library that counts its calls, from a number that tells its versions apart;
/// all versions have the same length.
fn source(first: u32) -> String {
    assert!((100..1000).contains(&first));
    format!(
        "#include <menagerie.h>
         #include <unistd.h>
         static int64_t counted = {first};
         static int count(mg_call *call, void *userdata) {{
             (void)userdata;
             return mg_return_i64(call, counted++);
         }}
         static int count_here(mg_call *call, void *userdata) {{
             (void)userdata;
             return mg_return_i64(call, (int64_t)getpid() * 1000 + counted++);
         }}
         int menagerie_init(const mg_host *host, mg_registrar *registrar) {{
             (void)host;
             int status = mg_add_function(registrar, \"counting@1\", \"count\", \"\", count, NULL);
             if (status != MG_OK) return status;
             return mg_add_function(registrar, \"counting@1\", \"count_here\", \"\",
                                    count_here, NULL);
         }}\n"
    )
}

/// The library's bytes.
fn library(first: u32) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libcounting.so");
    compile(&source(first), &path);
    std::fs::read(path).unwrap()
}

/// A bundle with the library, no matter when it was written.
struct Counting {
    bundle: Bundle,
}

impl Counting {
    async fn new(first: u32) -> Self {
        let this = Self { bundle: Bundle::of(&[("manifest.toml", MANIFEST)]) };
        this.write(first);
        this.settles().await;
        this
    }

    fn file(&self) -> PathBuf {
        self.bundle.path().join("libcounting.so")
    }

    /// Over the file that is there.
    fn write(&self, first: u32) {
        std::fs::write(self.file(), library(first)).unwrap();
    }

    /// By another file.
    fn replace(&self, first: u32) {
        let next = self.bundle.path().join("next");
        std::fs::write(&next, library(first)).unwrap();
        std::fs::rename(next, self.file()).unwrap();
    }

    /// Waits until it is so old that a copy of it is kept.
    async fn settles(&self) {
        let age = |path: &Path| {
            let written = std::fs::metadata(path).unwrap().modified().unwrap();
            SystemTime::now().duration_since(written).unwrap_or_default()
        };
        // Longer than whole seconds would need.
        wait_for("the file to be old", || {
            (age(&self.file()) > Duration::from_millis(2500)).then_some(())
        })
        .await;
    }
}

fn patient() -> Config {
    let mut config = config();
    config.bundle_crash_limit = u32::MAX;
    config.restart = at_once_and_for_ever();
    config
}

async fn load(supervisor: &Supervisor, counting: &Counting) -> Contract {
    supervisor.load(counting.bundle.path()).await.unwrap();
    supervisor.contract("counting@1").unwrap()
}

/// A test with a bundle that is loaded, and whose files stay until its end.
fn counted<F>(
    config: Config,
    test: impl FnOnce(Supervisor, Arc<Counting>, Contract) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    run_with(config, |supervisor| async move {
        let counting = Arc::new(Counting::new(100).await);
        let contract = load(&supervisor, &counting).await;
        test(supervisor, Arc::clone(&counting), contract).await;
    });
}

async fn count(contract: &Contract) -> i64 {
    contract.call("count", ()).await.unwrap()
}

/// The inodes that a process has the library mapped from: one for each
/// generation.
fn mapped_in(pid: u32) -> Vec<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let ours = maps.lines().filter(|line| line.contains("/memfd:libcounting.so"));
    let mut inodes: Vec<u64> =
        ours.map(|line| line.split_ascii_whitespace().nth(4).unwrap().parse().unwrap()).collect();
    inodes.sort_unstable();
    inodes.dedup();
    inodes
}

/// The one that the worker has mapped.
fn mapped(supervisor: &Supervisor) -> u64 {
    let inodes = mapped_in(worker(supervisor, "native").unwrap().pid.unwrap());
    assert_eq!(inodes.len(), 1, "{inodes:?}");
    inodes[0]
}

/// How many copies this process, which is the supervisor's, holds.
fn kept() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("memfd:libcounting.so")).count()
}

async fn kept_are(count: usize) {
    wait_for(&format!("{count} copies to be kept"), || (kept() == count).then_some(())).await;
}

/// Kills the worker, and waits for the next one.
async fn crash(supervisor: &Supervisor) {
    let before = worker(supervisor, "native").unwrap();
    slay(before.pid.unwrap());
    ready_after(supervisor, "native", before.incarnation).await;
}

#[test]
fn s4_an_unchanged_library_is_handed_on_after_a_crash() {
    counted(patient(), |supervisor, _, contract| async move {
        let inode = mapped(&supervisor);
        for _ in 0..3 {
            assert_eq!([count(&contract).await, count(&contract).await], [100, 101]);
            crash(&supervisor).await;
            // Its state is fresh, its bytes are the same.
            assert_eq!(count(&contract).await, 100);
            assert_eq!(mapped(&supervisor), inode);
            crash(&supervisor).await;
        }
        kept_are(1).await;
    });
}

#[test]
fn s4_a_library_that_changed_before_the_restart_is_loaded_as_it_is() {
    counted(patient(), |supervisor, counting, contract| async move {
        // Within one second, and of the same length.
        for first in 200..210 {
            if first % 2 == 0 {
                counting.write(first)
            } else {
                counting.replace(first)
            }
            crash(&supervisor).await;
            assert_eq!(count(&contract).await, i64::from(first));
        }
        counting.settles().await;
        crash(&supervisor).await;
        assert_eq!(count(&contract).await, 209);
        let inode = mapped(&supervisor);
        crash(&supervisor).await;
        assert_eq!(count(&contract).await, 209);
        assert_eq!(mapped(&supervisor), inode, "it is kept again");
    });
}

#[test]
fn s4_a_library_that_is_gone_or_spoilt_is_an_error_as_ever() {
    counted(patient(), |supervisor, counting, contract| async move {
        let events = Recorder::of(&supervisor);
        assert_eq!(count(&contract).await, 100);
        let reason = |words: &'static str| {
            let events = events.clone();
            async move {
                let says = |event: &EventKind| match event {
                    EventKind::BundleFailed { step, reason, .. } if step == "restore" => {
                        reason.contains(words).then(|| reason.clone())
                    }
                    _ => None,
                };
                events.wait("the reason", says).await
            }
        };
        std::fs::remove_file(counting.file()).unwrap();
        crash(&supervisor).await;
        in_state(&supervisor, "counting", BundleState::Failed).await;
        let text = reason("does not exist").await;
        assert!(text.contains("libcounting.so"), "{text}");
        kept_are(0).await;
        std::fs::write(counting.file(), "#!/bin/sh\n").unwrap();
        crash(&supervisor).await;
        let text = reason("script").await;
        assert!(text.contains(&*counting.file().to_string_lossy()), "{text}");
        std::os::unix::fs::symlink("/dev/zero", counting.bundle.path().join("zero")).unwrap();
        std::fs::rename(counting.bundle.path().join("zero"), counting.file()).unwrap();
        crash(&supervisor).await;
        reason("leads out").await;
        // What is there again is loaded again.
        std::fs::remove_file(counting.file()).unwrap();
        counting.write(300);
        crash(&supervisor).await;
        in_state(&supervisor, "counting", BundleState::Ready).await;
        assert_eq!(count(&contract).await, 300);
    });
}

#[test]
fn l6_a_reload_is_fresh_whether_the_library_changed_or_not() {
    counted(patient(), |supervisor, counting, contract| async move {
        assert_eq!([count(&contract).await, count(&contract).await], [100, 101]);
        for _ in 0..3 {
            let inode = mapped(&supervisor);
            supervisor.reload("counting").await.unwrap();
            assert_eq!([count(&contract).await, count(&contract).await], [100, 101]);
            assert_ne!(mapped(&supervisor), inode);
        }
        counting.write(200);
        supervisor.reload("counting").await.unwrap();
        assert_eq!(count(&contract).await, 200);
        // A failed one leaves the old one serving, and a crash then shows what
        // stands on disk.
        std::fs::write(counting.file(), "no library").unwrap();
        supervisor.reload("counting").await.unwrap_err();
        assert_eq!(count(&contract).await, 201);
        counting.write(300);
        crash(&supervisor).await;
        assert_eq!(count(&contract).await, 300);
        kept_are(1).await;
    });
}

#[test]
fn s7_native_copies_and_descriptors_are_flat_over_many_rounds() {
    run_within(PATIENCE * 5, async {
        let supervisor = start_with(patient());
        let counting = Counting::new(100).await;
        let mut contract = load(&supervisor, &counting).await;
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut before = None;
        for round in 0..200 {
            match round % 4 {
                0 | 1 => crash(&supervisor).await,
                2 => drop(supervisor.reload("counting").await.unwrap()),
                _ => {
                    supervisor.unload("counting").await.unwrap();
                    kept_are(0).await;
                    contract = load(&supervisor, &counting).await;
                }
            }
            assert_eq!(count(&contract).await, 100);
            if round == 19 {
                kept_are(1).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                before = Some(descriptors());
            }
        }
        kept_are(1).await;
        wait_for("as few descriptors as before", || {
            (descriptors() <= before.unwrap()).then_some(())
        })
        .await;
        supervisor.unload("counting").await.unwrap();
        kept_are(0).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s7_nothing_is_kept_of_what_does_not_load() {
    run_with(patient(), |supervisor| async move {
        let counting = Counting::new(100).await;
        let whole = std::fs::read(counting.file()).unwrap();
        std::fs::write(counting.file(), &whole[..whole.len() / 2]).unwrap();
        supervisor.load(counting.bundle.path()).await.unwrap_err();
        kept_are(0).await;
        // Nor of what a worker has died of.
        std::fs::write(counting.file(), whole).unwrap();
        let contract = load(&supervisor, &counting).await;
        assert_eq!(count(&contract).await, 100);
        supervisor.shutdown().await;
        kept_are(0).await;
    });
}

#[test]
fn s9_an_idle_worker_gives_its_copies_back() {
    let mut config = patient();
    config.heartbeat = Duration::from_millis(50);
    config.idle_stop = Some(Duration::from_millis(500));
    counted(config, |supervisor, _, contract| async move {
        wait_for("the worker to stop", || {
            worker(&supervisor, "native").filter(|worker| worker.state == WorkerState::Stopped)
        })
        .await;
        kept_are(0).await;
        assert_eq!(count(&contract).await, 100);
    });
}

#[test]
fn s8_a_rolling_restart_maps_the_same_copy_and_shares_no_state() {
    counted(patient(), |supervisor, _, contract| async move {
        let inode = mapped(&supervisor);
        for _ in 0..3 {
            assert_eq!([count(&contract).await, count(&contract).await], [100, 101]);
            supervisor.restart_rolling("native").await.unwrap();
            assert_eq!(mapped(&supervisor), inode);
            assert_eq!(count(&contract).await, 100);
            supervisor.restart_rolling("native").await.unwrap();
        }
    });
}

/// Calls until so many processes have answered twice, each from its own count.
async fn each_counts_for_itself(contract: &Contract, processes: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut next = BTreeMap::<i64, i64>::new();
    while next.len() < processes || next.values().any(|next| *next < 102) {
        assert!(Instant::now() < deadline, "not all processes answer: {next:?}");
        let answer: i64 = contract.call("count_here", ()).await.unwrap();
        let expected = next.entry(answer / 1000).or_insert(100);
        assert_eq!(answer % 1000, *expected);
        *expected += 1;
    }
}

#[test]
fn s9_replicas_share_a_copy_and_no_state() {
    let mut config = patient();
    config.replicas.insert("native".to_owned(), 3);
    counted(config, |supervisor, counting, contract| async move {
        let pids = || -> Vec<u32> {
            supervisor.status().workers.iter().filter_map(|worker| worker.pid).collect()
        };
        assert_eq!(pids().len(), 3);
        each_counts_for_itself(&contract, 3).await;
        // The user's folder is the replicas' no more.
        counting.write(200);
        // When their files are old enough all of them have the same.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let dead = pids();
            for pid in &dead {
                slay(*pid);
            }
            let alive = wait_for("all replicas", || {
                let ready = status(&supervisor, "counting").replicas.ready;
                let alive = pids();
                let others = alive.iter().all(|pid| !dead.contains(pid));
                (ready == 3 && alive.len() == 3 && others).then_some(alive)
            })
            .await;
            let mut inodes: Vec<u64> = alive.into_iter().flat_map(mapped_in).collect();
            assert_eq!(inodes.len(), 3);
            inodes.dedup();
            if inodes.len() == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "each has its own: {inodes:?}");
        }
        each_counts_for_itself(&contract, 3).await;
    });
}

/// What was checked is what comes back, whatever becomes of the folder.
#[test]
fn r5_a_signed_library_is_handed_on_too() {
    let mut config = patient();
    let key = SigningKey::generate();
    config.signatures.policy = SignaturePolicy::Required;
    config.signatures.trusted_keys = vec![key.public()];
    run_with(config, move |supervisor| async move {
        let counting = Counting::new(100).await;
        sign_bundle(&counting.bundle.path(), &key).unwrap();
        let contract = load(&supervisor, &counting).await;
        assert_eq!(count(&contract).await, 100);
        counting.write(200);
        for _ in 0..3 {
            crash(&supervisor).await;
            assert_eq!(count(&contract).await, 100);
        }
        kept_are(1).await;
        supervisor.reload("counting").await.unwrap_err();
        assert_eq!(count(&contract).await, 101);
    });
}
