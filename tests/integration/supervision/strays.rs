//! Rule S5, where the calls that ran do not show whose doing a death was: threads and
//! exceptions astray, descriptors that are not the bundle's own.

use std::path::Path;
use std::time::Duration;

use menagerie_supervisor::{BundleState, Config, Contract, Failure, Supervisor};

use super::in_state;
use crate::bad_input::bundles::assembly;
use crate::bad_input::native::compile;
use crate::support::{Bundle, config, ready_after, report, run_with, slay, wait_for};

/// What a bundle in C does at the worst of times.
const IN_C: &str = r#"
#define _GNU_SOURCE
#include <menagerie.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static char file[4096];

static void *waits(void *way) {
    while (access(file, F_OK) != 0) usleep(1000);
    if (!strcmp(way, "exit")) exit(3);
    if (!strcmp(way, "fault")) *(volatile int *)8 = 1;
    if (!strcmp(way, "untold")) signal(SIGABRT, SIG_DFL);
    abort();
}

/* A thread of its own ends the process when the file is there. */
static int end_when(mg_call *call, void *userdata) {
    (void)userdata;
    pthread_t thread;
    static char way[16];
    mg_str how = mg_arg_str(call, 0), path = mg_arg_str(call, 1);
    memcpy(way, how.ptr, how.len < sizeof way - 1 ? how.len : sizeof way - 1);
    memcpy(file, path.ptr, path.len < sizeof file - 1 ? path.len : sizeof file - 1);
    pthread_create(&thread, NULL, waits, way);
    return mg_return_null(call);
}

static char at_end[16];

__attribute__((destructor)) static void unmapped(void) {
    if (!strcmp(at_end, "pthread_exit")) pthread_exit(NULL);
    if (!strcmp(at_end, "exit")) syscall(SYS_exit, 0);
    if (!strcmp(at_end, "abort")) abort();
}

/* When the library is unmapped. */
static int end_at_last(mg_call *call, void *userdata) {
    (void)userdata;
    mg_str how = mg_arg_str(call, 0);
    memcpy(at_end, how.ptr, how.len < sizeof at_end - 1 ? how.len : sizeof at_end - 1);
    return mg_return_null(call);
}

static int end(mg_call *call, void *userdata) {
    (void)userdata;
    char way[16] = "";
    mg_str how = mg_arg_str(call, 0);
    memcpy(way, how.ptr, how.len < sizeof way - 1 ? how.len : sizeof way - 1);
    file[0] = '/';
    waits(way);
    return MG_OK;
}

static int close_all(mg_call *call, void *userdata) {
    (void)userdata;
    for (int fd = 3; fd < 1024; fd++) close(fd);
    return mg_return_null(call);
}

static int end_thread(mg_call *call, void *userdata) {
    (void)userdata;
    syscall(SYS_exit, 0);
    return mg_return_null(call);
}

/* Makes the file, and does not return. */
static int sleep_from(mg_call *call, void *userdata) {
    (void)userdata;
    char path[4096] = "";
    mg_str from = mg_arg_str(call, 0);
    memcpy(path, from.ptr, from.len < sizeof path - 1 ? from.len : sizeof path - 1);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    for (;;) pause();
}

static int inc(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_i64(call, mg_arg_i64(call, 0) + 1);
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    struct { const char *name; mg_function function; } all[] = {
        {"inc", inc}, {"sleep_from", sleep_from}, {"end_when", end_when}, {"end", end}, {"end_at_last", end_at_last},
        {"close_all", close_all}, {"end_thread", end_thread},
    };
    INIT
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (mg_add_function(registrar, CONTRACT, all[i].name, NULL, all[i].function, NULL))
            return MG_FAILED;
    return MG_OK;
}
"#;

fn in_c(name: &str, init: &str) -> Bundle {
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = 'native'\nfile = 'lib.so'\n\
         provides = ['{name}@1']\n"
    );
    let bundle = Bundle::of(&[("manifest.toml", &manifest)]);
    let source = IN_C.replace("INIT", init).replace("CONTRACT", &format!("\"{name}@1\""));
    compile(&source, &bundle.path().join("lib.so"));
    bundle
}

