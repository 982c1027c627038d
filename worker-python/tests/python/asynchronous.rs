use menagerie_protocol::message::LogRecord;
use menagerie_protocol::msgpack::encode_args;
use menagerie_protocol::testing::Harness;
use menagerie_protocol::{Failure, GuestError};
use rmpv::Value;

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
fn s6_an_interrupt_reaches_the_tasks_that_a_call_has_started() {
    let harness = harness();
    let bundle = code(
        &harness,
        "starts-tasks",
        "
import asyncio

async def spin(said):
    await asyncio.sleep(0)
    print(said)
    while True: pass

@menagerie.export('t@1')
async def task(said): await asyncio.create_task(spin(said), name='spinner')

@menagerie.export('t@1')
async def gathered(said): await asyncio.gather(asyncio.sleep(0), spin(said))

@menagerie.export('t@1')
async def in_time(said): await asyncio.wait_for(spin(said), 0.5)

@menagerie.export('t@1')
async def grouped(said):
    async with asyncio.TaskGroup() as group:
        group.create_task(spin(said))

@menagerie.export('t@1')
async def by_a_factory(said):
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **rest: asyncio.Task(coro, loop=loop, **rest))
    try:
        await asyncio.create_task(spin(said))
    finally:
        loop.set_task_factory(None)

@menagerie.export('t@1')
async def looks():
    # What can be seen of a task is the bundle's own coroutine.
    async def named():
        await asyncio.sleep(0)
        return asyncio.current_task().get_name()
    task = asyncio.create_task(named(), name='mine')
    coro = task.get_coro()
    seen = [coro.__name__, coro.cr_code.co_name, len(task.get_stack()), 'named()' in repr(task)]
    seen.append(asyncio.iscoroutine(coro))
    seen.append(await task)
    try:
        asyncio.create_task(7)
    except TypeError as error:
        seen.append(str(error))
    return seen

@menagerie.export('t@1')
def fine(): return 'fine'
",
    )
    .unwrap();
    type Seen = (String, String, usize, bool, bool, String, String);
    let seen: Seen = call(&bundle, "looks", ()).unwrap();
    let text = |text: &str| text.to_owned();
    let refused = text("a coroutine was expected, got 7");
    assert_eq!(seen, (text("named"), text("named"), 1, true, true, text("mine"), refused));
    for function in ["task", "gathered", "in_time", "grouped", "by_a_factory"] {
        let mut args = Vec::new();
        encode_args(&mut args, &(function,)).unwrap();
        let running = bundle.begin(T, function, &args).unwrap();
        harness.wait_for_log(|record| record.message == function);
        bundle.interrupt();
        assert_eq!(bundle.finish(running), Err(Failure::Cancelled), "{function}");
        assert_eq!(call::<_, String>(&bundle, "fine", ()).as_deref(), Ok("fine"));
    }
}

/// Waits until something was said so often.
fn wait_for(harness: &Harness, what: &str, count: usize) {
    while harness.logs().iter().filter(|record| record.message == what).count() < count {
        std::thread::yield_now();
    }
}

