use menagerie_protocol::{BundleSource, LoaderError};

use crate::{folder, functions, guest, harness, init_failure, load, sample};

#[test]
fn hooks_hand_state_from_one_generation_to_the_next() {
    let probe = harness().load_dir(sample("probe-js")).unwrap();
    assert_eq!(probe.call::<_, Option<i64>>("probe@1", "state", ()), Ok(None));
    probe.call::<_, ()>("probe@1", "set_state", (vec![1, 2, 3],)).unwrap();
    probe.reload().unwrap();
    assert_eq!(probe.call::<_, Vec<i64>>("probe@1", "state", ()), Ok(vec![1, 2, 3]));
    probe.reload().unwrap();
    assert_eq!(probe.call::<_, Option<i64>>("probe@1", "state", ()), Ok(None));
    let bytes = serde_bytes::ByteBuf::from(vec![3; 10_000]);
    probe.call::<_, ()>("probe@1", "set_state", (&bytes,)).unwrap();
    probe.reload().unwrap();
    assert_eq!(probe.call::<_, serde_bytes::ByteBuf>("probe@1", "state", ()), Ok(bytes));
}

#[test]
fn hooks_may_be_asynchronous() {
    let harness = harness();
    let code = "let seen;
        export async function on_load(context) {
          await new Promise((r) => setTimeout(r, 2));
          seen = [context.bundle, context.generation, context.state];
        }
        export async function on_unload() { await null; return 'state'; }
        export default { 'test@1': { seen: () => seen } };";
    let bundle = load(&harness, code).unwrap();
    type Seen = (String, u32, Option<String>);
    let seen: Seen = bundle.call("test@1", "seen", ()).unwrap();
    assert_eq!(seen, ("test".to_owned(), 1, None));
    bundle.reload().unwrap();
    let seen: Seen = bundle.call("test@1", "seen", ()).unwrap();
    assert_eq!(seen, ("test".to_owned(), 2, Some("state".to_owned())));
}

#[test]
fn l5_a_hook_that_throws_fails_the_load() {
    let harness = harness();
    let (step, error) = init_failure(load(
        &harness,
        "export function on_load() { throw new RangeError('not today'); }
         export default { 'test@1': { f() {} } };",
    ));
    assert_eq!(step, "run on_load");
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("RangeError", "not today"));
    let (_, error) = init_failure(load(
        &harness,
        "export const on_load = () => new Promise(() => {}); export default { 'test@1': { f() {} } };",
    ));
    assert!(error.message.contains("never settled"), "{}", error.message);
}

#[test]
fn l5_a_syntax_error_names_file_and_line() {
    let dir =
        folder(&[("main.js", "export default {\n  'test@1': {\n    f() { const = 1; },\n  } };")]);
    let (step, error) = init_failure(harness().load_dir(dir.path()));
    assert_eq!((step.as_str(), error.type_name.as_str()), ("compile", "SyntaxError"));
    assert!(error.message.contains("main.js:3:"), "{}", error.message);
}

#[test]
fn l5_an_init_that_throws_fails_with_its_error() {
    let dir = folder(&[(
        "main.js",
        "function begin() {\n  throw new RangeError('no begin');\n}\nbegin();\nexport default {};",
    )]);
    let (step, error) = init_failure(harness().load_dir(dir.path()));
    assert_eq!(step, "initialise");
    assert_eq!((error.type_name.as_str(), error.message.as_str()), ("RangeError", "no begin"));
    assert!(error.stack.contains("main.js:2:"), "{}", error.stack);
    assert!(error.stack.contains("begin"), "{}", error.stack);
}

#[test]
fn l5_top_level_await_works_and_never_hangs() {
    let harness = harness();
    let bundle = load(
        &harness,
        "const n = await new Promise((r) => setTimeout(() => r(6), 2));
         export default { 'test@1': { n: () => n } };",
    )
    .unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "n", ()), Ok(6));
    let (step, error) =
        init_failure(load(&harness, "await new Promise(() => {});\nexport default {};"));
    assert_eq!(step, "initialise", "{error:?}");
    assert!(error.message.to_lowercase().contains("await"), "{}", error.message);
}

