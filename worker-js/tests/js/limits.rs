use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use menagerie_protocol::Failure;
use menagerie_protocol::testing::{Harness, TestBundle};
use menagerie_worker_js::JsLoader;

use crate::{functions, guest, harness, load, sample};

/// Interrupts a call that spins, until it ends, and makes another.
pub(crate) fn interrupt_a_spin(probe: &Arc<TestBundle>) {
    let spinning = probe.begin("probe@1", "spin", &[0x90]).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (stopper, stopped) = (Arc::clone(probe), Arc::clone(&done));
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Acquire) {
            stopper.interrupt();
            std::thread::yield_now();
        }
    });
    let result = probe.finish(spinning);
    done.store(true, Ordering::Release);
    thread.join().unwrap();
    assert_eq!(result, Err(Failure::Cancelled));
    assert_eq!(probe.call::<_, i64>("probe@1", "inc", (1,)), Ok(2));
}

#[test]
fn s6_an_interrupt_ends_a_call_that_spins_and_no_other() {
    let probe = Arc::new(harness().load_dir(sample("probe-js")).unwrap());
    for _ in 0..20 {
        // With nothing running it has no effect.
        probe.interrupt();
        assert_eq!(probe.call::<_, i64>("probe@1", "inc", (1,)), Ok(2));
        interrupt_a_spin(&probe);
        probe.call::<_, ()>("probe@1", "sleep_ms", (0,)).unwrap();
    }
}

#[test]
fn s6_an_interrupt_cannot_be_caught() {
    let harness = harness();
    let bundle = Arc::new(functions(
        &harness,
        "caught: 0, spin() { for (;;) { try { for (;;); } catch { this.caught++; } finally { this.caught++; } } },
         seen() { return this.caught; }",
    ));
    let spinning = bundle.begin("test@1", "spin", &[0x90]).unwrap();
    let stopper = Arc::clone(&bundle);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&done);
    let thread = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Acquire) {
            stopper.interrupt();
            std::thread::yield_now();
        }
    });
    assert_eq!(bundle.finish(spinning), Err(Failure::Cancelled));
    done.store(true, std::sync::atomic::Ordering::Release);
    thread.join().unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "seen", ()), Ok(0));
}

#[test]
fn s6_an_interrupt_in_a_continuation_answers_every_call_that_waits() {
    let harness = harness();
    let bundle = Arc::new(functions(
        &harness,
        "async spin() { await new Promise((r) => setTimeout(r, 5)); console.log('spins'); for (;;); },
         never: () => new Promise(() => {}), one: () => 1",
    ));
    let waiting = bundle.begin("test@1", "never", &[0x90]).unwrap();
    let spinning = bundle.begin("test@1", "spin", &[0x90]).unwrap();
    // Given up at its await, it would spin when the timer fires, for no call.
    harness.wait_for_log(|record| record.message == "spins");
    let stopper = Arc::clone(&bundle);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&done);
    let thread = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Acquire) {
            stopper.interrupt();
            std::thread::yield_now();
        }
    });
    assert_eq!(bundle.finish(spinning), Err(Failure::Cancelled));
    assert_eq!(bundle.finish(waiting), Err(Failure::Cancelled));
    done.store(true, std::sync::atomic::Ordering::Release);
    thread.join().unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
}

#[test]
fn s6_a_call_that_waits_is_cancelled_alone() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "never: () => new Promise(() => {}), one: () => 1,
         async late() { await new Promise((r) => { this.open = r; }); this.done = true; return 2; },
         release() { this.open(); }, is_done() { return this.done ?? false; }",
    );
    for function in ["never", "late"] {
        let waiting = bundle.begin("test@1", function, &[0x90]).unwrap();
        // It has begun when a later call is answered.
        assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
        bundle.interrupt();
        assert_eq!(bundle.finish(waiting), Err(Failure::Cancelled));
        assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
    }
    // What is left of it runs on and disturbs nobody.
    bundle.call::<_, ()>("test@1", "release", ()).unwrap();
    assert_eq!(bundle.call::<_, bool>("test@1", "is_done", ()), Ok(true));
    let late = bundle.begin("test@1", "late", &[0x90]).unwrap();
    bundle.call::<_, ()>("test@1", "release", ()).unwrap();
    assert_eq!(bundle.finish(late).unwrap(), [2]);
}

/// Asks one call to stop, again and again until it has ended.
fn interrupt_until_it_ends(bundle: &TestBundle, call: u64) -> Result<Vec<u8>, Failure> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                bundle.interrupt_call(call);
                std::thread::yield_now();
            }
        });
        let result = bundle.finish(call);
        done.store(true, Ordering::Release);
        result
    })
}

