use menagerie_protocol::Failure;
use rmpv::Value;
use serde_bytes::ByteBuf;

use crate::support::{bad_arguments, call, code, guest_error, harness};

const ECHO: &str = "
@menagerie.export('t@1')
def echo(value): return value
";

#[test]
fn c1_values_come_back_as_they_went() {
    let harness = harness();
    let bundle = code(&harness, "values", ECHO).unwrap();
    let values = [
        Value::Nil,
        Value::from(true),
        Value::from(0),
        Value::from(-1),
        Value::from(i64::MIN),
        Value::from(i64::MAX),
        Value::from(u64::MAX),
        Value::from(1.5),
        Value::from(f64::NEG_INFINITY),
        Value::from(""),
        Value::from("héllo, 世界 🐍\0"),
        Value::Binary(vec![]),
        Value::Binary(vec![0, 255, 128]),
        Value::Array(vec![Value::Nil, Value::Array(vec![Value::from(1), Value::from("x")])]),
        Value::Map(vec![
            (Value::from(1), Value::from("an integer")),
            (Value::from(2.5), Value::from("a float")),
            (Value::Nil, Value::from("null")),
            (Value::Binary(vec![1]), Value::from("bytes")),
            (Value::from(false), Value::Map(vec![(Value::from("k"), Value::Array(vec![]))])),
        ]),
    ];
    for value in values {
        let back: Value = call(&bundle, "echo", (&value,)).unwrap();
        assert_eq!(back, value);
    }
    let nan: f64 = call(&bundle, "echo", (f64::NAN,)).unwrap();
    assert!(nan.is_nan());
}

#[test]
fn c1_python_sees_its_own_types() {
    let harness = harness();
    let bundle = code(
        &harness,
        "types",
        "
@menagerie.export('t@1')
def kinds(*values): return [type(v).__name__ for v in values]
",
    )
    .unwrap();
    let args =
        (Value::Nil, true, 1, u64::MAX, 1.0, "s", ByteBuf::from([1]), [1, 2], Value::Map(vec![]));
    let kinds: Vec<String> = call(&bundle, "kinds", args).unwrap();
    assert_eq!(kinds, ["NoneType", "bool", "int", "int", "float", "str", "bytes", "list", "dict"]);
}

#[test]
fn c1_what_does_not_fit_is_a_typed_error() {
    let harness = harness();
    let bundle = code(
        &harness,
        "misfits",
        "
import array
results = {
    'big': 2**70,
    'small': -2**63 - 1,
    'nested': [{'k': 2**64}],
    'set': {1, 2},
    'object': object(),
    'surrogate': '\\ud800',
    'floats': memoryview(array.array('d', [1.0])),
    'strided': memoryview(b'abcdef')[::2],
}
class Own(str):
    def __hash__(self): return id(self)
    def __eq__(self, other): return self is other

results['own keys'] = {Own('a'): 1, Own('a'): 2}
results['own and plain'] = {'a': 1, 'b': 2, Own('b'): 3}
results['in a tuple'] = [{(Own('a'), 1): 1, (Own('a'), 1): 2}]
results['not a number'] = {float('nan'): 1, float('nan'): 2}
cycle = []
cycle.append(cycle)
results['cycle'] = cycle

@menagerie.export('t@1')
def give(what): return results[what]
",
    )
    .unwrap();
    for (what, kind, words) in [
        ("big", "OverflowError", "64 bits"),
        ("small", "OverflowError", "64 bits"),
        ("nested", "OverflowError", "64 bits"),
        ("set", "TypeError", "type set"),
        ("object", "TypeError", "type object"),
        ("surrogate", "UnicodeEncodeError", "surrogates"),
        ("floats", "TypeError", "8 bytes"),
        ("strided", "BufferError", "contiguous"),
        ("own keys", "ValueError", "keys that are the same"),
        ("own and plain", "ValueError", "keys that are the same"),
        ("in a tuple", "ValueError", "keys that are the same"),
        ("not a number", "ValueError", "keys that are the same"),
        ("cycle", "ValueError", "contains itself"),
    ] {
        let error = guest_error(call::<_, Value>(&bundle, "give", (what,)).unwrap_err());
        assert_eq!(error.type_name, kind, "{what}");
        assert!(error.message.contains(words), "{what}: {}", error.message);
    }
}

