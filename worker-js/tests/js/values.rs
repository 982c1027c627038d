use std::collections::BTreeMap;

use menagerie_protocol::Failure;
use menagerie_protocol::msgpack::{MAX_DEPTH, Reader, Token, Writer};

use crate::{functions, guest, harness, sample};

/// One argument, written by `write`.
fn args(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.array(1);
    write(&mut writer);
    bytes
}

#[test]
fn c1_values_survive_the_round_trip() {
    let probe = harness().load_dir(sample("probe-js")).unwrap();
    let echo = |write: &dyn Fn(&mut Writer<'_>)| {
        let sent = args(write);
        let got = probe.call_raw("probe@1", "echo", &sent).unwrap();
        assert_eq!(got, &sent[1..]);
    };
    echo(&|w| w.nil());
    echo(&|w| w.bool(true));
    echo(&|w| w.bool(false));
    let edge = 1_i64 << 53;
    for number in [0, 1, -1, 127, -128, i64::from(i32::MAX), i64::from(i32::MIN)] {
        echo(&|w| w.int(number));
    }
    for number in [edge - 1, edge, edge + 1, -edge + 1, -edge, -edge - 1, i64::MIN, i64::MAX] {
        echo(&|w| w.int(number));
    }
    echo(&|w| w.uint(u64::MAX));
    echo(&|w| w.uint(1 << 63));
    for number in [1.5, -0.0, 1e300, f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY] {
        echo(&|w| w.float(number));
    }
    for text in ["", "Ada", "naïve", "日本", "🦊🦊", "a\0b", "\u{fffd}", &"x".repeat(70_000)]
    {
        echo(&|w| w.str(text));
    }
    for len in [0, 1, 255, 256, 4095, 4096, 70_000] {
        echo(&|w| w.bin(&vec![7; len]));
    }
    echo(&|w| {
        w.array(3);
        w.map(2);
        w.str("b");
        w.array(0);
        w.str("a");
        w.map(0);
        w.bin(&vec![1; 5000]);
        w.nil();
    });
}

#[test]
fn c1_nan_stays_nan_and_floats_that_are_integers_become_integers() {
    let probe = harness().load_dir(sample("probe-js")).unwrap();
    assert!(probe.call::<_, f64>("probe@1", "echo", (f64::NAN,)).unwrap().is_nan());
    let got = probe.call_raw("probe@1", "echo", &args(|w| w.float(3.0))).unwrap();
    assert_eq!(Reader::new(&got).token(), Ok(Token::Int(3)));
    let got = probe.call_raw("probe@1", "echo", &args(|w| w.float(2f64.powi(53)))).unwrap();
    assert_eq!(Reader::new(&got).token(), Ok(Token::Float(2f64.powi(53))));
}

#[test]
fn c1_integers_are_exact_across_the_edge() {
    let probe = harness().load_dir(sample("probe-js")).unwrap();
    let inc = |n: i64| probe.call::<_, i64>("probe@1", "inc", (n,));
    assert_eq!(inc(41), Ok(42));
    for n in [(1 << 53) - 2, 1 << 53, (1 << 53) + 1, -(1 << 53) - 1, i64::MAX - 1] {
        assert_eq!(inc(n), Ok(n + 1));
    }
    let over: Result<u64, _> = probe.call("probe@1", "inc", (i64::MAX,));
    assert_eq!(over, Ok(1 << 63));
    let error = guest(probe.call::<_, u64>("probe@1", "inc", (u64::MAX,)));
    assert_eq!(error.type_name, "TypeError");
    assert!(error.message.contains("BigInt"), "{}", error.message);
}