#[test]
fn s6_calls_that_are_stopped_together_all_end() {
    let harness = harness();
    let bundle = code(
        &harness,
        "together",
        "
import asyncio
go = asyncio.Event()

async def spins():
    print('waits')
    await go.wait()
    print('spins')
    while True: pass

@menagerie.export('t@1')
async def alone(): await spins()

@menagerie.export('t@1')
async def grouped():
    async with asyncio.TaskGroup() as group:
        group.create_task(spins())
        group.create_task(asyncio.Event().wait())

@menagerie.export('t@1')
async def gathered(): await asyncio.gather(spins(), spins())

@menagerie.export('t@1')
async def goes_on():
    # The task hears of the stop, and keeps it for itself.
    await asyncio.gather(spins(), return_exceptions=True)
    await asyncio.Event().wait()

@menagerie.export('t@1')
async def apart():
    task = asyncio.create_task(spins())
    await asyncio.Event().wait()

@menagerie.export('t@1')
async def swallows():
    async def child():
        try: await asyncio.Event().wait()
        except asyncio.CancelledError: pass
    print('waits')
    await asyncio.create_task(child())
    await asyncio.Event().wait()

@menagerie.export('t@1')
async def fails():
    future = asyncio.get_running_loop().create_future()
    print('waits')
    await go.wait()
    asyncio.get_running_loop().call_soon(future.set_exception, ValueError())
    try: await future
    except ValueError: await spins()

@menagerie.export('t@1')
def release():
    go.set()
    go.clear()

@menagerie.export('t@1')
async def slow():
    await asyncio.sleep(0.01)
    return 'slow'
",
    )
    .unwrap();
    let waits: Vec<_> = (0..2).map(|_| bundle.begin(T, "slow", &[0x90]).unwrap()).collect();
    for (functions, spinners) in [
        (["alone", "alone", "alone"], 3),
        (["grouped", "grouped", "grouped"], 3),
        (["gathered", "alone", "gathered"], 5),
        (["goes_on", "grouped", "goes_on"], 3),
        (["alone", "fails", "grouped"], 3),
        (["alone", "swallows", "alone"], 3),
        (["apart", "alone", "apart"], 3),
    ] {
        let said = |what| harness.logs().iter().filter(|record| record.message == what).count();
        let (waiting, spinning) = (said("waits"), said("spins"));
        let begun: Vec<_> =
            functions.iter().map(|name| bundle.begin(T, name, &[0x90]).unwrap()).collect();
        wait_for(&harness, "waits", waiting + spinners);
        call::<_, ()>(&bundle, "release", ()).unwrap();
        wait_for(&harness, "spins", spinning + 1);
        begun.iter().for_each(|one| bundle.interrupt_call(*one));
        for (one, function) in begun.into_iter().zip(functions) {
            assert_eq!(bundle.finish(one), Err(Failure::Cancelled), "{function} of {functions:?}");
        }
        assert_eq!(call::<_, String>(&bundle, "slow", ()).as_deref(), Ok("slow"));
    }
    for one in waits {
        assert_eq!(bundle.finish(one).unwrap(), b"\xa4slow");
    }
}

/// A task group cancels its tasks one turn of the loop after it is cancelled itself.
#[test]
fn s6_a_task_that_goes_on_before_its_group_cancels_it_is_stopped() {
    let harness = harness();
    let bundle = code(
        &harness,
        "between",
        "
import asyncio
go = asyncio.Event()

async def child():
    print('waits')
    await go.wait()
    while True: pass

@menagerie.export('t@1')
async def grouped():
    async with asyncio.TaskGroup() as group:
        for _ in range(3): group.create_task(child())

@menagerie.export('t@1')
def holds():
    print('holds')
    try:
        while True: go.is_set()
    finally:
        go.set()

@menagerie.export('t@1')
def fine(): return 'fine'
",
    )
    .unwrap();
    let grouped = bundle.begin(T, "grouped", &[0x90]).unwrap();
    wait_for(&harness, "waits", 3);
    let holds = bundle.begin(T, "holds", &[0x90]).unwrap();
    wait_for(&harness, "holds", 1);
    // Cancelled in the loop, where it comes before the tasks that are woken then.
    bundle.interrupt_call(grouped);
    bundle.interrupt_call(holds);
    assert_eq!(bundle.finish(holds), Err(Failure::Cancelled));
    assert_eq!(bundle.finish(grouped), Err(Failure::Cancelled));
    assert_eq!(call::<_, String>(&bundle, "fine", ()).as_deref(), Ok("fine"));
}

