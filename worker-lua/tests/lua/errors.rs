use menagerie_protocol::{BundleSource, GuestError, LoaderError};

use super::{folder, guest_error, harness, probe, try_load};

fn init_error(
    result: Result<menagerie_protocol::testing::TestBundle, LoaderError>,
) -> (String, GuestError) {
    match result {
        Err(LoaderError::InitFailed { step, error, .. }) => (step, error),
        other => panic!("expected a failed init, got {other:?}"),
    }
}

#[test]
fn c3_an_error_has_place_message_and_stack() {
    let dir = folder(&[(
        "main.lua",
        "local function inner()\n  error('broken')\nend\nlocal function outer()\n  inner()\n  return 1\nend\nreturn { ['probe@1'] = { outer = outer } }",
    )]);
    let bundle = harness().load_dir(dir.path()).unwrap();
    let error = guest_error(bundle.call::<_, i64>("probe@1", "outer", ()));
    assert_eq!(error.type_name, "error");
    assert_eq!(error.message, "main.lua:2: broken");
    assert!(error.stack.contains("main.lua:2: in "), "{}", error.stack);
    assert!(error.stack.contains("main.lua:5: in "), "{}", error.stack);
    assert!(!error.stack.contains("xpcall"), "{}", error.stack);
    assert!(!error.stack.contains("traceback"), "{}", error.stack);
}

/// A message that is longer than any may be.
#[test]
fn c3_an_error_with_a_huge_message_keeps_its_type_and_its_message_s_start() {
    let (_harness, bundle) = probe(
        "local huge = ('x'):rep(20e6)
         function probe.text() error('it was: ' .. huge) end
         function probe.table() error { type = 'Mine', message = 'it was: ' .. huge, code = 7 } end",
    );
    for (function, type_name, code) in [("text", "error", None), ("table", "Mine", Some("7"))] {
        let error = guest_error(bundle.call::<_, ()>("probe@1", function, ()));
        assert_eq!((&*error.type_name, error.code.as_deref()), (type_name, code), "{function}");
        assert!(error.message.contains("it was: xxx"), "{function}");
        assert!(error.message.ends_with("x […]") && error.message.len() < 1 << 15, "{function}");
    }
}

#[test]
fn c3_an_error_table_gives_type_code_help_url_and_cause() {
    let (_harness, bundle) = probe(
        "function probe.f()
           error { type = 'NotFound', message = 'no such cat', code = 404, help = 'ask the dog',
                   url = 'about:cats', cause = { type = 'IoError', message = 'disk' } }
         end
         local Class = setmetatable({}, { __tostring = function() return 'as text' end })
         function probe.text() error(setmetatable({}, getmetatable(Class))) end",
    );
    let error = guest_error(bundle.call::<_, ()>("probe@1", "f", ()));
    assert_eq!(error.to_string(), "NotFound: no such cat");
    assert_eq!(error.code.as_deref(), Some("404"));
    assert_eq!(error.help.as_deref(), Some("ask the dog"));
    assert_eq!(error.url.as_deref(), Some("about:cats"));
    assert_eq!(error.inner[0].to_string(), "IoError: disk");
    assert!(error.stack.contains("main.lua"), "{error:?}");
    assert_eq!(guest_error(bundle.call::<_, ()>("probe@1", "text", ())).message, "as text");
}

#[test]
fn c3_any_value_can_be_an_error() {
    let (_harness, bundle) = probe(
        "function probe.nothing() error() end
         function probe.number() error(7, 0) end
         function probe.boolean() error(false) end
         function probe.cycle() local e = { message = 'm' }; e.cause = e; error(e) end
         function probe.mean() error(setmetatable({}, { __index = error, __tostring = error })) end
         function probe.bytes() return menagerie.bytes(1):sub('x') end",
    );
    let message = |function| guest_error(bundle.call::<_, ()>("probe@1", function, ())).message;
    assert_eq!(message("nothing"), "nil");
    assert_eq!(message("number"), "7");
    assert_eq!(message("boolean"), "false");
    assert_eq!(message("cycle"), "m");
    assert_eq!(message("mean"), "table");
    assert!(message("bytes").contains("bytes: expected a string"), "{}", message("bytes"));
}

#[test]
fn c3_stack_overflow_is_an_error() {
    let (_harness, bundle) = probe(
        "function probe.endless() return 1 + probe.endless() end
         function probe.ok() return 1 end",
    );
    for _ in 0..3 {
        let error = guest_error(bundle.call::<_, i64>("probe@1", "endless", ()));
        assert!(error.message.contains("stack overflow"), "{error:?}");
        assert_eq!(bundle.call("probe@1", "ok", ()), Ok(1));
    }
}

