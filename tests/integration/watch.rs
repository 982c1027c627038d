//! Bundles whose files are edited while they run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use menagerie_supervisor::{
    BundleState, BundleStatus, EventKind, RuntimeError, Supervisor, Watch, WatchSettings,
};
use menagerie_tests::Language;

use crate::support::{Bundle, Recorder, start, wait_for};

fn settings() -> WatchSettings {
    let mut settings = WatchSettings::default();
    settings.quiet = Duration::from_millis(50);
    settings
}

/// A folder of bundles that is watched.
struct Watched {
    folder: tempfile::TempDir,
    supervisor: Supervisor,
    recorder: Recorder,
    _watch: Watch,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Sets a link to lead to a folder, in one step.
fn link(to: &Path, at: &Path) {
    let next = at.with_extension("new");
    std::os::unix::fs::symlink(to, &next).unwrap();
    std::fs::rename(&next, at).unwrap();
}

impl Watched {
    async fn of(bundles: &[&Bundle]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (at, bundle) in bundles.iter().enumerate() {
            copy(&bundle.path(), &folder.path().join(format!("bundle-{at}")));
        }
        Self::of_folder(folder).await
    }

    async fn of_folder(folder: tempfile::TempDir) -> Self {
        let path = folder.path().to_owned();
        Self::of_path(folder, path).await
    }