#[test]
fn s6_a_stop_takes_the_place_of_what_is_thrown_into_a_call() {
    let harness = harness();
    let bundle = code(
        &harness,
        "thrown",
        "
import asyncio
go = asyncio.Event()
futures = []

@menagerie.export('t@1')
async def spins():
    print('waits')
    await go.wait()
    for future in futures: future.set_exception(ValueError())
    print('spins')
    while True: pass

@menagerie.export('t@1')
async def waits():
    future = asyncio.get_running_loop().create_future()
    futures.append(future)
    print('waits')
    try: await future
    except ValueError: pass
    while True: pass

@menagerie.export('t@1')
def release(): go.set()

@menagerie.export('t@1')
def fine(): return 'fine'
",
    )
    .unwrap();
    let spins = bundle.begin(T, "spins", &[0x90]).unwrap();
    let waits: Vec<_> = (0..2).map(|_| bundle.begin(T, "waits", &[0x90]).unwrap()).collect();
    wait_for(&harness, "waits", 3);
    call::<_, ()>(&bundle, "release", ()).unwrap();
    wait_for(&harness, "spins", 1);
    bundle.interrupt();
    for one in waits.into_iter().chain([spins]) {
        assert_eq!(bundle.finish(one), Err(Failure::Cancelled));
    }
    assert_eq!(call::<_, String>(&bundle, "fine", ()).as_deref(), Ok("fine"));
}