#[test]
fn l5_exports_that_are_no_contracts_are_refused() {
    let harness = harness();
    for code in [
        "export const x = 1;",
        "export default 5;",
        "export default function f() {}",
        "export default { 'test@1': 1 };",
        "export default { 'test@1': null };",
        "export const on_load = 1; export default { 'test@1': { f() {} } };",
    ] {
        let (step, error) = init_failure(load(&harness, code));
        assert_eq!((step.as_str(), error.type_name.as_str()), ("register", "TypeError"), "{code}");
    }
    let other = load(&harness, "export default { 'other@1': { f() {} } };");
    assert!(matches!(other, Err(LoaderError::ContractMismatch { .. })), "{other:?}");
    let camel = load(&harness, "export default { 'test@1': { greetAll() {} } };");
    assert!(matches!(camel, Err(LoaderError::BadFunctionName { .. })), "{camel:?}");
}

#[test]
fn siblings_are_imported() {
    let dir = folder(&[
        ("main.js", "import { twice } from './lib/util.js'; import data from './data.json' with { type: 'json' };
            export default { 'test@1': { f: (n) => twice(n) + data.add } };"),
        ("lib/util.js", "import { two } from '../two.js'; export const twice = (n) => n * two;"),
        ("two.js", "export const two = 2;"),
        ("data.json", "{ \"add\": 1 }"),
    ]);
    let bundle = harness().load_dir(dir.path()).unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "f", (5,)), Ok(11));
}

#[test]
fn l4_imports_that_leave_the_folder_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.js");
    std::fs::write(&secret, "export default {};").unwrap();
    let main = |specifier: &str| format!("import x from '{specifier}'; export default {{}};");

    let dir = folder(&[("main.js", &main("./link.js"))]);
    std::os::unix::fs::symlink(&secret, dir.path().join("link.js")).unwrap();
    let (step, error) = init_failure(harness().load_dir(dir.path()));
    assert_eq!(step, "import");
    assert!(error.message.contains("out of the bundle's folder"), "{}", error.message);

    for specifier in [
        format!("../{}/secret.js", outside.path().file_name().unwrap().to_string_lossy()),
        secret.to_string_lossy().into_owned(),
        format!("file://{}", secret.display()),
    ] {
        let dir = folder(&[("main.js", &main(&specifier))]);
        let (step, error) = init_failure(harness().load_dir(dir.path()));
        assert_eq!(step, "import");
        assert!(error.message.contains("out of the bundle's folder"), "{}", error.message);
    }
    for specifier in
        ["fs", "node:fs", "https://example.org/x.js", "ext:core/mod.js", "data:text/javascript,1"]
    {
        let dir = folder(&[("main.js", &main(specifier))]);
        let (step, error) = init_failure(harness().load_dir(dir.path()));
        assert_eq!(step, "import", "{specifier}: {error:?}");
        assert!(error.message.contains(specifier), "{}", error.message);
    }
    let dir = folder(&[("main.js", &main("./none.js"))]);
    let (_, error) = init_failure(harness().load_dir(dir.path()));
    assert!(error.message.contains("./none.js"), "{}", error.message);
}

#[test]
fn l4_a_bundle_from_memory_has_no_siblings() {
    let harness = harness();
    let (step, error) =
        init_failure(load(&harness, "import { x } from './util.js'; export default {};"));
    assert_eq!(step, "import");
    assert!(error.message.contains("loaded from memory"), "{}", error.message);
    let manifest =
        "name = \"test\"\nversion = \"1.0.0\"\nloader = \"js\"\nprovides = [\"test@1\"]\n";
    let bytes = harness.load(manifest, BundleSource::Bytes(vec![1]));
    assert!(matches!(bytes, Err(LoaderError::UnsupportedBundleSource { .. })), "{bytes:?}");
}

