use menagerie_protocol::LoaderError;
use serde_bytes::ByteBuf;

use super::{folder, harness, sample, try_load};

#[test]
fn on_load_gets_bundle_and_generation() {
    let code = "local context
        return { ['probe@1'] = { get = function() return { context.bundle, context.generation, context.state == nil } end },
                 on_load = function(c) context = c end }";
    let harness = harness();
    let bundle = try_load(&harness, code).unwrap();
    assert_eq!(bundle.call("probe@1", "get", ()), Ok(("probe".to_owned(), 1, true)));
    bundle.reload().unwrap();
    assert_eq!(bundle.call("probe@1", "get", ()), Ok(("probe".to_owned(), 2, true)));
}

#[test]
fn l6_state_crosses_a_reload() {
    let harness = harness();
    let bundle = harness.load_dir(sample("probe-lua")).unwrap();
    assert_eq!(bundle.call("probe@1", "state", ()), Ok(()));
    let state = (7_i64, "text".to_owned(), ByteBuf::from(vec![0xff; 100]), i64::MAX);
    let (): () = bundle.call("probe@1", "set_state", (&state,)).unwrap();
    bundle.reload().unwrap();
    assert_eq!(bundle.call("probe@1", "state", ()), Ok(state));
}

#[test]
fn l6_a_failing_hook_names_its_error_and_the_old_generation_serves_on() {
    let dir = folder(&[(
        "main.lua",
        "return { ['probe@1'] = { version = function() return 1 end }, on_unload = function() return 'kept' end }",
    )]);
    let harness = harness();
    let bundle = harness.load_dir(dir.path()).unwrap();
    std::fs::write(
        dir.path().join("main.lua"),
        "return { ['probe@1'] = { version = function() return 2 end }, on_load = function(c) error('not today: ' .. c.state) end }",
    )
    .unwrap();
    let Err(LoaderError::InitFailed { error, .. }) = bundle.reload() else { panic!("it reloaded") };
    assert_eq!(error.message, "main.lua:1: not today: kept");
    assert_eq!(bundle.call("probe@1", "version", ()), Ok(1));
    std::fs::write(
        dir.path().join("main.lua"),
        "return { ['probe@1'] = { version = function() return 3 end } }",
    )
    .unwrap();
    bundle.reload().unwrap();
    assert_eq!(bundle.call("probe@1", "version", ()), Ok(3));
}

#[test]
fn l5_a_failing_on_load_fails_the_load() {
    let code = "return { ['probe@1'] = {}, on_load = function() error('refused') end }";
    let Err(LoaderError::InitFailed { error, .. }) = try_load(&harness(), code) else {
        panic!("it loaded")
    };
    assert_eq!(error.message, "main.lua:1: refused");
}
