use menagerie_protocol::msgpack::encode_args;
use menagerie_protocol::{Failure, GuestError};
use rmpv::Value;

use crate::support::{T, call, code, guest_error, harness};

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