#[test]
fn s6_a_stop_lets_a_call_clean_up_once() {
    let harness = harness();
    let bundle = code(
        &harness,
        "cleans",
        "
import asyncio
go = asyncio.Event()
cleaned = []

@menagerie.export('t@1')
async def cleans(name):
    try:
        print('waits')
        await go.wait()
        print('spins')
        while True: pass
    finally:
        await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        cleaned.append(name)

@menagerie.export('t@1')
async def in_task(): await asyncio.create_task(cleans_at_once())

async def cleans_at_once():
    try:
        print('spins in a task')
        while True: pass
    finally:
        await asyncio.sleep(0)
        cleaned.append(3)

@menagerie.export('t@1')
def release(): go.set()

@menagerie.export('t@1')
def told(): return sorted(cleaned)
",
    )
    .unwrap();
    let begun: Vec<_> = (0..3)
        .map(|name| {
            let mut args = Vec::new();
            encode_args(&mut args, &(name,)).unwrap();
            bundle.begin(T, "cleans", &args).unwrap()
        })
        .collect();
    wait_for(&harness, "waits", 3);
    call::<_, ()>(&bundle, "release", ()).unwrap();
    wait_for(&harness, "spins", 1);
    bundle.interrupt();
    for one in begun {
        assert_eq!(bundle.finish(one), Err(Failure::Cancelled));
    }
    let in_task = bundle.begin(T, "in_task", &[0x90]).unwrap();
    wait_for(&harness, "spins in a task", 1);
    bundle.interrupt();
    assert_eq!(bundle.finish(in_task), Err(Failure::Cancelled));
    assert_eq!(call::<_, Vec<u8>>(&bundle, "told", ()).unwrap(), [0, 1, 2, 3]);
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

const CALLS: &str = "
@menagerie.export('t@1')
def call(contract, function, args):
    return menagerie.call(contract, function, *args)

@menagerie.export('t@1')
async def call_later(contract, function, args):
    return await menagerie.call_async(contract, function, *args)

@menagerie.export('t@1')
def kind(contract, function):
    try:
        menagerie.call(contract, function)
    except menagerie.CallError as error:
        return [error.kind, str(error), error.remote_type, error.remote_message, error.remote_stack]

@menagerie.export('t@1')
async def kind_later(contract, function):
    try:
        await menagerie.call_async(contract, function)
    except menagerie.CallError as error:
        return [error.kind, str(error), error.remote_type, error.remote_message, error.remote_stack]

@menagerie.export('t@1')
def from_thread():
    import threading
    said = []
    def run():
        try: menagerie.call('kv@1', 'get')
        except menagerie.CallError as error: said.extend([error.kind, str(error)])
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return said
";

#[test]
fn c5_bundles_call_other_contracts() {
    let harness = harness();
    harness.on_call(|contract, function, args| match (contract, function) {
        ("kv@1", "echo") => Ok(args.to_vec()),
        ("kv@1", "raise") => {
            Err(GuestError::new("KeyError", "gone").with_stack("at the other end").into())
        }
        _ => Err(Failure::NoSuchContract { contract: contract.to_owned() }),
    });
    let bundle = code(&harness, "calls", CALLS).unwrap();
    for function in ["call", "call_later"] {
        let back: Value = call(&bundle, function, ("kv@1", "echo", (1, "two", [3.0]))).unwrap();
        let mut sent = Vec::new();
        encode_args(&mut sent, &(1, "two", [3.0])).unwrap();
        assert_eq!(back, rmpv::decode::read_value(&mut &sent[..]).unwrap());
    }
    type Told = (String, String, Option<String>, Option<String>, Option<String>);
    for function in ["kind", "kind_later"] {
        let told: Told = call(&bundle, function, ("kv@1", "raise")).unwrap();
        assert_eq!(told.0, "Guest");
        let remote = (told.2.as_deref(), told.3.as_deref(), told.4.as_deref());
        assert_eq!(remote, (Some("KeyError"), Some("gone"), Some("at the other end")));
        let told: Told = call(&bundle, function, ("none@1", "f")).unwrap();
        assert_eq!(told.0, "NoSuchContract");
        assert!(told.1.contains("none@1"), "{}", told.1);
        assert_eq!(told.2, None);
    }
    let error =
        guest_error(call::<_, ()>(&bundle, "call", ("none@1", "f", [0_u8; 0])).unwrap_err());
    assert_eq!(error.type_name, "menagerie.CallError");
    assert_eq!(error.code.as_deref(), Some("NoSuchContract"));
    let told: Vec<String> = call(&bundle, "from_thread", ()).unwrap();
    assert_eq!(told[0], "WrongThread");
}

/// Maps of the keys 1 and 1.0, and of a list for a key.
#[test]
fn c1_an_answer_that_python_cannot_hold_is_a_call_error() {
    let harness = harness();
    harness.on_call(|_, function, _| match function {
        "numbers" => Ok(b"\x82\x01\xc0\xcb\x3f\xf0\0\0\0\0\0\0\xc0".to_vec()),
        _ => Ok(b"\x81\x90\xc0".to_vec()),
    });
    let bundle = code(&harness, "misfits", CALLS).unwrap();
    for function in ["kind", "kind_later"] {
        for (answer, problem) in [("numbers", "equal in Python"), ("list", "no dict can hold")] {
            let (kind, text, ..): (String, String, Value, Value, Value) =
                call(&bundle, function, ("kv@1", answer)).unwrap();
            assert_eq!(kind, "BadValue", "{function}");
            assert!(text.contains(problem), "{function}: {text}");
        }
    }
}

/// The answer comes after the lane has gone to sleep for it; the event loop that the call
/// was made from must not go on as if the lane were still woken by its socket.
#[test]
fn c5_a_blocking_call_after_an_await_leaves_the_lane_awake() {
    let harness = harness();
    harness.on_call(|_, _, _| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        Ok(vec![7])
    });
    let bundle = code(
        &harness,
        "blocks-late",
        "
import asyncio

@menagerie.export('t@1')
async def work():
    await asyncio.sleep(0.02)
    return menagerie.call('kv@1', 'get')

@menagerie.export('t@1')
async def both():
    first = menagerie.call_async('kv@1', 'get')
    await asyncio.sleep(0.02)
    return [menagerie.call('kv@1', 'get'), await first]

@menagerie.export('t@1')
async def both_at_once():
    first = menagerie.call_async('kv@1', 'get')
    return [menagerie.call('kv@1', 'get'), await first]

@menagerie.export('t@1')
async def waits(): await asyncio.sleep(0.05)

@menagerie.export('t@1')
def ping(): return 1
",
    )
    .unwrap();
    for _ in 0..3 {
        // Keeps the loop from its end.
        let waits = bundle.begin(T, "waits", &[0x90]).unwrap();
        assert_eq!(call::<_, u8>(&bundle, "work", ()).unwrap(), 7);
        assert_eq!(call::<_, u8>(&bundle, "ping", ()).unwrap(), 1);
        // A call that comes meanwhile is not forgotten either.
        let work = bundle.begin(T, "work", &[0x90]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(22));
        let ping = bundle.begin(T, "ping", &[0x90]).unwrap();
        assert_eq!(bundle.finish(ping).unwrap(), [1]);
        assert_eq!(bundle.finish(work).unwrap(), [7]);
        for function in ["both", "both_at_once"] {
            assert_eq!(call::<_, [u8; 2]>(&bundle, function, ()).unwrap(), [7, 7]);
        }
        assert_eq!(bundle.finish(waits).unwrap(), [0xc0]);
    }
}