#[test]
fn c1_maps_keep_their_keys() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "kind: (m) => m instanceof Map ? 'Map' : typeof m,
         get: (m, k) => m instanceof Map ? m.get(k) : m[k],
         proto: (m) => [Object.getPrototypeOf(m) === Object.prototype, Object.keys(m), {}.polluted ?? null],
         echo: (m) => m, made: () => new Map([[1, 'one'], ['two', 2], [null, [3]]])",
    );
    let strings = BTreeMap::from([("b", 1), ("a", 2)]);
    assert_eq!(bundle.call::<_, String>("test@1", "kind", (&strings,)).unwrap(), "object");
    let numbers = BTreeMap::from([(2, "two"), (1, "one")]);
    assert_eq!(bundle.call::<_, String>("test@1", "kind", (&numbers,)).unwrap(), "Map");
    assert_eq!(bundle.call::<_, String>("test@1", "get", (&numbers, 2)).unwrap(), "two");
    let echoed: BTreeMap<i64, String> = bundle.call("test@1", "echo", (&numbers,)).unwrap();
    assert_eq!(echoed.len(), 2);

    let evil = BTreeMap::from([("__proto__", BTreeMap::from([("polluted", true)]))]);
    let seen: (bool, Vec<String>, Option<bool>) = bundle.call("test@1", "proto", (&evil,)).unwrap();
    assert_eq!(seen, (true, vec!["__proto__".to_owned()], None));

    // The same key twice, as text, and as two numbers that are one.
    for twice in
        [&b"\x91\x82\xa1k\x01\xa1k\x02"[..], b"\x91\x82\x01\x01\xcb\x3f\xf0\0\0\0\0\0\0\x02"]
    {
        let refused = bundle.call_raw("test@1", "echo", twice);
        let named =
            matches!(&refused, Err(Failure::BadArguments { message }) if message.contains("twice"));
        assert!(named, "{refused:?}");
    }

    let made = bundle.call_raw("test@1", "made", &[0x90]).unwrap();
    let mut reader = Reader::new(&made);
    assert_eq!(reader.token(), Ok(Token::Map(3)));
    assert_eq!(reader.token(), Ok(Token::Int(1)));
}

/// Two objects are two keys, and may be one outside.
#[test]
fn c1_a_map_with_objects_of_one_content_as_keys_is_refused() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "bytes: (n, same) => new Map([[new Uint8Array(n), 1], [new Uint8Array(n).fill(same ? 0 : 1), 2]]),
         buffers: (n, same) => new Map([[new ArrayBuffer(n), 1], [new Uint8Array(n).fill(same ? 0 : 1), 2]]),
         arrays: (n, same) => new Map([[Array(n).fill(1), 1], [Array(n).fill(same ? 1 : 2), 2], [1, 3]]),
         objects: (n, same) => new Map([[{ n }, 1], [{ n: same ? n : -1 }, 2], ['n', n]]),
         nested: (n, same) => [{ m: new Map([[new Map([[[n], n]]), 1], [new Map([[[same ? n : -1], n]]), 2]]) }]",
    );
    for function in ["bytes", "buffers", "arrays", "objects", "nested"] {
        for n in [3, 10_000] {
            let error = guest(bundle.call::<_, ()>("test@1", function, (n, true)));
            assert!(error.message.contains("they are one there"), "{function} {n}: {error:?}");
            let mut args = Vec::new();
            menagerie_protocol::msgpack::encode_args(&mut args, &(n, false)).unwrap();
            let sent = bundle.call_raw("test@1", function, &args);
            assert!(sent.is_ok(), "{function} {n}: {sent:?}");
        }
    }
}

