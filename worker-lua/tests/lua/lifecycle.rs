use std::sync::Arc;

use super::{harness, probe, sample, try_load};

/// The resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn contracts_and_functions_are_registered_by_name() {
    let (_harness, bundle) = probe("probe.b, probe.a, probe.c = print, print, print");
    let contracts = bundle.contracts();
    assert_eq!(contracts[0].contract, "probe@1");
    assert_eq!(contracts[0].functions, ["a", "b", "c"]);
}

#[test]
fn bundles_share_no_globals() {
    let harness = harness();
    let code = "counter = (counter or 0) + 1
        return { ['probe@1'] = { count = function() counter = counter + 1 return counter end } }";
    let manifest =
        |name: &str| super::MANIFEST.replace("name = \"probe\"", &format!("name = \"{name}\""));
    let source = || menagerie_protocol::BundleSource::Code(code.to_owned());
    let first = harness.load(&manifest("first"), source()).unwrap();
    let second = harness.load(&manifest("second"), source()).unwrap();
    assert_eq!(first.call("probe@1", "count", ()), Ok(2));
    assert_eq!(second.call("probe@1", "count", ()), Ok(2));
}

#[test]
fn b_standard_library_is_there() {
    let (_harness, bundle) = probe(
        "function probe.check()
           assert(math.floor(1.5) == 1 and ('x'):rep(2) == 'xx' and #table.concat({ 1, 2 }) == 2)
           assert(os.time() > 0 and io.open and coroutine.wrap and load('return 1')() == 1)
           assert(type(debug.traceback()) == 'string' and debug.getinfo(1).currentline > 0)
           assert(debug.getinfo(1).short_src == 'main.lua' and debug.getinfo(probe.check, 'u').nparams == 0)
           for level = 0, 9 do assert(not (debug.getinfo(level, 'f') or {}).func) end
           assert(not debug.sethook and not debug.setmetatable)
           return true
         end",
    );
    assert_eq!(bundle.call("probe@1", "check", ()), Ok(true));
}

#[test]
fn l8_an_unloaded_state_is_freed() {
    let harness = harness();
    let code = "local ballast = ('x'):rep(64 * 1024 * 1024)
        return { ['probe@1'] = { size = function() return #ballast end } }";
    // Each round would add 64 MiB, if its state stayed.
    let mut before = 0;
    for round in 0..12 {
        let bundle = try_load(&harness, code).unwrap();
        assert_eq!(bundle.call("probe@1", "size", ()), Ok(64 << 20));
        bundle.unload();
        if round == 3 {
            before = resident();
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 * 1024, "{grown} KiB stayed");
}

#[test]
fn l9_many_rounds_leave_memory_flat() {
    let harness = harness();
    let round = || {
        let bundle = harness.load_dir(sample("greeter-lua")).unwrap();
        assert_eq!(bundle.call("greeter@1", "greet", ("Ada",)), Ok("Hello, Ada".to_owned()));
        bundle.reload().unwrap();
        assert_eq!(bundle.call("greeter@1", "greet", ("Bob",)), Ok("Hello, Bob".to_owned()));
        bundle.unload();
    };
    for _ in 0..100 {
        round();
    }
    let before = resident();
    for _ in 0..300 {
        round();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB in 600 generations");
}

#[test]
fn l5_a_failed_load_leaves_nothing() {
    let harness = harness();
    for _ in 0..50 {
        assert!(try_load(&harness, "error('no')").is_err());
    }
    let bundle = try_load(&harness, "return { ['probe@1'] = {} }").unwrap();
    bundle.unload();
    assert_eq!(Arc::strong_count(&harness), 1);
}

#[test]
fn runtime_version_names_the_engine() {
    let version = menagerie_worker_lua::runtime_version();
    let expected = if cfg!(feature = "luajit") { "LuaJIT 2.1." } else { "Lua 5.4." };
    assert!(version.starts_with(expected), "{version}");
}
