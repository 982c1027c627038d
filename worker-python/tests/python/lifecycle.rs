use menagerie_protocol::{BundleSource, LoaderError};
use rmpv::Value;

use crate::support::{Folder, T, call, code, guest_error, harness, init_failed, manifest};

#[test]
fn exports_are_sorted_by_contract_and_keep_the_order_of_definition() {
    let harness = harness();
    let text = manifest("exports").replace("[\"t@1\"]", "[\"t@1\", \"a.b@2\"]");
    let bundle = harness
        .load(
            &text,
            BundleSource::Code(
                "
import menagerie
@menagerie.export('t@1')
def zeta(): return 'zeta'
@menagerie.export('a.b@2')
def only(): return 'only'
@menagerie.export('t@1')
def alpha(): return 'alpha'
class Callable:
    def __call__(self, n: int): return n
export = Callable()
export.__name__ = 'called'
menagerie.export('t@1')(export)
"
                .to_owned(),
            ),
        )
        .unwrap();
    let contracts = bundle.contracts();
    let told: Vec<_> = contracts.iter().map(|c| (c.contract.as_str(), &c.functions[..])).collect();
    assert_eq!(told[0].0, "a.b@2");
    assert_eq!(told[0].1, ["only"]);
    assert_eq!(told[1].0, "t@1");
    assert_eq!(told[1].1, ["zeta", "alpha", "called"]);
    for function in ["zeta", "alpha"] {
        assert_eq!(call::<_, String>(&bundle, function, ()).unwrap(), function);
    }
    assert_eq!(bundle.call::<_, String>("a.b@2", "only", ()).unwrap(), "only");
    assert_eq!(call::<_, u8>(&bundle, "called", (7,)).unwrap(), 7);
    assert!(call::<_, u8>(&bundle, "called", ("x",)).is_err());
}

#[test]
fn l4_code_has_no_directory_and_bytes_are_refused() {
    let harness = harness();
    let (step, error) = init_failed(code(&harness, "from-memory", "import sibling"));
    assert_eq!((step.as_str(), error.type_name.as_str()), ("import", "ModuleNotFoundError"));
    assert!(error.message.contains("sibling"), "{}", error.message);
    assert!(error.message.contains("no directory"), "{}", error.message);
    let refused = harness.load(&manifest("bytes"), BundleSource::Bytes(vec![1]));
    assert!(
        matches!(refused, Err(LoaderError::UnsupportedBundleSource { ref kind, .. }) if kind == "bytes"),
        "{refused:?}"
    );
}

#[test]
fn l4_code_shows_its_lines_in_stacks() {
    let harness = harness();
    let bundle =
        code(&harness, "lines", "@menagerie.export('t@1')\ndef f(): return 1 / 0\n").unwrap();
    let error = guest_error(call::<_, ()>(&bundle, "f", ()).unwrap_err());
    assert!(error.stack.contains("line 3, in f\n    def f(): return 1 / 0"), "{}", error.stack);
}

#[test]
fn l5_failures_at_load_name_step_and_place() {
    let harness = harness();
    let folder = Folder::new("broken", &[("main.py", "x = 1\ndef f(:\n    pass\n")]);
    let (step, error) = init_failed(harness.load_dir(folder.path()));
    assert_eq!((step.as_str(), error.type_name.as_str()), ("compile", "SyntaxError"));
    assert!(error.stack.contains("main.py\", line 2"), "{}", error.stack);

    folder.write("main.py", "import no_such_module_anywhere\n");
    let (step, error) = init_failed(harness.load_dir(folder.path()));
    assert_eq!((step.as_str(), error.type_name.as_str()), ("import", "ModuleNotFoundError"));
    assert!(error.message.contains("no_such_module_anywhere"), "{}", error.message);
    assert!(!error.stack.contains("<menagerie>"), "{}", error.stack);

    folder.write("main.py", "def start():\n    raise OSError('no disk')\nstart()\n");
    let (step, error) = init_failed(harness.load_dir(folder.path()));
    assert_eq!((step.as_str(), error.type_name.as_str()), ("initialise", "OSError"));
    assert!(error.stack.contains("main.py\", line 2, in start"), "{}", error.stack);

    folder.write("main.py", "import sys\nsys.exit(0)\n");
    let (step, error) = init_failed(harness.load_dir(folder.path()));
    assert_eq!((step.as_str(), error.type_name.as_str()), ("initialise", "SystemExit"));

    let twice = "@menagerie.export('t@1')\ndef f(): pass\n".repeat(2);
    let (_, error) = init_failed(code(&harness, "twice", &twice));
    assert!(error.message.contains("twice"), "{}", error.message);
    let (step, error) =
        init_failed(code(&harness, "keyword", "@menagerie.export('t@1')\ndef f(*, k): pass"));
    assert_eq!(step, "register");
    assert!(error.message.contains("'k'"), "{}", error.message);
    let (_, error) = init_failed(code(&harness, "bare", "@menagerie.export\ndef f(): pass"));
    assert!(error.message.contains("@menagerie.export("), "{}", error.message);
}

