//! What a worker gives back once it has loaded (`protocol/src/serve/settle.rs`): pages
//! of its VM's libraries that only the start has needed. What needs them afterwards
//! finds them again, in every language: exceptions with their stacks, imports,
//! compilers, and what a worker says when it dies.

use std::time::{Duration, Instant};

use menagerie_supervisor::{ByteBuf, Contract, Failure, Supervisor};
use menagerie_tests::Language;

use super::reports::has_its_languages_words;
use super::{Load, answers};
use crate::bad_input::bundles::assembly;
use crate::bad_input::native::compile;
use crate::support::{Bundle, PATIENCE, config, per_language, report, start_with, worker};

const PYTHON: &str = r#"
import importlib
import traceback

import menagerie

MODULES = [["json", "re"], ["decimal", "zlib", "fractions", "email.message", "csv", "unittest"]]


def deep(n):
    if n == 0:
        raise KeyError("deep down")
    deep(n - 1)


@menagerie.export("wide@1")
def work(n: int) -> str:
    for name in MODULES[n]:
        importlib.import_module(name)
    try:
        deep(50)
    except KeyError:
        told = traceback.format_exc()
    assert "deep down" in told and "in deep" in told, told
    squares = compile("sum(x * x for x in range(1000))", "<made>", "eval")
    assert eval(squares) == 332833500
    return f"done {n}"
"#;

const LUA: &str = r#"
local function deep(n)
  if n == 0 then error("deep down") end
  deep(n - 1)
  return n
end

return { ["wide@1"] = {
  work = function(n)
    local ok, told = xpcall(function() deep(50) end, debug.traceback)
    assert(not ok and told:find("deep down") and told:find("deep'") , told)
    local sum = 0
    for i = 1, 1000000 do sum = sum + i % (n + 7) end
    assert(sum > 0)
    local made = assert(load("local a = ... return a * 2"))
    assert(made(21) == 42)
    local each = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end)
    assert(each() + each() + each() == 6)
    assert(("%08.3f"):format(math.sin(1)):gsub("%d", "x") == "xxxx.xxx")
    return require("sibling" .. n)
  end,
} }
"#;

const JS: &str = r#"
function deep(n) {
  if (n === 0) throw new RangeError("deep down");
  deep(n - 1);
  return n;
}

function check(truth, what) {
  if (!truth) throw new Error(what);
}

function* three() { yield 1; yield 2; yield 3; }

export default { "wide@1": {
  async work(n) {
    let told = "";
    try { deep(50); } catch (error) { told = `${error.message}\n${error.stack}`; }
    check(told.includes("deep down") && told.includes("deep"), told);
    check(/(?<year>\d{4})-\p{L}+/u.exec("2026-août").groups.year === "2026", "expressions");
    check(2n ** 70n / 3n === 393530540239137101141n, "large numbers");
    check(JSON.stringify(JSON.parse('{"a":[1,{"b":null}]}')) === '{"a":[1,{"b":null}]}', "JSON");
    check([...three()].map((x) => x * x).sort((a, b) => b - a).join() === "9,4,1", "generators");
    check(new Proxy({}, { get: (_, name) => name }).word === "word", "proxies");
    check(new Date(0).toISOString() === "1970-01-01T00:00:00.000Z", "dates");
    const sibling = await import(`./sibling${n}.js`);
    return sibling.done;
  },
} };
"#;

const C: &str = r#"
#define _GNU_SOURCE
#include <menagerie.h>
#include <dlfcn.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>