#[test]
fn s6_a_call_is_cancelled_while_another_one_is_at_work() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "never: () => new Promise(() => {}),
         async waits() { return await new Promise((r) => { this.open = r; }); },
         release(value) { this.open(value); },
         async works() {
           await new Promise((r) => setTimeout(r, 1));
           console.log('works');
           for (const began = performance.now(); performance.now() - began < 100;);
           return 7;
         }",
    );
    for _ in 0..3 {
        let given_up = bundle.begin("test@1", "never", &[0x90]).unwrap();
        let waiting = bundle.begin("test@1", "waits", &[0x90]).unwrap();
        let before = harness.logs().len();
        let working = bundle.begin("test@1", "works", &[0x90]).unwrap();
        while harness.logs().len() == before {
            std::thread::yield_now();
        }
        bundle.interrupt_call(given_up);
        assert_eq!(bundle.finish(given_up), Err(Failure::Cancelled));
        assert_eq!(bundle.finish(working).unwrap(), [7]);
        bundle.call::<_, ()>("test@1", "release", (5,)).unwrap();
        assert_eq!(bundle.finish(waiting).unwrap(), [5]);
    }
}

/// What works for no call at all, as an interval does, is not in the way of one that
/// waits: that is answered when it lets go, and no other call is.
#[test]
fn s6_a_call_is_cancelled_alone_while_an_interval_works() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "never: () => new Promise(() => {}),
         async waits() { return await new Promise((r) => { this.open = r; }); },
         release(value) { this.open(value); },
         start() {
           setInterval(() => {
             console.log('works');
             for (const began = performance.now(); performance.now() - began < 40;);
           }, 1);
         }",
    );
    bundle.call::<_, ()>("test@1", "start", ()).unwrap();
    let waiting = bundle.begin("test@1", "waits", &[0x90]).unwrap();
    for _ in 0..10 {
        let given_up = bundle.begin("test@1", "never", &[0x90]).unwrap();
        bundle.wait_until_begun();
        let before = harness.logs().len();
        while harness.logs().len() == before {
            std::thread::yield_now();
        }
        bundle.interrupt_call(given_up);
        assert_eq!(bundle.finish(given_up), Err(Failure::Cancelled));
    }
    bundle.call::<_, ()>("test@1", "release", (5,)).unwrap();
    assert_eq!(bundle.finish(waiting).unwrap(), [5]);
}

/// What goes on behind an `await` of something that is there goes on in the same breath.
#[test]
fn s6_a_call_that_works_on_behind_an_await_takes_no_others_with_it() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "async waits() { return await new Promise((r) => { this.open = r; }); },
         release(value) { this.open(value); },
         async works(last) {
           await null;
           console.log('works');
           for (const began = performance.now(); performance.now() - began < 40;);
           return last ? 7 : await new Promise(() => {});
         }",
    );
    for last in [true, false] {
        let waiting = bundle.begin("test@1", "waits", &[0x90]).unwrap();
        let before = harness.logs().len();
        let working = bundle.begin("test@1", "works", &[0x91, 0xc2 + u8::from(last)]).unwrap();
        while harness.logs().len() == before {
            std::thread::yield_now();
        }
        bundle.interrupt_call(working);
        let expected = if last { Ok(vec![7]) } else { Err(Failure::Cancelled) };
        assert_eq!(bundle.finish(working), expected);
        bundle.call::<_, ()>("test@1", "release", (5,)).unwrap();
        assert_eq!(bundle.finish(waiting).unwrap(), [5]);
    }
}

#[test]
fn s6_a_call_that_spins_is_stopped_alone() {
    let harness = harness();
    harness.on_call(|_, _, _| Ok(vec![4]));
    let code = "import { call } from 'menagerie';
        export default { 'test@1': {
          async waits() { return await new Promise((r) => { this.open = r; }); },
          async asks() { const n = await call('o@1', 'f'); return n + await this.waits(); },
          release(value) { this.open(value); },
          spin() { for (;;); }, getter: () => ({ get x() { for (;;); } }),
        } };";
    let bundle = load(&harness, code).unwrap();
    for waits in ["waits", "asks"] {
        for spins in ["spin", "getter"] {
            let waiting = bundle.begin("test@1", waits, &[0x90]).unwrap();
            let spinning = bundle.begin("test@1", spins, &[0x90]).unwrap();
            assert_eq!(interrupt_until_it_ends(&bundle, spinning), Err(Failure::Cancelled));
            // Until the answer to its own call was there, it had no such function.
            while bundle.call::<_, ()>("test@1", "release", (5,)).is_err() {
                std::thread::yield_now();
            }
            let expected = if waits == "asks" { 9 } else { 5 };
            assert_eq!(bundle.finish(waiting).unwrap(), [expected], "{waits} {spins}");
            bundle.reload().unwrap();
        }
    }
}

/// What a call has set going before it was stopped goes on, though nothing else comes.
#[test]
fn s6_what_a_call_that_is_stopped_has_resolved_goes_on() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "async waits() { return await new Promise((r) => { this.open = r; }); },
         open_and_spin() { this.open(5); console.log('spins'); for (;;); }",
    );
    let waiting = bundle.begin("test@1", "waits", &[0x90]).unwrap();
    let spinning = bundle.begin("test@1", "open_and_spin", &[0x90]).unwrap();
    harness.wait_for_log(|record| record.message == "spins");
    // Once: to ask a call that has ended would be another thing to do for the lane.
    bundle.interrupt_call(spinning);
    assert_eq!(bundle.finish(spinning), Err(Failure::Cancelled));
    assert_eq!(bundle.finish(waiting).unwrap(), [5]);
}

