use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

use menagerie_protocol::message::LogRecord;
use menagerie_protocol::msgpack::encode_args;
use menagerie_protocol::{Failure, GuestError};

use crate::support::{Folder, T, call, code, guest_error, harness};

#[test]
fn c3_exceptions_keep_type_message_stack_and_cause() {
    let harness = harness();
    let folder = Folder::new(
        "raises",
        &[
            (
                "main.py",
                "
import menagerie
from shapes import ShapeError, draw

@menagerie.export('t@1')
def plain(): raise ValueError('no such thing')

@menagerie.export('t@1')
def own(): draw()

@menagerie.export('t@1')
def caused():
    try:
        {}['key']
    except KeyError as error:
        raise RuntimeError('outer') from error

@menagerie.export('t@1')
def group():
    raise ExceptionGroup('both', [ValueError('one'), TypeError('two')])

class Numbered(Exception):
    code = 404
    help = 404

@menagerie.export('t@1')
def numbered(): raise Numbered('lost')

@menagerie.export('t@1')
def leave():
    import sys
    sys.exit('enough')

class Unprintable(Exception):
    def __str__(self): raise ValueError('never')

@menagerie.export('t@1')
def unprintable(): raise Unprintable()
",
            ),
            (
                "shapes.py",
                "
class ShapeError(Exception):
    code = 'shape.round'
    help = 'use a square one'
    url = 'about:shapes'

def draw():
    raise ShapeError('it is round')
",
            ),
        ],
    );
    let bundle = harness.load_dir(folder.path()).unwrap();
    let fail = |function| guest_error(call::<_, ()>(&bundle, function, ()).unwrap_err());

    let error = fail("plain");
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("ValueError", "no such thing"));
    assert!(error.stack.contains("main.py\", line 6, in plain"), "{}", error.stack);
    assert!(error.stack.ends_with("ValueError: no such thing\n"), "{}", error.stack);

    let error = fail("own");
    assert_eq!(error.type_name, "shapes.ShapeError");
    assert_eq!(error.code.as_deref(), Some("shape.round"));
    assert_eq!(error.help.as_deref(), Some("use a square one"));
    assert_eq!(error.url.as_deref(), Some("about:shapes"));
    assert!(error.stack.contains("shapes.py\", line 8, in draw"), "{}", error.stack);
    assert!(error.stack.contains("\nshapes.ShapeError: it is round"), "{}", error.stack);

    let error = fail("numbered");
    assert_eq!((error.code.as_deref(), error.help), (Some("404"), None));

    let error = fail("caused");
    assert_eq!(error.inner.len(), 1);
    assert_eq!(error.inner[0].type_name, "KeyError");
    assert!(error.stack.contains("direct cause"), "{}", error.stack);

    let error = fail("group");
    let inner: Vec<_> = error.inner.iter().map(|e| e.message.as_str()).collect();
    assert_eq!(inner, ["one", "two"]);

    let error = fail("leave");
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("SystemExit", "enough"));
    assert_eq!(fail("unprintable").type_name, "main.Unprintable");
}

/// Each part of an error may be the guest's own code.
#[test]
fn c3_a_part_of_an_error_that_raises_takes_no_other_with_it() {
    let harness = harness();
    let bundle = code(
        &harness,
        "raises-again",
        "
def fails(*args): raise RuntimeError('again')
def leaves(*args): raise SystemExit(3)

class OddInt(int):
    __str__ = __repr__ = fails

class OddText(str):
    replace = __len__ = __getitem__ = lambda *args: 5

class OddName(type):
    __module__ = property(fails)
    __name__ = property(leaves)

class Plain(Exception): pass
class Told(Exception):
    def __str__(self): return OddText('told')
class Cause(Exception):
    __cause__ = property(fails)
class Traceback(Exception):
    __traceback__ = property(leaves)
class Attributes(Exception):
    code = help = url = property(leaves)
class Class(Exception):
    __class__ = property(leaves)
class Name(Exception, metaclass=OddName): pass
class Group(ExceptionGroup):
    exceptions = property(leaves)

def plain(**attributes):
    error = Plain('told')
    vars(error).update(attributes)
    return error

def nameless():
    error = type('Nameless', (Exception,), {})
    error.__module__ = 7
    return error('told')

errors = {
    'huge code': plain(code=10**5000),
    'odd code': plain(code=OddInt(3)),
    'odd help': plain(code=True, help=OddText('told'), url=7),
    'text': Told(),
    'attributes': Attributes('told'),
    'cause': Cause('told'),
    'traceback': Traceback('told'),
    'class': Class('told'),
    'name': Name('told'),
    'nameless': nameless(),
    'group': Group('told', [ValueError('one')]),
    'remote': menagerie.CallError('Guest', 'told', menagerie.RemoteError(1, 2, causes=[3])),
}

@menagerie.export('t@1')
def fail(name): raise errors[name]

@menagerie.export('t@1')
def from_odd(name):
    try: raise errors[name]
    except BaseException as error: raise ValueError('told') from error

@menagerie.export('t@1')
def names(): return list(errors)

class Leaves(Exception): __str__ = leaves

@menagerie.export('t@1')
def unprintable(): raise Leaves()

class Stops(Exception):
    def __str__(self): raise menagerie.Cancelled()

@menagerie.export('t@1')
def stops(): raise Stops()
",
    )
    .unwrap();
    let names: Vec<String> = call(&bundle, "names", ()).unwrap();
    for name in &names {
        for function in ["fail", "from_odd"] {
            let error = guest_error(call::<_, ()>(&bundle, function, (name,)).unwrap_err());
            assert!(error.message.starts_with("told"), "{name}: {error:?}");
            assert!(error.stack.contains(&format!("in {function}\n")), "{name}: {}", error.stack);
        }
    }
    let fail = |name| guest_error(call::<_, ()>(&bundle, "fail", (name,)).unwrap_err());
    assert_eq!(fail("huge code").code, None);
    assert_eq!(fail("odd code").code.as_deref(), Some("3"));
    let error = fail("odd help");
    assert_eq!((error.code.as_deref(), error.help.as_deref()), (Some("True"), Some("told")));
    assert_eq!(fail("name").type_name, "main.Name");
    assert_eq!(fail("nameless").type_name, "Nameless");
    assert_eq!(fail("group").inner[0].message, "one");
    assert_eq!(fail("remote").inner.len(), 1);
    let error = guest_error(call::<_, ()>(&bundle, "unprintable", ()).unwrap_err());
    assert_eq!(error.message, "<its __str__ raised SystemExit>");
    assert!(error.stack.contains("in unprintable\n"), "{}", error.stack);
    assert_eq!(call::<_, ()>(&bundle, "stops", ()), Err(Failure::Cancelled));
}

