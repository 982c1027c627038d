use menagerie_protocol::Failure;
use menagerie_protocol::message::LogRecord;
use menagerie_protocol::msgpack::encode_args;

use crate::support::{T, call, code, guest_error, harness};

#[test]
fn c6_async_functions_interleave_at_their_awaits() {
    let harness = harness();
    let bundle = code(
        &harness,
        "interleave",
        "
import asyncio
order = []
go = asyncio.Event()

@menagerie.export('t@1')
async def first():
    order.append('first begins')
    await go.wait()
    order.append('first ends')
    return 1

@menagerie.export('t@1')
async def second():
    order.append('second')
    go.set()
    return 2

@menagerie.export('t@1')
def told(): return order

@menagerie.export('t@1')
async def sleeps(): await asyncio.sleep(0.01)
",
    )
    .unwrap();
    let first = bundle.begin(T, "first", &[0x90]).unwrap();
    let second = bundle.begin(T, "second", &[0x90]).unwrap();
    assert_eq!(bundle.finish(second).unwrap(), [2]);
    assert_eq!(bundle.finish(first).unwrap(), [1]);
    let order: Vec<String> = call(&bundle, "told", ()).unwrap();
    assert_eq!(order, ["first begins", "second", "first ends"]);
    let all: Vec<_> = (0..20).map(|_| bundle.begin(T, "sleeps", &[0x90]).unwrap()).collect();
    for one in all {
        assert_eq!(bundle.finish(one).unwrap(), [0xc0]);
    }
}

#[test]
fn c6_errors_in_async_functions_end_their_own_call_only() {
    let harness = harness();
    let bundle = code(
        &harness,
        "async-errors",
        "
import asyncio, sys
forever = asyncio.Event()

@menagerie.export('t@1')
async def fails():
    await asyncio.sleep(0)
    raise LookupError('lost')

@menagerie.export('t@1')
async def leaves():
    await asyncio.sleep(0)
    sys.exit(3)

@menagerie.export('t@1')
async def gives_up():
    raise asyncio.CancelledError()

@menagerie.export('t@1')
async def waits():
    await forever.wait()
    return 'done'

@menagerie.export('t@1')
def release(): forever.set()
",
    )
    .unwrap();
    let waits = bundle.begin(T, "waits", &[0x90]).unwrap();
    let error = guest_error(call::<_, ()>(&bundle, "fails", ()).unwrap_err());
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("LookupError", "lost"));
    assert!(error.stack.contains("in fails"), "{}", error.stack);
    let error = guest_error(call::<_, ()>(&bundle, "leaves", ()).unwrap_err());
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("SystemExit", "3"));
    assert_eq!(call::<_, ()>(&bundle, "gives_up", ()), Err(Failure::Cancelled));
    call::<_, ()>(&bundle, "release", ()).unwrap();
    assert_eq!(bundle.finish(waits).unwrap(), b"\xa4done");
}

#[test]
fn c6_what_is_left_in_the_loop_runs_without_calls() {
    let harness = harness();
    let source = "
import asyncio, threading, time

async def later(): await asyncio.sleep(0.02); print('the task has run')

def woken(loop):
    time.sleep(0.05)
    loop.call_soon_threadsafe(print, 'the thread has woken it')

async def on_load(context):
    global task
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, print, 'the timer has run')
    task = loop.create_task(later())
    threading.Thread(target=woken, args=[loop]).start()

@menagerie.export('t@1')
async def leave(): asyncio.get_running_loop().call_later(0.02, print, 'left by a call')

@menagerie.export('t@1')
def other(): return 1
";
    let bundle = code(&harness, "left", source).unwrap();
    for message in ["the timer has run", "the task has run", "the thread has woken it"] {
        harness.wait_for_log(|record| record.message == message);
    }
    call::<_, ()>(&bundle, "leave", ()).unwrap();
    harness.wait_for_log(|record| record.message == "left by a call");

    // Nor do calls that follow each other closely hold it up.
    let before = harness.logs().len();
    call::<_, ()>(&bundle, "leave", ()).unwrap();
    while harness.logs().len() == before {
        assert_eq!(call::<_, u8>(&bundle, "other", ()).unwrap(), 1);
    }
}

