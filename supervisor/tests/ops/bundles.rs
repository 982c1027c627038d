use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::common::{MENAGERIE, sample};

fn menagerie(args: &[&str], dir: &Path) -> Output {
    Command::new(MENAGERIE).args(args).arg(dir).arg("--json").output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A new bundle passes its own check: it loads, exports what it promises, and
/// its tests pass.
fn new_is_sound(language: &str) {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("My_First");
    let made = menagerie(&["new", language], &bundle);
    assert!(made.status.success(), "{made:?}");
    assert_eq!((&json(&made)["name"], &json(&made)["ready"]), (&"my-first".into(), &true.into()));
    let readme = std::fs::read_to_string(bundle.join("README.md")).unwrap();
    for file in json(&made)["files"].as_array().unwrap() {
        let file = Path::new(file.as_str().unwrap()).strip_prefix(&bundle).unwrap();
        let named = readme.contains(&format!("`{}`", file.display()));
        assert!(named || file == Path::new("README.md"), "{}: {readme}", file.display());
    }
    let checked = menagerie(&["check"], &bundle);
    let findings = json(&checked);
    assert!(checked.status.success(), "{findings:#}");
    assert_eq!(findings["contracts"][0]["name"], "my-first");
    assert_eq!(findings["contracts"][0]["functions"].as_array().unwrap().len(), 2);
    let tests = findings["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 3);
    assert!(tests.iter().all(|test| test["ok"] == true), "{findings:#}");
    // The test is the bundle's own: another answer would be seen.
    let own = bundle.join("tests.json");
    let expected = std::fs::read_to_string(&own).unwrap();
    std::fs::write(&own, expected.replace("Hello", "Goodbye")).unwrap();
    assert_eq!(menagerie(&["check"], &bundle).status.code(), Some(1));
    assert_eq!(findings["warnings"], serde_json::json!([]));
    // It is not written over.
    assert_eq!(menagerie(&["new", language], &bundle).status.code(), Some(1));
}

#[test]
fn g_new_python_runs_as_it_is() {
    new_is_sound("python");
}

#[test]
fn g_new_lua_runs_as_it_is() {
    new_is_sound("lua");
}

#[test]
fn g_new_js_runs_as_it_is() {
    new_is_sound("js");
}

#[test]
fn g_new_c_runs_as_it_is() {
    new_is_sound("c");
}

#[test]
fn g_new_dotnet_runs_as_it_is() {
    new_is_sound("dotnet");
}

/// Cargo would compile the guest crate and all that it needs once more, in a
/// folder of its own: here the code is compiled against the one that the tests'
/// build has made, and cargo reads the manifest.
#[test]
fn g_new_rust_runs_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("hello");
    let made = menagerie(&["new", "rust", "--no-build"], &bundle);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(json(&made)["ready"], false);
    assert!(bundle.join("README.md").exists());
    // It says what lacks: it was not compiled.
    let checked = menagerie(&["check"], &bundle);
    assert_eq!(checked.status.code(), Some(1));
    let problem = json(&checked)["problems"][0].to_string();
    assert!(problem.contains("libhello.so") && problem.contains("does not exist"), "{problem}");

    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--offline", "--no-deps", "--format-version", "1"]);
    let output = cargo.current_dir(&bundle).output().unwrap();
    let package = json(&output)["packages"][0].clone();
    assert_eq!(package["targets"][0]["crate_types"][0], "cdylib", "{output:?}");
    let guest = package["dependencies"][0]["path"].as_str().unwrap();
    assert!(Path::new(guest).join("src/lib.rs").exists(), "{guest}");

    let built = Path::new(MENAGERIE).parent().unwrap();
    let library = built.join("libmenagerie_guest.rlib");
    assert!(library.exists(), "build it: cargo build --package menagerie-guest");
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "--crate-type", "cdylib", "lib.rs", "-o", "libhello.so"])
        .arg(format!("-Ldependency={}", built.join("deps").display()))
        .arg(format!("--extern=menagerie_guest={}", library.display()))
        .current_dir(&bundle)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let checked = menagerie(&["check"], &bundle);
    assert!(checked.status.success(), "{:#}", json(&checked));
    assert_eq!(json(&checked)["tests"].as_array().unwrap().len(), 3);
}