pub(super) async fn load(supervisor: &Supervisor, name: &str) -> (Contract, Bundle) {
    let bundle = in_c(name, "");
    supervisor.load(bundle.path()).await.unwrap();
    (supervisor.contract(&format!("{name}@1")).unwrap(), bundle)
}

/// The bundle in C# that fails in every way; it is one of the worker's own.
async fn load_failures(supervisor: &Supervisor, name: &str) -> Contract {
    let manifest = format!(
        "name = '{name}'\nversion = '1.0.0'\nloader = 'dotnet'\nprovides = ['failures@1']\n"
    );
    let assembly = std::fs::read(assembly("failures")).unwrap();
    supervisor.load_bytes(&manifest, assembly).await.unwrap();
    supervisor.contract(&format!("{name}/failures@1")).unwrap()
}

/// One death is enough for a quarantine, and nothing but heartbeats ends a call.
pub(super) fn strict() -> Config {
    let mut config = config();
    config.bundle_crash_limit = 1;
    config.deadline = Duration::ZERO;
    config.load_timeout = Duration::from_secs(3600);
    config.heartbeat = Duration::from_millis(100);
    // None of these is missed, however slow the machine.
    config.heartbeat_warn = 10_000;
    config.heartbeat_kill = 20_000;
    config
}

/// A call that has begun, and that nothing ends but its worker's death.
pub(super) async fn at_work(contract: &Contract) -> tokio::task::JoinHandle<Result<(), Failure>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("begun");
    let (contract, path) = (contract.clone(), file.to_str().unwrap().to_owned());
    let working = tokio::spawn(async move { contract.call("sleep_from", (path,)).await });
    wait_for("the innocent to be at work", || file.exists().then_some(())).await;
    working
}

pub(super) async fn answers(contract: &Contract) {
    assert_eq!(contract.call::<_, i64>("inc", (1,)).await.unwrap(), 2);
}

/// The file that a bundle waits for is there from now on.
fn now(file: &Path) {
    std::fs::write(file, "").unwrap();
}

#[test]
fn s5_an_exception_that_nobody_catches_in_dotnet_is_its_bundles() {
    run_with(strict(), |supervisor| async move {
        let guilty = load_failures(&supervisor, "guilty").await;
        let innocent = load_failures(&supervisor, "innocent").await;
        for (n, function) in
            [(1, "throw_when"), (2, "throw_in_finalizer"), (3, "look_in_finalizer")]
        {
            let working = at_work(&innocent).await;
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("now");
            if n == 1 {
                // Long after the call.
                guilty.call::<_, ()>(function, (file.to_str().unwrap(),)).await.unwrap();
                now(&file);
            } else {
                let outcome = guilty.call::<_, ()>(function, ()).await;
                assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
            }
            assert!(working.await.unwrap().is_err());
            let report = report(&supervisor, "dotnet", n).await;
            assert_eq!(report.suspect.as_deref(), Some("guilty"), "{report:?}");
            assert!(report.running.iter().any(|call| call.bundle == "innocent"), "{report:?}");
            in_state(&supervisor, "guilty", BundleState::Quarantined).await;
            assert_eq!(innocent.call::<_, i64>("null", ("ab",)).await.unwrap(), 2);
            supervisor.reload("guilty").await.unwrap();
        }
    });
}

