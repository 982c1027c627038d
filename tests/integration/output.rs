//! What bundles print and log reaches the host's `tracing` with the fields
//! `worker`, `bundle` and `source`, once, and under the right name.

use menagerie_supervisor::Supervisor;
use menagerie_tests::Language;
use tracing::Level;

use crate::support::{Bundle, Line, lines, per_language, run, start, wait_for};

/// Where a line of `say` comes from, what it ends in, and how grave it is.
type Expected = (&'static str, &'static str, Level);

const STDOUT: Expected = ("stdout", "on stdout", Level::INFO);
const STDERR: Expected = ("stderr", "on stderr", Level::WARN);
const LOG: Expected = ("log", "in the log", Level::WARN);

fn expected(suffix: &str) -> Vec<Expected> {
    match suffix {
        "py" => vec![STDOUT, STDERR, ("logging.probe", "by logging", Level::ERROR), LOG],
        // A script has no standard error but the console's.
        "js" => vec![STDOUT, ("console", "on the console", Level::ERROR), LOG],
        _ => vec![STDOUT, STDERR, LOG],
    }
}

/// Waits for every line that begins with `text`, and for no line more.
async fn heard(text: &str, wanted: &[Expected]) -> Vec<Line> {
    let about = |line: &Line| line.message.starts_with(&format!("{text} "));
    wait_for("the lines", || {
        let found: Vec<Line> = lines().into_iter().filter(about).collect();
        (found.len() >= wanted.len()).then_some(())
    })
    .await;
    lines().into_iter().filter(about).collect()
}

async fn say(supervisor: &Supervisor, bundle: &str, text: &str) {
    let probe = supervisor.contract(&format!("{bundle}/probe@1")).unwrap();
    let (): () = probe.call("say", (text,)).await.unwrap();
}

/// The probe, with a provider of what it depends on in another worker.
async fn with_probe(language: Language) -> Supervisor {
    let supervisor = start();
    let other = if language.suffix == "lua" { "js" } else { "lua" };
    supervisor.load(Language::of(other).bundle("greeter")).await.unwrap();
    supervisor.load(language.bundle("probe")).await.unwrap();
    supervisor
}

fn check(found: &[Line], wanted: &[Expected], text: &str, language: Language, bundle: &str) {
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (source, ending, level) in wanted {
        let message = format!("{text} {ending}");
        let line = found.iter().find(|line| line.message == message);
        let line = line.unwrap_or_else(|| panic!("no line {message:?}: {found:#?}"));
        assert_eq!(line.worker.as_deref(), Some(language.loader), "{line:?}");
        assert_eq!(line.bundle.as_deref(), Some(bundle), "{line:?}");
        assert_eq!(line.source.as_deref(), Some(*source), "{line:?}");
        assert_eq!(line.level, *level, "{line:?}");
    }
}

async fn c_what_a_bundle_says_is_heard(suffix: &str) {
    let language = Language::of(suffix);
    let supervisor = with_probe(language).await;
    let bundle = format!("probe-{suffix}");
    let wanted = expected(suffix);
    for text in [format!("{suffix}-first"), format!("{suffix}-näh \u{1F98A} %s {{}}")] {
        say(&supervisor, &bundle, &text).await;
        let found = heard(&text, &wanted).await;
        check(&found, &wanted, &text, language, &bundle);
    }
    // After a reload and in a new incarnation it is the same.
    supervisor.reload(&bundle).await.unwrap();
    let text = format!("{suffix}-reloaded");
    say(&supervisor, &bundle, &text).await;
    check(&heard(&text, &wanted).await, &wanted, &text, language, &bundle);
    supervisor.restart(language.loader).await.unwrap();
    let text = format!("{suffix}-restarted");
    say(&supervisor, &bundle, &text).await;
    check(&heard(&text, &wanted).await, &wanted, &text, language, &bundle);
    supervisor.shutdown().await;
}

/// A second bundle of the same code in the same worker, which says something
/// else. Two that are native share the streams of their process, so that only their
/// log says whose a line is: the rest is the worker's, whoever runs.
async fn c_two_bundles_are_told_apart(suffix: &str) {
    let language = Language::of(suffix);
    let supervisor = with_probe(language).await;
    let twin = twin_of(language);
    supervisor.load(twin.path()).await.unwrap();
    let first = format!("probe-{suffix}");
    let busy = supervisor.contract(&format!("{first}/probe@1")).unwrap();
    let busy = tokio::spawn(async move {
        // Only its neighbour says something meanwhile.
        busy.call::<_, ()>("sleep_ms", (300_u64,)).await
    });
    say(&supervisor, "twin", &format!("{suffix}-beside")).await;
    let beside = heard(&format!("{suffix}-beside"), &expected(suffix)).await;
    assert!(beside.iter().all(|line| line.bundle.as_ref() != Some(&first)), "{beside:#?}");
    busy.await.unwrap().unwrap();
    let (one, two) = (format!("{suffix}-one"), format!("{suffix}-two"));
    for (bundle, text) in [(first.as_str(), &one), ("twin", &two)] {
        say(&supervisor, bundle, text).await;
        let wanted = expected(suffix);
        let found = heard(text, &wanted).await;
        if language.loader == "native" {
            let (log, streams): (Vec<Line>, Vec<Line>) =
                found.into_iter().partition(|line| line.message.ends_with("log"));
            check(&log, &[LOG], text, language, bundle);
            for line in streams {
                assert_eq!((line.worker.as_deref(), line.bundle), (Some("native"), None));
            }
        } else {
            check(&found, &wanted, text, language, bundle);
        }
    }
    supervisor.shutdown().await;
}

/// The probe's files under another name.
fn twin_of(language: Language) -> Bundle {
    let twin = Bundle::of(&[]);
    for entry in std::fs::read_dir(language.bundle("probe")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), twin.path().join(entry.file_name())).unwrap();
    }
    let manifest = std::fs::read_to_string(twin.path().join("manifest.toml")).unwrap();
    let name = format!("\"probe-{}\"", language.suffix);
    twin.write("manifest.toml", &manifest.replacen(&name, "\"twin\"", 1));
    twin
}

per_language!(rust, c, py, lua, js, dotnet; {
    c_what_a_bundle_says_is_heard,
    c_two_bundles_are_told_apart,
});

/// What is said while the code loads counts as well, that of a load that fails
/// included: it is then all that its author has.
#[test]
fn c_what_is_said_while_a_bundle_loads_is_heard() {
    run(async {
        let supervisor = start();
        let codes = [
            ("python", "print('python-load on stdout')\nraise ValueError('no')\n"),
            ("lua", "print('lua-load on stdout')\nerror('no')"),
            ("js", "print('js-load on stdout');\nthrow new Error('no');"),
        ];
        for (loader, code) in codes {
            let manifest = format!("name = 'early'\nloader = '{loader}'\nprovides = []\n");
            supervisor.load_code(&manifest, code).await.unwrap_err();
            let text = format!("{loader}-load");
            let found = heard(&text, &[STDOUT]).await;
            let line = &found[0];
            assert_eq!(line.worker.as_deref(), Some(loader), "{line:?}");
            assert_eq!(line.bundle.as_deref(), Some("early"), "{line:?}");
            assert_eq!(line.source.as_deref(), Some("stdout"), "{line:?}");
        }
        supervisor.shutdown().await;
    });
}
