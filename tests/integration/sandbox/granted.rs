//! What a bundle wants, and what it gets (rule P3).

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use menagerie_supervisor::{Config, EventKind, Grant, RuntimeError};

use super::{load, spy, strict, tried, workers};
use crate::support::{Bundle, Recorder, run, run_with, start_with, wait_for};

fn granting(change: impl FnOnce(&mut Grant)) -> Config {
    let mut config = strict();
    let mut grant = Grant::default();
    change(&mut grant);
    config.grants.insert("spy".to_owned(), grant);
    config
}

#[test]
fn p3_a_bundle_has_the_network_if_it_wants_it_and_is_granted_it() {
    const WANTS: &str = "[wants]\nnetwork = true";
    for (granted, wants) in [(false, WANTS), (true, "")] {
        run_with(granting(|grant| grant.network = granted), move |supervisor| async move {
            let bundle = spy(wants);
            let spy = load(&supervisor, &bundle).await;
            assert_eq!(tried(&spy, "internet").await, "EPERM");
        });
    }
    run_with(granting(|grant| grant.network = true), |supervisor| async move {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = std::thread::spawn(move || {
            listener.accept().unwrap().0.write_all(b"hello").unwrap();
        });
        let bundle = spy(WANTS);
        let spy = load(&supervisor, &bundle).await;
        assert_eq!(tried(&spy, &format!("tcp {port}")).await, "hello");
        answers.join().unwrap();
        // But no sockets of this machine's programs, and no packets that it makes itself.
        for what in ["connect /tmp/socket", "raw", "pair 1 2"] {
            assert_eq!(tried(&spy, what).await, "EPERM", "{what}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _other = UnixDatagram::bind(&path).unwrap();
        let by_own = tried(&spy, &format!("by_own_sockets {}", path.display())).await;
        assert_eq!(by_own, "EISCONN");
        assert!(supervisor.status().bundles[0].not_granted.is_empty());
    });
}

fn wants(right: &str, paths: &[&Path]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| format!("'{}'", path.display())).collect();
    format!("[wants]\n{right} = [{}]", paths.join(", "))
}

#[test]
fn p3_a_bundle_has_the_paths_that_it_wants_below_those_that_are_granted() {
    let folder = tempfile::tempdir().unwrap();
    let (given, other) = (folder.path().join("given"), folder.path().join("other"));
    for (path, name) in [(&given, "in"), (&given, "unwanted"), (&other, "in")] {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join(name), "x").unwrap();
    }
    // A way out of what is granted.
    symlink(&other, given.join("link")).unwrap();
    let config = granting(|grant| grant.read = vec![given.clone()]);
    run_with(config, move |supervisor| async move {
        let events = Recorder::of(&supervisor);
        let wanted = [&*given.join("in"), &*other.join("in"), &*given.join("link")];
        let missing = given.join("missing");
        let bundle = spy(&wants("read", &[wanted[0], wanted[1], wanted[2], &missing]));
        let spy = load(&supervisor, &bundle).await;
        let read = async |path: &Path| tried(&spy, &format!("read {}", path.display())).await;
        assert_eq!(read(wanted[0]).await, "read");
        assert_eq!(read(wanted[1]).await, "EACCES");
        assert_eq!(read(&given.join("link/in")).await, "EACCES");
        assert_eq!(read(&given.join("unwanted")).await, "EACCES", "granted, and not wanted");
        let append = format!("append {}", wanted[0].display());
        assert_eq!(tried(&spy, &append).await, "EACCES", "it is for reading");
        // Whatever it does not get is said, with the reason.
        let refused = supervisor.status().bundles[0].not_granted.clone();
        let said = |path: &Path, why: &str| {
            refused.iter().any(|line| line.contains(&*path.to_string_lossy()) && line.contains(why))
        };
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(said(wanted[1], "is not granted") && said(wanted[2], "is not granted"));
        assert!(said(&missing, "No such file"));
        let told = events
            .wait("the event", |event| match event {
                EventKind::BundleNotGranted { bundle, wants } => {
                    Some((bundle.clone(), wants.clone()))
                }
                _ => None,
            })
            .await;
        assert_eq!(told, ("spy".to_owned(), refused));
        drop(folder);
    });
}

#[test]
fn p3_a_bundle_changes_what_it_may_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let config = granting(|grant| grant.write = vec![path.clone()]);
    run_with(config, move |supervisor| async move {
        let bundle = spy(&wants("write", &[&path]));
        let spy = load(&supervisor, &bundle).await;
        let new = path.join("new").display().to_string();
        assert_eq!(tried(&spy, &format!("make {new}")).await, "made");
        assert_eq!(tried(&spy, &format!("append {new}")).await, "written");
        assert_eq!(tried(&spy, &format!("read {new}")).await, "read");
        assert_eq!(tried(&spy, &format!("remove {new}")).await, "None");
        assert_eq!(tried(&spy, &format!("execute {new}")).await, "EPERM");
        drop(folder);
    });
}