#[test]
fn c3_an_error_of_very_many_is_told_in_part() {
    let harness = harness();
    let bundle = code(
        &harness,
        "large-errors",
        "
@menagerie.export('t@1')
def shared():
    error = ValueError('leaf')
    for _ in range(7): error = ExceptionGroup('group', [error] * 8)
    raise error

@menagerie.export('t@1')
def chain():
    error = None
    for n in range(9):
        outer = ValueError(str(n) + 'x' * 3_000_000)
        outer.__cause__ = error
        error = outer
    raise error

@menagerie.export('t@1')
def ring():
    one, two = ValueError('one'), ValueError('two')
    one.__context__, two.__context__ = two, one
    raise one

@menagerie.export('t@1')
def remote():
    cause = menagerie.RemoteError('T', 'cause')
    cause.causes = [cause] * 3
    raise menagerie.CallError('Guest', 'called', cause)
",
    )
    .unwrap();
    fn count(error: &GuestError) -> usize {
        1 + error.inner.iter().map(count).sum::<usize>()
    }
    fn size(error: &GuestError) -> usize {
        error.message.len() + error.stack.len() + error.inner.iter().map(size).sum::<usize>()
    }
    for function in ["shared", "chain", "ring", "remote"] {
        let error = guest_error(call::<_, ()>(&bundle, function, ()).unwrap_err());
        assert!((2..=64).contains(&count(&error)), "{function}: {} errors", count(&error));
        assert!(size(&error) < 3 << 20, "{function}: {} bytes", size(&error));
        assert!(error.stack.contains(&format!("in {function}\n")), "{function}: {}", error.stack);
    }
}

#[test]
fn s6_an_interrupt_ends_the_telling_of_an_error() {
    let harness = harness();
    let bundle = code(
        &harness,
        "told-for-ever",
        "
class Endless(Exception):
    def __str__(self):
        print('is told')
        while True: pass

@menagerie.export('t@1')
def now(): raise Endless()

@menagerie.export('t@1')
async def later(): raise Endless()

@menagerie.export('t@1')
def fine(): return 'fine'
",
    )
    .unwrap();
    for (before, function) in ["now", "later"].into_iter().enumerate() {
        let running = bundle.begin(T, function, &[0x90]).unwrap();
        let told = |record: &LogRecord| record.message == "is told";
        while harness.logs().iter().filter(|record| told(record)).count() <= before {
            std::thread::yield_now();
        }
        bundle.interrupt();
        assert_eq!(bundle.finish(running), Err(Failure::Cancelled), "{function}");
        assert_eq!(call::<_, String>(&bundle, "fine", ()).as_deref(), Ok("fine"));
    }
}

#[test]
fn unbounded_recursion_is_an_error() {
    let harness = harness();
    let bundle = code(
        &harness,
        "recursion",
        "
@menagerie.export('t@1')
def down(n=0): return down(n + 1)

class Deep:
    def __getattr__(self, name): return getattr(self, name + 'x')

@menagerie.export('t@1')
def deep(): return Deep().x
",
    )
    .unwrap();
    for function in ["down", "deep", "down"] {
        let error = guest_error(call::<_, ()>(&bundle, function, ()).unwrap_err());
        assert_eq!(error.type_name, "RecursionError");
    }
}