#[test]
fn c1_what_cannot_leave_is_a_typed_error() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "f: () => () => 1, symbol: () => Symbol('x'), nested: () => [{ f() {} }],
         big: () => 2n ** 64n, small: () => -(2n ** 63n) - 1n, date: () => new Date(0),
         set: () => new Set([1]), promise: () => [Promise.resolve(1)], error: () => new Error('x'),
         half: () => '\\ud800', half_key: () => ({ ['\\udc00']: 1 }), floats: () => new Float64Array(1),
         boxed: () => Object(1), cycle() { const a = []; a.push(a); return a; },
         cycle_map() { const m = new Map(); m.set(1, m); return m; },
         getter: () => ({ get x() { throw new RangeError('mine'); } }),
         proxy: () => new Proxy({}, { ownKeys() { throw new RangeError('mine'); } }),
         generator: () => (function* () { yield 1; })(), keys: () => new Map([[1, 2]]).keys(),
         async_generator: () => (async function* () { yield 1; })(),
         *exported() { yield 1; }, helper: () => [1, 2].values().map((n) => n),
         detached() { const b = new ArrayBuffer(8); b.transfer(); return b; },
         weak: () => new WeakRef({}), format: () => new Intl.DateTimeFormat('en'),
         instant: () => Temporal.Now.instant(), length: () => [Temporal.Duration.from('PT1S')],
         twice: () => new Map([[1, 'a'], [1n, 'b']]), again: () => new Map([[-7n, 'a'], [-7, 'b']]),
         nothing_twice: () => new Map([[undefined, 1], [null, 2]])",
    );
    for (function, word) in [
        ("f", "function"),
        ("symbol", "Symbol"),
        ("nested", "function"),
        ("big", "BigInt"),
        ("small", "BigInt"),
        ("date", "Date"),
        ("set", "Set"),
        ("promise", "promise"),
        ("error", "Error"),
        ("half", "surrogate"),
        ("half_key", "surrogate"),
        ("floats", "Uint8Array"),
        ("boxed", "boxed"),
        ("cycle", "cyclic"),
        ("cycle_map", "cyclic"),
        ("detached", "gone"),
        ("generator", "iterator"),
        ("async_generator", "iterator"),
        ("exported", "iterator"),
        ("keys", "iterator"),
        ("helper", "iterator"),
        ("weak", "WeakRef"),
        ("format", "Intl.DateTimeFormat"),
        ("instant", "Temporal.Instant"),
        ("length", "Temporal.Duration"),
        ("twice", "the keys 1 and 1n"),
        ("again", "the keys -7 and -7n"),
        ("nothing_twice", "the keys null and undefined"),
    ] {
        let error = guest(bundle.call::<_, ()>("test@1", function, ()));
        assert_eq!(error.type_name, "TypeError", "{function}: {error:?}");
        assert!(
            error.message.to_lowercase().contains(&word.to_lowercase()),
            "{function}: {}",
            error.message
        );
    }
    for function in ["getter", "proxy"] {
        let error = guest(bundle.call::<_, ()>("test@1", function, ()));
        assert_eq!((error.type_name.as_str(), error.message.as_str()), ("RangeError", "mine"));
    }
}

/// What is refused is known by what it is, and not by what it calls itself.
#[test]
fn c1_empty_objects_and_those_with_other_names_leave_as_maps() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "bare: () => Object.create(null), empty: () => new (class Empty { #hidden = 1; })(),
         named: () => new (class { get [Symbol.toStringTag]() { return 'Marker'; } })(),
         map: () => new (class { get [Symbol.toStringTag]() { return 'Map'; } })(),
         plain: () => ({ [Symbol.toStringTag]: 'Map' }), no_arguments() { return arguments; }",
    );
    for function in ["bare", "empty", "named", "map", "plain", "no_arguments"] {
        assert_eq!(bundle.call_raw("test@1", function, &[0x90]), Ok(vec![0x80]), "{function}");
    }
    let bundle = functions(
        &harness,
        "keys: () => new Map([[1, 'a'], [2n, 'b'], [2n ** 60n, 'c'], [null, 'd']]),
         no_method() { const m = new Map([[1, 2]]); m.forEach = null; return m; }",
    );
    let keys = bundle.call_raw("test@1", "keys", &[0x90]).unwrap();
    assert_eq!(keys[..5], [0x84, 1, 0xa1, b'a', 2]);
    assert_eq!(bundle.call_raw("test@1", "no_method", &[0x90]).unwrap(), [0x81, 1, 2]);
}

#[test]
fn c1_a_proxy_leaves_as_what_is_behind_it() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "list: () => new Proxy(new Proxy([1, [2]], {}), {}), none: () => new Proxy([], {}),
         map: () => new Proxy({ a: 1 }, {}), empty: () => Object.create({}),
         revoked() { const { proxy, revoke } = Proxy.revocable([], {}); revoke(); return proxy; }",
    );
    let result = |function| bundle.call_raw("test@1", function, &[0x90]).unwrap();
    assert_eq!(result("list"), b"\x92\x01\x91\x02");
    assert_eq!(result("none"), b"\x90");
    assert_eq!(result("map"), b"\x81\xa1a\x01");
    assert_eq!(result("empty"), b"\x80");
    let error = guest(bundle.call::<_, ()>("test@1", "revoked", ()));
    assert_eq!(error.type_name, "TypeError", "{error:?}");
}