#[test]
fn exports_are_taken_while_the_main_module_loads_only() {
    let harness = harness();
    let late = "
@menagerie.export('t@1')
def late():
    menagerie.export('t@1')(print)
";
    let bundle = code(&harness, "late", late).unwrap();
    let error = guest_error(call::<_, ()>(&bundle, "late", ()).unwrap_err());
    assert_eq!(error.type_name, "RuntimeError");
    assert!(error.message.contains("too late"), "{}", error.message);
}

#[test]
fn b3_function_names_are_snake_case() {
    let harness = harness();
    let refused = code(&harness, "camel", "@menagerie.export('t@1')\ndef camelCase(): pass");
    assert!(matches!(refused, Err(LoaderError::BadFunctionName { .. })), "{refused:?}");
}

#[test]
fn l5_nothing_of_a_failed_load_stays_behind() {
    let harness = harness();
    let witness = code(&harness, "witness-l5", WITNESS).unwrap();
    let folder = Folder::new(
        "halfway",
        &[
            (
                "main.py",
                "import halfway_helper\nimport menagerie\nmenagerie.export('t@1')(halfway_helper.f)\nraise ValueError('no')",
            ),
            ("halfway_helper.py", "def f(): pass"),
        ],
    );
    init_failed(harness.load_dir(folder.path()));
    let left: Vec<String> = call(&witness, "modules", ("halfway",)).unwrap();
    assert_eq!(left, [""; 0]);
    assert_eq!(call::<_, u32>(&witness, "functions_in", ("halfway_helper.py",)).unwrap(), 0);
}

/// Looks at what the interpreter holds.
const WITNESS: &str = "
import gc, sys, types, weakref
watched = []

@menagerie.export('t@1')
def modules(part):
    return sorted(name for name in sys.modules if part in name)

@menagerie.export('t@1')
def watch(part):
    for name, module in list(sys.modules.items()):
        if part in name:
            watched.append(weakref.ref(module))
    return len(watched)

@menagerie.export('t@1')
def alive():
    return sum(ref() is not None for ref in watched)

@menagerie.export('t@1')
def functions_in(file):
    return sum(
        isinstance(thing, types.FunctionType) and thing.__code__.co_filename.endswith(file)
        for thing in gc.get_objects()
    )
";