#[test]
fn s6_an_interrupt_ends_a_busy_loop() {
    let harness = harness();
    let bundle = code(
        &harness,
        "spins",
        "
@menagerie.export('t@1')
def spin(said):
    print(said)
    try:
        while True: pass
    except Exception:
        pass

@menagerie.export('t@1')
async def spin_later(said):
    print(said)
    while True: pass

@menagerie.export('t@1')
def fine(): return 'fine'
",
    )
    .unwrap();
    for (function, said) in [("spin", "one"), ("spin_later", "two"), ("spin", "three")] {
        let mut args = Vec::new();
        encode_args(&mut args, &(said,)).unwrap();
        let running = bundle.begin(T, function, &args).unwrap();
        harness.wait_for_log(|record| record.message == said);
        bundle.interrupt();
        assert_eq!(bundle.finish(running), Err(Failure::Cancelled));
        assert_eq!(call::<_, String>(&bundle, "fine", ()).as_deref(), Ok("fine"));
    }
}

#[test]
fn s6_an_interrupt_never_hits_a_later_call() {
    let harness = harness();
    let bundle = code(
        &harness,
        "quick",
        "
@menagerie.export('t@1')
def quick(): return sum(range(50))
",
    )
    .unwrap();
    bundle.interrupt();
    for round in 0..2000 {
        let running = bundle.begin(T, "quick", &[0x90]).unwrap();
        bundle.interrupt();
        match bundle.finish(running) {
            Ok(_) | Err(Failure::Cancelled) => {}
            Err(other) => panic!("round {round}: {other:?}"),
        }
        assert_eq!(call::<_, u32>(&bundle, "quick", ()), Ok(1225), "round {round}");
    }
}

/// A bundle that keeps the interpreter lock until there is a byte to read.
const HOLDER: &str = "
import ctypes

@menagerie.export('t@1')
def hold(fd, said):
    print(said)
    ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(1), 1)
";

#[test]
fn s6_an_interrupt_that_comes_before_the_code_stops_it() {
    let harness = harness();
    let holder = code(&harness, "holder", HOLDER).unwrap();
    let bundle = code(
        &harness,
        "waits-for-the-lock",
        "
import asyncio

@menagerie.export('t@1')
def spin():
    while True: pass

@menagerie.export('t@1')
async def spin_later():
    while True: pass

@menagerie.export('t@1')
def fine(): return 'fine'
",
    )
    .unwrap();
    for (round, function) in ["spin", "spin_later", "spin"].into_iter().enumerate() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let said = format!("round {round}");
        let mut args = Vec::new();
        encode_args(&mut args, &(there.as_raw_fd(), &said)).unwrap();
        let held = holder.begin(T, "hold", &args).unwrap();
        harness.wait_for_log(|record| record.message == said);
        // Nothing of it can run before it is asked to stop.
        let running = bundle.begin(T, function, &[0x90]).unwrap();
        bundle.wait_until_begun();
        bundle.interrupt();
        here.write_all(&[1]).unwrap();
        assert_eq!(holder.finish(held), Ok(vec![0xc0]));
        assert_eq!(bundle.finish(running), Err(Failure::Cancelled), "{function}");
        assert_eq!(call::<_, String>(&bundle, "fine", ()).as_deref(), Ok("fine"));
    }
}

#[test]
fn s6_a_call_with_a_nested_loop_can_be_interrupted() {
    let harness = harness();
    let bundle = code(
        &harness,
        "nested",
        "
import asyncio
go = asyncio.Event()

@menagerie.export('t@1')
async def waits():
    await go.wait()
    return 'waited'

@menagerie.export('t@1')
def nested():
    go.set()
    asyncio.get_event_loop().run_until_complete(asyncio.sleep(0.01))
    print('spins')
    while True: pass

@menagerie.export('t@1')
def fine(): return 'fine'
",
    )
    .unwrap();
    let waits = bundle.begin(T, "waits", &[0x90]).unwrap();
    let nested = bundle.begin(T, "nested", &[0x90]).unwrap();
    harness.wait_for_log(|record| record.message == "spins");
    assert!(bundle.finish(waits).is_ok());
    bundle.interrupt();
    assert_eq!(bundle.finish(nested), Err(Failure::Cancelled));
    assert_eq!(call::<_, String>(&bundle, "fine", ()).as_deref(), Ok("fine"));
}

#[test]
fn c7_an_interrupt_cancels_a_call_that_only_waits() {
    let harness = harness();
    let bundle = code(
        &harness,
        "waits",
        "
import asyncio
cleaned = False

@menagerie.export('t@1')
async def wait():
    global cleaned
    try:
        print('waiting')
        await asyncio.Event().wait()
    finally:
        cleaned = True

@menagerie.export('t@1')
def was_cleaned(): return cleaned
",
    )
    .unwrap();
    let running = bundle.begin(T, "wait", &[0x90]).unwrap();
    harness.wait_for_log(|record| record.message == "waiting");
    // The step that said so may still be running; then it is hit by the
    // exception instead, with the same end.
    bundle.interrupt();
    assert_eq!(bundle.finish(running), Err(Failure::Cancelled));
    assert!(call::<_, bool>(&bundle, "was_cleaned", ()).unwrap());
}
