use menagerie_protocol::message::LogLevel;

use crate::{functions, harness, load};

#[test]
fn console_log_and_print_go_to_the_log() {
    let harness = harness();
    let code = "import { log } from 'menagerie';
        console.log('at load');
        export default { 'test@1': { say() {
          console.debug('d'); console.info('%s is %d', 'x', 5, [1]); console.warn({ a: 1 }); console.error(new Error('e'));
          print('one\\ntwo', 3); log('warn', 'careful'); log('warning', 'so'); log('trace', { deep: true });
        }, bad() { log('loud', 'x'); } } };";
    let bundle = load(&harness, code).unwrap();
    bundle.call::<_, ()>("test@1", "say", ()).unwrap();
    harness.wait_for_log(|r| r.level == LogLevel::Trace);
    let logs = harness.logs();
    assert!(logs.iter().all(|r| r.bundle.as_deref() == Some("test")));
    let seen: Vec<_> =
        logs.iter().map(|r| (r.level, r.target.as_str(), r.message.as_str())).collect();
    let expected = [
        (LogLevel::Info, "console", "at load"),
        (LogLevel::Debug, "console", "d"),
        (LogLevel::Info, "console", "x is 5 [ 1 ]"),
        (LogLevel::Warn, "console", "{ a: 1 }"),
    ];
    assert_eq!(seen[..4], expected);
    assert_eq!((seen[4].0, seen[4].1), (LogLevel::Error, "console"));
    assert!(
        seen[4].2.starts_with("Error: e\n") && seen[4].2.contains("main.js:4:"),
        "{}",
        seen[4].2
    );
    let expected = [
        (LogLevel::Info, "stdout", "one"),
        (LogLevel::Info, "stdout", "two 3"),
        (LogLevel::Warn, "log", "careful"),
        (LogLevel::Warn, "log", "so"),
        (LogLevel::Trace, "log", "{ deep: true }"),
    ];
    assert_eq!(seen[5..], expected);
    assert_eq!(crate::guest(bundle.call::<_, ()>("test@1", "bad", ())).type_name, "TypeError");
}

/// What libraries call without looking whether it is there.
#[test]
fn c3_console_groups_counts_and_takes_the_time() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "say() {
           console.group('outer'); console.groupCollapsed(); console.warn('in\\nside');
           console.groupEnd(); console.groupEnd(); console.groupEnd(); console.log('out');
           console.count(); console.count('x'); console.count(); console.countReset(); console.count();
           console.time('t'); console.timeLog('t', 5); console.timeEnd('t'); console.timeEnd('t');
           console.dirxml({ a: 1 }); console.clear(); console.debug('end');
         }",
    );
    bundle.call::<_, ()>("test@1", "say", ()).unwrap();
    harness.wait_for_log(|r| r.message == "end");
    let seen: Vec<String> = harness.logs().into_iter().map(|r| r.message).collect();
    let head =
        ["outer", "    in\n    side", "out", "default: 1", "x: 1", "default: 2", "default: 1"];
    assert_eq!(seen[..7], head);
    assert!(seen[7].starts_with("t: ") && seen[7].ends_with(" ms 5"), "{}", seen[7]);
    assert!(seen[8].starts_with("t: ") && seen[8].ends_with(" ms"), "{}", seen[8]);
    assert_eq!(seen[9..], ["timeEnd: there is no timer 't'", "{ a: 1 }", "end"]);
}

#[test]
fn c3_console_table_shows_rows_and_columns() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "show(code, only) { console.table((0, eval)(code), only ?? undefined); }",
    );
    for (code, only, shown) in [
        (
            "[{ a: 1, b: 'x' }, { b: [2], c: null }, 7]",
            None,
            "(index) │ a │ b     │ c    │ Values\n\
             ────────┼───┼───────┼──────┼───────\n\
             0       │ 1 │ \"x\"   │      │\n\
             1       │   │ [ 2 ] │ null │\n\
             2       │   │       │      │ 7",
        ),
        (
            "({ one: { a: 1, b: 2 }, two: { a: 3 } })",
            Some(["a"]),
            "(index) │ a\n────────┼──\none     │ 1\ntwo     │ 3",
        ),
        ("new Map([['k', 1]])", None, "(index) │ Values\n────────┼───────\nk       │ 1"),
        ("5", None, "5"),
        ("null", None, "null"),
        ("'text'", None, "text"),
        (
            "new Proxy({}, { ownKeys() { throw 1; } })",
            None,
            "[Object: not shown, inspecting it threw]",
        ),
    ] {
        let before = harness.logs().len();
        bundle.call::<_, ()>("test@1", "show", (code, only)).unwrap();
        assert_eq!(harness.logs()[before].message, shown, "{code}");
    }
}