/// Caught, it is there to be looked at; let through, it is the cause of the bundle's own.
#[test]
fn c3_the_callees_error_is_kept_whole() {
    let harness = harness();
    let remote = GuestError {
        type_name: "KeyError".to_owned(),
        message: "gone".to_owned(),
        stack: "at the other end".to_owned(),
        code: Some("E1".to_owned()),
        help: Some("look again".to_owned()),
        url: Some("about:keys".to_owned()),
        inner: vec![
            GuestError::new("OSError", "no disk").with_stack("deeper"),
            GuestError::new("TimeoutError", ""),
        ],
    };
    let raised = remote.clone();
    harness.on_call(move |_, _, _| Err(raised.clone().into()));
    let bundle = code(
        &harness,
        "lets-through",
        "
@menagerie.export('t@1')
def through(): return menagerie.call('kv@1', 'get')

@menagerie.export('t@1')
async def through_later(): return await menagerie.call_async('kv@1', 'get')

@menagerie.export('t@1')
def wrapped():
    try:
        menagerie.call('kv@1', 'get')
    except menagerie.CallError as error:
        raise RuntimeError('outer') from error

@menagerie.export('t@1')
def caught():
    try:
        menagerie.call('kv@1', 'get')
    except menagerie.CallError as error:
        remote = error.remote
        return [error.code, remote.type, remote.message, remote.stack, remote.code, remote.help,
                remote.url, *(cause.type for cause in remote.causes)]
",
    )
    .unwrap();
    for function in ["through", "through_later"] {
        let error = guest_error(call::<_, ()>(&bundle, function, ()).unwrap_err());
        assert_eq!(error.type_name, "menagerie.CallError");
        assert_eq!(error.code.as_deref(), Some("Guest"));
        assert_eq!(error.inner, std::slice::from_ref(&remote));
    }
    let error = guest_error(call::<_, ()>(&bundle, "wrapped", ()).unwrap_err());
    assert_eq!(error.type_name, "RuntimeError");
    assert_eq!(error.inner[0].inner, [remote]);
    let caught: Vec<String> = call(&bundle, "caught", ()).unwrap();
    let told = ["Guest", "KeyError", "gone", "at the other end", "E1", "look again", "about:keys"];
    assert_eq!(caught[..7], told);
    assert_eq!(caught[7..], ["OSError", "TimeoutError"]);
}

#[test]
fn async_calls_to_others_interleave() {
    let harness = harness();
    harness.on_call(|_, function, _| {
        let mut out = Vec::new();
        menagerie_protocol::msgpack::Writer::new(&mut out).str(function);
        Ok(out)
    });
    let bundle = code(
        &harness,
        "gathers",
        "
import asyncio

@menagerie.export('t@1')
async def gather():
    return await asyncio.gather(*(menagerie.call_async('kv@1', name) for name in 'abc'))
",
    )
    .unwrap();
    assert_eq!(call::<_, Vec<String>>(&bundle, "gather", ()).unwrap(), ["a", "b", "c"]);
}