#[test]
fn c1_undefined_and_holes_are_null() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "u() {}, holes: () => [, 1, undefined], fields: () => ({ a: undefined, [Symbol('s')]: 1 }),
         instance() { class P { x = 1; #y = 2; get z() { return 3; } } return new P(); }",
    );
    assert_eq!(bundle.call_raw("test@1", "u", &[0x90]).unwrap(), [0xc0]);
    assert_eq!(bundle.call_raw("test@1", "holes", &[0x90]).unwrap(), [0x93, 0xc0, 1, 0xc0]);
    assert_eq!(bundle.call_raw("test@1", "fields", &[0x90]).unwrap(), [0x81, 0xa1, b'a', 0xc0]);
    assert_eq!(bundle.call_raw("test@1", "instance", &[0x90]).unwrap(), [0x81, 0xa1, b'x', 1]);
}

#[test]
fn c1_nesting_is_limited_both_ways() {
    let probe = harness().load_dir(sample("probe-js")).unwrap();
    let nested = |levels: usize| {
        args(|w| {
            for _ in 0..levels {
                w.array(1);
            }
            w.nil();
        })
    };
    let sent = nested(MAX_DEPTH);
    assert_eq!(probe.call_raw("probe@1", "echo", &sent).unwrap(), &sent[1..]);
    let refused = probe.call_raw("probe@1", "echo", &nested(MAX_DEPTH + 1));
    assert!(matches!(refused, Err(Failure::BadArguments { .. })), "{refused:?}");
}

#[test]
fn c2_large_bytes_are_lent_and_come_back() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "echo: (b) => b, sum: (b) => b.reduce((a, x) => a + x, 0),
         kind: (b) => [b.constructor.name, b.length],
         both: (a, b) => [b, a], part: (b) => b.subarray(1000, 500000),
         async later(b) { await null; await new Promise((r) => setTimeout(r, 1)); return b; }",
    );
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|i| i.to_le_bytes()[1]).collect();
    let bin = serde_bytes::Bytes::new(&bytes);
    for function in ["echo", "later"] {
        let back: serde_bytes::ByteBuf = bundle.call("test@1", function, (bin,)).unwrap();
        assert!(back.as_slice() == bytes, "{function}");
    }
    let sum: u64 = bundle.call("test@1", "sum", (bin,)).unwrap();
    assert_eq!(sum, bytes.iter().map(|&b| u64::from(b)).sum::<u64>());
    let kind: (String, usize) = bundle.call("test@1", "kind", (bin,)).unwrap();
    assert_eq!(kind, ("Uint8Array".to_owned(), 1 << 20));
    let other = vec![9; 10_000];
    let (b, a): (serde_bytes::ByteBuf, serde_bytes::ByteBuf) =
        bundle.call("test@1", "both", (bin, serde_bytes::Bytes::new(&other))).unwrap();
    assert!(a.as_slice() == bytes && b.as_slice() == other);
    let part: serde_bytes::ByteBuf = bundle.call("test@1", "part", (bin,)).unwrap();
    assert!(part.as_slice() == &bytes[1000..500_000]);
}

