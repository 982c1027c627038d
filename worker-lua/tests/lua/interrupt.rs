use std::time::Duration;

use menagerie_protocol::Failure;
use menagerie_protocol::testing::{Harness, TestBundle};

use super::probe;

/// Asks again and again, because a call says only that it was begun, and waits
/// for its end.
fn stop(bundle: &TestBundle, call: u64) -> Result<Vec<u8>, Failure> {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bundle.finish(call));
        while !waiting.is_finished() {
            bundle.interrupt();
            std::thread::sleep(Duration::from_millis(5));
        }
        waiting.join().unwrap()
    })
}

fn spinner(body: &str) -> (std::sync::Arc<Harness>, TestBundle) {
    // Loops that LuaJIT has compiled look at no hook: see the README.
    let interpreted = "if jit then jit.off() end";
    probe(&format!(
        "{interpreted}
         function probe.spin() {body} end
         function probe.inc(n) return n + 1 end
         function probe.nap() menagerie.sleep(1e9) end
         function probe.sleep_for_ever() menagerie.sleep(math.huge) end"
    ))
}

#[test]
fn s6_an_interrupt_ends_the_running_call_and_no_other() {
    let (_harness, bundle) = spinner("while true do end");
    for round in 0..3 {
        let call = bundle.begin("probe@1", "spin", &[0x90]).unwrap();
        assert_eq!(stop(&bundle, call), Err(Failure::Cancelled));
        // One that comes when nothing runs is for nobody.
        bundle.interrupt();
        assert_eq!(bundle.call("probe@1", "inc", (round,)), Ok(round + 1));
    }
}

#[test]
fn s6_a_guest_that_catches_everything_is_stopped() {
    let (_harness, bundle) = spinner("pcall(function() while true do end end) while true do end");
    let call = bundle.begin("probe@1", "spin", &[0x90]).unwrap();
    assert_eq!(stop(&bundle, call), Err(Failure::Cancelled));
}

#[test]
fn s6_a_coroutine_is_stopped() {
    let (_harness, bundle) = spinner("coroutine.wrap(function() while true do end end)()");
    let call = bundle.begin("probe@1", "spin", &[0x90]).unwrap();
    assert_eq!(stop(&bundle, call), Err(Failure::Cancelled));
}

#[test]
fn s6_an_error_that_loops_while_it_is_told_is_stopped() {
    for name in ["__index", "__tostring"] {
        let body =
            format!("error(setmetatable({{}}, {{ {name} = function() while true do end end }}))");
        let (_harness, bundle) = spinner(&body);
        let call = bundle.begin("probe@1", "spin", &[0x90]).unwrap();
        assert_eq!(stop(&bundle, call), Err(Failure::Cancelled), "{name}");
        assert_eq!(bundle.call("probe@1", "inc", (1,)), Ok(2));
    }
}

#[test]
fn s6_a_result_that_shares_its_parts_is_stopped() {
    // 2^26 values: too large for an answer, which one that goes on would end in.
    let (_harness, bundle) =
        spinner("local t = { true, true } for _ = 1, 25 do t = { t, t } end return t");
    let call = bundle.begin("probe@1", "spin", &[0x90]).unwrap();
    assert_eq!(stop(&bundle, call), Err(Failure::Cancelled));
}

/// One stop, as soon as the call has begun: its arguments are not there yet.
#[test]
fn s6_a_stop_that_comes_while_arguments_are_read_is_not_lost() {
    let (_harness, bundle) = probe(
        "function probe.nap(_) menagerie.sleep(1e9) end
         function probe.echo(n) return n end",
    );
    for value in [i64::MAX, 1] {
        let mut args = Vec::new();
        menagerie_protocol::msgpack::encode_args(&mut args, &(vec![value; 500_000],)).unwrap();
        let call = bundle.begin("probe@1", "nap", &args).unwrap();
        bundle.wait_until_begun();
        bundle.interrupt();
        assert_eq!(bundle.finish(call), Err(Failure::Cancelled));
        // Nothing of them is left for the next one.
        assert_eq!(bundle.call("probe@1", "echo", (i64::MIN,)), Ok(i64::MIN));
    }
}

#[test]
fn s6_a_sleeper_is_woken() {
    let (_harness, bundle) = spinner("");
    for function in ["nap", "sleep_for_ever"] {
        let call = bundle.begin("probe@1", function, &[0x90]).unwrap();
        assert_eq!(stop(&bundle, call), Err(Failure::Cancelled), "{function}");
    }
}

/// What the guest sees of it: a `CallError` where it calls others, and a text elsewhere.
#[test]
fn c3_a_stop_is_told_to_the_guest_in_the_documented_words() {
    let (harness, bundle) = probe(
        "local seen
         function probe.waits()
           menagerie.log('info', 'it sleeps')
           local _, slept = pcall(menagerie.sleep, 1e9)
           local _, e = pcall(menagerie.call, 'kv@1', 'get')
           seen = { 'slept: ' .. slept, slept:upper(), getmetatable(e) == menagerie.CallError, e.kind }
         end
         function probe.seen() return seen end",
    );
    harness.on_call(|_, _, _| Ok(vec![0xc0]));
    let call = bundle.begin("probe@1", "waits", &[0x90]).unwrap();
    harness.wait_for_log(|record| record.message == "it sleeps");
    // It has caught all of it, and ends on its own.
    assert_eq!(stop(&bundle, call), Ok(vec![0xc0]));
    let seen: (String, String, bool, String) = bundle.call("probe@1", "seen", ()).unwrap();
    let text = |text: &str| text.to_owned();
    let expected = (
        text("slept: the call was cancelled"),
        text("THE CALL WAS CANCELLED"),
        true,
        text("Cancelled"),
    );
    assert_eq!(seen, expected);
}
