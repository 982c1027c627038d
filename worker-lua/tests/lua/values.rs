use menagerie_protocol::Failure;
use menagerie_protocol::msgpack::{MAX_DEPTH, Writer};
use menagerie_protocol::testing::TestBundle;
use serde_bytes::ByteBuf;

use super::{guest_error, harness, probe, sample};

/// One argument, written by `write`.
fn packed(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut value = Vec::new();
    write(&mut Writer::new(&mut value));
    value
}

fn echo(bundle: &TestBundle, value: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut args = vec![0x91];
    args.extend_from_slice(value);
    bundle.call_raw("probe@1", "echo", &args)
}

fn echo_probe() -> (std::sync::Arc<menagerie_protocol::testing::Harness>, TestBundle) {
    probe("function probe.echo(v) return v end")
}

#[test]
fn c1_scalars_echo_unchanged() {
    let (_harness, bundle) = echo_probe();
    let values = [
        packed(|w| w.nil()),
        packed(|w| w.bool(true)),
        packed(|w| w.bool(false)),
        packed(|w| w.float(1.5)),
        packed(|w| w.float(-0.0)),
        packed(|w| w.float(f64::INFINITY)),
        packed(|w| w.float(f64::NAN)),
        packed(|w| w.float(1e300)),
        packed(|w| w.str("")),
        packed(|w| w.str("héllo\0wörld")),
        packed(|w| w.bin(b"plain ASCII stays bytes")),
        packed(|w| w.bin(&[0xff, 0xfe])),
        packed(|w| w.bin(b"")),
    ];
    for value in values {
        assert_eq!(echo(&bundle, &value), Ok(value.clone()), "{value:x?}");
    }
}

#[test]
fn c1_integers_of_all_sizes_echo_unchanged() {
    let (_harness, bundle) = echo_probe();
    let mut integers = vec![0, i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1];
    for power in 0..63 {
        let n = 1_i64 << power;
        integers.extend([n - 1, n, n + 1, -n, -n - 1, -n + 1]);
    }
    for n in integers {
        let value = packed(|w| w.int(n));
        assert_eq!(echo(&bundle, &value), Ok(value.clone()), "{n}");
    }
    for n in [u64::MAX, u64::MAX - 1, (1 << 63) + 1, 1 << 63] {
        let value = packed(|w| w.uint(n));
        assert_eq!(echo(&bundle, &value), Ok(value.clone()), "{n}");
    }
}

#[test]
fn c1_arithmetic_beyond_2_to_53_is_exact() {
    let (_harness, bundle) = probe(
        "function probe.inc(n) return n + 1 end
         function probe.dec(n) return n - 1 end
         function probe.same(a, b) return a == b, a end
         function probe.less(a, b) return a < b end
         function probe.text(n) return (tostring(n):gsub('U?L+$', '')) end",
    );
    for n in [(1_i64 << 53) - 1, 1 << 53, (1 << 53) + 1, i64::MAX - 1, -(1 << 53) - 2, i64::MIN] {
        assert_eq!(bundle.call("probe@1", "inc", (n,)), Ok(n + 1));
        assert_eq!(bundle.call("probe@1", "same", (n, n)), Ok(true));
        assert_eq!(bundle.call("probe@1", "same", (n, n + 1)), Ok(false));
        assert_eq!(bundle.call("probe@1", "less", (n, n + 1)), Ok(true));
    }
    assert_eq!(bundle.call("probe@1", "text", (i64::MIN,)), Ok(i64::MIN.to_string()));
    assert_eq!(bundle.call("probe@1", "dec", (u64::MAX,)), Ok(u64::MAX - 1));
    assert_eq!(bundle.call("probe@1", "text", (u64::MAX,)), Ok(u64::MAX.to_string()));
}

#[test]
fn c1_guests_make_wide_integers() {
    let (_harness, bundle) = probe(
        "function probe.max() return menagerie.int64('9223372036854775807') end
         function probe.huge() return menagerie.uint64('18446744073709551615') end
         function probe.small() return menagerie.int64(-7) end
         function probe.bad() return menagerie.int64('1e400') end",
    );
    assert_eq!(bundle.call("probe@1", "max", ()), Ok(i64::MAX));
    assert_eq!(bundle.call("probe@1", "huge", ()), Ok(u64::MAX));
    assert_eq!(bundle.call("probe@1", "small", ()), Ok(-7));
    let error = guest_error(bundle.call::<_, i64>("probe@1", "bad", ()));
    assert!(error.message.contains("'1e400' is no such integer"), "{error:?}");
}

