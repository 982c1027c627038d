"""The imports of bundles.

Each generation of each bundle has a package of its own, under a name that no
other generation ever had; its modules live in `sys.modules` below that name.
The statement `import util` finds them because the modules' own `__builtins__`
hold an `__import__` that looks into the bundle's folder first. It is found by
the code that runs and not by the thread or the time, so an import inside a
function, at call time, on a thread of the bundle's own resolves the same way.

Libraries that look a module up by its name (`importlib.util.find_spec`, `pkgutil`,
`unittest.mock.patch`, `__import__(name)`) find a bundle's as well, where nothing else
has the name: that of the bundle for which they run. Their own import statements never
do, as what a library imports stays in it, for all bundles.
"""

import _menagerie
import builtins
import gc
import importlib
import os
import sys
import threading
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)

# The bundles that are loaded, by their package's name.
_bundles = {}

# Names that a bundle's own files never hide, as no script's files do.
_RESERVED = frozenset(sys.builtin_module_names) | {"menagerie", "_menagerie"}


class _FileLoader(SourceFileLoader):
    """Compiles a bundle's file afresh each time.

    Cached bytecode is neither read (a cache that was written within the same
    tick of the clock as an edit looks fresh) nor written into the user's folder.
    """

    def __init__(self, fullname, path, bundle):
        super().__init__(fullname, path)
        self._bundle = bundle
        self._there = None

    def get_code(self, fullname):
        path = self.get_filename(fullname)
        with _of_its_own(fullname, path):
            text = _menagerie.read_contained(self._bundle.root, path)
        return self.source_to_code(text, path)

    def create_module(self, spec):
        # Who has looked its spec up may load it once more (`pkgutil.get_data`), and
        # gets the module that is there.
        self._there = sys.modules.get(spec.name)
        return self._there

    def exec_module(self, module):
        there, self._there = self._there, None
        if there is module:
            return
        module.__dict__["__builtins__"] = self._bundle.builtins
        super().exec_module(module)


class _ExtensionLoader(ExtensionFileLoader):
    """Loads a bundle's own extension module."""

    def __init__(self, fullname, path, bundle):
        super().__init__(fullname, path)
        self._bundle = bundle

    def create_module(self, spec):
        with _of_its_own(self.name, self.path):
            _menagerie.check_contained(self._bundle.root, self.path)
        return super().create_module(spec)


class _of_its_own:
    """A file that cannot be read, or leads out of the folder by a link, is no
    module: what has to do with the file is an ImportError here."""

    def __init__(self, fullname, path):
        self._fullname = fullname
        self._path = path

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        if isinstance(error, OSError):
            name = self._fullname.partition(".")[2]
            raise ImportError(
                f"cannot import {name!r}: {self._path}: {error}",
                name=self._fullname,
                path=self._path,
            ) from None


class _MemoryLoader:
    """Runs the code of a bundle that has no folder."""

    def __init__(self, code, filename, bundle):
        self._code = code
        self._filename = filename
        self._bundle = bundle

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__dict__["__builtins__"] = self._bundle.builtins
        exec(compile(self._code, self._filename, "exec", dont_inherit=True), module.__dict__)

    def get_source(self, fullname):
        return self._code


