//! Keys, signatures and what is made of them (R5).

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::folders::folder_of_two;
use super::running::{MENAGERIE, Running, menagerie, stderr, stdout};

/// A folder with a bundle in Lua, a key of `menagerie keygen`, and settings
/// that require its signature.
struct Signing {
    folder: tempfile::TempDir,
    key: String,
}

impl Signing {
    fn new() -> Self {
        let folder = folder_of_two();
        std::fs::remove_dir_all(folder.path().join("broken")).unwrap();
        let mut this = Self { folder, key: String::new() };
        this.key = this.keygen("key");
        let settings =
            format!("[signatures]\npolicy = 'required'\ntrusted_keys = ['{}']\n", this.key);
        std::fs::write(this.path("menagerie.toml"), settings).unwrap();
        this
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str]) -> Output {
        menagerie(&self.folder.path().join("nobody.sock"), args)
    }

    fn keygen(&self, name: &str) -> String {
        let output = self.run(&["keygen", "--out", &self.path(name)]);
        assert!(output.status.success(), "{output:?}");
        stdout(&output).trim().to_owned()
    }

    fn sign(&self, key: &str) -> Output {
        self.run(&["sign", &self.path("good"), "--key", &self.path(key)])
    }

    /// What `menagerie check` says, with the settings or without.
    fn check(&self, settings: bool) -> (Option<i32>, Value) {
        let (good, config) = (self.path("good"), self.path("menagerie.toml"));
        let mut args = vec!["check", &good, "--json"];
        if settings {
            args.extend(["--config", &config]);
        }
        let output = self.run(&args);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

#[test]
fn r5_keygen_makes_keys_that_sign() {
    use std::os::unix::fs::PermissionsExt;
    let signing = Signing::new();
    assert!(signing.key.starts_with("ed25519:") && signing.key.len() == 72, "{}", signing.key);
    let file = signing.path("key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // It is never overwritten, and no two are the same.
    let secret = std::fs::read(&file).unwrap();
    assert_eq!(signing.run(&["keygen", "--out", &file]).status.code(), Some(1));
    assert_eq!(std::fs::read(&file).unwrap(), secret);
    assert_ne!(signing.keygen("other"), signing.key);
    let output = signing.run(&["keygen", "--json", "--out", &signing.path("third")]);
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["file"], signing.path("third"));

    let output = signing.sign("key");
    assert!(output.status.success(), "{output:?}");
    let told = format!("signed good: 2 files, key {}\n", &signing.key[8..24]);
    assert_eq!(stdout(&output), told);
    let output = signing.run(&["sign", &signing.path("good"), "--key", &file, "--json"]);
    let signed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&signed["key"], &signed["files"]), (&signing.key.as_str().into(), &2.into()));

    // A key that is none, one that all may read, and one that would be published.
    assert_eq!(signing.sign("menagerie.toml").status.code(), Some(1));
    assert_eq!(signing.sign("nothing").status.code(), Some(1));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = signing.sign("key");
    assert!(output.status.code() == Some(1) && stderr(&output).contains("chmod 600"), "{output:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::copy(&file, signing.path("good/key")).unwrap();
    let output = signing.sign("good/key");
    assert!(stderr(&output).contains("would be published"), "{output:?}");
}

#[test]
fn r5_check_says_whether_the_signature_holds() {
    let signing = Signing::new();
    let (code, found) = signing.check(false);
    assert_eq!((code, &found["signature"]["state"]), (Some(0), &"unsigned".into()), "{found}");
    let (code, found) = signing.check(true);
    assert_eq!((code, &found["signature"]["state"]), (Some(1), &"unsigned".into()), "{found}");
    assert!(found["problems"][0].as_str().unwrap().contains("menagerie sign"), "{found}");

    assert!(signing.sign("key").status.success());
    for settings in [false, true] {
        let (code, found) = signing.check(settings);
        assert_eq!((code, &found["signature"]["state"]), (Some(0), &"valid".into()), "{found}");
        assert_eq!(found["signature"]["key"], signing.key[8..24], "{found}");
    }
    let output = signing.run(&["check", &signing.path("good")]);
    assert!(stdout(&output).contains("signature: valid ("), "{output:?}");

    // Signed by another: whole, but nobody that the settings trust.
    signing.keygen("other");
    assert!(signing.sign("other").status.success());
    assert_eq!(signing.check(false).0, Some(0));
    let (code, found) = signing.check(true);
    assert_eq!((code, &found["signature"]["state"]), (Some(1), &"untrusted".into()), "{found}");

    // What is not what was signed is a problem whatever the policy, and not run.
    std::fs::write(signing.path("good/more.lua"), "").unwrap();
    for settings in [false, true] {
        let (code, found) = signing.check(settings);
        assert_eq!((code, &found["signature"]["state"]), (Some(1), &"invalid".into()), "{found}");
        assert!(found["problems"][0].as_str().unwrap().contains("more.lua"), "{found}");
        assert_eq!(found["contracts"], serde_json::json!([]), "{found}");
    }
}