#[test]
fn l8_python_modules_leave_sys_modules() {
    let harness = harness();
    let witness = code(&harness, "witness-l8", WITNESS).unwrap();
    let folder = Folder::new(
        "leaver",
        &[
            (
                "main.py",
                "
import asyncio, dataclasses, logging, typing
import menagerie
from leaver_parts import thing
log = logging.getLogger(__name__)

@dataclasses.dataclass
class Shape:
    corners: typing.Optional['Shape'] = None
    def round(self): return self.corners is None

Shapes = typing.List[Shape]

@menagerie.export('t@1')
def fails(shape: Shapes): raise KeyError(Shape())

@menagerie.export('t@1')
async def waits(): await asyncio.sleep(0)
",
            ),
            ("leaver_parts/__init__.py", ""),
            ("leaver_parts/thing.py", "from . import other\n"),
            ("leaver_parts/other.py", "def f(): pass\n"),
        ],
    );
    let bundle = harness.load_dir(folder.path()).unwrap();
    call::<_, ()>(&bundle, "fails", ([0],)).unwrap_err();
    call::<_, ()>(&bundle, "waits", ()).unwrap();
    let there: Vec<String> = call(&witness, "modules", ("_leaver",)).unwrap();
    assert_eq!(there.len(), 5, "{there:?}");
    assert_eq!(call::<_, usize>(&witness, "watch", ("_leaver",)).unwrap(), 5);
    assert_eq!(call::<_, usize>(&witness, "alive", ()).unwrap(), 5);
    bundle.unload();
    let left: Vec<String> = call(&witness, "modules", ("_leaver",)).unwrap();
    assert_eq!(left, [""; 0]);
    assert_eq!(call::<_, usize>(&witness, "alive", ()).unwrap(), 0);
    // Not only the modules: what they held as well.
    for file in ["leaver_parts/other.py", &folder.path().join("main.py").display().to_string()] {
        assert_eq!(call::<_, u32>(&witness, "functions_in", (file,)).unwrap(), 0, "{file}");
    }
}

/// A copy of a signed bundle is at another path at each load.
#[test]
fn l9_python_forgets_the_sources_that_a_traceback_has_shown() {
    let harness = harness();
    let code_of = "
import linecache, sys

@menagerie.export('t@1')
def kept(folder):
    return [path for cache in (linecache.cache, sys.path_importer_cache) for path in cache if path.startswith(folder)]
";
    let witness = code(&harness, "witness-l9", code_of).unwrap();
    let folder = Folder::new(
        "copied",
        &[
            (
                "main.py",
                "import menagerie\nfrom copied_parts import thing\n\
                 @menagerie.export('t@1')\ndef fails():\n    try: from copied_parts import none\n    \
                 except ImportError: thing.fail()\n",
            ),
            ("copied_parts/__init__.py", ""),
            ("copied_parts/thing.py", "def fail(): raise KeyError('told with its line')\n"),
        ],
    );
    let path = folder.path().display().to_string();
    let kept = || call::<_, Vec<String>>(&witness, "kept", (&path,)).unwrap();
    let bundle = harness.load_dir(folder.path()).unwrap();
    let error = guest_error(call::<_, ()>(&bundle, "fails", ()).unwrap_err());
    assert!(error.stack.contains("def fail()"), "{}", error.stack);
    assert_ne!(kept(), [""; 0]);
    bundle.unload();
    assert_eq!(kept(), [""; 0]);
}