/// LuaJIT has one type of number; PUC Lua tells floats from integers.
#[test]
fn c1_integral_floats_keep_their_value() {
    let (_harness, bundle) = echo_probe();
    let float = packed(|w| w.float(3.0));
    let expected = if cfg!(feature = "luajit") { packed(|w| w.int(3)) } else { float.clone() };
    assert_eq!(echo(&bundle, &float), Ok(expected));
    assert_eq!(bundle.call("probe@1", "echo", (3.0,)), Ok(3.0));
}

#[test]
fn c1_lists_and_maps_echo_unchanged() {
    let (_harness, bundle) = echo_probe();
    let values = [
        packed(|w| w.array(0)),
        packed(|w| w.map(0)),
        packed(|w| {
            w.array(5);
            w.nil();
            w.int(1);
            w.nil();
            w.str("x");
            w.nil();
        }),
        packed(|w| {
            w.map(1);
            w.str("k");
            w.nil();
        }),
        // A map whose keys look like a list's positions.
        packed(|w| {
            w.map(1);
            w.int(1);
            w.str("one");
        }),
        packed(|w| {
            w.map(1);
            w.bool(true);
            w.map(0);
        }),
        packed(|w| {
            w.map(1);
            w.nil();
            w.array(1);
            w.array(0);
        }),
        packed(|w| {
            w.map(1);
            w.float(0.5);
            w.bin(b"bytes");
        }),
        packed(|w| {
            w.array(4);
            w.bin(b"a");
            w.int(i64::MAX);
            w.bin(b"b");
            w.uint(u64::MAX);
        }),
    ];
    for value in values {
        assert_eq!(echo(&bundle, &value), Ok(value.clone()), "{value:x?}");
    }
}

#[test]
fn c1_tables_become_lists_or_maps_by_their_keys() {
    let (_harness, bundle) = probe(
        "function probe.list() return { 'a', 'b' } end
         function probe.empty() return {} end
         function probe.map() return menagerie.map {} end
         function probe.positions() return menagerie.map { 'a' } end
         function probe.named() return { a = 1 } end
         function probe.sparse() return { [1] = 'a', [3] = 'c' } end
         function probe.mixed() return { 'a', n = 1 } end
         function probe.backwards() local t = {} for i = 40, 1, -1 do t[i] = i end return t end",
    );
    let call = |function| bundle.call_raw("probe@1", function, &[0x90]).unwrap();
    assert_eq!(call("list"), b"\x92\xa1a\xa1b");
    assert_eq!(call("empty"), [0x90]);
    assert_eq!(call("map"), [0x80]);
    assert_eq!(call("positions"), b"\x81\x01\xa1a");
    assert_eq!(call("named"), b"\x81\xa1a\x01");
    assert_eq!(call("sparse").len(), b"\x82\x01\xa1a\x03\xa1c".len());
    assert_eq!(call("mixed").len(), b"\x82\x01\xa1a\xa1n\x01".len());
    assert_eq!(call("backwards"), {
        let mut expected = vec![0xdc, 0, 40];
        expected.extend(1..=40);
        expected
    });
}

#[test]
fn c1_values_without_a_form_are_refused() {
    let (_harness, bundle) = probe(
        "function probe.f() return print end
         function probe.co() return { coroutine.create(print) } end
         function probe.file() return io.tmpfile() end
         function probe.stream() return io.stdout end
         function probe.cycle() local t = {}; t.t = { t }; return t end
         function probe.deep() local t = {} for _ = 1, 1000 do t = { t } end return t end",
    );
    for (function, expected) in [
        ("f", "a function cannot leave Lua"),
        ("co", "a coroutine cannot leave Lua"),
        ("file", "a userdata cannot leave Lua"),
        #[cfg(feature = "luajit")]
        ("stream", "a userdata cannot leave Lua"),
        #[cfg(not(feature = "luajit"))]
        ("stream", "a function cannot leave Lua"),
        ("cycle", "the table contains itself"),
        ("deep", "nested deeper than 128"),
    ] {
        let error = guest_error(bundle.call_raw("probe@1", function, &[0x90]));
        assert!(error.message.contains(expected), "{function}: {error:?}");
    }
}

#[test]
fn c1_nesting_is_limited_on_the_way_in() {
    let (_harness, bundle) = echo_probe();
    let nested = |depth| {
        let mut value = vec![0x91; depth];
        value.push(0xc0);
        value
    };
    assert_eq!(echo(&bundle, &nested(MAX_DEPTH)), Ok(nested(MAX_DEPTH)));
    let refused = echo(&bundle, &nested(MAX_DEPTH + 1));
    assert!(
        matches!(&refused, Err(Failure::BadArguments { message }) if message.contains("argument 1"))
    );
}