/// A bundle that is somebody else's may have anything there.
#[test]
fn g_check_waits_for_no_pipe_and_reads_no_device() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("odd");
    assert!(menagerie(&["new", "lua"], &bundle).status.success());
    let tests = bundle.join("tests.json");
    std::fs::remove_file(&tests).unwrap();
    nix::unistd::mkfifo(&tests, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let is_refused = || {
        let checked = menagerie(&["check"], &bundle);
        let problem = json(&checked)["problems"][0].to_string();
        assert!(problem.contains("tests.json: is no regular file"), "{checked:?}");
    };
    is_refused();
    std::fs::remove_file(&tests).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &tests).unwrap();
    is_refused();
    std::fs::remove_file(&tests).unwrap();
    std::fs::File::create(&tests).unwrap().set_len((16 << 20) + 1).unwrap();
    let checked = menagerie(&["check"], &bundle);
    assert!(
        json(&checked)["problems"][0].to_string().contains("larger than 16 MiB"),
        "{checked:?}"
    );
}

/// What could not be made whole is taken back, and can be tried again.
#[test]
fn g_new_leaves_nothing_that_is_in_the_way_of_the_next_try() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("full");
    std::fs::create_dir(&bundle).unwrap();
    // No file may be made longer: what follows is as on a full disk.
    let full = Command::new("sh")
        .args(["-c", "ulimit -f 0; trap '' XFSZ; exec \"$0\" new python \"$1\""])
        .args([Path::new(MENAGERIE), &bundle])
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1), "{full:?}");
    assert!(menagerie(&["new", "python"], &bundle).status.success());
    assert!(menagerie(&["check"], &bundle).status.success());
    // As does a name that is longer than a manifest's may be.
    let long = dir.path().join(format!("l-{}", "o".repeat(200)));
    assert!(menagerie(&["new", "lua"], &long).status.success());
    assert!(menagerie(&["check"], &long).status.success());
}

#[test]
fn g_check_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("manifest.toml");
    let sound = "name = \"a\"\nloader = \"lua\"\nfile = \"main.lua\"\nprovides = [\"a@1\"]\n";
    let code = "return { [\"a@1\"] = { f = function(x) return x end } }";
    let check = |manifest_text: &str, code: &str, tests: &str| {
        std::fs::write(&manifest, manifest_text).unwrap();
        std::fs::write(dir.path().join("main.lua"), code).unwrap();
        std::fs::write(dir.path().join("tests.json"), tests).unwrap();
        let output = menagerie(&["check"], dir.path());
        assert_eq!(
            output.status.success(),
            json(&output)["problems"] == serde_json::json!([])
                && json(&output)["tests"].as_array().unwrap().iter().all(|test| test["ok"] == true)
        );
        (output.status.success(), json(&output).to_string())
    };
    assert!(check(sound, code, "[]").0);
    for (manifest, code, tests, told) in [
        ("name = 1", code, "[]", "manifest.toml"),
        (sound, "return {", "[]", "main.lua"),
        (sound, "return {}", "[]", "a@1"),
        (sound, code, "{}", "tests.json"),
        (
            sound,
            code,
            r#"[{"contract":"a@1","function":"f","args":[1],"result":2}]"#,
            "expected 2, and got 1",
        ),
        (
            sound,
            code,
            r#"[{"contract":"a@1","function":"f","args":[1],"fails":true}]"#,
            "should fail",
        ),
        (sound, code, r#"[{"contract":"a@1","function":"g"}]"#, "has no function"),
        // It would be called with another value, and expect another.
        (
            sound,
            code,
            r#"[{"contract":"a@1","function":"f","args":[18446744073709551616],"result":1}]"#,
            "18446744073709551616 fits neither",
        ),
        (
            sound,
            code,
            r#"[{"contract":"a@1","function":"f","args":[1.8446744073709552e19],
                 "result":18446744073709551616}]"#,
            "18446744073709551616 fits neither",
        ),
        (
            sound,
            code,
            r#"[{"contract":"a@1","function":"f","args":[{"b":1,"b":2}],"result":{"b":2}}]"#,
            "stands twice",
        ),
        // Neither is an error of the function's own.
        (
            sound,
            code,
            r#"[{"contract":"a@1","function":"g","fails":true}]"#,
            "should fail by an error of its own",
        ),
        (
            sound,
            "return { ['a@1'] = { f = function() require 'menagerie'.abort() end } }",
            r#"[{"contract":"a@1","function":"f","fails":true}]"#,
            "SIGABRT",
        ),
    ] {
        let (ok, findings) = check(manifest, code, tests);
        assert!(!ok && findings.contains(told), "{told}: {findings}");
    }
    let (ok, findings) = check(&format!("{sound}colour = 1\n"), code, "[]");
    assert!(ok && findings.contains("colour"), "{findings}");
    // What an editor puts before a text is none of it.
    let tests = r#"[{"contract":"a@1","function":"f","args":[1],"result":1}]"#;
    let (ok, findings) = check(sound, code, &format!("\u{feff}{tests}"));
    assert!(ok, "{findings}");
    let fails = "return { ['a@1'] = { f = function() error('no') end } }";
    let tests = r#"[{"contract":"a@1","function":"f","args":[1],"fails":true}]"#;
    let (ok, findings) = check(sound, fails, tests);
    assert!(ok, "{findings}");
}

