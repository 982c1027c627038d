use std::os::unix::fs::symlink;
use std::path::Path;

use menagerie_protocol::testing::Harness;
use menagerie_worker_python::PythonLoader;

use crate::support::{Folder, call, code, guest_error, harness};

const MAIN: &str = "
import importlib
import menagerie
import utils
from utils import NAME
import pkg.deep.leaf as leaf
import pkg.deep.leaf
from pkg import relative
from pkg.deep import *

@menagerie.export('t@1')
def names():
    import utils as again
    import lazily
    from pkg.deep.leaf import WHO
    assert again is utils is importlib.import_module('utils') is __import__('utils')
    assert importlib.import_module('pkg.deep.leaf') is leaf
    assert importlib.import_module('.deep.leaf', 'pkg') if False else True
    assert pkg.deep.leaf is leaf and shown == 'shown'
    return [utils.NAME, NAME, lazily.NAME, WHO, relative.NAME]

@menagerie.export('t@1')
def in_thread():
    import threading
    found = []
    def run():
        import only_in_thread
        found.append(only_in_thread.NAME)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found

@menagerie.export('t@1')
def standard():
    import json, base64, xml.dom.minidom
    import data
    return [json.dumps([1]), json.__name__, base64.__name__, data.inside.NAME]
";

fn folder(name: &str) -> Folder {
    let line = format!("NAME = '{name}'\n");
    Folder::new(
        name,
        &[
            ("main.py", MAIN),
            ("utils.py", &line),
            ("lazily.py", "from utils import NAME\n"),
            ("only_in_thread.py", "import utils\nNAME = utils.NAME\n"),
            ("pkg/__init__.py", ""),
            ("pkg/relative.py", "from ..utils import NAME\nfrom .deep.leaf import WHO\n"),
            ("pkg/deep/__init__.py", "__all__ = ['shown']\nshown = 'shown'\nhidden = 1\n"),
            ("pkg/deep/leaf.py", "from utils import NAME as WHO\n"),
            // A folder that only holds data must not hide the standard library.
            ("xml/notes.txt", ""),
            ("data/inside.py", &line),
            ("base64.py", "raise AssertionError('reserved')\n"),
        ],
    )
}

#[test]
fn bundles_import_their_own_files_and_never_each_others() {
    let harness = harness();
    let names = ["one", "two"];
    let folders = names.map(folder);
    for folder in &folders {
        // The bundle's own files come before the standard library's, as they
        // do for a script: this one is meant.
        folder.write("base64.py", "NAME = 'own'\n");
        folder.write("data/__init__.py", "from . import inside\n");
    }
    let bundles = folders.each_ref().map(|folder| harness.load_dir(folder.path()).unwrap());
    for _ in 0..2 {
        for (bundle, name) in bundles.iter().zip(names) {
            let told: Vec<String> = call(bundle, "names", ()).unwrap();
            assert_eq!(told, [name; 5]);
            assert_eq!(call::<_, Vec<String>>(bundle, "in_thread", ()).unwrap(), [name]);
            let told: Vec<String> = call(bundle, "standard", ()).unwrap();
            assert_eq!(told[..2], ["[1]", "json"]);
            assert!(told[2].ends_with(".base64") && told[2] != "base64", "{}", told[2]);
            assert_eq!(told[3], name);
        }
    }
    // Whoever else imports base64 gets the standard library's.
    let other = Folder::new(
        "three",
        &[(
            "main.py",
            "import menagerie, base64\n@menagerie.export('t@1')\ndef f(): return base64.__name__\n",
        )],
    );
    let other = harness.load_dir(other.path()).unwrap();
    assert_eq!(call::<_, String>(&other, "f", ()).unwrap(), "base64");
}

#[test]
fn folders_without_init_are_packages_unless_the_name_is_taken() {
    let harness = harness();
    let folder = Folder::new(
        "namespaces",
        &[
            (
                "main.py",
                "
import menagerie
import json.decoder
import plain.part
from plain import other

@menagerie.export('t@1')
def f(): return [json.decoder.__name__, plain.part.NAME, other.NAME]
",
            ),
            ("json/data.txt", ""),
            ("plain/part.py", "NAME = 'part'\n"),
            ("plain/other.py", "from .part import NAME\n"),
        ],
    );
    let bundle = harness.load_dir(folder.path()).unwrap();
    assert_eq!(call::<_, Vec<String>>(&bundle, "f", ()).unwrap(), ["json.decoder", "part", "part"]);
}

/// As in the other languages: links within the folder are followed, and what
/// leads out of it, or is no file of a sane size, is not read.
#[test]
fn b2_siblings_are_files_of_the_bundles_own_folder() {
    let harness = harness();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("out.py"), "NAME = 'out'\n").unwrap();
    let main = "
import menagerie, os
os.mkfifo(os.path.join(os.path.dirname(__file__), 'pipe.py'))