#[test]
fn c1_arguments_that_python_cannot_hold_are_bad_arguments() {
    let harness = harness();
    let bundle = code(&harness, "bad-keys", ECHO).unwrap();
    let list_as_key = Value::Map(vec![(Value::Array(vec![]), Value::Nil)]);
    let message = bad_arguments(call::<_, Value>(&bundle, "echo", (list_as_key,)).unwrap_err());
    assert!(message.contains("list"), "{message}");
    let equal_keys =
        Value::Map(vec![(Value::from(1), Value::Nil), (Value::from(true), Value::Nil)]);
    let message = bad_arguments(call::<_, Value>(&bundle, "echo", (equal_keys,)).unwrap_err());
    assert!(message.contains("equal"), "{message}");

    let mut deep = vec![0x91; 4096];
    deep.push(0xc0);
    let failure = bundle.call_raw("t@1", "echo", &deep).unwrap_err();
    assert!(bad_arguments(failure).contains("deep"));
    let failure = bundle.call_raw("t@1", "echo", &[0x91, 0xd4, 1, 2]).unwrap_err();
    assert!(bad_arguments(failure).contains("not supported"));
    let failure = bundle.call_raw("t@1", "echo", &[0xa1, b'x']).unwrap_err();
    assert!(bad_arguments(failure).contains("list"));
}

#[test]
fn c2_large_bytes_are_views_and_come_back() {
    let harness = harness();
    let bundle = code(
        &harness,
        "large",
        "
kept = None

@menagerie.export('t@1')
def echo(value): return value

@menagerie.export('t@1')
def reverse(value): return bytes(value)[::-1]

@menagerie.export('t@1')
def part(value, start, end): return value[start:end]

@menagerie.export('t@1')
def mixed(value):
    large = bytearray([7]) * 70_000
    view = memoryview(large)
    inner = {'large': view[:5000], bytes(view[:6000]): ('a', large[:4096], 1)}
    return [None, value, bytes(view[:4095]), large, inner, value]

@menagerie.export('t@1')
async def mixed_later(value): return mixed(value)

@menagerie.export('t@1')
def swapped(value): return value[::-1]

@menagerie.export('t@1')
def keep(value, slice):
    global kept
    kept = value[10:20] if slice else value
    return [type(value).__name__, value.readonly, len(value)]

@menagerie.export('t@1')
def look():
    try:
        return bytes(kept)
    except ValueError as error:
        return str(error)

@menagerie.export('t@1')
async def later(value):
    import asyncio
    await asyncio.sleep(0)
    return [len(value), bytes(value[:3])]
",
    )
    .unwrap();
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let sent = ByteBuf::from(bytes.clone());

    let back: ByteBuf = call(&bundle, "echo", (&sent,)).unwrap();
    assert!(back == bytes, "the echo differs");
    let back: ByteBuf = call(&bundle, "reverse", (&sent,)).unwrap();
    assert!(back.iter().eq(bytes.iter().rev()), "the reverse differs");
    let back: ByteBuf = call(&bundle, "part", (&sent, 5, 900_000)).unwrap();
    assert!(back == bytes[5..900_000], "the part differs");
    let nested: Vec<ByteBuf> = call(&bundle, "echo", ([&sent, &sent],)).unwrap();
    assert!(nested.iter().all(|part| *part == bytes), "the nested echo differs");
    // Bytes among other values, each kind of them, go from where they are.
    let mixed = |one: &Value| {
        let large = |len: usize| Value::from(vec![7; len]);
        let map = Value::Map(vec![
            (Value::from("large"), large(5000)),
            (large(6000), Value::from(vec![Value::from("a"), large(4096), Value::from(1)])),
        ]);
        Value::from(vec![Value::Nil, one.clone(), large(4095), large(70_000), map, one.clone()])
    };
    let sent_value = Value::from(bytes.clone());
    let back: Value = call(&bundle, "mixed", (&sent,)).unwrap();
    assert!(back == mixed(&sent_value), "the mixed value differs");
    let back: Value = call(&bundle, "mixed_later", (&sent,)).unwrap();
    assert!(back == mixed(&sent_value), "the mixed value differs later");
    let back: Value = call(&bundle, "echo", (mixed(&sent_value),)).unwrap();
    assert!(back == mixed(&sent_value), "the echo of the mixed value differs");
    let part = |from: usize, to: usize| ByteBuf::from(&bytes[from..to]);
    let back: Vec<ByteBuf> =
        call(&bundle, "swapped", ([&part(0, 10_000), &part(5, 9000)],)).unwrap();
    assert!(back[0] == bytes[5..9000] && back[1] == bytes[..10_000], "the swapped list differs");

    let seen: (String, bool, usize) = call(&bundle, "keep", (&sent, false)).unwrap();
    assert_eq!(seen, ("memoryview".to_owned(), true, bytes.len()));
    let after: String = call(&bundle, "look", ()).unwrap();
    assert!(after.contains("released"), "{after}");

    // A slice cannot be released for the guest; it stays readable memory.
    let _: Value = call(&bundle, "keep", (&sent, true)).unwrap();
    let after: ByteBuf = call(&bundle, "look", ()).unwrap();
    assert_eq!(after.len(), 10);

    let seen: (usize, ByteBuf) = call(&bundle, "later", (&sent,)).unwrap();
    assert_eq!((seen.0, &seen.1[..]), (bytes.len(), &bytes[..3]));
}