class Bundle:
    """One generation of a bundle."""

    def __init__(self, serial, prefix, name, folders):
        self.serial = serial
        self.prefix = prefix
        self.name = name
        self.folders = folders
        # The bundle's own; before it there may be that of its main module.
        self.root = folders[-1] if folders else None
        self.filename = None
        # Whether it has started a process that is no copy of this one.
        self.spawns = False
        self._main = None
        self._listing = {}
        self.builtins = dict(vars(builtins), __import__=self.import_, __menagerie__=serial)
        package = type(sys)(prefix, f"The modules of bundle {name!r}.")
        package.__path__ = list(folders)
        package.__spec__ = ModuleSpec(prefix, None, is_package=True)
        package.__spec__.submodule_search_locations = package.__path__
        sys.modules[prefix] = package
        _bundles[prefix] = self

    def run(self, stem, path, code):
        """Runs the main module: the file `path`, or else `code`."""
        fullname = f"{self.prefix}.{stem.replace('.', '_')}"
        if path is not None:
            self._main = _file_spec(fullname, path, _FileLoader(fullname, path, self))
        else:
            # A name in angle brackets that is unique, so that tracebacks show
            # this generation's lines.
            self.filename = f"<{self.name} {self.prefix}>"
            lines = code.splitlines(keepends=True)
            import linecache

            linecache.cache[self.filename] = (len(code), None, lines, self.filename)
            self._main = ModuleSpec(fullname, _MemoryLoader(code, self.filename, self))
        _original_import(fullname)
        return sys.modules[fullname]

    def import_(self, name, globals=None, locals=None, fromlist=(), level=0):
        """`__import__` as the bundle's modules have it."""
        original = _original_import
        if level != 0:
            return original(name, globals, locals, fromlist, level)
        top = name.partition(".")[0]
        if not self._owns(top):
            if top != self.prefix and _is_prefix(top):
                raise ImportError(
                    f"{name!r} is a module of another generation or bundle: a pickle of "
                    "a bundle's own classes cannot be read by another one; leave plain values",
                    name=name,
                )
            try:
                return original(name, globals, locals, fromlist, 0)
            except ModuleNotFoundError as error:
                if error.name != top or top in _RESERVED:
                    raise
                if not self.folders:
                    error.msg = (
                        f"{error.msg}; bundle {self.name!r} was loaded from memory "
                        "and has no directory to import sibling modules from"
                    )
                    raise
                if not self.has(top):
                    raise
        fullname = f"{self.prefix}.{name}"
        if fromlist:
            return original(fullname, globals, locals, fromlist, 0)
        original(fullname, globals, locals, (), 0)
        return sys.modules[f"{self.prefix}.{top}"]

    def resolve(self, name):
        """The name in `sys.modules` of what `name` means in this bundle."""
        return f"{self.prefix}.{name}" if self._owns(name.partition(".")[0]) else name

    def has(self, top):
        """Whether `top` is a module of the bundle's where nothing else has the name: a
        folder without __init__.py is a package as well then. It may just hold data."""
        if top in _RESERVED:
            return False
        return self._owns(top) or any(
            os.path.isdir(os.path.join(folder, top)) for folder in self.folders
        )

    def find(self, fullname, path):
        """The spec of a module below this bundle's package."""
        if self._main is not None and fullname == self._main.name:
            return self._main
        tail = fullname.rpartition(".")[2]
        namespace = []
        for folder in path or ():
            base = os.path.join(folder, tail)
            init = os.path.join(base, "__init__.py")
            if os.path.isfile(init):
                return _file_spec(fullname, init, _FileLoader(fullname, init, self), [base])
            for suffix in EXTENSION_SUFFIXES:
                if os.path.isfile(base + suffix):
                    loader = _ExtensionLoader(fullname, base + suffix, self)
                    return _file_spec(fullname, base + suffix, loader)
            if os.path.isfile(base + ".py"):
                return _file_spec(fullname, base + ".py", _FileLoader(fullname, base + ".py", self))
            if os.path.isdir(base):
                namespace.append(base)
        if not namespace:
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = namespace
        return spec

    def _owns(self, top):
        """Whether `top` is a module in the bundle's own folder."""
        if top in _RESERVED:
            return False
        if f"{self.prefix}.{top}" in sys.modules:
            return True
        return any(top in self._names(folder) for folder in self.folders)

    def _names(self, folder):
        """The modules in a folder; listed again only when it has changed."""
        known = self._listing.get(folder)
        try:
            changed = os.stat(folder).st_mtime_ns
            if known is not None and known[0] == changed:
                return known[1]
            entries = os.listdir(folder)
        except OSError:
            # It has gone, or cannot be read any more: other modules can.
            return () if known is None else known[1]
        names = set()
        for entry in entries:
            if os.path.isfile(os.path.join(folder, entry, "__init__.py")):
                names.add(entry)
            for suffix in (".py", *EXTENSION_SUFFIXES):
                if entry.endswith(suffix):
                    names.add(entry[: -len(suffix)])
        self._listing[folder] = (changed, names)
        return names

    def close(self):
        """Makes this process forget the generation: nothing refers to its
        modules afterwards, unless a thread or a registry of others does."""
        below = self.prefix + "."
        _bundles.pop(self.prefix, None)
        for name in [n for n in sys.modules if n == self.prefix or n.startswith(below)]:
            del sys.modules[name]
        self._main = None
        self.builtins = None
        if self.filename is not None:
            sys.modules["linecache"].cache.pop(self.filename, None)
        if self.root is not None:
            self._forget_files()
        logging = sys.modules.get("logging")
        if logging is not None:
            loggers = logging.Logger.manager.loggerDict
            for name in [n for n in loggers if n == self.prefix or n.startswith(below)]:
                del loggers[name]
        # `Optional[SomeClass]` is remembered by typing's caches.
        for clear in getattr(sys.modules.get("typing"), "_cleanups", ()):
            clear()

    def _forget_files(self):
        """What tracebacks have shown of them is kept by their paths, and what imports have
        looked for: a copy of a bundle is at another path at each load."""
        linecache = sys.modules.get("linecache")
        lines = {} if linecache is None else linecache.cache
        for cache in (lines, sys.path_importer_cache):
            for path in [p for p in list(cache) if _is_below(p, self.root)]:
                cache.pop(path, None)


