use std::path::Path;

use serde_json::Value;

use super::common::{docs, sample};

/// The code blocks that stand after `<!-- file NAME -->`.
fn files(text: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("<!-- file ") {
        let (name, after) = after.split_once(" -->\n```").unwrap();
        let (_, after) = after.split_once('\n').unwrap();
        let (block, after) = after.split_once("\n```").unwrap();
        files.push((name.to_owned(), format!("{block}\n")));
        rest = after;
    }
    files
}

/// Each bundle of docs/bundles.md, with the page's manifest and tests.
#[test]
fn g_the_documented_bundles_are_sound() {
    let text = std::fs::read_to_string(docs().join("bundles.md")).unwrap();
    let files = files(&text);
    let shared = |name: &str| &files.iter().find(|(file, _)| file == name).unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    let mut checked = Vec::new();
    for (file, code) in files.iter().filter(|(file, _)| file.contains('/')) {
        let (language, name) = file.split_once('/').unwrap();
        let bundle = dir.path().join(language);
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join(name), code).unwrap();
        let mut tests: Value = serde_json::from_str(shared("tests.json")).unwrap();
        tests.as_array_mut().unwrap().push(long_name());
        std::fs::write(bundle.join("tests.json"), tests.to_string()).unwrap();
        let (loader, artifact) = match language {
            "dotnet" => ("dotnet", "visits.dll"),
            "c" => ("native", "libvisits.so"),
            _ => (language, name),
        };
        let manifest = shared("manifest.toml").replace("LOADER", loader).replace("FILE", artifact);
        std::fs::write(bundle.join("manifest.toml"), manifest).unwrap();
        compile(language, &bundle);
        let greeter = sample("greeter-lua");
        let output = std::process::Command::new(super::common::MENAGERIE)
            .args(["check", "--json", "--with"])
            .args([&greeter, &bundle])
            .output()
            .unwrap();
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "{language}: {findings:#}");
        assert_eq!(findings["warnings"], serde_json::json!([]), "{language}");
        assert_eq!(findings["tests"].as_array().unwrap().len(), 5, "{language}");
        checked.push(language);
    }
    assert_eq!(checked, ["python", "lua", "js", "dotnet", "c"]);
}

/// One that fits the buffer of its bundle in C, and whose greeting is longer than that.
fn long_name() -> Value {
    let name = "a".repeat(250);
    let result = format!("Hello, {name} (3)");
    serde_json::json!({
        "contract": "visits@1", "function": "visit", "args": [name], "result": result,
    })
}

fn compile(language: &str, bundle: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = match language {
        "c" => {
            let mut command = std::process::Command::new("cc");
            command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"]);
            command.arg(root.join("worker-native/guest/include"));
            command.args(["visits.c", "-o", "libvisits.so"]);
            command
        }
        "dotnet" => {
            // As `menagerie new dotnet` compiles.
            let program = Path::new(super::common::MENAGERIE);
            let guest = program.parent().unwrap().parent().unwrap();
            let guest = guest.join("dotnet/Menagerie.Guest.dll");
            let mut command = std::process::Command::new("mcs");
            command.args(["-target:library", "-out:visits.dll", "Visits.cs"]);
            command.arg(format!("-r:{}", guest.display()));
            command
        }
        _ => return,
    };
    let output = command.current_dir(bundle).output().unwrap();
    assert!(output.status.success(), "{language}: {output:?}");
}

/// The examples end by themselves, and check what they show.
#[test]
fn g_the_examples_run() {
    let program = Path::new(super::common::MENAGERIE);
    let folder = program.parent().unwrap().join("examples");
    for (name, told) in
        [("editor", "broken failed: "), ("pipeline", "50000 of 100000 values are left")]
    {
        let example = folder.join(name);
        assert!(
            example.exists(),
            "build it: cargo build --package menagerie-supervisor --examples"
        );
        let mut child = std::process::Command::new(&example)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Ended in any case: a watchdog, not a limit on a machine's speed.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if ended.recv_timeout(super::common::PATIENCE).is_err() {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
        let mut text = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
        let _ = done.send(());
        watchdog.join().unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() && text.contains(told), "{name}: {status}\n{text}");
    }
}

/// Blocks of a kind of code with what stands before the next one of its kind.
fn blocks<'t>(text: &'t str, kind: &str) -> Vec<(&'t str, &'t str)> {
    let mark = format!("```{kind}\n");
    let mut found = Vec::new();
    for part in text.split(mark.as_str()).skip(1) {
        found.push(part.split_once("\n```\n").unwrap());
    }
    found
}

