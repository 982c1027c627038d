use menagerie_protocol::{Failure, GuestError};

use crate::{functions, guest, harness, load, sample};

#[test]
fn c6_async_functions_interleave_at_their_awaits() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "open: null, async wait() { return await new Promise((r) => { this.open = r; }); },
         release(value) { this.open(value); return 'released'; }",
    );
    let waiting = bundle.begin("test@1", "wait", &[0x90]).unwrap();
    // `wait` has not been answered, and this call runs all the same.
    assert_eq!(bundle.call::<_, String>("test@1", "release", (5,)).unwrap(), "released");
    assert_eq!(bundle.finish(waiting).unwrap(), [5]);
}

#[test]
fn c6_probe_sleeps_without_blocking() {
    let probe = harness().load_dir(sample("probe-js")).unwrap();
    let long = probe.begin("probe@1", "sleep_ms", &[0x91, 0xcd, 1, 44]).unwrap();
    for n in 0..100 {
        assert_eq!(probe.call::<_, i64>("probe@1", "inc", (n,)), Ok(n + 1));
    }
    assert_eq!(probe.finish(long).unwrap(), [0xc0]);
}

/// What `await` waits for, a call waits for: many libraries' deferred results are
/// objects of their own with a method `then`.
#[test]
fn c6_a_result_that_can_be_awaited_is_awaited() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "at_once: () => ({ then(resolve) { resolve(3); } }),
         later: () => new (class Query {
           rows = 5;
           then(resolve) { setTimeout(() => resolve(this.rows), 1); }
         })(),
         fails: () => ({ then(_, reject) { reject(new TypeError('no')); } }),
         throws: () => ({ then() { throw new RangeError('now'); } }),
         data: () => ({ then: 'a word' }), getter: () => ({ get then() { throw new Error('get'); } })",
    );
    assert_eq!(bundle.call::<_, i64>("test@1", "at_once", ()), Ok(3));
    assert_eq!(bundle.call::<_, i64>("test@1", "later", ()), Ok(5));
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "fails", ())).type_name, "TypeError");
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "throws", ())).type_name, "RangeError");
    let data: std::collections::BTreeMap<String, String> =
        bundle.call("test@1", "data", ()).unwrap();
    assert_eq!(data["then"], "a word");
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "getter", ())).message, "get");
    assert!(harness.logs().is_empty(), "{:?}", harness.logs());
}

/// `await` would throw what these throw when they are subscribed to.
#[test]
fn c3_a_promise_that_nobody_can_follow_fails_its_call() {
    let harness = harness();
    let code = "
        class Deferred extends Promise {
          constructor() { let settle; super((r) => { settle = r; }); this.settle = settle; }
        }
        class Strange extends Promise {
          static get [Symbol.species]() { throw new RangeError('no species'); }
        }
        export default { 'test@1': {
          deferred: () => new Deferred(), strange: () => new Strange(() => {}),
          lent: (bytes) => new Deferred(), one: () => 1,
        } };";
    let bundle = load(&harness, code).unwrap();
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "deferred", ())).type_name, "TypeError");
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "strange", ())).message, "no species");
    let bytes = serde_bytes::ByteBuf::from(vec![1; 100_000]);
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "lent", (bytes,))).type_name, "TypeError");
    assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
}

#[test]
fn many_async_calls_are_answered_each_with_its_own_result() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "async f(n) { await new Promise((r) => setTimeout(r, n % 7)); if (n % 5 == 0) throw new Error('e' + n); return n; }",
    );
    let calls: Vec<_> =
        (0..100_u8).map(|n| bundle.begin("test@1", "f", &[0x91, 0xcc, n]).unwrap()).collect();
    for (n, call) in calls.into_iter().enumerate() {
        let result = bundle.finish(call);
        if n % 5 == 0 {
            assert_eq!(guest(result).message, format!("e{n}"));
        } else {
            assert_eq!(result.unwrap().last().copied(), u8::try_from(n).ok());
        }
    }
}

#[test]
fn a_promise_that_is_settled_at_once_is_answered_at_once() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "async f() { await null; return 3; }, g: () => Promise.resolve(4),
         async h() { throw new TypeError('no'); }, i: () => Promise.reject('text')",
    );
    assert_eq!(bundle.call::<_, i64>("test@1", "f", ()), Ok(3));
    assert_eq!(bundle.call::<_, i64>("test@1", "g", ()), Ok(4));
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "h", ())).type_name, "TypeError");
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "i", ())).message, "text");
    assert!(harness.logs().is_empty(), "{:?}", harness.logs());
}