@menagerie.export('t@1')
def find(name: str) -> str:
    try:
        return __import__(name, fromlist=['NAME']).NAME
    except ImportError as error:
        return str(error)
";
    let files = [("main.py", main), ("own/real.py", "NAME = 'own'\n")];
    let folder = Folder::new("links", &files);
    let link = |to: &Path, name: &str| symlink(to, folder.path().join(name)).unwrap();
    link(Path::new("own/real.py"), "inside.py");
    link(Path::new("own"), "inner");
    link(&outside.path().join("out.py"), "file_out.py");
    link(&outside.path().join("out.py"), "extension_out.so");
    link(outside.path(), "folder_out");
    link(Path::new("/dev/zero"), "device.py");
    std::fs::File::create(folder.path().join("huge.py")).unwrap().set_len(1 << 30).unwrap();
    let bundle = harness.load_dir(folder.path()).unwrap();
    for (name, wanted) in [
        ("inside", "own"),
        ("inner.real", "own"),
        ("file_out", "leads out of the bundle's folder"),
        ("extension_out", "leads out of the bundle's folder"),
        ("folder_out.out", "leads out of the bundle's folder"),
        ("device", "No module named"),
        ("pipe", "No module named"),
        ("huge", "larger than 512 MiB"),
    ] {
        let told: String = call(&bundle, "find", (name,)).unwrap();
        assert!(told.contains(wanted), "{name}: {told}");
    }
}

#[test]
fn modules_written_while_the_bundle_runs_are_found() {
    let harness = harness();
    let folder = Folder::new(
        "writes",
        &[(
            "main.py",
            "
import importlib, pathlib, menagerie

@menagerie.export('t@1')
def write():
    try:
        import written
    except ModuleNotFoundError:
        pathlib.Path(__file__).with_name('written.py').write_text('NAME = 1')
    import written
    return written.NAME

@menagerie.export('t@1')
def rewrite():
    import written
    pathlib.Path(__file__).with_name('written.py').write_text('NAME = 2')
    return importlib.reload(written).NAME
",
        )],
    );
    let bundle = harness.load_dir(folder.path()).unwrap();
    assert_eq!(call::<_, u32>(&bundle, "write", ()).unwrap(), 1);
    assert_eq!(call::<_, u32>(&bundle, "rewrite", ()).unwrap(), 2);
}

#[test]
fn a_bundle_whose_folder_has_gone_imports_what_it_knows() {
    let harness = harness();
    let main = "
import menagerie, beside

@menagerie.export('t@1')
def standard():
    import fractions, beside
    return [str(fractions.Fraction(1, 2)), beside.NAME]

@menagerie.export('t@1')
def missing():
    import never_read
";
    let files = [("main.py", main), ("beside.py", "NAME = 'beside'\n"), ("never_read.py", "")];
    let folder = Folder::new("gone", &files);
    let bundle = harness.load_dir(folder.path()).unwrap();
    drop(folder);
    assert_eq!(call::<_, Vec<String>>(&bundle, "standard", ()).unwrap(), ["1/2", "beside"]);
    let error = guest_error(call::<_, ()>(&bundle, "missing", ()).unwrap_err());
    assert_eq!(error.type_name, "ModuleNotFoundError");
}

#[test]
fn a_main_module_in_a_sub_folder_imports_what_is_beside_it() {
    let harness = harness();
    let folder = Folder::new(
        "nested",
        &[
            (
                "src/main.py",
                "
import menagerie, beside, above

@menagerie.export('t@1')
def f(): return [beside.NAME, above.NAME]
",
            ),
            ("src/beside.py", "NAME = 'beside'\n"),
            ("above.py", "NAME = 'above'\n"),
        ],
    );
    let manifest = crate::support::manifest("nested").replace("main.py", "src/main.py");
    folder.write("manifest.toml", &manifest);
    let bundle = harness.load_dir(folder.path()).unwrap();
    assert_eq!(call::<_, Vec<String>>(&bundle, "f", ()).unwrap(), ["beside", "above"]);
}

/// What a bundle finds imported before it imports anything.
const FOUND: &str = "
import sys
found = 'asyncio' in sys.modules

@menagerie.export('t@1')
def was_there() -> bool:
    return found
";

#[test]
fn s8_a_standby_has_imported_what_bundles_import() {
    let loader = PythonLoader::with_venv(None);
    let warm_up = loader.warm_up().unwrap();
    warm_up.join().unwrap();
    let bundle = code(&Harness::new(loader), "warm", FOUND).unwrap();
    assert!(call::<_, bool>(&bundle, "was_there", ()).unwrap());
}

/// Each test is a process of its own.
#[test]
fn s8_a_worker_that_is_no_standby_imports_no_more_than_it_needs() {
    let bundle = code(&harness(), "cold", FOUND).unwrap();
    if std::env::var_os("NEXTEST").is_some() {
        assert!(!call::<_, bool>(&bundle, "was_there", ()).unwrap());
    }
}