/// Bytes of a call are another process's memory: nothing that a script can do
/// may write them, and nothing of them is left when the call is over.
#[test]
fn c2_lent_bytes_cannot_be_written_nor_kept() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "fill(b) { b.fill(1); }, set(b) { b.set([1], 0); }, sort(b) { b.sort(); },
         reverse(b) { b.reverse(); }, within(b) { b.copyWithin(0, 5); },
         data(b) { new DataView(b.buffer).setUint8(b.byteOffset, 1); },
         atomics(b) { Atomics.store(b, 0, 1); }, resize(b) { b.buffer.resize(1); },
         hex(b) { b.setFromHex('01'); },
         write(b) { b[0] = 1; b[1]++; b['2'] = 3; [b[3]] = [4]; b.at(0); return b; },
         generic(b) { for (const f of [() => Array.prototype.fill.call(b, 1),
             () => Array.prototype.reverse.call(b), () => Array.prototype.copyWithin.call(b, 0, 1),
             () => Object.assign(b, [1]), () => Array.prototype.sort.call(b), () => Array.prototype.push.call(b, 1),
             () => Array.prototype.splice.call(b, 0, 1, 2), () => Array.prototype.unshift.call(b, 2)])
           { try { f(); } catch {} } return b; },
         atomic(b) { for (const name of Object.getOwnPropertyNames(Atomics))
           { if (name === 'wait' || name === 'waitAsync' || name === 'pause') continue; try { Atomics[name](b, 0, 1, 1); } catch {} } return b; },
         sixty_four(b) { for (const T of [Int8Array, Uint8ClampedArray, Int16Array, Int32Array, Float32Array, Float64Array])
           { new T(b.buffer, 0, 1)[0] = 1; } new BigInt64Array(b.buffer, 0, 1)[0] = 1n; return b; },
         other(b) { new Uint32Array(b.buffer, 0, 1)[0] = 1; return b; },
         define(b) { try { Object.defineProperty(b, 0, { value: 1 }); } catch {} return b; },
         reflect(b) { Reflect.set(b, 0, 1); return b; },
         text(b) { new TextDecoder().decode(b); return b; },
         moved(b) { const m = new Uint8Array(b.buffer.transfer()); m[0] = 42; return [b.length, m[0], m.length]; },
         copy(b) { const c = b.slice(); c[0] = 42; return c[0]; },
         keep(b) { this.kept = b; this.copied = b.slice(); return b.length; },
         kept() { return [this.kept.length, this.copied.length]; },
         again() { return this.kept; }",
    );
    for len in [1_usize << 16, 104] {
        let bytes: Vec<u8> = (0..len).map(|i| i.to_le_bytes()[0] ^ 9).collect();
        let bin = serde_bytes::Bytes::new(&bytes);
        for function in
            ["fill", "set", "sort", "reverse", "within", "data", "atomics", "resize", "hex"]
        {
            let error = guest(bundle.call::<_, ()>("test@1", function, (bin,)));
            assert_eq!(error.type_name, "TypeError", "{function}: {error:?}");
        }
        for function in
            ["write", "generic", "atomic", "sixty_four", "other", "define", "reflect", "text"]
        {
            let same: serde_bytes::ByteBuf = bundle.call("test@1", function, (bin,)).unwrap();
            assert!(same.as_slice() == bytes, "{function}");
        }
        assert_eq!(bundle.call::<_, u8>("test@1", "copy", (bin,)), Ok(42));
        let moved: (usize, u8, usize) = bundle.call("test@1", "moved", (bin,)).unwrap();
        assert_eq!(moved, (0, 42, len));
        assert_eq!(bundle.call::<_, usize>("test@1", "keep", (bin,)), Ok(len));
    }
    let bytes = vec![7_u8; 1 << 16];
    let bin = serde_bytes::Bytes::new(&bytes);
    assert_eq!(bundle.call::<_, usize>("test@1", "keep", (bin,)), Ok(1 << 16));
    assert_eq!(bundle.call::<_, (usize, usize)>("test@1", "kept", ()), Ok((0, 1 << 16)));
    let error = guest(bundle.call::<_, ()>("test@1", "again", ()));
    assert!(error.message.contains("slice()"), "{}", error.message);
}

#[test]
fn bytes_of_every_size_come_out() {
    let probe = harness().load_dir(sample("probe-js")).unwrap();
    for n in [0_usize, 1, 31, 4095, 4096, 1 << 20] {
        let blob: serde_bytes::ByteBuf = probe.call("probe@1", "blob", (n,)).unwrap();
        assert_eq!(blob.len(), n);
        assert!(blob.iter().all(|&b| b == 0xab));
    }
}