#[test]
fn c1_map_keys_that_lua_cannot_hold_are_refused() {
    let (_harness, bundle) = echo_probe();
    let nan = packed(|w| {
        w.map(1);
        w.float(f64::NAN);
        w.int(1);
    });
    let twice = packed(|w| {
        w.map(2);
        w.int(1);
        w.str("integer");
        w.float(1.0);
        w.str("float");
    });
    for value in [nan, twice] {
        let refused = echo(&bundle, &value);
        assert!(matches!(&refused, Err(Failure::BadArguments { .. })), "{refused:?}");
    }
}

#[test]
fn c1_a_key_that_would_leave_twice_is_refused() {
    let (_harness, bundle) = probe(
        "local b, u = menagerie.bytes, menagerie.uint64
         function probe.wide() return { [u'18446744073709551615'] = 1, [u'18446744073709551615'] = 2 } end
         function probe.plain() return { x = { { [u'18446744073709551615'] = 1, [7] = 3, [u'7'] = 2 } } } end
         function probe.bytes() return { [b'k'] = 1, [b'k'] = 2 } end
         function probe.tables() return { [{ 1 }] = 1, [{ 1 }] = 2 } end
         function probe.argument()
           local _, e = pcall(menagerie.call, 'kv@1', 'put', { [b'k'] = 1, [b'k'] = 2 })
           return e
         end
         function probe.fine()
           return { [b'k'] = 1, k = 2, [{ 1 }] = 3, [{ 2 }] = 4, [u'7'] = 5, [8] = { [b'k'] = 6 } }
         end",
    );
    for function in ["wide", "plain", "bytes", "tables"] {
        let error = guest_error(bundle.call_raw("probe@1", function, &[0x90]));
        assert_eq!(error.message, "two keys of a map are the same value", "{function}");
    }
    let refused: String = bundle.call("probe@1", "argument", ()).unwrap();
    assert!(refused.contains("two keys of a map are the same value"), "{refused}");
    assert_eq!(bundle.call_raw("probe@1", "fine", &[0x90]).unwrap()[0], 0x86);
}

#[test]
fn c1_strings_that_are_no_utf8_leave_as_bytes() {
    let (_harness, bundle) = probe(
        "function probe.text() return 'h\\195\\169' end
         function probe.binary() return '\\255' end
         function probe.bytes() return menagerie.bytes('text') end",
    );
    assert_eq!(bundle.call("probe@1", "text", ()), Ok("hé".to_owned()));
    assert_eq!(bundle.call_raw("probe@1", "binary", &[0x90]).unwrap(), b"\xc4\x01\xff");
    assert_eq!(bundle.call_raw("probe@1", "bytes", &[0x90]).unwrap(), b"\xc4\x04text");
}