#[test]
fn c5_probe_calls_another_contract() {
    let harness = harness();
    harness.on_call(|contract, function, args| {
        assert_eq!((contract, function), ("greeter@1", "greet"));
        assert_eq!(args, [0x91, 0xa3, b'A', b'd', b'a']);
        Ok(b"\xaaHello, Ada".to_vec())
    });
    let probe = harness.load_dir(sample("probe-js")).unwrap();
    let text: String = probe.call("probe@1", "call", ("greeter@1", "greet", ["Ada"])).unwrap();
    assert_eq!(text, "Hello, Ada");
}

#[test]
fn c5_a_failed_call_is_a_call_error() {
    let harness = harness();
    harness.on_call(|_, function, _| match function {
        "missing" => Err(Failure::NoSuchContract { contract: "other@1".to_owned() }),
        _ => {
            let mut error = GuestError::new("ValueError", "not like this").with_stack("File x.py");
            error.code = Some("E7".to_owned());
            let mut cause = GuestError::new("OSError", "no disk").with_stack("deeper");
            cause.inner = vec![GuestError::new("One", "1"), GuestError::new("Two", "2")];
            error.inner = vec![cause];
            Err(error.into())
        }
    });
    let code = "import { call, CallError } from 'menagerie';
        export default { 'test@1': {
          async kinds() {
            const seen = [];
            for (const f of ['missing', 'raise']) {
              try { await call('other@1', f, 1); } catch (e) {
                seen.push([e instanceof CallError, e instanceof Error, e.name, e.kind, e.message,
                  e.cause?.name ?? null, e.cause?.message ?? null, e.cause?.stack ?? null, e.cause?.code ?? null]);
              }
            }
            return seen;
          },
          through: () => call('other@1', 'raise'),
          async bad() { await call('other@1', 'raise', () => 1); },
          async worse() { await call(1, 2); },
        } };";
    let bundle = load(&harness, code).unwrap();
    type Seen = (
        bool,
        bool,
        String,
        String,
        String,
        Option<String>,
        Option<String>,
        Option<String>,
        Option<String>,
    );
    let seen: Vec<Seen> = bundle.call("test@1", "kinds", ()).unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert!(seen[0].0 && seen[0].1 && seen[1].0 && seen[1].1);
    assert_eq!((seen[0].2.as_str(), seen[0].3.as_str()), ("CallError", "NoSuchContract"));
    assert!(seen[0].4.contains("other@1"));
    assert_eq!(seen[0].5, None);
    assert_eq!(seen[1].3, "Guest");
    assert_eq!(seen[1].4, "ValueError: not like this");
    assert_eq!(seen[1].5, text("ValueError"));
    assert_eq!(seen[1].6, text("not like this"));
    assert_eq!(seen[1].7, text("File x.py"));
    assert_eq!(seen[1].8, text("E7"));

    let error = guest(bundle.call::<_, ()>("test@1", "through", ()));
    assert_eq!(error.type_name, "CallError");
    assert_eq!(error.code.as_deref(), Some("Guest"));
    assert_eq!(error.inner[0].type_name, "ValueError");
    assert_eq!(error.inner[0].code.as_deref(), Some("E7"));
    assert_eq!(error.inner[0].stack, "File x.py");
    let cause = &error.inner[0].inner[0];
    assert_eq!((&*cause.message, &*cause.stack), ("no disk", "deeper"));
    let causes: Vec<_> = cause.inner.iter().map(|cause| &*cause.type_name).collect();
    assert_eq!(causes, ["One", "Two"]);
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "bad", ())).type_name, "TypeError");
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "worse", ())).type_name, "TypeError");
}

#[test]
fn calls_run_concurrently_while_one_waits_for_another_bundle() {
    let harness = harness();
    harness.on_call(|_, _, args| Ok(args[1..].to_vec()));
    let code = "import { call } from 'menagerie';
        export default { 'test@1': {
          all: async (n) => (await Promise.all(Array.from({ length: n }, (_, i) => call('o@1', 'f', i)))),
        } };";
    let bundle = load(&harness, code).unwrap();
    let all: Vec<usize> = bundle.call("test@1", "all", (50,)).unwrap();
    assert_eq!(all, (0..50).collect::<Vec<_>>());
}

#[test]
fn unhandled_rejections_and_errors_in_timers_are_logged() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "reject() { Promise.reject(new RangeError('lost')); return 1; },
         late() { const p = Promise.reject(new Error('handled in time')); p.catch(() => {}); return 2; },
         timer() { setTimeout(() => { throw new Error('in timer'); }, 0); return 3; },
         task() { queueMicrotask(() => { throw new Error('in microtask'); }); return 4; }",
    );
    for (function, result) in [("late", 2), ("reject", 1), ("timer", 3), ("task", 4)] {
        assert_eq!(bundle.call::<_, i64>("test@1", function, ()), Ok(result));
    }
    for message in ["lost", "in timer", "in microtask"] {
        let record = harness.wait_for_log(|r| r.message.contains(message));
        assert_eq!(record.level, menagerie_protocol::message::LogLevel::Error);
        assert!(record.message.contains("main.js:"), "{}", record.message);
    }
    assert!(!harness.logs().iter().any(|r| r.message.contains("handled in time")));
    assert_eq!(bundle.call::<_, i64>("test@1", "late", ()), Ok(2));
}