def _is_below(path, folder):
    """Whether a path is a folder, or in it."""
    return isinstance(path, str) and (path == folder or path.startswith(folder + os.sep))


def _is_prefix(name):
    """Whether this is the name of a bundle's package, be it loaded or not."""
    return name.startswith("_bundle") and name[7:].partition("_")[0].isdecimal()


def collect():
    """Frees the modules of a bundle that was closed: they refer to each other
    in circles, as every function refers to its module."""
    gc.collect()


def caller():
    """The serial number of the bundle whose code is calling, or 0.

    On a lane's thread nobody asks. Elsewhere the stack knows, or else the
    thread who started it; where neither does, a bundle that is alone can only
    be the one.
    """
    frame = sys._getframe(1)
    while frame is not None:
        serial = frame.f_builtins.get("__menagerie__")
        if serial is not None:
            return serial
        frame = frame.f_back
    serial = getattr(threading.current_thread(), "_menagerie_bundle", 0)
    if serial == 0 and len(_bundles) == 1:
        for bundle in _bundles.values():
            return bundle.serial
    return serial


def _start_thread(thread):
    """`Thread.start`, which notes for whom the thread works."""
    thread._menagerie_bundle = _menagerie.lane() or caller()
    _original_start(thread)


_original_start = threading.Thread.start
threading.Thread.start = _start_thread


def _forked():
    """In a process that a bundle has forked."""
    _menagerie.forked()
    main = threading._main_thread
    if isinstance(main, threading._DummyThread):
        # The lane's thread was not started by Python, and is the main one now.
        # Before 3.12 nobody else sees to it, and `multiprocessing` fails at the end.
        main.__class__ = threading._MainThread
        main._name = "MainThread"
        main._daemonic = False
        if getattr(main, "_tstate_lock", main) is None:
            main._set_tstate_lock()


# After what `threading` has registered.
os.register_at_fork(after_in_child=_forked)


def _file_spec(fullname, path, loader, locations=None):
    spec = ModuleSpec(fullname, loader, origin=path, is_package=locations is not None)
    spec.submodule_search_locations = locations
    spec.has_location = True
    return spec


def _of_serial(serial):
    for bundle in list(_bundles.values()):
        if bundle.serial == serial:
            return bundle
    return None


def _asking():
    """The bundle whose code runs, or for which a library's does; or None."""
    return _of_serial(_menagerie.lane() or caller())


class _Finder:
    """The first entry of `sys.meta_path`."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        after = _AFTER.get(fullname)
        if after is not None:
            return _spec_with(after, fullname, path)
        bundle = _bundles.get(fullname.partition(".")[0])
        if bundle is not None:
            return bundle.find(fullname, path)
        if path is not None and not _is_import(sys._getframe(1)):
            # `importlib.util.find_spec("pkg.part")`, which has imported `pkg` before.
            bundle = _asking()
            if bundle is not None:
                parent = sys.modules.get(f"{bundle.prefix}.{fullname.rpartition('.')[0]}")
                if getattr(parent, "__path__", None) is path:
                    return bundle.find(f"{bundle.prefix}.{fullname}", path)
        return None


class _ByName:
    """The last entry of `sys.meta_path`: for those who look a name up."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if path is not None or _is_import(sys._getframe(1)):
            return None
        bundle = _asking()
        if bundle is None or not bundle.has(fullname):
            return None
        return bundle.find(f"{bundle.prefix}.{fullname}", bundle.folders)