#[test]
fn c3_the_number_of_arguments_is_checked_before_the_body_runs() {
    let harness = harness();
    let bundle = code(
        &harness,
        "counts",
        "
ran = 0

@menagerie.export('t@1')
def none():
    global ran
    ran += 1

@menagerie.export('t@1')
def some(a, b=2):
    global ran
    ran += 1
    return [a, b]

@menagerie.export('t@1')
def any(a, *rest): return [a, *rest]

@menagerie.export('t@1')
def four(a, b, c, d): return [d, c, b, a]

@menagerie.export('t@1')
def runs(): return ran
",
    )
    .unwrap();
    let message = bad_arguments(call::<_, ()>(&bundle, "none", (1,)).unwrap_err());
    assert_eq!(message, "none() takes 0 arguments, 1 given");
    let message = bad_arguments(call::<_, ()>(&bundle, "some", ()).unwrap_err());
    assert_eq!(message, "some() takes 1 to 2 arguments, 0 given");
    let message = bad_arguments(call::<_, ()>(&bundle, "some", (1, 2, 3)).unwrap_err());
    assert_eq!(message, "some() takes 1 to 2 arguments, 3 given");
    let message = bad_arguments(call::<_, ()>(&bundle, "any", ()).unwrap_err());
    assert_eq!(message, "any() takes at least 1 argument, 0 given");
    assert_eq!(call::<_, u32>(&bundle, "runs", ()).unwrap(), 0);

    assert_eq!(call::<_, Vec<u8>>(&bundle, "some", (7,)).unwrap(), [7, 2]);
    assert_eq!(call::<_, Vec<u8>>(&bundle, "any", (1, 2, 3, 4, 5)).unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(call::<_, Vec<u8>>(&bundle, "any", (1, 2, 3)).unwrap(), [1, 2, 3]);
    assert_eq!(call::<_, Vec<u8>>(&bundle, "four", (1, 2, 3, 4)).unwrap(), [4, 3, 2, 1]);
}

#[test]
fn c3_annotations_are_checked_before_the_body_runs() {
    let harness = harness();
    let bundle = code(
        &harness,
        "annotations",
        "
from typing import Annotated, Any, List, NewType, Optional, Union, TYPE_CHECKING
if TYPE_CHECKING:
    from nowhere import Unknown
UserId = NewType('UserId', int)

def check(**kinds):
    for name, annotation in kinds.items():
        def f(x): return 'ran'
        f.__name__ = name
        f.__annotations__ = {'x': annotation}
        menagerie.export('t@1')(f)

check(i=int, f=float, s=str, y='bytes', b=bool, l=list[int], d='dict[str, int]', n=None,
      o='Optional[int]', u='int | None', w=Union[str, bytes], a=Any, t=List[str],
      k='Unknown', p=Annotated[int, 'x'], q=UserId, c=complex)

@menagerie.export('t@1')
def rest(first: str, *more: int): return 'ran'
",
    )
    .unwrap();
    let map = || Value::Map(vec![(Value::from("k"), Value::from(1))]);
    let list = || Value::Array(vec![Value::from(1)]);
    let all = [
        (Value::Nil, 'N'),
        (Value::from(true), 'B'),
        (Value::from(1), 'I'),
        (Value::from(1.5), 'F'),
        (Value::from("s"), 'S'),
        (Value::Binary(vec![1]), 'Y'),
        (list(), 'L'),
        (map(), 'M'),
    ];
    for (function, taken) in [
        ("i", "I"),
        ("f", "IF"),
        ("s", "S"),
        ("y", "Y"),
        ("b", "B"),
        ("l", "L"),
        ("d", "M"),
        ("n", "N"),
        ("o", "IN"),
        ("u", "IN"),
        ("w", "SY"),
        ("a", "NBIFSYLM"),
        ("t", "L"),
        ("k", "NBIFSYLM"),
        ("p", "I"),
        ("q", "I"),
        ("c", "NBIFSYLM"),
    ] {
        for (value, kind) in &all {
            let result = call::<_, String>(&bundle, function, (value,));
            if taken.contains(*kind) {
                assert_eq!(result.as_deref(), Ok("ran"), "{function}({value})");
            } else {
                let message = bad_arguments(result.unwrap_err());
                assert!(message.contains("argument 1, 'x'"), "{message}");
            }
        }
    }
    let message = bad_arguments(call::<_, String>(&bundle, "u", ("s",)).unwrap_err());
    assert_eq!(message, "u(): argument 1, 'x', is str; expected int or None");
    let message = bad_arguments(call::<_, String>(&bundle, "i", (true,)).unwrap_err());
    assert_eq!(message, "i(): argument 1, 'x', is bool; expected int");
    let message = bad_arguments(call::<_, String>(&bundle, "rest", ("s", 1, 2, "x")).unwrap_err());
    assert_eq!(message, "rest(): argument 4, 'more', is str; expected int");
}

#[test]
fn c2_a_value_that_shares_its_parts_is_refused_at_the_limit() {
    let harness = harness();
    harness.on_call(|_, _, _| panic!("it does not get there"));
    let bundle = code(
        &harness,
        "shares",
        "
def shared():
    value = ['x' * 65536]
    for _ in range(60): value = [value, value]
    return value

@menagerie.export('t@1')
def lists(): return shared()

@menagerie.export('t@1')
async def later(): return shared()

@menagerie.export('t@1')
def contents(): return [bytes(1_000_000)] * 100

@menagerie.export('t@1')
def argument():
    try:
        menagerie.call('kv@1', 'put', shared())
    except menagerie.CallError as error:
        return error.kind

@menagerie.export('t@1')
async def argument_later():
    try:
        await menagerie.call_async('kv@1', 'put', shared())
    except menagerie.CallError as error:
        return error.kind
",
    )
    .unwrap();
    for function in ["lists", "later", "contents"] {
        let failure = call::<_, ()>(&bundle, function, ()).unwrap_err();
        let Failure::PayloadTooLarge { size, limit } = failure else {
            panic!("{function}: {failure:?}");
        };
        assert_eq!(limit, 64 << 20);
        assert!(size > limit && size < 2 * limit, "{function}: {size}");
    }
    for function in ["argument", "argument_later"] {
        let kind: String = call(&bundle, function, ()).unwrap();
        assert_eq!(kind, "PayloadTooLarge", "{function}");
    }
}