#[test]
fn of_many_rejections_those_are_logged_that_nobody_handles() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "async many(n) {
           const lost = (i) => i % 1000 === 7;
           const all = [];
           for (let i = 0; i < n; i++) {
             const p = Promise.reject(new Error(`number ${i}.`));
             if (!lost(i)) all.push(p);
           }
           for (let i = 0; i < n; i++) try { await Promise.reject(i); } catch { }
           return (await Promise.allSettled(all)).length;
         }",
    );
    assert_eq!(bundle.call::<_, i64>("test@1", "many", (5000,)), Ok(4995));
    for i in [7, 1007, 2007, 3007, 4007] {
        harness.wait_for_log(|r| r.message.contains(&format!("number {i}.")));
    }
    assert_eq!(harness.logs().len(), 5, "{:?}", harness.logs());
}

#[test]
fn modules_are_imported_at_run_time() {
    let dir = crate::folder(&[
        (
            "main.js",
            "export default { 'test@1': {
            async load(name) { const m = await import(name); return m.value; } } };",
        ),
        ("later.js", "export const value = await new Promise((r) => setTimeout(() => r(5), 3));"),
        ("broken.js", "throw new Error('broken module');"),
    ]);
    let bundle = harness().load_dir(dir.path()).unwrap();
    for _ in 0..2 {
        assert_eq!(bundle.call::<_, i64>("test@1", "load", ("./later.js",)), Ok(5));
    }
    let error = guest(bundle.call::<_, i64>("test@1", "load", ("./broken.js",)));
    assert_eq!(error.message, "broken module");
    let error = guest(bundle.call::<_, i64>("test@1", "load", ("./none.js",)));
    assert!(error.message.contains("./none.js"), "{}", error.message);
    let error = guest(bundle.call::<_, i64>("test@1", "load", ("../x.js",)));
    assert!(error.message.contains("../x.js"), "{}", error.message);
    let error = guest(bundle.call::<_, i64>("test@1", "load", ("fs",)));
    assert!(error.message.contains("'fs'"), "{}", error.message);
}

#[test]
fn modules_are_run_once_and_after_those_that_import_them() {
    let dir = crate::folder(&[
        ("main.js", "globalThis.seen = [];
            export default { 'test@1': {
              async twice() {
                const both = Promise.all([import('./slow.js'), import('./slow.js'), import('./user.js')]);
                seen.push('after import');
                const [a, b, c] = await both;
                return [a === b, a.n, c.n, seen.join(), typeof a.url];
              },
              async meta() { return (await import(import.meta.url.replace('main.js', 'slow.js'))).n; },
              async json() { return (await import('./data.json', { with: { type: 'json' } })).default.x; },
              async css() { return await import('./data.json', { with: { type: 'css' } }); },
            } };"),
        ("slow.js", "seen.push('slow'); export const url = import.meta.url;
            export const n = await new Promise((r) => setTimeout(() => r(5), 3));"),
        ("user.js", "import { n as m } from './slow.js'; seen.push('user'); export const n = m + 1;"),
        ("data.json", "{ \"x\": [1] }"),
    ]);
    let bundle = harness().load_dir(dir.path()).unwrap();
    let seen: (bool, i64, i64, String, String) = bundle.call("test@1", "twice", ()).unwrap();
    assert_eq!(seen, (true, 5, 6, "after import,slow,user".to_owned(), "string".to_owned()));
    assert_eq!(bundle.call::<_, i64>("test@1", "meta", ()), Ok(5));
    assert_eq!(bundle.call::<_, Vec<i64>>("test@1", "json", ()), Ok(vec![1]));
    let error = guest(bundle.call::<_, ()>("test@1", "css", ()));
    assert!(error.message.contains("css"), "{}", error.message);
}

#[test]
fn a_module_that_failed_to_load_is_tried_again() {
    let dir = crate::folder(&[
        (
            "main.js",
            "export default { 'test@1': { load: async () => (await import('./m.js')).n } };",
        ),
        ("m.js", "import { n } from './missing.js'; export { n };"),
    ]);
    let bundle = harness().load_dir(dir.path()).unwrap();
    let error = guest(bundle.call::<_, i64>("test@1", "load", ()));
    assert!(error.message.contains("./missing.js"), "{}", error.message);
    std::fs::write(dir.path().join("missing.js"), "export const x = 1;").unwrap();
    let error = guest(bundle.call::<_, i64>("test@1", "load", ()));
    assert_eq!(error.type_name, "SyntaxError", "{error:?}");
    std::fs::write(dir.path().join("missing.js"), "export const n = 7;").unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "load", ()), Ok(7));
}
