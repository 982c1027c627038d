use menagerie_protocol::LoaderError;

use super::{folder, guest_error, harness, probe};

const MAIN: &str = "local name = ...
local probe = {}
function probe.get(module) return require(module).value end
function probe.main() return name == nil end
return { ['probe@1'] = probe }";

#[test]
fn require_finds_siblings_and_folders() {
    let dir = folder(&[
        ("main.lua", MAIN),
        ("util.lua", "#!/usr/bin/env lua\nreturn { value = 'util' }"),
        ("lib/init.lua", "return { value = 'lib, with ' .. require('lib.part').value }"),
        ("lib/part.lua", "return { value = 'part of ' .. ... }"),
        ("string_.lua", "return { value = 1 }"),
    ]);
    let bundle = harness().load_dir(dir.path()).unwrap();
    let get = |name: &str| bundle.call::<_, String>("probe@1", "get", (name,));
    assert_eq!(get("util").as_deref(), Ok("util"));
    assert_eq!(get("lib").as_deref(), Ok("lib, with part of lib.part"));
    assert_eq!(bundle.call("probe@1", "main", ()), Ok(true));
}

#[test]
fn require_finds_standard_modules() {
    let (_harness, bundle) = probe(
        "function probe.same() return require 'string' == string and require 'menagerie' == menagerie end
         function probe.has(name) return (pcall(require, name)) end",
    );
    assert_eq!(bundle.call("probe@1", "same", ()), Ok(true));
    assert_eq!(bundle.call("probe@1", "has", ("ffi",)), Ok(false));
    assert_eq!(bundle.call("probe@1", "has", ("socket",)), Ok(false));
}

#[test]
fn b2_require_does_not_leave_the_directory() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.lua"), "return { value = 'secret' }").unwrap();
    let dir = folder(&[("main.lua", MAIN)]);
    std::os::unix::fs::symlink(outside.path().join("secret.lua"), dir.path().join("link.lua"))
        .unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("folder")).unwrap();
    let bundle = harness().load_dir(dir.path()).unwrap();
    let get = |name: &str| guest_error(bundle.call::<_, String>("probe@1", "get", (name,)));
    for name in ["link", "folder.secret"] {
        let error = get(name);
        assert!(error.message.contains("leads out of the bundle's directory"), "{error:?}");
    }
    let absolute = outside.path().join("secret").display().to_string();
    for name in ["../secret", "..secret", ".secret", "a..b", "", &absolute] {
        let error = get(name);
        assert!(error.message.contains("names no file of the bundle"), "{name}: {error:?}");
    }
}

#[test]
fn require_says_where_it_looked() {
    let dir = folder(&[("main.lua", MAIN)]);
    let bundle = harness().load_dir(dir.path()).unwrap();
    let error = guest_error(bundle.call::<_, String>("probe@1", "get", ("util.json",)));
    assert!(error.message.contains("module 'util.json' not found"), "{error:?}");
    assert!(error.message.contains("no file 'util/json.lua' in the bundle"), "{error:?}");
    assert!(error.message.contains("no file 'util/json/init.lua' in the bundle"), "{error:?}");
}

#[test]
fn l4_from_memory_there_are_no_siblings() {
    let (_harness, bundle) = probe("function probe.get(name) return require(name) end");
    let error = guest_error(bundle.call::<_, String>("probe@1", "get", ("util",)));
    assert!(
        error.message.contains("'probe' was loaded from memory: it has no directory"),
        "{error:?}"
    );
}

#[test]
fn a_sibling_with_a_syntax_error_is_named() {
    let dir = folder(&[("main.lua", "require 'bad'\nreturn {}"), ("bad.lua", "\n\nlocal = 1")]);
    let Err(LoaderError::InitFailed { step, error, .. }) = harness().load_dir(dir.path()) else {
        panic!("it loaded")
    };
    assert_eq!(step, "initialise");
    assert!(error.message.starts_with("bad.lua:3: "), "{error:?}");
}
