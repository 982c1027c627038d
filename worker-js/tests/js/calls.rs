use menagerie_protocol::Failure;

use crate::{functions, guest, harness, load, sample};

#[test]
fn greeter_greets() {
    let greeter = harness().load_dir(sample("greeter-js")).unwrap();
    let text: String = greeter.call("greeter@1", "greet", ("Ada",)).unwrap();
    assert_eq!(text, "Hello, Ada");
    let texts: Vec<String> = greeter.call("greeter@1", "greet_all", (["Ada", "Bob"],)).unwrap();
    assert_eq!(texts, ["Hello, Ada", "Hello, Bob"]);
}

#[test]
fn contracts_are_sorted_and_functions_stand_as_they_are_written() {
    let harness = harness();
    let code = "class Base { b() { return this.n; } }
        class Both extends Base { n = 7; c() {} a() {} }
        export default { 'test@1': new Both() };";
    let bundle = load(&harness, code).unwrap();
    let contracts = bundle.contracts();
    assert_eq!(contracts[0].contract, "test@1");
    assert_eq!(contracts[0].functions, ["c", "a", "b"]);
    assert_eq!(bundle.call::<_, i64>("test@1", "b", ()), Ok(7));
}

#[test]
fn wrong_number_of_arguments_is_refused_before_the_body_runs() {
    let harness = harness();
    let bundle = functions(
        &harness,
        "ran: 0, two(a, b) { throw new Error('ran'); }, some(a, b = 1) { return b; },
         any(...all) { return all.length; }, old() { return arguments.length; }",
    );
    let message = |result: Result<(), Failure>| match result {
        Err(Failure::BadArguments { message }) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        message(bundle.call("test@1", "two", (1,))),
        "two(a, b): the argument 'b' is missing: expected 2 arguments, got 1"
    );
    assert_eq!(
        message(bundle.call("test@1", "two", (1, 2, 3))),
        "two(a, b): expected 2 arguments, got 3"
    );
    assert_eq!(guest(bundle.call::<_, ()>("test@1", "two", (1, 2))).message, "ran");
    assert_eq!(bundle.call::<_, i64>("test@1", "some", (1,)), Ok(1));
    assert_eq!(bundle.call::<_, i64>("test@1", "some", (1, 5)), Ok(5));
    message(bundle.call("test@1", "some", (1, 5, 6)));
    assert_eq!(bundle.call::<_, i64>("test@1", "any", (1, 2, 3, 4, 5, 6)), Ok(6));
    assert_eq!(bundle.call::<_, i64>("test@1", "old", (1, 2)), Ok(2));
}

#[test]
fn c3_errors_keep_type_message_stack_and_extras() {
    let harness = harness();
    let code = "
class DiskError extends Error {
  constructor(message, options) { super(message, options); this.name = 'DiskError'; this.code = 'ENOSPC'; }
}
function write() {
  const error = new DiskError('disk full', { cause: new RangeError('too many', { cause: 'a text' }) });
  error.help = 'remove something';
  error.url = 'https://example.org/enospc';
  throw error;
}
export default { 'test@1': {
  save() { write(); },
  async later() { await null; write(); },
  numbered() { throw Object.assign(new Error('gone'), { code: 404, help: 1 }); },
  text() { throw 'a text'; },
  object() { throw { why: 1 }; },
  nothing() { throw undefined; },
  symbol() { throw Symbol('why'); },
  async no_symbol() { throw Symbol(); },
  many() { throw new AggregateError([new Error('one'), new TypeError('two')], 'several'); },
  itself() { const e = new AggregateError([], 'own'); e.cause = e; e.errors = [e, e, e]; throw e; },
  evil() { throw { get message() { throw new Error('no'); }, get name() { throw new Error('no'); } }; },
} };";
    let bundle = load(&harness, code).unwrap();
    for function in ["save", "later"] {
        let error = guest(bundle.call::<_, ()>("test@1", function, ()));
        assert_eq!(error.type_name, "DiskError", "{function}");
        assert_eq!(error.message, "disk full");
        assert_eq!(error.code.as_deref(), Some("ENOSPC"));
        assert_eq!(error.help.as_deref(), Some("remove something"));
        assert_eq!(error.url.as_deref(), Some("https://example.org/enospc"));
        assert!(error.stack.contains("write (memory:test/main.js:6:"), "{}", error.stack);
        assert!(error.stack.contains(function), "{}", error.stack);
        assert_eq!(error.inner.len(), 1);
        assert_eq!(error.inner[0].type_name, "RangeError");
        assert_eq!(error.inner[0].inner[0].message, "\"a text\"".trim_matches('"'));
    }
    let error = guest(bundle.call::<_, ()>("test@1", "numbered", ()));
    assert_eq!((error.code.as_deref(), error.help), (Some("404"), None));
    let error = guest(bundle.call::<_, ()>("test@1", "text", ()));
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("string", "a text"));
    let error = guest(bundle.call::<_, ()>("test@1", "object", ()));
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("Object", "{\"why\":1}"));
    let error = guest(bundle.call::<_, ()>("test@1", "nothing", ()));
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("undefined", "undefined"));
    for (function, message) in [("symbol", "Symbol(why)"), ("no_symbol", "Symbol()")] {
        let error = guest(bundle.call::<_, ()>("test@1", function, ()));
        assert_eq!((error.type_name.as_str(), error.message.as_str()), ("symbol", message));
    }
    let error = guest(bundle.call::<_, ()>("test@1", "many", ()));
    assert_eq!(error.inner.iter().map(|e| e.message.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    // In so many ways that nobody lives to see them all told.
    let error = guest(bundle.call::<_, ()>("test@1", "itself", ()));
    assert_eq!((error.message.as_str(), error.inner[0].message.as_str()), ("own", "own"));
    guest(bundle.call::<_, ()>("test@1", "evil", ()));
}

#[test]
fn probe_fails_with_the_message() {
    let probe = harness().load_dir(sample("probe-js")).unwrap();
    let error = guest(probe.call::<_, ()>("probe@1", "fail", ("broken",)));
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("Error", "broken"));
    let source = std::fs::read_to_string(sample("probe-js").join("main.js")).unwrap();
    let thrown = source.lines().position(|line| line.contains("throw new Error")).unwrap();
    assert!(error.stack.contains(&format!("main.js:{}:", thrown + 1)), "{}", error.stack);
}

#[test]
fn this_is_the_contract() {
    let harness = harness();
    let bundle = functions(&harness, "one() { return 1; }, two() { return this.one() + 1; }");
    assert_eq!(bundle.call::<_, i64>("test@1", "two", ()), Ok(2));
}