#[test]
fn bytes_behave_like_strings() {
    let (_harness, bundle) = probe(
        "function probe.check(b)
           assert(#b == 5)
           assert(tostring(b) == 'hello')
           assert(tostring(b:sub(2, 3)) == 'el' and tostring(b:sub(-2)) == 'lo')
           assert(tostring(b:sub(4, 99)) == 'lo' and #b:sub(3, 2) == 0 and #b:sub(0) == 5)
           assert(b:byte(1) == 104 and select('#', b:byte(1, -1)) == 5 and b:byte(9) == nil)
           assert(tostring(b .. ' you') == 'hello you' and tostring('oh, ' .. b) == 'oh, hello')
           assert(b == menagerie.bytes('hello') and b ~= menagerie.bytes('other'))
           return b .. b
         end",
    );
    let value: ByteBuf = bundle.call("probe@1", "check", (ByteBuf::from("hello"),)).unwrap();
    assert_eq!(value.as_slice(), b"hellohello");
}

#[test]
fn c2_large_bytes_cross_both_ways() {
    let (_harness, bundle) = probe(
        "function probe.echo(v) return v end
         function probe.wrap(v) return { v, v:sub(1, 2), v } end
         function probe.check(v) return v:byte(1, 1), v:byte(#v) end
         function probe.make(n) return menagerie.bytes(('x'):rep(n)) end",
    );
    let big: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let sent = ByteBuf::from(big.clone());
    let echoed: ByteBuf = bundle.call("probe@1", "echo", (&sent,)).unwrap();
    assert_eq!(echoed, big);
    let wrapped: (ByteBuf, ByteBuf, ByteBuf) = bundle.call("probe@1", "wrap", (&sent,)).unwrap();
    assert!(wrapped.0 == big && wrapped.1 == big[..2] && wrapped.2 == big);
    let made: ByteBuf = bundle.call("probe@1", "make", (1 << 20,)).unwrap();
    assert_eq!(made, vec![b'x'; 1 << 20]);
}

#[test]
fn c2_bytes_that_nobody_holds_any_more_are_freed() {
    const SIZE: usize = 1_000_000;
    let (harness, bundle) = probe(
        "local own = {}
         for i = 1, 50000 do own[i] = { i } end
         local function alive(make)
           local all = setmetatable({}, { __mode = 'v' })
           for i = 1, 400 do all[i] = make() end
           local n = 0
           for _ in pairs(all) do n = n + 1 end
           return n
         end
         local one = menagerie.bytes(('x'):rep(1000000))
         function probe.received()
           return alive(function() return menagerie.call('blob@1', 'get') end)
         end
         function probe.joined() return alive(function() return one .. 'y' end) end
         function probe.cut() return alive(function() return one:sub(2) end) end
         function probe.copied() return alive(function() return menagerie.bytes(one) end) end
         function probe.made()
           local i = 0
           return alive(function() i = i + 1; return menagerie.bytes(i .. ('x'):rep(1000000)) end)
         end",
    );
    harness.on_call(|_, _, _| Ok(packed(|w| w.bin(&[7; SIZE]))));
    for how in ["received", "joined", "cut", "copied", "made"] {
        let alive: usize = bundle.call("probe@1", how, ()).unwrap();
        assert!(alive < 100, "{how}: {alive} of 400 MB are not freed");
    }
}

#[test]
fn c2_a_value_that_shares_its_parts_is_refused_at_the_limit() {
    let (harness, bundle) = probe(
        "local function shared(t) for _ = 1, 60 do t = { t, t } end return t end
         function probe.lists() return shared({ ('x'):rep(65536) }) end
         function probe.bytes()
           local one = menagerie.bytes(('x'):rep(1000000))
           local all = {}
           for i = 1, 100 do all[i] = one end
           return all
         end
         function probe.argument()
           local _, e = pcall(menagerie.call, 'kv@1', 'put', shared({ ('x'):rep(65536) }))
           return e.kind
         end",
    );
    harness.on_call(|_, _, _| panic!("it does not get there"));
    for function in ["lists", "bytes"] {
        let failure = bundle.call_raw("probe@1", function, &[0x90]).unwrap_err();
        let Failure::PayloadTooLarge { size, limit } = failure else {
            panic!("{function}: {failure:?}");
        };
        assert_eq!(limit, 64 << 20);
        assert!(size > limit && size < 2 * limit, "{function}: {size}");
    }
    let kind: String = bundle.call("probe@1", "argument", ()).unwrap();
    assert_eq!(kind, "PayloadTooLarge");
}

#[test]
fn c2_a_view_of_an_earlier_call_is_refused() {
    let (_harness, bundle) = probe(
        "local kept
         function probe.keep(v) kept = v; return #kept end
         function probe.length() return #kept end
         function probe.read() return tostring(kept) end
         function probe.give() return kept end
         function probe.copy(v) kept = menagerie.bytes(v); return #kept end",
    );
    let big = ByteBuf::from(vec![7; 1 << 20]);
    assert_eq!(bundle.call("probe@1", "keep", (&big,)), Ok(1 << 20));
    assert_eq!(bundle.call("probe@1", "length", ()), Ok(1 << 20));
    for function in ["read", "give"] {
        let error = guest_error(bundle.call_raw("probe@1", function, &[0x90]));
        assert!(error.message.contains("an argument of an earlier call"), "{error:?}");
    }
    assert_eq!(bundle.call("probe@1", "copy", (&big,)), Ok(1 << 20));
    assert_eq!(bundle.call::<_, ByteBuf>("probe@1", "give", ()).unwrap(), big);
}

#[test]
fn arguments_are_counted_before_the_body_runs() {
    let (_harness, bundle) = probe(
        "local ran = 0
         function probe.two(a, b) ran = ran + 1 return ran end
         function probe.any(...) return select('#', ...) end
         function probe.ran() return ran end",
    );
    for args in [&b"\x90"[..], b"\x91\x01", b"\x93\x01\x02\x03"] {
        let count = args[0] & 0x0f;
        assert_eq!(
            bundle.call_raw("probe@1", "two", args),
            Err(Failure::BadArguments { message: format!("two takes 2 arguments, got {count}") })
        );
    }
    assert_eq!(bundle.call("probe@1", "ran", ()), Ok(0));
    assert_eq!(bundle.call("probe@1", "any", (1, None::<i32>, None::<i32>)), Ok(3));
    assert_eq!(bundle.call("probe@1", "any", ()), Ok(0));
}

#[test]
fn many_arguments_and_elements_fit() {
    let (_harness, bundle) = probe(
        "function probe.count(...) return select('#', ...) end
         function probe.reverse(t) local r = {} for i = #t, 1, -1 do r[#r + 1] = t[i] end return r end",
    );
    let mut args = vec![0xdc, 0x0b, 0xb8];
    args.extend(vec![0x01; 3000]);
    assert_eq!(bundle.call_raw("probe@1", "count", &args).unwrap(), [0xcd, 0x0b, 0xb8]);
    let list: Vec<u32> = (0..100_000).collect();
    let reversed: Vec<u32> = bundle.call("probe@1", "reverse", (&list,)).unwrap();
    assert!(reversed.iter().rev().eq(list.iter()));
}

#[test]
fn the_first_of_several_results_counts() {
    let (_harness, bundle) = probe("function probe.f() return 1, 2, 3 end");
    assert_eq!(bundle.call("probe@1", "f", ()), Ok(1));
}

#[test]
fn sample_bundles_do_what_they_say() {
    let harness = harness();
    let greeter = harness.load_dir(sample("greeter-lua")).unwrap();
    assert_eq!(greeter.call("greeter@1", "greet", ("Ada",)), Ok("Hello, Ada".to_owned()));
    let all: Vec<String> = greeter.call("greeter@1", "greet_all", (["Ada", "Bob"],)).unwrap();
    assert_eq!(all, ["Hello, Ada", "Hello, Bob"]);
    let none: Vec<String> = greeter.call("greeter@1", "greet_all", ([(); 0],)).unwrap();
    assert!(none.is_empty());

    let probe = harness.load_dir(sample("probe-lua")).unwrap();
    assert_eq!(probe.call("probe@1", "inc", (41,)), Ok(42));
    assert_eq!(probe.call("probe@1", "null", ()), Ok(()));
    assert_eq!(probe.call("probe@1", "sleep_ms", (1,)), Ok(()));
    assert_eq!(probe.call::<_, ByteBuf>("probe@1", "blob", (5000,)).unwrap(), vec![0xab; 5000]);
    let error = guest_error(probe.call::<_, ()>("probe@1", "fail", ("no luck",)));
    assert!(error.message.ends_with("no luck"), "{error:?}");
}

/// More than `mlua` holds values for Rust at once: 8,000, with LuaJIT.
const MANY: usize = 20_000;

#[test]
fn c2_a_bundle_may_have_any_number_of_bytes() {
    let (_harness, bundle) = probe(
        "local kept = {}
         function probe.drop(n) for i = 1, n do menagerie.bytes('x' .. i) end return n end
         function probe.keep(n) for i = 1, n do kept[i] = menagerie.bytes('x' .. i) end return n end
         function probe.kept() return kept end
         function probe.spoilt() local t = {unpack(kept, 1, 100)} t[101] = print return t end
         function probe.echo(v) return v end
         unpack = unpack or table.unpack",
    );
    for function in ["drop", "keep", "drop"] {
        assert_eq!(bundle.call("probe@1", function, (MANY,)), Ok(MANY), "{function}");
    }
    let bytes: Vec<_> = (1..=MANY).map(|i| ByteBuf::from(format!("x{i}"))).collect();
    assert_eq!(bundle.call("probe@1", "kept", ()), Ok(bytes.clone()));
    assert!(
        guest_error(bundle.call::<_, ()>("probe@1", "spoilt", ())).message.contains("function")
    );
    assert_eq!(bundle.call("probe@1", "echo", (&bytes,)), Ok(bytes));
}

#[test]
fn c1_a_value_may_have_any_number_of_wide_integers() {
    let (_harness, bundle) = probe(
        "function probe.make(n)
             local t = {}
             for i = 1, n do t[i] = menagerie.int64('9223372036854775807') - i end
             return t
         end
         function probe.echo(v) return v end
         function probe.spread(n)
             local t = {}
             for i = 1, n do t[i] = 'x' .. i end
             return (pcall(menagerie.call, 'a@1', 'f', (unpack or table.unpack)(t)))
         end",
    );
    let wide: Vec<_> = (1..).take(MANY).map(|i| i64::MAX - i).collect();
    // Each argument of a call is held. It is an error that there are too many.
    for n in [7_000, 7_950] {
        assert_eq!(bundle.call("probe@1", "spread", (n,)), Ok(false), "{n}");
    }
    assert_eq!(bundle.call("probe@1", "make", (MANY,)), Ok(wide.clone()));
    assert_eq!(bundle.call("probe@1", "echo", (&wide,)), Ok(wide));
}