    async fn of_path(folder: tempfile::TempDir, path: PathBuf) -> Self {
        let supervisor = start();
        let recorder = Recorder::of(&supervisor);
        let paths = [path];
        let watch = supervisor.watch(&paths, settings());
        supervisor.load_all(&paths).await;
        Self { folder, supervisor, recorder, _watch: watch }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn status(&self, name: &str) -> Option<BundleStatus> {
        self.supervisor.status().bundles.into_iter().find(|bundle| bundle.name == name)
    }

    /// Waits until the bundle says this.
    async fn says(&self, name: &str, text: &str) {
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        loop {
            if let Ok(contract) = self.supervisor.contract(&format!("{name}/{name}@1"))
                && let Ok(said) = contract.call::<_, String>("who", ()).await
                && said == text
            {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{name} never says '{text}'");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a failure of a bundle that says `told`.
    async fn failure(&self, name: &str, told: &str) {
        self.recorder
            .wait("the failure", |event| match event {
                EventKind::BundleFailed { bundle, reason, .. }
                    if bundle == name && reason.contains(told) =>
                {
                    Some(())
                }
                _ => None,
            })
            .await;
    }
}

fn says(name: &str, text: &str) -> String {
    format!("return {{ ['{name}@1'] = {{ who = function() return '{text}' end }} }}\n")
}

fn lua(name: &str, more: &str, text: &str) -> Bundle {
    let manifest = format!(
        "name = '{name}'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['{name}@1']\n{more}\n"
    );
    Bundle::of(&[("manifest.toml", &manifest), ("main.lua", &says(name, text))])
}

/// What kept it away was what it was before.
#[tokio::test(flavor = "multi_thread")]
async fn s5_a_bundle_that_killed_its_worker_is_loaded_when_it_is_mended() {
    let bundle = lua("a", "", "one");
    bundle.write("main.lua", "require 'menagerie'.abort()");
    let watched = Watched::of(&[&bundle]).await;
    let load = || watched.supervisor.load(watched.file("bundle-0"));
    for _ in 0..2 {
        assert!(load().await.is_err());
    }
    let refused = load().await;
    assert!(matches!(refused, Err(RuntimeError::BundleQuarantined { .. })), "{refused:?}");
    std::fs::write(watched.file("bundle-0/main.lua"), says("a", "two")).unwrap();
    watched.says("a", "two").await;
    watched.supervisor.shutdown().await;
}

/// Neither the path nor the folder that it is to stand in is there: the system tells nothing.
#[tokio::test(flavor = "multi_thread")]
async fn l6_what_cannot_be_watched_is_looked_at_now_and_then() {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = start();
    let path = folder.path().join("not/there/yet");
    let mut settings = settings();
    settings.poll = Duration::from_millis(50);
    let _watch = supervisor.watch(std::slice::from_ref(&path), settings);
    let told = |entry: &menagerie_supervisor::LogEntry| {
        entry.message.contains("not/there") && entry.message.contains("polling")
    };
    assert_eq!(supervisor.logs().iter().filter(|entry| told(entry)).count(), 1);
    let bundle = lua("late", "", "here");
    copy(&bundle.path(), &path.join("late"));
    wait_for("the bundle", || supervisor.contract("late@1").ok()).await;
    assert_eq!(supervisor.logs().iter().filter(|entry| told(entry)).count(), 1);
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_an_edited_bundle_is_reloaded_however_it_is_written() {
    let watched = Watched::of(&[&lua("a", "", "one")]).await;
    watched.says("a", "one").await;
    let main = watched.file("bundle-0/main.lua");
    // In place.
    std::fs::write(&main, says("a", "two")).unwrap();
    watched.says("a", "two").await;
    // By an atomic rename, with a temporary file beside it.
    let next = watched.file("bundle-0/.main.lua.new");
    std::fs::write(&next, says("a", "three")).unwrap();
    std::fs::rename(&next, &main).unwrap();
    watched.says("a", "three").await;
    // The whole folder replaced.
    let other = lua("a", "", "four");
    copy(&other.path(), &watched.file(".bundle-0.new"));
    std::fs::rename(watched.file("bundle-0"), watched.file(".bundle-0.old")).unwrap();
    std::fs::rename(watched.file(".bundle-0.new"), watched.file("bundle-0")).unwrap();
    watched.says("a", "four").await;
    // And again, in the folder that has come.
    std::fs::write(&main, says("a", "five")).unwrap();
    watched.says("a", "five").await;
    watched.supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_a_half_written_file_changes_nothing() {
    let watched = Watched::of(&[&lua("a", "", "one")]).await;
    watched.says("a", "one").await;
    let main = watched.file("bundle-0/main.lua");
    let text = says("a", "two");
    let mut file = std::fs::File::create(&main).unwrap();
    file.write_all(&text.as_bytes()[..20]).unwrap();
    watched.failure("a", "main.lua").await;
    watched.says("a", "one").await;
    file.write_all(&text.as_bytes()[20..]).unwrap();
    drop(file);
    watched.says("a", "two").await;
    // Gone, and back.
    std::fs::remove_file(&main).unwrap();
    watched.failure("a", "does not exist").await;
    watched.says("a", "two").await;
    std::fs::rename(watched.file("bundle-0"), watched.file(".away")).unwrap();
    watched.failure("a", "is gone").await;
    watched.says("a", "two").await;
    std::fs::write(watched.file(".away/main.lua"), says("a", "three")).unwrap();
    std::fs::rename(watched.file(".away"), watched.file("bundle-0")).unwrap();
    watched.says("a", "three").await;
    watched.supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_bundles_that_come_are_loaded_and_broken_ones_tried_again() {
    let needs = "[[dependency]]\ncontract = 'late@1'";
    let watched = Watched::of(&[&lua("user", needs, "user")]).await;
    let state = |name: &str| watched.status(name).map(|bundle| bundle.state);
    assert_eq!(state("user"), Some(BundleState::Failed));
    // Its provider comes, and is broken itself at first.
    let late = lua("late", "", "late");
    late.write("main.lua", "error('not yet')");
    copy(&late.path(), &watched.file("late"));
    wait_for("the late one to be listed", || {
        watched.status("late").filter(|bundle| {
            bundle.problem.as_ref().is_some_and(|problem| problem.contains("not yet"))
        })
    })
    .await;
    std::fs::write(watched.file("late/main.lua"), says("late", "late")).unwrap();
    watched.says("late", "late").await;
    watched.says("user", "user").await;
    // One that was unloaded by hand stays so, whatever happens to its files.
    watched.supervisor.unload("user").await.unwrap();
    std::fs::write(watched.file("bundle-0/main.lua"), says("user", "again")).unwrap();
    std::fs::write(watched.file("late/main.lua"), says("late", "later")).unwrap();
    watched.says("late", "later").await;
    assert_eq!(state("user"), None);
    watched.supervisor.shutdown().await;
}

/// Its copy has the same name at first, as every copy does.
#[tokio::test(flavor = "multi_thread")]
async fn l6_a_copied_bundle_is_loaded_as_soon_as_it_has_a_name_of_its_own() {
    let watched = Watched::of(&[&lua("a", "", "one")]).await;
    watched.says("a", "one").await;
    copy(&watched.file("bundle-0"), &watched.file("copied"));
    watched.failure("a", "loaded already").await;
    let own = lua("b", "", "two");
    for name in ["main.lua", "manifest.toml"] {
        std::fs::copy(own.path().join(name), watched.file("copied").join(name)).unwrap();
    }
    watched.says("b", "two").await;
    watched.says("a", "one").await;
    // Edited again, as any other.
    std::fs::write(watched.file("copied/main.lua"), says("b", "three")).unwrap();
    watched.says("b", "three").await;
    watched.supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_a_bundle_that_was_moved_is_reloaded_from_where_it_is() {
    let watched = Watched::of(&[&lua("a", "", "one")]).await;
    watched.says("a", "one").await;
    std::fs::rename(watched.file("bundle-0"), watched.file("moved")).unwrap();
    std::fs::write(watched.file("moved/main.lua"), says("a", "two")).unwrap();
    watched.says("a", "two").await;
    std::fs::write(watched.file("moved/main.lua"), says("a", "three")).unwrap();
    watched.says("a", "three").await;
    let path = watched.status("a").unwrap().path.unwrap();
    assert!(path.ends_with("moved"), "{path}");
    watched.supervisor.shutdown().await;
}

/// A release is switched as installers do it: a link is set anew, and the old one stays
/// for a while.
#[tokio::test(flavor = "multi_thread")]
async fn l6_a_link_that_leads_to_another_release_is_followed() {
    let (folder, releases) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let release = |text: &str| {
        let at = releases.path().join(text);
        copy(&lua("app", "", text).path(), &at);
        at
    };
    let (one, two, three) = (release("one"), release("two"), release("three"));
    let app = folder.path().join("app");
    link(&one, &app);
    copy(&lua("other", "", "other").path(), &folder.path().join("other"));
    let watched = Watched::of_folder(folder).await;
    watched.says("app", "one").await;
    link(&two, &app);
    watched.says("app", "two").await;
    std::fs::write(two.join("main.lua"), says("app", "two, edited")).unwrap();
    watched.says("app", "two, edited").await;
    // The old one has gone first, this time; and back.
    std::fs::remove_dir_all(&two).unwrap();
    link(&three, &app);
    watched.says("app", "three").await;
    link(&one, &app);
    watched.says("app", "one").await;
    let told = watched.recorder.all().into_iter().find_map(|event| match event {
        EventKind::BundleFailed { reason, .. } if !reason.contains("is gone") => Some(reason),
        _ => None,
    });
    assert_eq!(told, None);
    // It is the link's bundle still: without the link it is asked for no more.
    std::fs::remove_file(&app).unwrap();
    watched.failure("app", "leads to").await;
    let paths = [watched.folder.path().to_owned()];
    let done = watched.supervisor.reconcile(&paths, &paths).await;
    assert_eq!(done.unloaded, ["app"]);
    watched.supervisor.shutdown().await;
}

/// The folder of all bundles is the link, this time.
#[tokio::test(flavor = "multi_thread")]
async fn l6_a_link_that_leads_to_another_folder_of_bundles_is_followed() {
    let (folder, releases) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for release in ["one", "two"] {
        copy(&lua("app", "", release).path(), &releases.path().join(release).join("app"));
    }
    copy(&lua("new", "", "new").path(), &releases.path().join("two/new"));
    let current = folder.path().join("current");
    link(&releases.path().join("one"), &current);
    let watched = Watched::of_path(folder, current.clone()).await;
    watched.says("app", "one").await;
    link(&releases.path().join("two"), &current);
    watched.says("app", "two").await;
    watched.says("new", "new").await;
    watched.supervisor.shutdown().await;
}

/// Who was broken first is the link's bundle too.
#[tokio::test(flavor = "multi_thread")]
async fn r3_a_broken_bundle_behind_a_link_is_loaded_as_the_links() {
    let (folder, releases) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, text) in [("user", "[[dependency]]\ncontract = 'late@1'"), ("by-hand", "")] {
        let bundle = lua(name, text, name);
        if name == "by-hand" {
            bundle.write("main.lua", "error('not yet')");
        }
        copy(&bundle.path(), &releases.path().join(name));
        link(&releases.path().join(name), &folder.path().join(name));
    }
    let watched = Watched::of_folder(folder).await;
    let state = |name: &str| watched.status(name).map(|bundle| bundle.state);
    assert_eq!(state("user"), Some(BundleState::Failed));
    copy(&lua("late", "", "late").path(), &watched.file("late"));
    watched.says("user", "user").await;
    let broken = watched.supervisor.reload("by-hand").await.unwrap_err();
    assert!(broken.to_string().contains("not yet"), "{broken}");
    let main = releases.path().join("by-hand/main.lua");
    std::fs::write(main, says("by-hand", "hello")).unwrap();
    watched.says("by-hand", "hello").await;
    for name in ["user", "by-hand"] {
        std::fs::remove_file(watched.file(name)).unwrap();
    }
    let paths = [watched.folder.path().to_owned()];
    let mut done = watched.supervisor.reconcile(&paths, &paths).await.unloaded;
    done.sort();
    assert_eq!(done, ["by-hand", "user"]);
    watched.supervisor.shutdown().await;
}

/// The last that comes lets the broken one load, and that one the first.
#[tokio::test(flavor = "multi_thread")]
async fn r3_bundles_that_come_together_are_loaded_whoever_needs_whom() {
    let needs = |name: &str| format!("[[dependency]]\ncontract = '{name}@1'");
    let middle = lua("middle", &needs("base"), "middle");
    let watched = Watched::of(&[&middle, &lua("a", "", "one")]).await;
    watched.says("a", "one").await;
    let coming = tempfile::tempdir().unwrap();
    for (name, more) in [("top", needs("middle")), ("base", String::new())] {
        copy(&lua(name, &more, name).path(), &coming.path().join(name));
    }
    // Within one quiet.
    for name in ["top", "base"] {
        std::fs::rename(coming.path().join(name), watched.file(name)).unwrap();
    }
    for name in ["base", "middle", "top"] {
        watched.says(name, name).await;
    }
    watched.supervisor.shutdown().await;
}

/// Else there would be a generation for each of its own writes, without end.
#[tokio::test(flavor = "multi_thread")]
async fn l6_a_bundle_that_writes_into_its_own_folder_is_not_reloaded_without_end() {
    let code = |more: &str, text: &str| {
        format!(
            "import menagerie, pathlib, time\n\
             {more}\n\
             @menagerie.export('a@1')\n\
             def who():\n    return '{text}'\n"
        )
    };
    let writes = "(pathlib.Path(__file__).parent / 'started.txt').write_text(str(time.time()))";
    let manifest = "name = 'a'\nloader = 'python'\nfile = 'main.py'\nprovides = ['a@1']\n";
    let bundle = Bundle::of(&[("manifest.toml", manifest), ("main.py", &code(writes, "restless"))]);
    let watched = Watched::of(&[&bundle]).await;
    watched.failure("a", "started.txt").await;
    watched.says("a", "restless").await;
    // What is mended comes, be it after the pause.
    std::fs::write(watched.file("bundle-0/main.py"), code("", "mended")).unwrap();
    watched.says("a", "mended").await;
    watched.supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_a_watch_with_waits_beyond_all_clocks_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    copy(&lua("a", "", "one").path(), &folder.path().join("a"));
    let supervisor = start();
    let mut settings = settings();
    (settings.longest, settings.poll) = (Duration::MAX, Duration::MAX);
    let paths = [folder.path().to_owned()];
    let watch = supervisor.watch(&paths, settings);
    supervisor.load_all(&paths).await;
    let watched =
        Watched { folder, recorder: Recorder::of(&supervisor), supervisor, _watch: watch };
    watched.says("a", "one").await;
    std::fs::write(watched.file("a/main.lua"), says("a", "two")).unwrap();
    watched.says("a", "two").await;
    watched.supervisor.shutdown().await;
}

/// In whatever order they are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn r3_bundles_that_change_together_are_reloaded_whoever_needs_whom() {
    for (user, base) in [("a", "b"), ("b", "a")] {
        let needs = |version: u32| format!("[[dependency]]\ncontract = '{base}@{version}'");
        let folder = |name: &str| if name == "a" { "bundle-0" } else { "bundle-1" };
        let first = [lua(user, &needs(1), "one"), lua(base, "", "one")];
        let in_order = if user == "a" { [&first[0], &first[1]] } else { [&first[1], &first[0]] };
        let watched = Watched::of(&in_order).await;
        watched.says(user, "one").await;
        let who = "{ who = function() return 'two' end }";
        let both = format!("return {{ ['{base}@1'] = {who}, ['{base}@2'] = {who} }}\n");
        let then = [(user, lua(user, &needs(2), "two")), (base, lua(base, "", "two"))];
        then[1].1.write("main.lua", &both);
        let manifest = std::fs::read_to_string(then[1].1.path().join("manifest.toml")).unwrap();
        let provides = format!("['{base}@1', '{base}@2']");
        let manifest = manifest.replace(&format!("['{base}@1']"), &provides);
        then[1].1.write("manifest.toml", &manifest);
        for (name, bundle) in &then {
            copy(&bundle.path(), &watched.file(folder(name)));
        }
        watched.says(base, "two").await;
        watched.says(user, "two").await;
        watched.supervisor.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g_a_broken_bundle_whose_folder_is_deleted_is_listed_no_more() {
    let broken = lua("broken", "", "");
    broken.write("main.lua", "error('not today')");
    let watched = Watched::of(&[&lua("a", "", "one"), &broken]).await;
    watched.says("a", "one").await;
    assert_eq!(watched.status("broken").unwrap().state, BundleState::Failed);
    std::fs::remove_dir_all(watched.file("bundle-1")).unwrap();
    wait_for("it to go", || watched.status("broken").is_none().then_some(())).await;
    watched.says("a", "one").await;
    watched.supervisor.shutdown().await;
}

/// A library is overwritten while it runs, by halves and whole, under a load of
/// calls: none of them fails.
#[tokio::test(flavor = "multi_thread")]
async fn l8_a_library_may_be_overwritten_in_place_while_it_runs() {
    let folder = Bundle::copy_of(&Language::of("rust").bundle("greeter"), "busy", "");
    let watched = Watched::of(&[&folder]).await;
    let greeter = watched.supervisor.contract("busy/greeter@1").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let load = tokio::spawn({
        let (stop, calls, greeter) = (Arc::clone(&stop), Arc::clone(&calls), greeter.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                let text: String = greeter.call("greet", ("Ada",)).await.unwrap();
                assert_eq!(text, "Hello, Ada");
                calls.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let library = watched.file("bundle-0/libgreeter_rust.so");
    let bytes = std::fs::read(&library).unwrap();
    let generation = || watched.status("busy").unwrap().generation;
    for round in 0..3 {
        let before = generation();
        let mut file = std::fs::File::create(&library).unwrap();
        file.write_all(&bytes[..bytes.len() / 2]).unwrap();
        if round == 1 {
            // Long enough for the half of it to be tried.
            watched.failure("busy", "libgreeter_rust.so").await;
        }
        file.write_all(&bytes[bytes.len() / 2..]).unwrap();
        drop(file);
        wait_for("a new generation", || {
            watched
                .status("busy")
                .filter(|b| b.generation > before && b.state == BundleState::Ready)
        })
        .await;
        let so_far = calls.load(Ordering::Relaxed);
        wait_for("calls to go on", || (calls.load(Ordering::Relaxed) > so_far + 10).then_some(()))
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    watched.supervisor.shutdown().await;
}
