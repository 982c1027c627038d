use menagerie_protocol::Failure;
use menagerie_protocol::msgpack::encode_args;
use menagerie_protocol::testing::Harness;

use crate::support::{T, call, code, harness};

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