#[test]
fn s6_a_result_that_is_being_written_is_interrupted() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "f() { const some = Array(1e4).fill(1); console.log('written'); return Array(6e3).fill(some); },
         one: () => 1",
    );
    let writing = bundle.begin("test@1", "f", &[0x90]).unwrap();
    harness.wait_for_log(|record| record.message == "written");
    assert_eq!(interrupt_until_it_ends(&bundle, writing), Err(Failure::Cancelled));
    assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
}

#[test]
fn c2_what_is_too_large_is_refused_before_it_is_written() {
    let harness = harness();
    harness.on_call(|_, _, _| panic!("nothing of this is sent"));
    let code = "import { call } from 'menagerie';
        const values = {
          doubled() { let a = 'x'.repeat(65536); for (let i = 0; i < 40; i++) a = [a, a]; return a; },
          lent() { let a = new Uint8Array(65536); for (let i = 0; i < 40; i++) a = [a, a]; return a; },
          mapped() { let a = 'x'.repeat(65536); for (let i = 0; i < 40; i++) a = { a, b: a }; return a; },
          sparse() { const a = []; a.length = 2 ** 32 - 1; return a; },
          proxy: () => new Proxy(values.sparse(), {}),
          text: () => 'x'.repeat(1 << 27),
        };
        export default { 'test@1': { one: () => 1,
          make: (kind) => values[kind](),
          async later(kind) { await new Promise((r) => setTimeout(r, 0)); return values[kind](); },
          async send(kind) { try { await call('o@1', 'f', values[kind]()); } catch (e) { return e.kind; } },
        } };";
    let bundle = load(&harness, code).unwrap();
    for kind in ["doubled", "lent", "mapped", "sparse", "proxy", "text"] {
        for function in ["make", "later"] {
            match bundle.call::<_, ()>("test@1", function, (kind,)) {
                Err(Failure::PayloadTooLarge { size, limit }) => {
                    assert_eq!(limit, 64 << 20);
                    assert!(size > limit, "{size}");
                }
                other => panic!("{function} {kind}: {other:?}"),
            }
        }
        let caught: String = bundle.call("test@1", "send", (kind,)).unwrap();
        assert_eq!(caught, "PayloadTooLarge", "{kind}");
    }
    assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
}

#[test]
fn a_bottomless_recursion_is_an_error_of_the_guest() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "down() { return this.down() + 1; }, depth() { let n = 0; const f = () => { n++; f(); }; try { f(); } catch {} return n; },
         json() { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return JSON.stringify(a); },
         one: () => 1",
    );
    for function in ["down", "json"] {
        let error = guest(bundle.call::<_, ()>("test@1", function, ()));
        assert!(
            error.message.to_lowercase().contains("stack"),
            "{function}: {}: {}",
            error.type_name,
            error.message
        );
    }
    assert!(bundle.call::<_, u64>("test@1", "depth", ()).unwrap() > 1000);
    assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
}

#[test]
fn a_full_heap_ends_the_call_and_nothing_else() {
    let harness = Harness::new(JsLoader::new().with_heap_limit(64 << 20));
    let code = "export default { 'test@1': {
        grow() { const all = []; for (;;) all.push({ n: all.length, text: 'x' + all.length }); },
        block() { return new Uint8Array(1 << 30).length; },
        async later() { await null; const all = []; for (;;) all.push([all.length]); },
        one: () => 1,
    } };";
    let bundle = load(&harness, code).unwrap();
    for _ in 0..3 {
        for function in ["grow", "later", "block"] {
            let result = bundle.call::<_, i64>("test@1", function, ());
            let error = guest(result);
            assert_eq!(error.type_name, "OutOfMemory", "{function}: {error:?}");
            assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1), "after {function}");
        }
    }
}

/// A timer that is due when the heap is full of a continuation's work is no reason to
/// forget whose calls were lost by that.
#[test]
fn c3_a_full_heap_in_a_continuation_ends_the_calls_that_wait() {
    let harness = Harness::new(JsLoader::new().with_heap_limit(64 << 20));
    harness.on_call(|_, _, _| Ok(vec![1]));
    let code = "import { call } from 'menagerie';
        setInterval(() => {}, 1);
        export default { 'test@1': {
          async grow() { await call('o@1', 'f'); const all = []; for (;;) all.push({ n: all.length }); },
          one: () => 1,
        } };";
    let bundle = load(&harness, code).unwrap();
    for _ in 0..3 {
        let error = guest(bundle.call::<_, ()>("test@1", "grow", ()));
        assert_eq!(error.type_name, "OutOfMemory", "{error:?}");
        assert_eq!(bundle.call::<_, i64>("test@1", "one", ()), Ok(1));
    }
}