const BY_NAME: &str = "
import importlib, importlib.resources, importlib.util, logging.config, pkgutil, sys, threading
import unittest.mock
import menagerie

def look():
    found = [importlib.resources.files('pkg').joinpath('data.txt').read_text()]
    found.append(pkgutil.get_data('pkg', 'data.txt').decode())
    import helper, pkg.part
    found.append(pkgutil.get_data('pkg.part', 'data.txt').decode())
    assert importlib.util.find_spec('pkg').submodule_search_locations == pkg.__path__
    assert importlib.util.find_spec('pkg.part').origin == pkg.part.__file__
    assert importlib.util.find_spec('helper').origin == helper.__file__
    assert importlib.util.find_spec('nowhere') is importlib.util.find_spec('pkg.nowhere') is None
    assert pkgutil.resolve_name('pkg.part:NAME') == pkg.part.NAME
    assert pkg.part.RUNS == [1] and importlib.import_module('.part', 'pkg') is pkg.part
    with unittest.mock.patch('helper.name', lambda: 'patched'):
        assert helper.name() == 'patched'
    logging.config.dictConfig({
        'version': 1,
        'disable_existing_loggers': False,
        'handlers': {'own': {'class': 'helper.Handler'}},
        'loggers': {helper.name(): {'handlers': ['own']}},
    })
    logging.getLogger(helper.name()).warning('said')
    found += helper.said
    helper.said.clear()
    assert not {'pkg', 'pkg.part', 'helper'} & set(sys.modules)
    return found

@menagerie.export('t@1')
def by_name():
    return look()

@menagerie.export('t@1')
def by_name_in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.extend(look()))
    thread.start()
    thread.join()
    return found

@menagerie.export('t@1')
def by_a_library():
    # It keeps what it imports, for all bundles.
    library = {'__name__': 'library', '__builtins__': sys.modules['builtins']}
    try:
        exec('import helper', library)
    except ModuleNotFoundError as error:
        return error.name
";

#[test]
fn modules_are_found_by_their_names_in_the_bundle_that_asks() {
    let harness = harness();
    let helper = |name: &str| {
        format!(
            "import logging\nsaid = []\ndef name():\n    return '{name}'\n\
             class Handler(logging.Handler):\n    def emit(self, record):\n        \
             said.append(record.getMessage())\n"
        )
    };
    let folder = |name: &str| {
        Folder::new(
            name,
            &[
                ("main.py", BY_NAME),
                ("helper.py", &helper(name)),
                ("pkg/__init__.py", ""),
                ("pkg/data.txt", name),
                (
                    "pkg/part.py",
                    &format!("NAME = '{name}'\nRUNS = globals().get('RUNS', [])\nRUNS.append(1)\n"),
                ),
            ],
        )
    };
    let names = ["one", "two"];
    let folders = names.map(folder);
    let bundles = folders.each_ref().map(|folder| harness.load_dir(folder.path()).unwrap());
    for _ in 0..2 {
        for (bundle, name) in bundles.iter().zip(names) {
            for function in ["by_name", "by_name_in_thread"] {
                let found: Vec<String> = call(bundle, function, ()).unwrap();
                assert_eq!(found, [name, name, name, "said"], "{function}");
            }
            let lacks: String = call(bundle, "by_a_library", ()).unwrap();
            assert_eq!(lacks, "helper");
        }
    }
}

/// It would die of that, and a pool start others without end.
#[test]
fn what_a_process_that_is_started_afresh_lacks_is_said_at_once() {
    let bundle = code(
        &harness(),
        "spawns",
        "
import math, multiprocessing
import menagerie

def own(x): return x

@menagerie.export('t@1')
def in_process(method):
    multiprocessing.get_context(method).Process(target=own, args=(1,)).start()

@menagerie.export('t@1')
def in_pool(method, of_bundle):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(own if of_bundle else math.sqrt, [4.0])
",
    )
    .unwrap();
    // A copy of this process has all that it has.
    assert_eq!(call::<_, Vec<f64>>(&bundle, "in_pool", ("fork", true)).unwrap(), [4.0]);
    for method in ["spawn", "forkserver"] {
        let refused = [
            call::<_, ()>(&bundle, "in_process", (method,)).unwrap_err(),
            call::<_, Vec<f64>>(&bundle, "in_pool", (method, true)).map(drop).unwrap_err(),
        ];
        for error in refused.map(guest_error) {
            assert_eq!(error.type_name, "RuntimeError");
            assert!(error.message.contains("own is the bundle's own"), "{}", error.message);
        }
        // What is a library's they can import.
        let roots: Vec<f64> = call(&bundle, "in_pool", (method, false)).unwrap();
        assert_eq!(roots, [2.0]);
    }
}