#[test]
fn l5_a_syntax_error_names_file_and_line() {
    let dir = folder(&[("main.lua", "local x = 1\nlocal y = = 2\n")]);
    let (step, error) = init_error(harness().load_dir(dir.path()));
    assert_eq!((step.as_str(), error.type_name.as_str()), ("compile", "SyntaxError"));
    assert!(error.message.starts_with("main.lua:2: "), "{error:?}");
}

#[test]
fn l5_an_error_of_the_main_chunk_is_an_init_error() {
    let (step, error) = init_error(try_load(&harness(), "local t\nreturn t.x"));
    assert_eq!(step, "initialise");
    assert!(error.message.starts_with("main.lua:2: attempt to index"), "{error:?}");
    assert!(error.stack.contains("main.lua:2"), "{error:?}");
}

#[test]
fn l5_what_is_no_export_is_refused() {
    let harness = harness();
    for (code, expected) in [
        ("", "main.lua: returned nil; return a table of contracts"),
        ("return 7", "main.lua: returned "),
        ("return { 'x' }", "is no name of an export"),
        ("return { ['probe@1'] = 7 }", "not a table of functions"),
        ("return { ['probe@1'] = { f = 'x' } }", "probe@1.f is a string, not a function"),
        ("return { ['probe@1'] = {}, on_load = 1 }", "not a function"),
    ] {
        let (step, error) = init_error(try_load(&harness, code));
        assert_eq!(step, "register");
        assert!(error.message.contains(expected), "{code}: {error:?}");
    }
    let other = try_load(&harness, "return { ['other@1'] = {} }");
    assert!(matches!(other, Err(LoaderError::ContractMismatch { .. })), "{other:?}");
    let name = try_load(&harness, "return { ['probe@1'] = { greetAll = print } }");
    assert!(matches!(name, Err(LoaderError::BadFunctionName { .. })), "{name:?}");
}

#[test]
fn l4_bytes_and_binary_chunks_are_refused() {
    let harness = harness();
    let bytes = harness.load(super::MANIFEST, BundleSource::Bytes(vec![1]));
    assert!(matches!(bytes, Err(LoaderError::UnsupportedBundleSource { .. })), "{bytes:?}");
    let (step, _) = init_error(try_load(&harness, "\x1bLJ\x02"));
    assert_eq!(step, "compile");
}

#[test]
fn errors_of_the_module_point_at_the_caller() {
    let (_harness, bundle) = probe(
        "function probe.f()\n menagerie.log('loud', 'x')\n end
         function probe.exit() os.exit(1) end",
    );
    let error = guest_error(bundle.call::<_, ()>("probe@1", "f", ()));
    assert_eq!(
        error.message,
        "main.lua:4: log: the level is one of trace, debug, info, warn, error"
    );
    let error = guest_error(bundle.call::<_, ()>("probe@1", "exit", ()));
    assert!(error.message.contains("os.exit would end the worker"), "{error:?}");
}

/// What the worker raises itself, and not the prelude.
#[test]
fn c3_the_errors_of_bytes_read_as_texts() {
    let (_harness, bundle) = probe(
        "local kept
         function probe.keep(b) kept = b end
         function probe.caught(b)
           local told = {}
           local function try(f)
             local _, e = pcall(f)
             told[#told + 1] = { tostring(e), 'failed: ' .. e .. '!', e:match('bytes') or '', e.kind == nil }
           end
           try(function() return b .. {} end)
           try(function() return kept:byte(1) end)
           try(function() return b:sub('x') end)
           return told
         end
         function probe.uncaught(b) return b .. {} end",
    );
    let (large, small) =
        (serde_bytes::ByteBuf::from(vec![1; 100_000]), serde_bytes::ByteBuf::from([1]));
    bundle.call::<_, ()>("probe@1", "keep", (&large,)).unwrap();
    let told: Vec<(String, String, String, bool)> =
        bundle.call("probe@1", "caught", (&small,)).unwrap();
    for (text, joined, matched, has_no_kind) in &told[..2] {
        assert!(text.contains("bytes") && !text.contains("traceback"), "{text}");
        assert_eq!((joined, &**matched), (&format!("failed: {text}!"), "bytes"));
        assert!(has_no_kind);
    }
    assert!(told[2].0.contains("i64"), "{told:?}");
    let error = guest_error(bundle.call::<_, ()>("probe@1", "uncaught", (&small,)));
    assert_eq!(error.message, told[0].0);
}