/// A bundle in Python, with more in its manifest, and what `check` has to say of it, in
/// JSON or for people.
fn check_python(more: &str, code: &str, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let manifest =
        format!("name = 'a'\nloader = 'python'\nfile = 'main.py'\nprovides = ['a@1']\n{more}\n");
    let tests = r#"[{ "contract": "a@1", "function": "f", "result": 1 }]"#;
    for (file, text) in [("manifest.toml", &*manifest), ("main.py", code), ("tests.json", tests)] {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    Command::new(MENAGERIE).arg("check").args(args).arg(dir.path()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

const F: &str = "import menagerie\n@menagerie.export('a@1')\ndef f():\n";

#[test]
fn s2_check_shows_the_death_that_a_bundle_causes() {
    for code in
        ["import os\nos.abort()\n".to_owned(), format!("{F}    import os\n    os.abort()\n")]
    {
        let output = check_python("", &code, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let shown = text(&output);
        let crash = format!("main.py\", line {}", code.lines().count());
        for part in ["signal 6 (SIGABRT)", "running: a", "Fatal Python error", &*crash] {
            assert!(shown.contains(part), "no {part} in:\n{shown}");
        }
        let findings = json(&check_python("", &code, &["--json"]));
        assert_eq!(findings["crashes"].as_array().unwrap().len(), 1, "{findings:#}");
        assert_eq!(findings["crashes"][0]["running"][0]["bundle"], "a");
    }
}

#[test]
fn c3_check_shows_the_stack_of_a_bundle_that_cannot_be_loaded() {
    let shown = text(&check_python("", "def deep():\n    raise ValueError('no')\ndeep()\n", &[]));
    for part in ["ValueError: no", "main.py\", line 3", "main.py\", line 2, in deep"] {
        assert!(shown.contains(part), "no {part} in:\n{shown}");
    }
    let code = format!("{F}    raise ValueError('no')\n");
    let brief = text(&check_python("", &code, &[]));
    assert!(brief.contains("ValueError: no") && !brief.contains("main.py\""), "{brief}");
    let shown = text(&check_python("", &code, &["-v"]));
    assert!(shown.contains("main.py\", line 4, in f"), "{shown}");
}

#[test]
fn g_check_takes_the_hosts_contracts_as_given() {
    let host = "[[dependency]]\nkind = 'host'\ncontract = 'kv'\nmin_version = '1.0.0'";
    let code = format!("{F}    return 1\n");
    let output = check_python(host, &code, &["--json"]);
    assert!(output.status.success(), "{output:?}");
    let warning = json(&output)["warnings"][0].to_string();
    assert!(warning.contains("kv@1") && warning.contains("taken as given"), "{warning}");
    let code = format!("{F}    return menagerie.call('kv@1', 'get', 'a')\n");
    let output = check_python(host, &code, &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let detail = json(&output)["tests"][0]["detail"].to_string();
    assert!(detail.contains("has no function 'get'; it has none"), "{detail}");
}

/// The bundle may lie among those that it needs.
#[test]
fn g_check_with_leaves_out_the_bundle_itself() {
    let dir = tempfile::tempdir().unwrap();
    for (name, more) in [("a", "[[dependency]]\nkind = 'guest'\ncontract = 'b@1'\n"), ("b", "")] {
        let bundle = dir.path().join(name);
        std::fs::create_dir(&bundle).unwrap();
        let manifest = format!(
            "name = '{name}'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['{name}@1']\n{more}"
        );
        std::fs::write(bundle.join("manifest.toml"), manifest).unwrap();
        let code = format!("return {{ ['{name}@1'] = {{ f = function() end }} }}");
        std::fs::write(bundle.join("main.lua"), code).unwrap();
    }
    let a = dir.path().join("a");
    let alone = menagerie(&["check"], &a);
    let problem = json(&alone)["problems"][0].to_string();
    assert!(
        problem.contains("no loaded bundle provides; give its folder as --with DIR"),
        "{problem}"
    );
    for with in [dir.path().to_owned(), dir.path().join("b")] {
        let output = menagerie(&["check", "--with", with.to_str().unwrap()], &a);
        assert!(output.status.success(), "{output:?}");
    }
    let itself = menagerie(&["check", "--with", a.to_str().unwrap()], &dir.path().join("b"));
    let problem = json(&itself)["problems"][0].to_string();
    assert!(problem.contains("b@1"), "{problem}");
    let itself =
        menagerie(&["check", "--with", a.join("../b").to_str().unwrap()], &dir.path().join("b"));
    assert!(itself.status.success(), "{itself:?}");
}

#[test]
fn g_check_takes_what_a_bundle_depends_on() {
    let alone = menagerie(&["check"], &sample("probe-lua"));
    assert_eq!(alone.status.code(), Some(1), "{alone:?}");
    let with = sample("greeter-lua");
    let together = menagerie(&["check", "--with", with.to_str().unwrap()], &sample("probe-lua"));
    assert!(together.status.success(), "{together:?}");
}

#[test]
fn p2_check_runs_a_bundle_in_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("nosy");
    std::fs::create_dir(&bundle).unwrap();
    let manifest = "name = 'nosy'\nloader = 'lua'\nfile = 'main.lua'\n[wants]\nnetwork = true\n";
    std::fs::write(bundle.join("manifest.toml"), manifest).unwrap();
    std::fs::write(bundle.join("main.lua"), "assert(io.open('/etc/hosts'))\nreturn {}\n").unwrap();
    let free = menagerie(&["check"], &bundle);
    assert_eq!(free.status.code(), Some(0), "{free:?}");
    let held = menagerie(&["check", "--sandbox", "strict"], &bundle);
    assert_eq!(held.status.code(), Some(1), "{held:?}");
    assert!(String::from_utf8_lossy(&held.stdout).contains("Permission denied"), "{held:?}");
    std::fs::write(bundle.join("main.lua"), "return {}\n").unwrap();
    let held = menagerie(&["check", "--sandbox", "strict"], &bundle);
    assert_eq!(held.status.code(), Some(0), "{held:?}");
    let said = "it wants and does not get: network";
    assert!(String::from_utf8_lossy(&held.stdout).contains(said), "{held:?}");
    let unknown = menagerie(&["check", "--sandbox", "loose"], &bundle);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}