#[test]
fn inspect_shows_values() {
    let harness = harness();
    let bundle = functions(&harness, "show(code) { console.log((0, eval)(code)); }");
    for (code, shown) in [
        ("[1, 'a', [2, [3, [4, [5]]]]]", "[ 1, \"a\", [ 2, [ 3, [ 4, [Array] ] ] ] ]"),
        (
            "({ a: 1, 'b c': 2n, f() {}, g: class G {}, [Symbol('s')]: null })",
            "{ a: 1, \"b c\": 2n, f: [Function: f], g: [class: G], [Symbol(s)]: null }",
        ),
        ("new Map([[1, { a: 2 }]])", "Map(1) { 1 => { a: 2 } }"),
        ("new Set(['x'])", "Set(1) { \"x\" }"),
        ("new Uint8Array(3)", "Uint8Array(3) [ 0, 0, 0 ]"),
        ("new Date(0)", "1970-01-01T00:00:00.000Z"),
        ("/x/g", "/x/g"),
        ("[undefined, null, -0, NaN]", "[ undefined, null, -0, NaN ]"),
        ("(() => { const a = { n: 1 }; a.self = a; return a; })()", "{ n: 1, self: [Circular] }"),
        ("new (class Point { x = 1 })()", "Point { x: 1 }"),
        ("Object.create(null)", "[Object: null prototype] {}"),
        ("({ get x() { throw 1; } })", "{ x: [Getter] }"),
        ("new Proxy({}, { ownKeys() { throw 1; } })", "[Object: not shown, inspecting it threw]"),
        ("[]", "[]"),
        ("({})", "{}"),
    ] {
        let before = harness.logs().len();
        bundle.call::<_, ()>("test@1", "show", (code,)).unwrap();
        assert_eq!(harness.logs()[before].message, shown, "{code}");
    }
}

#[test]
fn timers_fire_in_order_and_can_be_cleared() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "async order() {
            const seen = [];
            // Long enough for any machine to have come to the others before.
            const late = new Promise((resolve) => setTimeout(() => { seen.push('late'); resolve(); }, 500));
            setTimeout((x) => seen.push(x), 0, 'first');
            clearTimeout(setTimeout(() => seen.push('never'), 1));
            clearTimeout(12345); clearTimeout(undefined);
            queueMicrotask(() => seen.push('microtask'));
            let n = 0;
            await new Promise((resolve) => {
              const every = setInterval(() => { seen.push('every'); if (++n === 3) { clearInterval(every); resolve(); } }, 1);
            });
            await late;
            return seen;
         }",
    );
    let seen: Vec<String> = bundle.call("test@1", "order", ()).unwrap();
    assert_eq!(seen, ["microtask", "first", "every", "every", "every", "late"]);
}

#[test]
fn a_delay_beyond_all_time_does_not_end() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "async fired(delay) {
           let fired = 0;
           const timers = [setInterval(() => fired++, delay), setTimeout(() => fired++, delay)];
           // Set later, so it fires after those of no delay.
           await new Promise((r) => setTimeout(r, 10));
           timers.forEach(clearTimeout);
           return fired;
         }",
    );
    for delay in [f64::INFINITY, 1e300, 1e12] {
        assert_eq!(bundle.call::<_, i64>("test@1", "fired", (delay,)), Ok(0), "{delay}");
    }
    assert!(bundle.call::<_, i64>("test@1", "fired", (f64::NEG_INFINITY,)).unwrap() > 0);
}

#[test]
fn an_interval_that_nobody_clears_disturbs_nobody() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "n: 0, start() { setInterval(() => this.n++, 1); }, count() { return this.n; }",
    );
    bundle.call::<_, ()>("test@1", "start", ()).unwrap();
    while bundle.call::<_, i64>("test@1", "count", ()).unwrap() < 5 {
        std::thread::yield_now();
    }
    bundle.reload().unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "count", ()), Ok(0));
    bundle.unload();
}

#[test]
fn text_is_encoded_and_decoded() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "there: (t) => new TextEncoder().encode(t), back: (b) => new TextDecoder().decode(b),
         fatal: (b) => new TextDecoder('utf-8', { fatal: true }).decode(b),
         mark: () => new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 65])),
         other: () => new TextDecoder('latin1')",
    );
    let bytes: serde_bytes::ByteBuf = bundle.call("test@1", "there", ("naïve 🦊",)).unwrap();
    assert_eq!(bytes, "naïve 🦊".as_bytes());
    assert_eq!(bundle.call::<_, String>("test@1", "back", (&bytes,)).unwrap(), "naïve 🦊");
    let bad = serde_bytes::Bytes::new(b"a\xff");
    assert_eq!(bundle.call::<_, String>("test@1", "back", (bad,)).unwrap(), "a\u{fffd}");
    let error = crate::guest(bundle.call::<_, String>("test@1", "fatal", (bad,)));
    assert_eq!(error.type_name, "TypeError");
    assert_eq!(bundle.call::<_, String>("test@1", "mark", ()).unwrap(), "A");
    let error = crate::guest(bundle.call::<_, ()>("test@1", "other", ()));
    assert_eq!(error.type_name, "RangeError");
}

#[test]
fn the_engine_s_own_toolbox_is_out_of_reach() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "names: () => ['Deno', '__bootstrap', '__menagerie', 'process', 'require']
            .filter((name) => name in globalThis)",
    );
    assert_eq!(bundle.call::<_, Vec<String>>("test@1", "names", ()), Ok(vec![]));
}