#[test]
fn c6_a_task_that_exits_is_what_asyncio_makes_of_it() {
    let harness = harness();
    let bundle = code(
        &harness,
        "exits",
        "
import asyncio, sys, weakref
forever = asyncio.Event()

async def leaves(code=3):
    await asyncio.sleep(0)
    sys.exit(code)

async def on_load(context):
    try:
        await asyncio.create_task(leaves())
    except SystemExit as error:
        print('on_load:', error)

@menagerie.export('t@1')
async def caught():
    try:
        await asyncio.create_task(leaves())
    except Exception as error:
        return repr(error)
    except SystemExit as error:
        return f'exit {error.code}'

@menagerie.export('t@1')
async def gathered():
    return repr(await asyncio.gather(leaves(), asyncio.sleep(0), return_exceptions=True))

@menagerie.export('t@1')
async def grouped():
    async with asyncio.TaskGroup() as group:
        group.create_task(leaves(4))

@menagerie.export('t@1')
async def not_awaited():
    task = asyncio.create_task(leaves())
    while not task.done(): await asyncio.sleep(0)
    return type(task.exception()).__name__

@menagerie.export('t@1')
def nested():
    try:
        asyncio.get_event_loop().run_until_complete(leaves())
    except SystemExit as error:
        return f'exit {error.code}'

@menagerie.export('t@1')
async def referred():
    coroutine = asyncio.current_task().get_coro()
    return weakref.ref(coroutine)() is coroutine

@menagerie.export('t@1')
async def waits():
    await forever.wait()
    return 'done'

@menagerie.export('t@1')
def release(): forever.set()
",
    )
    .unwrap();
    harness.wait_for_log(|record| record.message == "on_load: 3");
    let waits = bundle.begin(T, "waits", &[0x90]).unwrap();
    for (function, told) in [
        ("caught", "exit 3"),
        ("gathered", "[SystemExit(3), None]"),
        ("not_awaited", "SystemExit"),
        ("nested", "exit 3"),
    ] {
        assert_eq!(call::<_, String>(&bundle, function, ()).as_deref(), Ok(told), "{function}");
    }
    let error = guest_error(call::<_, ()>(&bundle, "grouped", ()).unwrap_err());
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("SystemExit", "4"));
    assert!(call::<_, bool>(&bundle, "referred", ()).unwrap());
    call::<_, ()>(&bundle, "release", ()).unwrap();
    assert_eq!(bundle.finish(waits).unwrap(), b"\xa4done");
    let left = |record: &&LogRecord| record.message.contains("left by an exception");
    assert_eq!(harness.logs().iter().find(left), None);
}

#[test]
fn l7_tasks_that_exit_at_the_unload_do_not_cut_it_short() {
    let harness = harness();
    let bundle = code(
        &harness,
        "exits-late",
        "
import asyncio, sys

async def stays(number):
    try:
        await asyncio.Event().wait()
    finally:
        print('leaves', number)
        sys.exit(number)

async def on_load(context):
    global tasks
    tasks = [asyncio.create_task(stays(number)) for number in range(3)]
    await asyncio.sleep(0)

@menagerie.export('t@1')
def fine(): return 'fine'
",
    )
    .unwrap();
    bundle.unload();
    for number in 0..3 {
        harness.wait_for_log(|record| record.message == format!("leaves {number}"));
    }
    let closed = |record: &&LogRecord| record.message.contains("could not be closed");
    assert_eq!(harness.logs().iter().find(closed), None);
}

#[test]
fn c6_a_loop_that_the_bundle_closes_ends_what_waits_in_it_and_is_made_anew() {
    let harness = harness();
    let bundle = code(
        &harness,
        "closes",
        "
import asyncio

@menagerie.export('t@1')
async def waits():
    await asyncio.Event().wait()

@menagerie.export('t@1')
def close():
    asyncio.get_event_loop().close()

@menagerie.export('t@1')
async def later():
    await asyncio.sleep(0)
    return 'later'
",
    )
    .unwrap();
    for round in 0..3 {
        let waits = bundle.begin(T, "waits", &[0x90]).unwrap();
        let also = bundle.begin(T, "waits", &[0x90]).unwrap();
        call::<_, ()>(&bundle, "close", ()).unwrap();
        for call in [waits, also] {
            let error = guest_error(bundle.finish(call).unwrap_err());
            assert_eq!(error.type_name, "RuntimeError", "round {round}");
            assert!(error.message.contains("closed its event loop"), "{}", error.message);
        }
        if round > 0 {
            assert_eq!(call::<_, String>(&bundle, "later", ()).as_deref(), Ok("later"));
        }
    }
    let said = |logs: &[LogRecord]| logs.iter().filter(|r| r.target == "asyncio").count();
    assert_eq!(said(&harness.logs()), 3);
    call::<_, ()>(&bundle, "close", ()).unwrap();
    bundle.unload();
}

#[test]
fn c6_a_bundle_that_blocks_or_spins_does_not_stop_another_one() {
    let harness = harness();
    let source = "
@menagerie.export('t@1')
def read(path):
    print('reading')
    with open(path) as file: return file.read()

@menagerie.export('t@1')
def write(path):
    with open(path, 'w') as file: file.write('written')

@menagerie.export('t@1')
def spin():
    print('spinning')
    while True: pass
";
    let blocks = code(&harness, "blocks", source).unwrap();
    let other = code(&harness, "other", source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    #[allow(clippy::disallowed_methods, reason = "makes a fifo; it is no worker")]
    let mut mkfifo = std::process::Command::new("mkfifo");
    assert!(mkfifo.arg(&fifo).status().unwrap().success());
    let mut args = Vec::new();
    encode_args(&mut args, &(fifo.to_str().unwrap(),)).unwrap();

    // The read ends only after the write, so neither may wait for the other.
    let reads = blocks.begin(T, "read", &args).unwrap();
    harness.wait_for_log(|record| record.message == "reading");
    other.call_raw(T, "write", &args).unwrap();
    assert_eq!(blocks.finish(reads).unwrap(), b"\xa7written");

    let spins = blocks.begin(T, "spin", &[0x90]).unwrap();
    harness.wait_for_log(|record| record.message == "spinning");
    let reads = other.begin(T, "read", &args).unwrap();
    std::fs::write(&fifo, "by the test").unwrap();
    assert_eq!(other.finish(reads).unwrap(), b"\xabby the test");
    blocks.interrupt();
    assert_eq!(blocks.finish(spins), Err(Failure::Cancelled));
}
