use menagerie_protocol::GuestError;
use serde_bytes::ByteBuf;

use super::{guest_error, probe};

#[test]
fn call_passes_values_both_ways() {
    let (harness, bundle) = probe(
        "local unpack = table.unpack or unpack
         function probe.call(c, f, args) return menagerie.call(c, f, unpack(args)) end
         function probe.inner(c)
           local co = coroutine.wrap(function() return menagerie.call(c, 'f', nil, 1, nil) end)
           return co()
         end",
    );
    harness.on_call(|contract, function, args| {
        assert_eq!(contract, "kv@1");
        if function == "f" {
            assert_eq!(args, [0x93, 0xc0, 0x01, 0xc0]);
            return Ok(vec![0xc0]);
        }
        assert_eq!(function, "first");
        // The second element, as it stands.
        Ok(args[1..].to_vec())
    });
    let value: (i64, ByteBuf, Option<bool>) = bundle
        .call("probe@1", "call", ("kv@1", "first", [(i64::MAX, ByteBuf::from("b"), None::<bool>)]))
        .unwrap();
    assert_eq!(value, (i64::MAX, ByteBuf::from("b"), None));
    assert_eq!(bundle.call("probe@1", "inner", ("kv@1",)), Ok(()));
    let big = ByteBuf::from(vec![3; 1 << 20]);
    let echoed: ByteBuf = bundle.call("probe@1", "call", ("kv@1", "first", [&big])).unwrap();
    assert_eq!(echoed, big);
}

#[test]
fn c3_an_error_of_several_causes_goes_through_whole() {
    let (harness, bundle) = probe(
        "function probe.through() menagerie.call('kv@1', 'get') end
         function probe.caught()
           local _, e = pcall(menagerie.call, 'kv@1', 'get')
           return { e.cause.errors[1].message, e.cause.errors[2].cause.message }
         end
         function probe.own()
           error { message = 'a', cause = 'first', errors = { { message = 'b' }, 'c' } }
         end
         function probe.ring()
           local e = { message = 'ring' }
           e.cause, e.errors = e, { e, e }
           error(e)
         end",
    );
    let causes = |error: &GuestError| -> Vec<String> {
        error.inner.iter().map(|cause| cause.message.clone()).collect()
    };
    harness.on_call(|_, _, _| {
        let (mut all, mut two) = (GuestError::new("Group", "all"), GuestError::new("E", "two"));
        two.inner = vec![GuestError::new("E", "three")];
        all.inner = vec![GuestError::new("E", "one"), two];
        Err(all.into())
    });
    let caught = bundle.call::<_, (String, String)>("probe@1", "caught", ());
    assert_eq!(caught, Ok(("one".to_owned(), "three".to_owned())));
    let error = guest_error(bundle.call::<_, ()>("probe@1", "through", ()));
    assert_eq!(causes(&error.inner[0]), ["one", "two"]);
    assert_eq!(causes(&error.inner[0].inner[1]), ["three"]);

    let error = guest_error(bundle.call::<_, ()>("probe@1", "own", ()));
    assert_eq!(causes(&error), ["first", "b", "c"]);
    let error = guest_error(bundle.call::<_, ()>("probe@1", "ring", ()));
    let (mut count, mut rest) = (0, error.inner);
    while let Some(cause) = rest.pop() {
        count += 1;
        rest.extend(cause.inner);
    }
    assert_eq!(count, 64);
}

#[test]
fn a_failed_call_raises_a_call_error() {
    let (harness, bundle) = probe(
        "function probe.caught()
           local ok, e = pcall(menagerie.call, 'kv@1', 'get')
           return { ok, e.kind, e.message, tostring(e), getmetatable(e) == menagerie.CallError, e.cause and e.cause.type or menagerie.null }
         end
         function probe.uncaught() menagerie.call('kv@1', 'get') end
         function probe.wrong() menagerie.call('kv@1', 'get', print) end
         function probe.nameless() menagerie.call() end",
    );
    type Caught = (bool, String, String, String, bool, Option<String>);
    let caught = || bundle.call::<_, Caught>("probe@1", "caught", ());
    let message = "no loaded bundle provides 'kv@1'".to_owned();
    let expected = (false, "NoSuchContract".to_owned(), message.clone(), message, true, None);
    assert_eq!(caught(), Ok(expected));

    harness.on_call(|_, _, _| {
        Err(GuestError::new("ValueError", "no").with_stack("there, line 1").into())
    });
    let (_, kind, .., cause) = caught().unwrap();
    assert_eq!((kind.as_str(), cause.as_deref()), ("Guest", Some("ValueError")));
    let error = guest_error(bundle.call::<_, ()>("probe@1", "uncaught", ()));
    assert_eq!(error.to_string(), "menagerie.CallError: ValueError: no");
    assert_eq!(error.inner[0].to_string(), "ValueError: no");
    assert_eq!(error.inner[0].stack, "there, line 1");
    assert!(error.stack.contains("main.lua"), "{error:?}");

    let error = guest_error(bundle.call::<_, ()>("probe@1", "wrong", ()));
    assert!(error.message.contains("call: a function cannot leave Lua"), "{error:?}");
    let error = guest_error(bundle.call::<_, ()>("probe@1", "nameless", ()));
    assert!(error.message.contains("call: expected a contract"), "{error:?}");
}