static int order(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static void *thread(void *numbers) {
    qsort(numbers, 3, sizeof(int), order);
    return numbers;
}

static int work(mg_call *call, void *userdata) {
    (void)userdata;
    int numbers[3] = {3, 1, 2};
    char text[64];
    pthread_t other;
    regex_t expression;
    void *library = dlopen("libm.so.6", RTLD_NOW);
    double (*root)(double) = library ? (double (*)(double))dlsym(library, "sqrt") : NULL;
    if (!root || pthread_create(&other, NULL, thread, numbers)) return MG_FAILED;
    pthread_join(other, NULL);
    if (regcomp(&expression, "^1 2 3 1\\.4[0-9]+$", REG_EXTENDED | REG_NOSUB)) return MG_FAILED;
    snprintf(text, sizeof text, "%d %d %d %f", numbers[0], numbers[1], numbers[2], root(2.0));
    int found = regexec(&expression, text, 0, NULL, 0);
    regfree(&expression);
    dlclose(library);
    snprintf(text, sizeof text, "%s %d", found ? "failed" : "done", (int)mg_arg_i64(call, 0));
    return mg_return_str(call, mg_text(text));
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    return mg_add_function(registrar, "wide@1", "work", NULL, work, NULL);
}
"#;

/// A bundle that uses much of what its language has; for Rust and C the one in C.
fn wide(language: Language) -> Bundle {
    let (file, code) = match language.suffix {
        "py" => ("main.py", PYTHON),
        "lua" => ("main.lua", LUA),
        "js" => ("main.js", JS),
        "dotnet" => ("main.dll", ""),
        _ => ("main.so", ""),
    };
    let loader = language.loader;
    let manifest = format!(
        "name = 'wide'\nversion = '1.0.0'\nloader = '{loader}'\nfile = '{file}'\n\
         provides = ['wide@1']\n"
    );
    let bundle = Bundle::of(&[("manifest.toml", &manifest), (file, code)]);
    for n in [0, 1] {
        match language.suffix {
            "lua" => bundle.write(&format!("sibling{n}.lua"), &format!("return 'done {n}'")),
            "js" => {
                let code = format!("export const done = 'done {n}';");
                bundle.write(&format!("sibling{n}.js"), &code);
            }
            _ => {}
        }
    }
    let artifact = bundle.path().join(file);
    match language.loader {
        "native" => compile(C, &artifact),
        "dotnet" => drop(std::fs::copy(assembly("wide"), artifact).unwrap()),
        _ => {}
    }
    bundle
}

async fn works(wide: &Contract, n: u8) {
    assert_eq!(wide.call::<_, String>("work", (n,)).await.unwrap(), format!("done {n}"));
}

/// The memory of a process that is pages of files, in KiB (proc_pid_status(5)).
fn of_files(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssFile:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Starts the worker anew, and waits until the next one has given back what it
/// need not have. That is seen by the drop of its memory, and so it is missed where
/// this process sleeps meanwhile: then another one is tried.
async fn has_settled(supervisor: &Supervisor, loader: &str) {
    let give_up = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while Instant::now() < give_up {
        let pid = supervisor.restart(loader).await.unwrap().pid.unwrap();
        let (mut most, end) = (0, Instant::now() + Duration::from_secs(8));
        while Instant::now() < end {
            let now = of_files(pid).unwrap();
            if now * 10 < most * 9 {
                return;
            }
            most = most.max(now);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        seen.push((most, of_files(pid)));
    }
    panic!("no worker of {loader} has settled: {seen:?}");
}

async fn s4_a_worker_that_has_given_its_pages_back_goes_on(suffix: &str) {
    let supervisor = start_with(config());
    let language = Language::of(suffix);
    supervisor.load(language.bundle("greeter")).await.unwrap();
    supervisor.load(language.bundle("probe")).await.unwrap();
    let wide_bundle = wide(language);
    supervisor.load(wide_bundle.path()).await.unwrap();
    let probe = supervisor.contract("probe@1").unwrap();
    let wide = supervisor.contract("wide@1").unwrap();
    // At once, and all the time.
    works(&wide, 0).await;
    let load = Load::on(&probe, 1);
    has_settled(&supervisor, language.loader).await;
    let failed = load.end().await;
    // A restart by hand may cut a call short.
    let of_restarts = |failure: &Failure| matches!(failure, Failure::WorkerCrashed { .. });
    assert!(failed.iter().all(of_restarts), "{failed:?}");
    let settled = worker(&supervisor, language.loader).unwrap();

    for n in [1, 0] {
        works(&wide, n).await;
    }
    for args in [("fail", "the reason"), ("inc", "no number")] {
        let outcome = probe.call::<_, i64>(args.0, (args.1,)).await;
        let typed = matches!(outcome, Err(Failure::Guest(_) | Failure::BadArguments { .. }));
        assert!(typed, "{outcome:?}");
    }
    // Rust's own panic, where overflows are ones.
    let outcome = probe.call::<_, i64>("inc", (i64::MAX,)).await;
    assert!(!matches!(outcome, Err(Failure::WorkerCrashed { .. })), "{outcome:?}");
    let blob: ByteBuf = probe.call("blob", (1_000_000,)).await.unwrap();
    assert_eq!(blob.len(), 1_000_000);
    supervisor.reload(&format!("probe-{suffix}")).await.unwrap();
    let greeter = supervisor.contract("greeter@1").unwrap();
    let text: String = greeter.call("greet", ("Ada",)).await.unwrap();
    assert_eq!(text, "Hello, Ada");
    answers(&probe).await;
    supervisor.unload("wide").await.unwrap();
    supervisor.load(wide_bundle.path()).await.unwrap();
    works(&supervisor.contract("wide@1").unwrap(), 1).await;
    let now = worker(&supervisor, language.loader).unwrap();
    assert_eq!((now.pid, now.incarnation), (settled.pid, settled.incarnation));
    assert!(supervisor.crashes().is_empty(), "{:?}", supervisor.crashes());

    let outcome = probe.call::<_, ()>("crash", ()).await;
    assert!(matches!(outcome, Err(Failure::WorkerCrashed { started: true, .. })), "{outcome:?}");
    has_its_languages_words(suffix, &report(&supervisor, language.loader, 1).await);
    answers(&probe).await;
    supervisor.shutdown().await;
}

per_language!(rust, c, py, lua, js, dotnet; {
    s4_a_worker_that_has_given_its_pages_back_goes_on,
});
