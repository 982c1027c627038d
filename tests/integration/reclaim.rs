//! What unloading and reloading frees (rules L8, L9), in a few rounds; `make
//! soak` does thousands. Checked are leaks of whole generations: what is counted
//! is exact, and memory has room for what allocators keep.

use menagerie_supervisor::Supervisor;
use menagerie_tests::Language;

use crate::support::{Bundle, per_language, start, worker};

/// Rounds before and between two measurements.
const ROUNDS: u32 = 12;
/// What this many rounds may add to resident memory without being a leak of
/// whole generations.
const ROOM: u64 = 48 << 20;

async fn rounds(supervisor: &Supervisor, language: Language) {
    let dir = language.bundle("greeter");
    let name = format!("greeter-{}", language.suffix);
    let greet = || async {
        let contract = supervisor.contract(&format!("{name}/greeter@1")).unwrap();
        let text: String = contract.call("greet", ("Ada",)).await.unwrap();
        assert_eq!(text, "Hello, Ada");
    };
    for _ in 0..ROUNDS {
        supervisor.load(&dir).await.unwrap();
        greet().await;
        supervisor.reload(&name).await.unwrap();
        greet().await;
        supervisor.unload(&name).await.unwrap();
    }
}

async fn l9_memory_stays_where_it_is(suffix: &str) {
    let language = Language::of(suffix);
    let supervisor = start();
    rounds(&supervisor, language).await;
    let before = worker(&supervisor, language.loader).unwrap();
    rounds(&supervisor, language).await;
    let after = worker(&supervisor, language.loader).unwrap();
    assert_eq!((after.pid, after.restarts), (before.pid, 0), "the worker has died");
    let (before, after) = (before.rss_bytes.unwrap(), after.rss_bytes.unwrap());
    assert!(after < before + ROOM, "{before} bytes, then {after}");
    supervisor.shutdown().await;
}

/// Copies of the bundle's library that a worker has mapped.
fn mapped(supervisor: &Supervisor, library: &str) -> usize {
    let pid = worker(supervisor, "native").unwrap().pid.unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut copies: Vec<&str> = maps
        .lines()
        .filter(|line| line.contains(library))
        // Address, mode, offset, device, inode, path: one copy, one inode.
        .filter_map(|line| line.split_whitespace().nth(4))
        .collect();
    copies.sort_unstable();
    copies.dedup();
    copies.len()
}

async fn l8_no_library_stays_mapped(suffix: &str, library: &str) {
    let language = Language::of(suffix);
    let supervisor = start();
    rounds(&supervisor, language).await;
    assert_eq!(mapped(&supervisor, library), 0);
    supervisor.load(language.bundle("greeter")).await.unwrap();
    for _ in 0..3 {
        supervisor.reload(&format!("greeter-{suffix}")).await.unwrap();
        assert_eq!(mapped(&supervisor, library), 1);
    }
    supervisor.shutdown().await;
}

/// A bundle with a module of its own, loaded again and again; another one
/// counts what the interpreter has.
#[tokio::test(flavor = "multi_thread")]
async fn l8_pythons_modules_go_with_their_bundle() {
    let supervisor = start();
    let counter = Bundle::of(&[
        (
            "manifest.toml",
            "name = 'counter'\nloader = 'python'\nfile = 'main.py'\nprovides = ['counter@1']\n",
        ),
        (
            "main.py",
            "import gc, sys, types\nimport menagerie\n\
             @menagerie.export('counter@1')\n\
             def modules() -> int:\n    return len(sys.modules)\n\
             @menagerie.export('counter@1')\n\
             def alive() -> int:\n\
             \x20   gc.collect()\n\
             \x20   return sum(1 for o in gc.get_objects()\n\
             \x20              if isinstance(o, types.ModuleType) and hasattr(o, 'SOME_MARK'))\n",
        ),
    ]);
    supervisor.load(counter.path()).await.unwrap();
    let counter = supervisor.contract("counter@1").unwrap();
    let subject = Bundle::of(&[
        (
            "manifest.toml",
            "name = 'subject'\nloader = 'python'\nfile = 'main.py'\nprovides = ['subject@1']\n",
        ),
        (
            "main.py",
            "import menagerie, helper\nSOME_MARK = True\n\
             @menagerie.export('subject@1')\ndef f() -> int:\n    return helper.g()\n",
        ),
        ("helper.py", "SOME_MARK = True\ndef g():\n    return 7\n"),
    ]);
    let count = |function: &'static str| {
        let counter = counter.clone();
        async move { counter.call::<_, u64>(function, ()).await.unwrap() }
    };
    let mut first = None;
    for _ in 0..ROUNDS {
        supervisor.load(subject.path()).await.unwrap();
        let contract = supervisor.contract("subject@1").unwrap();
        assert_eq!(contract.call::<_, u64>("f", ()).await.unwrap(), 7);
        assert_eq!(count("alive").await, 2);
        supervisor.reload("subject").await.unwrap();
        assert_eq!(count("alive").await, 2, "the old generation's are gone");
        supervisor.unload("subject").await.unwrap();
        assert_eq!(count("alive").await, 0);
        let modules = count("modules").await;
        assert_eq!(modules, *first.get_or_insert(modules));
    }
    supervisor.shutdown().await;
}

per_language!(rust, c, py, lua, js, dotnet; {
    l9_memory_stays_where_it_is,
});

#[tokio::test(flavor = "multi_thread")]
async fn l8_no_rust_library_stays_mapped() {
    l8_no_library_stays_mapped("rust", "libgreeter_rust.so").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l8_no_c_library_stays_mapped() {
    l8_no_library_stays_mapped("c", "libgreeter_c.so").await;
}