/// The socket is missed when it is used again: who runs then has not closed it.
#[test]
fn s5_who_runs_when_the_control_socket_is_missed_is_not_blamed() {
    run_with(strict(), |supervisor| async move {
        let (innocent, _files) = load(&supervisor, "innocent").await;
        let (closer, _files) = load(&supervisor, "closer").await;
        let working = at_work(&innocent).await;
        // Its answer may be lost with the descriptors.
        drop(closer.call::<_, ()>("close_all", ()).await);
        assert!(working.await.unwrap().is_err());
        let first = report(&supervisor, "native", 1).await;
        assert_eq!(first.exit_code, Some(74), "{first:?}");
        assert!(first.cause.contains("code in it has closed its control socket"), "{first:?}");
        assert_eq!(first.suspect, None, "{first:?}");
        answers(&innocent).await;
        answers(&closer).await;
        // Where nobody else is, it is known.
        supervisor.unload("innocent").await.unwrap();
        drop(closer.call::<_, ()>("close_all", ()).await);
        let second = report(&supervisor, "native", 2).await;
        let named = second.suspect.as_deref() == Some("closer")
            || second.running.iter().any(|call| call.bundle == "closer");
        assert!(named, "{second:?}");
    });
}

/// How a native bundle may end its worker, and a signal or an exit code tells of it.
const WAYS: [&str; 3] = ["abort", "fault", "exit"];