#[test]
fn l6_a_reload_runs_the_new_code_and_a_failed_one_keeps_the_old() {
    let dir = folder(&[
        ("main.js", "import { n } from './n.js'; export default { 'test@1': { n: () => n } };"),
        ("n.js", "export const n = 1;"),
    ]);
    let bundle = harness().load_dir(dir.path()).unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "n", ()), Ok(1));
    std::fs::write(dir.path().join("n.js"), "export const n = 2;").unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "n", ()), Ok(1));
    bundle.reload().unwrap();
    assert_eq!(bundle.call::<_, i64>("test@1", "n", ()), Ok(2));
    std::fs::write(dir.path().join("n.js"), "export const n = ;").unwrap();
    let (step, _) = init_failure(bundle.reload());
    assert_eq!(step, "compile");
    assert_eq!(bundle.call::<_, i64>("test@1", "n", ()), Ok(2));
}

#[test]
fn bundles_share_nothing() {
    let harness = harness();
    let code = "set(v) { globalThis.shared = v; Array.prototype.evil = v; },
        get: () => [globalThis.shared ?? null, [].evil ?? null]";
    let (one, two) = (functions(&harness, code), functions(&harness, code));
    one.call::<_, ()>("test@1", "set", (1,)).unwrap();
    assert_eq!(two.call::<_, (Option<i64>, Option<i64>)>("test@1", "get", ()), Ok((None, None)));
    assert_eq!(one.call::<_, (i64, i64)>("test@1", "get", ()), Ok((1, 1)));
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn l8_an_unloaded_engine_is_freed() {
    let harness = harness();
    let rounds = |n: usize| {
        for _ in 0..n {
            let probe = harness.load_dir(sample("probe-js")).unwrap();
            assert_eq!(probe.call::<_, i64>("probe@1", "inc", (1,)), Ok(2));
            probe.call::<_, ()>("probe@1", "sleep_ms", (0,)).unwrap();
            guest(probe.call::<_, ()>("probe@1", "fail", ("x",)));
            probe.unload();
        }
    };
    rounds(10);
    let before = resident_kib();
    rounds(60);
    let after = resident_kib();
    // An engine takes some MiB: had 60 of them stayed, it would show.
    assert!(after < before + 8 * 1024, "{before} KiB before, {after} KiB after");
}

#[test]
fn l9_rounds_of_calling_leave_memory_flat() {
    let harness = harness();
    harness.on_call(|_, _, args| Ok(args[1..].to_vec()));
    let probe = harness.load_dir(sample("probe-js")).unwrap();
    let rounds = |n: usize| {
        for i in 0..n {
            assert_eq!(probe.call::<_, i64>("probe@1", "inc", (1,)), Ok(2));
            if i % 10 == 0 {
                probe.call::<_, ()>("probe@1", "sleep_ms", (0,)).unwrap();
                guest(probe.call::<_, ()>("probe@1", "fail", ("x",)));
                let back: i64 = probe.call("probe@1", "call", ("o@1", "f", [7])).unwrap();
                assert_eq!(back, 7);
            }
        }
    };
    rounds(3_000);
    let before = resident_kib();
    rounds(30_000);
    let after = resident_kib();
    // A hundred bytes kept by each call would be 3 MiB.
    assert!(after < before + 2 * 1024, "{before} KiB before, {after} KiB after");
}

#[test]
fn l9_large_lists_leave_memory_flat() {
    const MANY: u32 = 3_000_000;
    let harness = harness();
    let bundle = functions(
        &harness,
        "make: (n) => Array(n / 1e4).fill(Array(1e4).fill(1)), count: (list) => list.length",
    );
    bundle.call_raw("test@1", "make", &[0x91, 0xcd, 0x27, 0x10]).unwrap();
    let before = resident_kib();
    let mut args = Vec::new();
    menagerie_protocol::msgpack::encode_args(&mut args, &(MANY,)).unwrap();
    let list = bundle.call_raw("test@1", "make", &args).unwrap();
    assert!(list.len() > MANY as usize);
    drop(list);
    let mut args = vec![0x91, 0xdd];
    args.extend(MANY.to_be_bytes());
    args.resize(args.len() + MANY as usize, 1);
    assert_eq!(bundle.call_raw("test@1", "count", &args).unwrap(), [0xce, 0, 0x2d, 0xc6, 0xc0]);
    drop(args);
    let after = resident_kib();
    // The allocator keeps some 64 MiB; a handle for each value would take 200.
    assert!(after < before + 128 * 1024, "{before} KiB before, {after} KiB after");
}
