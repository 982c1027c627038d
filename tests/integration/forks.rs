//! Bundles that fork: the process that they make has a copy of the worker in it, but
//! calls are the worker's, each once (rule C3), and the fork ends where a script would.

use menagerie_supervisor::{Contract, Supervisor};
use tracing::Level;

use crate::bad_input::native::compile;
use crate::support::{
    Bundle, Line, find_line, ready_after, report, run, slay, start, wait_for, worker,
};

const IN_PYTHON: &str = "
import asyncio, multiprocessing, os, sys, threading
import menagerie

calls = 0

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@menagerie.export('forks@1')
def returns():
    return 'in the fork' if (pid := os.fork()) == 0 else status(pid)

@menagerie.export('forks@1')
async def returns_later():
    await asyncio.sleep(0)
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(0)
        return 'in the fork'
    return status(pid)

@menagerie.export('forks@1')
def raises():
    if (pid := os.fork()) == 0:
        raise ValueError('raised in the fork')
    return status(pid)

@menagerie.export('forks@1')
def exits():
    if (pid := os.fork()) == 0:
        sys.exit(7)
    return status(pid)

@menagerie.export('forks@1')
def in_a_thread():
    found = []
    def work():
        if (pid := os.fork()) != 0:
            found.append(status(pid))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0] if found else None

@menagerie.export('forks@1')
def calls_others():
    if (pid := os.fork()) == 0:
        try:
            menagerie.call('other@1', 'f')
        except menagerie.CallError as error:
            os._exit(9 if error.kind == 'WrongThread' else 8)
    return status(pid)

def work(queue):
    print('hello from the fork')
    queue.put('done')

@menagerie.export('forks@1')
def processes():
    # As `logging` does for each of its lines.
    threading.current_thread()
    context = multiprocessing.get_context('fork')
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=[queue])
    process.start()
    done = queue.get()
    process.join()
    return done if process.exitcode == 0 else process.exitcode

@menagerie.export('forks@1')
def count():
    global calls
    calls += 1
    return calls
";

fn manifest(loader: &str, file: &str) -> String {
    format!("name = 'forks'\nloader = '{loader}'\nfile = '{file}'\nprovides = ['forks@1']\n")
}

/// Whether all calls are answered by one process, and it is still the first.
async fn is_alone(supervisor: &Supervisor, loader: &str, forks: &Contract, from: u64) {
    for count in from..from + 20 {
        assert_eq!(forks.call::<_, u64>("count", ()).await.unwrap(), count);
    }
    let worker = worker(supervisor, loader).unwrap();
    assert_eq!((worker.incarnation, worker.restarts), (1, 0), "{worker:?}");
}

async fn said(text: &str) -> Line {
    wait_for(text, || find_line(|line| line.message.contains(text))).await
}

#[test]
fn c3_a_fork_of_a_python_worker_answers_no_calls() {
    run(async {
        let supervisor = start();
        let bundle = Bundle::of(&[
            ("manifest.toml", &manifest("python", "main.py")),
            ("main.py", IN_PYTHON),
        ]);
        supervisor.load(bundle.path()).await.unwrap();
        let forks = supervisor.contract("forks@1").unwrap();
        let expected =
            [("returns", 1), ("returns_later", 1), ("raises", 1), ("exits", 7), ("in_a_thread", 0)];
        for (round, (function, status)) in (0..).zip(expected) {
            assert_eq!(forks.call::<_, i32>(function, ()).await.unwrap(), status, "{function}");
            is_alone(&supervisor, "python", &forks, round * 20 + 1).await;
        }
        assert_eq!(forks.call::<_, i32>("calls_others", ()).await.unwrap(), 9);
        assert_eq!(forks.call::<_, String>("processes", ()).await.unwrap(), "done");
        is_alone(&supervisor, "python", &forks, 101).await;
        for text in ["came back from the function", "in raises", "ValueError: raised in the fork"] {
            let line = said(text).await;
            assert_eq!((line.bundle.as_deref(), line.level), (Some("forks"), Level::WARN));
        }
        assert_eq!(said("hello from the fork").await.bundle.as_deref(), Some("forks"));
        supervisor.shutdown().await;
    });
}

const IN_C: &str = r#"
#include <menagerie.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static int64_t calls;

/* How a fork may end that is no business of the worker's. */
static int ends(mg_call *call, void *userdata) {
    (void)userdata;
    mg_str way = mg_arg_str(call, 0);
    pid_t pid = fork();
    int status = 0;
    if (pid == 0) {
        if (way.ptr[0] == 'e') exit(3);
        if (way.ptr[0] == 'f') *(volatile int *)8 = 1;
        if (way.ptr[0] == 't') pthread_exit(NULL);
        abort();
    }
    waitpid(pid, &status, 0);
    return mg_return_i64(call, WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}

static int returns(mg_call *call, void *userdata) {
    (void)userdata;
    pid_t pid = fork();
    int status = 0;
    if (pid > 0) waitpid(pid, &status, 0);
    return mg_return_i64(call, WIFSIGNALED(status));
}

static int count(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_i64(call, ++calls);
}

/* The fork comes back from here as well. */
int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    pid_t pid = fork();
    if (pid > 0) waitpid(pid, NULL, 0);
    if (mg_add_function(registrar, "forks@1", "ends", NULL, ends, NULL)) return MG_FAILED;
    if (mg_add_function(registrar, "forks@1", "returns", "", returns, NULL)) return MG_FAILED;
    return mg_add_function(registrar, "forks@1", "count", "", count, NULL);
}
"#;

async fn in_c(supervisor: &Supervisor) -> (Contract, Bundle) {
    let bundle = Bundle::of(&[("manifest.toml", &manifest("native", "libforks.so"))]);
    compile(IN_C, &bundle.path().join("libforks.so"));
    supervisor.load(bundle.path()).await.unwrap();
    (supervisor.contract("forks@1").unwrap(), bundle)
}

/// Native code has nobody who would look after it: the fork dies of its answer, or of
/// what it has to say about its load.
#[test]
fn c3_a_fork_of_a_native_worker_answers_no_calls() {
    run(async {
        let supervisor = start();
        let (forks, _files) = in_c(&supervisor).await;
        said("came back to the worker's code").await;
        assert_eq!(forks.call::<_, i64>("returns", ()).await.unwrap(), 1);
        is_alone(&supervisor, "native", &forks, 1).await;
        supervisor.shutdown().await;
    });
}

#[test]
fn s5_a_bundle_whose_fork_has_ended_is_not_blamed_for_a_later_crash() {
    run(async {
        let supervisor = start();
        let (forks, _files) = in_c(&supervisor).await;
        let ways = [("exit", true), ("fault", false), ("abort", false), ("thread", false)];
        for (n, (way, exited)) in (1..).zip(ways) {
            let status = forks.call::<_, i64>("ends", (way,)).await.unwrap();
            assert_eq!(status == 3, exited, "{way}: {status}");
            assert!(exited || status < 0, "{way}: {status}");
            slay(worker(&supervisor, "native").unwrap().pid.unwrap());
            let told = report(&supervisor, "native", n).await;
            assert_eq!(told.signal, Some(9), "{way}: {told:?}");
            assert_eq!(told.suspect, None, "{way}: {told:?}");
            ready_after(&supervisor, "native", told.incarnation).await;
        }
        supervisor.shutdown().await;
    });
}