/// docs/first-steps.md, line by line, with the answers that it shows.
#[test]
fn g_the_first_steps_are_as_described() {
    let text = std::fs::read_to_string(docs().join("first-steps.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut script =
        String::from("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n");
    let mut expected = Vec::new();
    for (index, (code, after)) in blocks(&text, "sh").into_iter().enumerate() {
        script.push_str(&format!("echo '=== {index}'\n{code}\n"));
        let answer = after.strip_prefix("```text\n").and_then(|rest| rest.split_once("\n```"));
        expected.push(answer.map_or("", |(answer, _)| answer));
    }
    let program = Path::new(super::common::MENAGERIE).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    // Ended in any case, with all that it has started.
    let output = std::process::Command::new("timeout")
        .args(["--kill-after=10", &super::common::PATIENCE.as_secs().to_string(), "bash", "-c"])
        .arg(&script)
        .current_dir(dir.path())
        .env("PATH", path)
        .env("MENAGERIE_SOCKET", dir.path().join("s.sock"))
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let log = std::fs::read_to_string(dir.path().join("menagerie.log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{said}\n{errors}\n{log}", output.status);
    for (index, expected) in expected.iter().enumerate() {
        let (_, part) = said.split_once(&format!("=== {index}\n")).unwrap();
        let part = part.split("\n=== ").next().unwrap();
        for line in expected.lines() {
            assert!(part.contains(line), "{line:?} is not in step {index}:\n{part}");
        }
    }
    assert!(expected.iter().filter(|answer| !answer.is_empty()).count() >= 7);
}

/// The numbers of docs/protocol.md are the code's.
#[test]
fn the_protocol_document_has_the_lane_as_it_is() {
    use menagerie_protocol::lane::{DEFAULT_SLOTS, INLINE_MAX, LAYOUT};
    use menagerie_protocol::ring::{FIRST_BYTES, FLAG_BLOCKS, FLAG_BULK, FLAG_ECHO, FLAG_FAILURE};
    use menagerie_protocol::ring::{Kind, NEXT_BYTES};
    let text = std::fs::read_to_string(docs().join("protocol.md")).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for told in [
        format!("`MNGL` and version {}", LAYOUT & 0xff),
        format!("64-byte slots ({DEFAULT_SLOTS} unless configured)"),
        format!("the payload's first {FIRST_BYTES} bytes"),
        format!("{NEXT_BYTES} bytes of the payload each"),
        format!("{} call, {} reply", Kind::Call as u8, Kind::Reply as u8),
        format!("{} padding to the end", Kind::Pad as u8),
        format!("{} command", Kind::Command as u8),
        format!("Flags: {FLAG_FAILURE} the payload is a failure"),
        format!("{FLAG_BULK} the payload stands in a segment"),
        format!("{FLAG_ECHO} (with {FLAG_BULK}) the segment is"),
        format!("{FLAG_BLOCKS} (in a guest's own call)"),
        format!("more than {INLINE_MAX} bytes stands in a segment"),
    ] {
        assert!(text.contains(&told), "docs/protocol.md lacks {told:?}");
    }
}

/// Every kind of event is in the table of docs/operating.md, and no other.
#[test]
fn g_the_operators_document_lists_every_event() {
    let text = std::fs::read_to_string(docs().join("operating.md")).unwrap();
    let section = text.split_once("## Events\n").unwrap().1.split_once("\n## ").unwrap().0;
    let listed: std::collections::BTreeSet<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect();
    let code = include_str!("../../src/events.rs");
    let kinds = code.split_once("pub enum EventKind {").unwrap().1.split_once("\n}").unwrap().0;
    let is_variant = |line: &&str| {
        let name = line.strip_prefix("    ").unwrap_or_default();
        name.starts_with(|c: char| c.is_ascii_uppercase())
    };
    let snake = |line: &str| {
        let name = line.trim().split([' ', '(', '{', ',']).next().unwrap_or_default();
        let mut snake = String::new();
        for letter in name.chars() {
            if letter.is_ascii_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        snake
    };
    let real: std::collections::BTreeSet<String> =
        kinds.lines().filter(is_variant).map(snake).collect();
    assert_eq!(listed, real);
}