def _is_import(frame):
    """Whether a finder is asked by an import, and not by somebody else who looks up a
    spec; `frame` has called the finder."""
    machinery = vars(importlib._bootstrap)
    caller = frame.f_back
    return frame.f_globals is machinery and caller is not None and caller.f_globals is machinery


def _spec_with(after, fullname, path):
    """A module of the standard library, with `after` being done to it as soon as somebody
    imports it: importing it at the start would cost every worker."""
    spec = PathFinder.find_spec(fullname, path)
    if spec is None:
        return None
    run = spec.loader.exec_module

    def exec_module(module):
        run(module)
        after(module)

    spec.loader.exec_module = exec_module
    return spec


def _log_into_bundles(logging):
    _menagerie.internal("logs").install(logging)


def _refuse_what_children_lack(popen):
    """A process that is started afresh cannot import what is a bundle's own. It would
    die of that, and a pool start another one, for ever."""
    launch = popen.Popen._launch

    def _launch(self, process):
        bundle = _asking()
        if bundle is not None:
            bundle.spawns = True
        return launch(self, process)

    popen.Popen._launch = _launch
    popen.reduction.ForkingPickler.reducer_override = _reducer_override


def _reducer_override(pickler, value):
    if isinstance(value, (type, type(_asking))):
        top, _, name = (value.__module__ or "").partition(".")
        bundle = _bundles.get(top)
        if bundle is not None and bundle.spawns:
            raise RuntimeError(
                f"{name}.{value.__qualname__} is the bundle's own, which a process that is "
                "started afresh ('spawn' and 'forkserver') cannot import: use "
                "multiprocessing.get_context('fork') for all that the bundle starts"
            )
    return NotImplemented


# What is done to modules when they have been imported.
_AFTER = {
    "logging": _log_into_bundles,
    "multiprocessing.popen_spawn_posix": _refuse_what_children_lack,
    "multiprocessing.popen_forkserver": _refuse_what_children_lack,
}


def _import_module(name, package=None):
    """`importlib.import_module`: a bundle's own module for the bundle's code, and for
    others where nothing else has the name."""
    level = len(name) - len(name.lstrip("."))
    if level and package:
        name = importlib._bootstrap._resolve_name(name[level:], package, level)
    elif level:
        return _original_import_module(name, package)
    serial = sys._getframe(1).f_builtins.get("__menagerie__")
    if serial is not None:
        bundle = _of_serial(serial)
        return _original_import_module(name if bundle is None else bundle.resolve(name))
    try:
        return _original_import_module(name)
    except ModuleNotFoundError as error:
        bundle = _asking_for(name, error)
        if bundle is None:
            raise
    return _original_import_module(f"{bundle.prefix}.{name}")


def _import(name, globals=None, locals=None, fromlist=(), level=0):
    """`__import__`, for all code but the bundles'. Statements pass their globals; who
    calls it with a name need not."""
    if globals is not None or level != 0:
        return _original_import(name, globals, locals, fromlist, level)
    try:
        return _original_import(name, None, None, fromlist)
    except ModuleNotFoundError as error:
        bundle = _asking_for(name, error)
        if bundle is None:
            raise
    return bundle.import_(name, None, None, fromlist)


def _asking_for(name, error):
    """The bundle that asks for a module by name, and has it, as nobody else does."""
    top = name.partition(".")[0]
    bundle = _asking() if error.name == top else None
    return bundle if bundle is not None and bundle.has(top) else None


_original_import_module = importlib.import_module
importlib.import_module = _import_module
_original_import = builtins.__import__
builtins.__import__ = _import
sys.meta_path.insert(0, _Finder)
sys.meta_path.append(_ByName)

# A .pth file of the site's may have imported it before.
if "logging" in sys.modules:
    _menagerie.internal("logs").install(sys.modules["logging"])