#[test]
fn r5_check_remembers_no_key() {
    let signing = Signing::new();
    let store = signing.path("trusted.toml");
    // Relative to the settings' folder.
    let settings = "[signatures]\npolicy = 'required'\ntrust_store = 'trusted.toml'\n";
    std::fs::write(signing.path("menagerie.toml"), settings).unwrap();
    assert!(signing.sign("key").status.success());
    let (code, found) = signing.check(true);
    assert_eq!(code, Some(0), "{found}");
    assert!(!Path::new(&store).exists());
}

/// What `check` makes for itself goes with it, however it ends; and nothing that others
/// have put there is in its way.
#[test]
fn r5_a_check_that_is_stopped_leaves_no_folder() {
    let signing = Signing::new();
    let settings = "[signatures]\npolicy = 'required'\ntrust_store = 'trusted.toml'\n";
    std::fs::write(signing.path("menagerie.toml"), settings).unwrap();
    let begun = signing.path("begun");
    let code = format!(
        "return {{ ['good@1'] = {{ say = function()\n\
         io.open('{begun}', 'w'):close()\nwhile true do end end }} }}"
    );
    std::fs::write(signing.path("good/main.lua"), code).unwrap();
    let tests = r#"[{ "contract": "good@1", "function": "say" }]"#;
    std::fs::write(signing.path("good/tests.json"), tests).unwrap();
    assert!(signing.sign("key").status.success());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let temporary = tempfile::tempdir().unwrap();
        let child = Command::new(MENAGERIE)
            .args(["check", &signing.path("good"), "--config", &signing.path("menagerie.toml")])
            .env("TMPDIR", temporary.path())
            .env_remove("XDG_RUNTIME_DIR")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !Path::new(&begun).exists() {
            assert!(Instant::now() < deadline, "the call never began");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::remove_file(&begun).unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(signal.as_str()), "{output:?}");
        let left: Vec<_> = temporary.path().read_dir().unwrap().map(Result::unwrap).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn r5_check_names_the_file_where_no_folder_can_be_made() {
    let signing = Signing::new();
    let settings = "[signatures]\npolicy = 'required'\ntrust_store = 'trusted.toml'\n";
    std::fs::write(signing.path("menagerie.toml"), settings).unwrap();
    assert!(signing.sign("key").status.success());
    let nowhere = signing.path("nowhere");
    let output = Command::new(MENAGERIE)
        .args(["check", &signing.path("good"), "--config", &signing.path("menagerie.toml")])
        .env("TMPDIR", &nowhere)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains(&format!("{nowhere}/menagerie-check-")), "{output:?}");
}

#[test]
fn r5_run_loads_what_is_signed_and_shows_it() {
    let signing = Signing::new();
    let config = signing.path("menagerie.toml");
    let args = ["--config", config.as_str()];
    let bundles = [PathBuf::from(signing.path("good"))];
    let running = Running::with(&args, &bundles, "0 of 1 bundles loaded");
    let status = running.json(&["status", "--json"]);
    assert_eq!(status["bundles"][0]["signature"]["state"], "unsigned", "{status}");
    assert!(signing.sign("key").status.success());
    assert!(running.menagerie(&["reload", "good"]).status.success());
    assert_eq!(running.json(&["call", "good@1", "say"]), "one");
    let status = running.json(&["status", "--json"]);
    let expected = serde_json::json!({ "state": "valid", "key": signing.key[8..24] });
    assert_eq!(status["bundles"][0]["signature"], expected, "{status}");
    assert!(stdout(&running.menagerie(&["bundles"])).contains("valid"));
}