/// The thread's stack shows whose code it runs, and a lane's thread is one bundle's.
#[test]
fn s5_a_native_bundle_whose_thread_ends_the_worker_is_blamed_for_it() {
    run_with(strict(), |supervisor| async move {
        let (innocent, _files) = load(&supervisor, "innocent").await;
        let (guilty, _files) = load(&supervisor, "guilty").await;
        let ways = WAYS.into_iter().flat_map(|way| [(way, true), (way, false)]);
        for (n, (way, astray)) in (1..).zip(ways) {
            let working = at_work(&innocent).await;
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("now");
            if astray {
                guilty.call::<_, ()>("end_when", (way, &file)).await.unwrap();
                now(&file);
            } else {
                let outcome = guilty.call::<_, ()>("end", (way,)).await;
                assert!(matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
            }
            assert!(working.await.unwrap().is_err());
            let told = report(&supervisor, "native", n).await;
            assert_eq!(told.suspect.as_deref(), Some("guilty"), "{way} {astray}: {told:?}");
            assert!(told.running.iter().any(|call| call.bundle == "innocent"), "{told:?}");
            in_state(&supervisor, "guilty", BundleState::Quarantined).await;
            answers(&innocent).await;
            supervisor.reload("guilty").await.unwrap();
        }
    });
}

/// On a thread of the worker's, when the bundle's own has ended.
#[test]
fn s5_a_native_bundle_whose_destructor_ends_its_thread_is_blamed() {
    run_with(strict(), |supervisor| async move {
        let (innocent, _files) = load(&supervisor, "innocent").await;
        for (n, way) in (1..).zip(["abort", "pthread_exit", "exit"]) {
            let working = at_work(&innocent).await;
            let (guilty, _files) = load(&supervisor, "guilty").await;
            guilty.call::<_, ()>("end_at_last", (way,)).await.unwrap();
            drop(supervisor.unload("guilty").await);
            assert!(working.await.unwrap().is_err());
            let told = report(&supervisor, "native", n).await;
            assert_eq!(told.suspect.as_deref(), Some("guilty"), "{way}: {told:?}");
            answers(&innocent).await;
        }
    });
}

/// .NET tells nobody of these but the standard error, if at all.
#[test]
fn s5_a_dotnet_bundle_whose_timer_ends_the_worker_is_blamed_for_it() {
    run_with(strict(), |supervisor| async move {
        let guilty = load_failures(&supervisor, "guilty").await;
        let innocent = load_failures(&supervisor, "innocent").await;
        for (n, way) in (1..).zip(["exit", "fail_fast", "overflow"]) {
            let working = at_work(&innocent).await;
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("now");
            guilty.call::<_, ()>("end_when", (way, &file)).await.unwrap();
            now(&file);
            assert!(working.await.unwrap().is_err());
            let told = report(&supervisor, "dotnet", n).await;
            assert_eq!(told.suspect.as_deref(), Some("guilty"), "{way}: {told:?}");
            assert!(told.running.iter().any(|call| call.bundle == "innocent"), "{told:?}");
            in_state(&supervisor, "guilty", BundleState::Quarantined).await;
            assert_eq!(innocent.call::<_, i64>("null", ("ab",)).await.unwrap(), 2);
            supervisor.reload("guilty").await.unwrap();
        }
    });
}

/// A timer that an unload does not stop, and that keeps what was unloaded.
#[test]
fn s5_a_generation_that_has_gone_is_its_bundles_still() {
    run_with(strict(), |supervisor| async move {
        let guilty = load_failures(&supervisor, "guilty").await;
        let innocent = load_failures(&supervisor, "innocent").await;
        let working = at_work(&innocent).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("now");
        guilty.call::<_, ()>("throw_in_timer_when", (&file,)).await.unwrap();
        supervisor.reload("guilty").await.unwrap();
        now(&file);
        assert!(working.await.unwrap().is_err());
        let told = report(&supervisor, "dotnet", 1).await;
        assert_eq!(told.suspect.as_deref(), Some("guilty"), "{told:?}");
    });
}

/// It is named and not blamed: nobody else is to be protected from it, and the
/// worker's own quarantine tries again.
#[test]
fn s5_the_only_bundle_of_a_worker_that_ends_by_itself_is_named() {
    run_with(strict(), |supervisor| async move {
        let folder = tempfile::tempdir().unwrap();
        let (alone, _files) = load(&supervisor, "alone").await;
        let first = folder.path().join("first");
        alone.call::<_, ()>("end_when", ("untold", &first)).await.unwrap();
        now(&first);
        let told = report(&supervisor, "native", 1).await;
        assert_eq!((told.signal, told.running.len()), (Some(6), 0), "{told:?}");
        assert_eq!(told.suspect.as_deref(), Some("alone"), "{told:?}");
        answers(&alone).await;
        // Of two it may be either; and what others do to a process is nobody's doing.
        let (other, _files) = load(&supervisor, "other").await;
        let second = folder.path().join("second");
        alone.call::<_, ()>("end_when", ("untold", &second)).await.unwrap();
        now(&second);
        let told = report(&supervisor, "native", 2).await;
        assert_eq!((&told.suspect, told.running.len()), (&None, 0), "{told:?}");
        answers(&other).await;
        supervisor.unload("other").await.unwrap();
        slay(ready_after(&supervisor, "native", 2).await.pid.unwrap());
        let told = report(&supervisor, "native", 3).await;
        assert_eq!((&told.suspect, told.signal), (&None, Some(9)), "{told:?}");
        answers(&alone).await;
    });
}

/// The lane's thread is the worker's. Without it nobody would ever answer.
#[test]
fn s5_a_bundle_that_ends_its_own_thread_is_blamed_before_any_deadline() {
    run_with(strict(), |supervisor| async move {
        let (innocent, _files) = load(&supervisor, "innocent").await;
        let (quitter, _files) = load(&supervisor, "quitter").await;
        let working = at_work(&innocent).await;
        let outcome = quitter.call::<_, ()>("end_thread", ()).await;
        let crashed = matches!(&outcome, Err(Failure::WorkerCrashed { started: true, .. }));
        assert!(crashed, "{outcome:?}");
        assert!(working.await.unwrap().is_err());
        let told = report(&supervisor, "native", 1).await;
        assert_eq!(told.suspect.as_deref(), Some("quitter"), "{told:?}");
        let words = "the bundle 'quitter' has ended its own thread";
        assert!(told.stderr.iter().any(|line| line.contains(words)), "{told:?}");
        in_state(&supervisor, "quitter", BundleState::Quarantined).await;
        answers(&innocent).await;
        // In a load too, which has an hour here.
        let hasty = in_c("hasty", "syscall(SYS_exit, 0);");
        assert!(supervisor.load(hasty.path()).await.is_err());
        let told = report(&supervisor, "native", 2).await;
        assert_eq!(told.suspect.as_deref(), Some("hasty"), "{told:?}");
        answers(&innocent).await;
    });
}
