//! Rule S8: the engine that a standby has made ahead is as good as any other.

use std::sync::Arc;

use menagerie_protocol::testing::Harness;
use menagerie_protocol::{BundleSource, LoaderError};
use menagerie_worker_js::JsLoader;
use serde_bytes::ByteBuf;

use crate::limits::interrupt_a_spin;
use crate::{folder, functions, guest, harness, init_failure, load, sample};

fn standby() -> Arc<Harness> {
    Harness::standby(JsLoader::new())
}

#[test]
fn s8_an_engine_made_ahead_gives_the_same_answers() {
    let answers = |harness: Arc<Harness>| {
        harness.on_call(|_, _, args| Ok(args[1..].to_vec()));
        let probe = harness.load_dir(sample("probe-js")).unwrap();
        let mut answers = vec![
            format!("{:?}", probe.contracts()),
            format!("{:?}", probe.call::<_, i64>("probe@1", "inc", (1,))),
            format!("{:?}", probe.call::<_, ()>("probe@1", "sleep_ms", (1,))),
            format!("{:?}", probe.call::<_, i64>("probe@1", "call", ("o@1", "f", [7]))),
            format!("{:?}", probe.call::<_, ByteBuf>("probe@1", "blob", (100_000,))),
            format!("{:?}", guest(probe.call::<_, ()>("probe@1", "fail", ("x",)))),
            format!("{:?}", probe.call::<_, i64>("probe@1", "inc", ("x",))),
        ];
        probe.call::<_, ()>("probe@1", "set_state", ("kept",)).unwrap();
        // The next generation has an engine of its own.
        probe.reload().unwrap();
        answers.push(format!("{:?}", probe.call::<_, String>("probe@1", "state", ())));
        answers.push(format!("{:?}", probe.call::<_, i64>("probe@1", "inc", (1,))));
        probe.unload();
        let again = harness.load_dir(sample("probe-js")).unwrap();
        answers.push(format!("{:?}", again.call::<_, Option<i64>>("probe@1", "state", ())));
        answers
    };
    assert_eq!(answers(standby()), answers(harness()));
}

#[test]
fn s8_what_a_guest_finds_is_there_in_an_engine_made_ahead() {
    let dir = folder(&[
        (
            "main.js",
            "import { log, call, CallError } from 'menagerie'; import { n } from './n.js';
            console.log('begun'); log('warn', 'menagerie');
            const more = await import('./more.js');
            await new Promise((r) => setTimeout(r, 1));
            export default { 'test@1': { sum: () => n + more.n,
              async unheard() { Promise.reject(new RangeError('unheard')); },
              own: () => [typeof call, new CallError('k', 'm').name, typeof performance.now(),
                new TextDecoder().decode(new TextEncoder().encode('é'))] } };",
        ),
        ("n.js", "export const n = 1;"),
        ("more.js", "export const n = 2; export const url = import.meta.url;"),
    ]);
    let harness = standby();
    let bundle = harness.load_dir(dir.path()).unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "sum", ()), Ok(3));
    type Own = (String, String, String, String);
    let own: Own = bundle.call("test@1", "own", ()).unwrap();
    let of = |text: &str| text.to_owned();
    assert_eq!(own, (of("function"), of("CallError"), of("number"), of("é")));
    bundle.call::<_, ()>("test@1", "unheard", ()).unwrap();
    for said in ["begun", "menagerie", "RangeError: unheard"] {
        let record = harness.wait_for_log(|record| record.message.contains(said));
        assert_eq!(record.bundle.as_deref(), Some("test"), "{record:?}");
    }
}

#[test]
fn s8_a_load_that_fails_in_an_engine_made_ahead_leaves_nothing() {
    for (code, at) in [
        ("globalThis.left = 1; throw new RangeError('no begin');", "initialise"),
        ("export default {", "compile"),
        ("import './none.js'; export default {};", "import"),
        ("globalThis.left = 1; export default 5;", "register"),
        (
            "export const on_load = () => { throw 1; }; export default { 'test@1': { f() {} } };",
            "run on_load",
        ),
    ] {
        let harness = standby();
        let (step, _) = init_failure(load(&harness, code));
        assert_eq!(step, at, "{code}");
        let bundle = functions(&harness, "left: () => globalThis.left ?? null");
        assert_eq!(bundle.call::<_, Option<i64>>("test@1", "left", ()), Ok(None), "{code}");
    }
    // One that does not come as far as the engine.
    let harness = standby();
    let manifest = "name = \"test\"\nversion = \"1.0.0\"\nloader = \"js\"\n";
    let refused = harness.load(manifest, BundleSource::Bytes(vec![1]));
    assert!(matches!(refused, Err(LoaderError::UnsupportedBundleSource { .. })), "{refused:?}");
    assert_eq!(functions(&harness, "one: () => 1").call::<_, i64>("test@1", "one", ()), Ok(1));
}

#[test]
fn s8_an_engine_made_ahead_has_the_same_stack() {
    let depth = |harness: Arc<Harness>| {
        let bundle = functions(
            &harness,
            "depth() { let n = 0; const f = () => { n++; f(); }; try { f(); } catch {} return n; },
             down() { return this.down() + 1; }, one: () => 1",
        );
        let error = guest(bundle.call::<_, ()>("test@1", "down", ()));
        assert!(error.message.to_lowercase().contains("stack"), "{error:?}");
        let depth: u64 = bundle.call("test@1", "depth", ()).unwrap();
        assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
        depth
    };
    let (ahead, usual) = (depth(standby()), depth(harness()));
    // It begins a few frames further up the thread's stack.
    assert!(ahead.abs_diff(usual) < usual / 20, "{ahead} calls deep, usually {usual}");
}

#[test]
fn s8_an_engine_made_ahead_has_the_same_limit_of_memory() {
    let harness = Harness::standby(JsLoader::new().with_heap_limit(64 << 20));
    let bundle = functions(
        &harness,
        "grow() { const all = []; for (;;) all.push({ n: all.length, text: 'x' + all.length }); },
         one: () => 1",
    );
    for _ in 0..2 {
        let error = guest(bundle.call::<_, ()>("test@1", "grow", ()));
        assert_eq!(error.type_name, "OutOfMemory", "{error:?}");
        assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
    }
}

#[test]
fn s6_a_call_in_an_engine_made_ahead_is_interrupted() {
    let probe = Arc::new(standby().load_dir(sample("probe-js")).unwrap());
    interrupt_a_spin(&probe);
}

#[test]
fn s8_a_load_may_come_while_an_engine_is_made() {
    for _ in 0..8 {
        let harness = standby();
        // The first takes what is being made; the second does not wait for it.
        let (one, two) = (functions(&harness, "f: () => 7"), functions(&harness, "f: () => 8"));
        assert_eq!(one.call::<_, i64>("test@1", "f", ()), Ok(7));
        assert_eq!(two.call::<_, i64>("test@1", "f", ()), Ok(8));
    }
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn l9_engines_that_no_bundle_has_taken_are_freed() {
    let manifest = "name = \"test\"\nversion = \"1.0.0\"\nloader = \"js\"\n";
    let rounds = |n: usize| {
        for _ in 0..n {
            // Refused before it takes the engine; its thread has ended then.
            let refused = standby().load(manifest, BundleSource::Bytes(vec![1]));
            refused.unwrap_err();
        }
    };
    rounds(10);
    let before = resident_kib();
    rounds(60);
    let after = resident_kib();
    // An engine takes some MiB: had 60 of them stayed, it would show.
    assert!(after < before + 8 * 1024, "{before} KiB before, {after} KiB after");
}