/// A sandbox stays as it was entered: other rights need another process.
#[test]
fn p3_a_reload_that_would_change_a_bundles_rights_is_refused() {
    run_with(granting(|grant| grant.network = true), |supervisor| async move {
        let bundle = spy("");
        let spy_contract = load(&supervisor, &bundle).await;
        supervisor.reload("spy").await.unwrap();
        let manifest = std::fs::read_to_string(bundle.path().join("manifest.toml")).unwrap();
        bundle.write("manifest.toml", &format!("{manifest}\n[wants]\nnetwork = true\n"));
        let refused = supervisor.reload("spy").await.unwrap_err();
        assert!(matches!(refused, RuntimeError::HotReloadDisabled { .. }), "{refused}");
        assert!(refused.to_string().contains("unload it, and load it again"), "{refused}");
        assert_eq!(tried(&spy_contract, "internet").await, "EPERM", "the old one serves");
        supervisor.unload("spy").await.unwrap();
        let spy = load(&supervisor, &bundle).await;
        assert_eq!(tried(&spy, "internet").await, "sockets");
    });
}

/// A bundle has a call still when it is unloaded, and another one of its name comes at
/// once that has other rights: it waits for a process of its own, and the call ends well.
#[test]
fn p3_a_bundle_that_gets_other_rights_does_not_end_the_calls_of_the_one_before() {
    const CODE: &str = "local menagerie = require 'menagerie'\n\
        return { ['spy@1'] = { sleep = function(ms) menagerie.sleep(ms) end } }";
    const WANTS: [&str; 2] = ["", "[wants]\nnetwork = true\n"];
    let bundle = |wants| {
        let manifest = "name = 'spy'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['spy@1']\n";
        Bundle::of(&[("manifest.toml", &*format!("{manifest}{wants}")), ("main.lua", CODE)])
    };
    run_with(granting(|grant| grant.network = true), move |supervisor| async move {
        let mut before = bundle(WANTS[0]);
        let mut contract = load(&supervisor, &before).await;
        for n in 1..=6 {
            let working =
                tokio::spawn(async move { contract.call::<_, ()>("sleep", (500,)).await });
            let is_called = || (supervisor.status().bundles[0].calls.in_flight > 0).then_some(());
            wait_for("the call", is_called).await;
            let unload = supervisor.clone();
            let unload = tokio::spawn(async move { unload.unload("spy").await });
            let gone = || supervisor.contract("spy@1").is_err().then_some(());
            wait_for("nobody to find it any more", gone).await;
            let next = bundle(WANTS[n % 2]);
            contract = load(&supervisor, &next).await;
            working.await.unwrap().unwrap();
            unload.await.unwrap().unwrap();
            contract.call::<_, ()>("sleep", (0,)).await.unwrap();
            drop(std::mem::replace(&mut before, next));
        }
        assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());
        assert_eq!(workers(&supervisor)[0].restarts, 0);
    });
}

/// Of a copied bundle each generation is another copy.
#[test]
fn p2_replicas_and_their_reloads_work_in_the_sandbox() {
    run(async {
        let mut config = strict();
        config.replicas.insert("python".to_owned(), 2);
        let supervisor = start_with(config);
        let bundle = spy("");
        let spy = load(&supervisor, &bundle).await;
        for _ in 0..3 {
            supervisor.reload("spy").await.unwrap();
            for _ in 0..4 {
                assert_eq!(tried(&spy, "own").await, "read");
            }
        }
        let found = workers(&supervisor);
        assert_eq!(found.len(), 2);
        crate::support::slay(found[0].pid.unwrap());
        wait_for("the next process", || (workers(&supervisor)[0].restarts == 1).then_some(()))
            .await;
        for _ in 0..4 {
            assert_eq!(tried(&spy, "own").await, "read");
        }
        supervisor.shutdown().await;
    });
}

/// The supervisor that copies them may read what the bundle may not.
#[test]
fn p2_links_of_a_copied_bundle_lead_out_only_to_what_is_granted() {
    let folder = tempfile::tempdir().unwrap();
    let (given, other) = (folder.path().join("given"), folder.path().join("other"));
    for path in [&given, &other] {
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("file"), "x").unwrap();
    }
    let mut config = granting(|grant| grant.read = vec![given.clone()]);
    config.replicas.insert("python".to_owned(), 2);
    run_with(config, move |supervisor| async move {
        let bundle = spy(&wants("read", &[&given]));
        let inside = bundle.path().canonicalize().unwrap().join("main.py");
        for (target, link) in [
            (&*other, "folder"),
            (&*other.join("file"), "file"),
            (&*given, "given"),
            (&*inside, "inside"),
            (Path::new("main.py"), "same"),
            (Path::new("nowhere"), "dangling"),
        ] {
            symlink(target, bundle.path().join(link)).unwrap();
        }
        let spy = load(&supervisor, &bundle).await;
        assert_eq!(workers(&supervisor).len(), 2);
        for (path, outcome) in [
            ("folder/file", "EACCES"),
            ("file", "EACCES"),
            ("given/file", "read"),
            ("inside", "read"),
            ("same", "read"),
            ("dangling", "ENOENT"),
        ] {
            assert_eq!(tried(&spy, &format!("own {path}")).await, outcome, "{path}");
        }
        drop(folder);
    });
}