#[test]
fn l6_a_reload_sees_the_edited_source_and_leaves_no_bytecode() {
    let harness = harness();
    let main = "
import menagerie
from parts import number

@menagerie.export('t@1')
def get():
    import lazily
    return [number.value(), lazily.value()]
";
    let folder = Folder::new("edited", &[("main.py", main), ("parts/__init__.py", "")]);
    let path = folder.path().join("parts/number.py");
    let write = |n: u32| {
        folder.write("parts/number.py", &format!("def value(): return {n}\n"));
        folder.write("lazily.py", &format!("def value(): return {n}\n"));
        // The same size and the same time as before: no cache could tell.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    write(1);
    let bundle = harness.load_dir(folder.path()).unwrap();
    for n in 1..5 {
        assert_eq!(call::<_, Vec<u32>>(&bundle, "get", ()).unwrap(), [n, n]);
        write(n + 1);
        assert_eq!(call::<_, Vec<u32>>(&bundle, "get", ()).unwrap(), [n, n]);
        bundle.reload().unwrap();
    }
    let files: Vec<_> = folder.files().iter().map(|f| f.display().to_string()).collect();
    assert_eq!(
        files,
        ["lazily.py", "main.py", "manifest.toml", "parts/__init__.py", "parts/number.py"]
    );
}

#[test]
fn l6_a_failed_reload_keeps_the_old_generation() {
    let harness = harness();
    let good = "import menagerie\n@menagerie.export('t@1')\ndef get(): return 'old'\n";
    let folder = Folder::new("fails-to-reload", &[("main.py", good)]);
    let bundle = harness.load_dir(folder.path()).unwrap();
    for bad in ["def (", "raise ValueError('no')", "import nowhere_at_all", "x = 1"] {
        folder.write("main.py", bad);
        assert!(bundle.reload().is_err(), "{bad}");
        assert_eq!(call::<_, String>(&bundle, "get", ()).unwrap(), "old");
    }
    folder.write("main.py", &good.replace("old", "new"));
    bundle.reload().unwrap();
    assert_eq!(call::<_, String>(&bundle, "get", ()).unwrap(), "new");
}

#[test]
fn hooks_hand_the_state_over() {
    let harness = harness();
    let bundle = code(
        &harness,
        "hooks",
        "
counter = 0
seen = []

def on_load(context):
    global counter
    seen.extend([context.bundle, context.generation, context.state])
    counter = (context.state or {}).get('counter', 0)

async def on_unload():
    import asyncio
    await asyncio.sleep(0)
    return {'counter': counter}

@menagerie.export('t@1')
def count():
    global counter
    counter += 1
    return counter

@menagerie.export('t@1')
def told(): return seen
",
    )
    .unwrap();
    let told: Value = call(&bundle, "told", ()).unwrap();
    assert_eq!(told, Value::Array(vec!["hooks".into(), 1.into(), Value::Nil]));
    assert_eq!(call::<_, u32>(&bundle, "count", ()).unwrap(), 1);
    assert_eq!(call::<_, u32>(&bundle, "count", ()).unwrap(), 2);
    bundle.reload().unwrap();
    assert_eq!(call::<_, u32>(&bundle, "count", ()).unwrap(), 3);
    let told: Value = call(&bundle, "told", ()).unwrap();
    let state = Value::Map(vec![("counter".into(), 2.into())]);
    assert_eq!(told, Value::Array(vec!["hooks".into(), 2.into(), state]));
}

/// It names the modules of the generation that made it, and those go with it.
#[test]
fn l6_a_pickle_of_the_bundles_own_classes_is_no_state() {
    let harness = harness();
    let bundle = code(
        &harness,
        "pickles",
        "
import pickle

class Thing:
    def __init__(self): self.n = 7

thing = Thing()
plain = False

def on_load(context):
    global thing
    if isinstance(context.state, dict):
        thing = Thing()
        vars(thing).update(context.state)
    elif context.state is not None:
        thing = pickle.loads(context.state)

def on_unload():
    return vars(thing) if plain else pickle.dumps(thing)

@menagerie.export('t@1')
def is_own(): return type(thing) is Thing and thing.n

@menagerie.export('t@1')
def use_plain():
    global plain
    plain = True
    # Its own it can read.
    return pickle.loads(pickle.dumps(thing)).n
",
    )
    .unwrap();
    let Err(LoaderError::InitFailed { step, error, .. }) = bundle.reload() else { panic!() };
    assert_eq!((&*step, &*error.type_name), ("run on_load", "ImportError"));
    assert!(error.message.contains("plain values"), "{}", error.message);
    assert_eq!(call::<_, u8>(&bundle, "is_own", ()).unwrap(), 7);
    assert_eq!(call::<_, u8>(&bundle, "use_plain", ()).unwrap(), 7);
    bundle.reload().unwrap();
    assert_eq!(call::<_, u8>(&bundle, "is_own", ()).unwrap(), 7);
}

#[test]
fn hooks_that_raise_fail_the_step() {
    let harness = harness();
    let refused = code(
        &harness,
        "raises-on-load",
        "
@menagerie.export('t@1')
def f(): pass
def on_load(context): raise ValueError('not today')
",
    );
    let (_, error) = init_failed(refused);
    assert_eq!(error.message, "not today");
    let bundle = code(
        &harness,
        "raises-on-unload",
        "
@menagerie.export('t@1')
def f(): return 1
def on_unload(): raise ValueError('stay')
",
    )
    .unwrap();
    let failed = bundle.reload();
    assert!(matches!(failed, Err(LoaderError::InitFailed { .. })), "{failed:?}");
    assert_eq!(bundle.call::<_, u32>(T, "f", ()).unwrap(), 1);
}
