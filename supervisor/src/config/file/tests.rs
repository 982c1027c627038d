use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use super::*;
use crate::RestartPolicy;

fn parse(text: &str) -> Result<ConfigFile, String> {
    ConfigFile::parse(text, Path::new("m.toml")).map_err(|error| error.to_string())
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err()
}

#[test]
fn g_nothing_said_is_the_builders_defaults() {
    assert_eq!(parse("").unwrap(), ConfigFile::default());
}

#[test]
fn g_settings_are_read() {
    let file = parse(
        r#"
        bundles = ["a", "/b"]
        log = "debug"
        deadline = "1500ms"
        max_payload = "1MiB"
        memory_limit = 5000000
        [restart]
        limit = 3
        [worker_env]
        LANG = "C"
        [python]
        venv = "env"
        [status]
        read_only = [4001]
        admin = ["root"]
        tcp = "127.0.0.1:0"
        "#,
    )
    .unwrap();
    assert_eq!(file.bundles, ["a", "/b"].map(PathBuf::from));
    assert_eq!(file.log.as_deref(), Some("debug"));
    assert_eq!(file.config.deadline, Duration::from_millis(1500));
    assert_eq!((file.config.max_payload, file.config.memory_limit), (1 << 20, Some(5_000_000)));
    assert_eq!(file.config.restart.limit, 3);
    assert_eq!(file.config.worker_env["LANG"], "C");
    assert_eq!(file.config.python_venv.as_deref(), Some(Path::new("env")));
    assert_eq!((&file.status.read_only[..], &file.status.admin[..]), (&[4001][..], &[0][..]));
}

#[test]
fn g_what_is_unknown_or_wrong_is_refused_with_its_place() {
    for (text, told) in [
        ("x y", "m.toml:1:"),
        (
            "\nheartbeet = \"1s\"",
            "m.toml:2:1: there is no setting `heartbeet`; did you mean `heart",
        ),
        ("zzz = 1", "m.toml:1:1: there is no setting `zzz`"),
        ("[status]\nsokcet = \"a\"", "m.toml:2:1: unknown field `sokcet`"),
        ("[restart]\nlimits = 1", "m.toml:2:1: unknown field `limits`"),
        ("[python]\nvenw = \"a\"", "m.toml:2:1: there is no setting `venw`; did you mean `venv`?"),
        ("python = 1", "m.toml:1:10: `python` is a table"),
        ("deadline = 5", "m.toml:1:12: invalid type"),
        ("\n\ndeadline = \"5\"", "m.toml:3:12: '5' is no time"),
        ("max_payload = \"5MB\"", "m.toml:1:15: '5MB' is no size"),
        ("max_payload = true", "m.toml:1:15: expected a size"),
        ("sandbox = \"srtict\"", "m.toml:1:11: unknown variant `srtict`"),
        ("[grants.a]\nnetwrok = true", "m.toml:2:1: unknown field `netwrok`"),
        ("[grants]\na = true", "m.toml:2:5: invalid type"),
        ("hot_reload = \"yes\"", "m.toml:1:14: invalid type"),
        ("[status]\nadmin = [\"no-such-user-at-all\"]", "m.toml:2:"),
        ("log = \"a\"\nlog = \"b\"", "m.toml:2:"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(told), "{text:?}: {error}");
    }
}

#[test]
fn g_contradictions_are_refused_with_their_place() {
    for (text, told) in [
        (
            "\nheartbeat_warn = 20",
            "m.toml:2:1: heartbeat_kill: must be greater than heartbeat_warn",
        ),
        ("ring_slots = 1000", "m.toml:1:1: ring_slots: must be a power of two"),
        (
            "log = \"a\"\n[restart]\nmax_delay = \"1ms\"",
            "m.toml:3:1: restart: max_delay: is shorter",
        ),
        (
            "load_timeout = \"5s\"\nstart_timeout = \"0s\"",
            "m.toml:2:1: start_timeout: must not be zero",
        ),
        ("\nslow_start_timeout = \"0s\"", "m.toml:2:1: slow_start_timeout: must not be zero"),
        ("idle_stop = \"0s\"", "m.toml:1:1: idle_stop: must not be zero"),
        ("log = \"a\"\ndrain = \"5000000000000000h\"", "m.toml:2:1: drain: must be at most 87600h"),
        (
            "[restart]\n\ntrial_interval = \"5000000000000000h\"",
            "m.toml:3:1: restart: trial_interval: must",
        ),
        ("event_history = 1\nlog_records = 0", "m.toml:2:1: log_records: must be at least 1"),
        ("memory_limit = 0", "m.toml:1:1: memory_limit: must be at least 1 MiB"),
        ("max_descriptors = 0", "m.toml:1:1: max_descriptors: must be at least 16"),
        (
            "[worker_programs]\nlua = \"a\"\npyhton = \"a\"",
            "m.toml:3:1: worker_programs: there is no loader 'pyhton'; there are native, ",
        ),
        (
            "sandbox = \"strict\"\n[bundle_isolation]\na = \"shared\"",
            "m.toml:3:1: bundle_isolation: a: it is in the strict sandbox, and has a worker of its",
        ),
        ("[worker_env]\nA = \"\\u0000\"", "m.toml:2:1: worker_env: 'A': "),
        ("\n[worker_env]\n\"a=b\" = \"\"", "m.toml:2:2: worker_env: 'a=b': "),
        ("[restart]\nlimit = 100", "m.toml:2:1: restart: the restart limit of 100"),
        ("[status]\ntcp = \"192.0.2.1:80\"", "m.toml:2:1: tcp: must be a loopback address"),
        ("[status]\n\ntoken_file = \"a\"", "m.toml:3:1: token_file: is of no use without tcp"),
        ("[status]\nadmin = [7]\nread_only = [7]", "m.toml:3:1: read_only: names a user"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(told), "{text:?}: {error}");
    }
}

#[test]
fn s9_replicas_are_read_by_loader_and_refused_with_their_place() {
    let file = parse("[replicas]\npython = 3\nlua = 1").unwrap();
    let count = |loader: &str| file.config.replicas_of(loader);
    assert_eq!((count("python"), count("lua"), count("js")), (3, 1, 1));
    for (text, told) in [
        ("[replicas]\nlua = 2\npython = 0", "m.toml:3:1: replicas: python: must be from 1 to 64"),
        (
            "[replicas]\npython = 65",
            "m.toml:2:1: replicas: python: must be from 1 to 64, and is 65",
        ),
        ("[replicas]\npython = -1", "m.toml:2:10: invalid value"),
        ("[replicas]\npython = \"3\"", "m.toml:2:10: invalid type"),
        ("[replicas]\n\ncobol = 3", "m.toml:3:1: replicas: there is no loader 'cobol'; there are "),
        ("replicas = 3", "m.toml:1:12: invalid type"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(told), "{text:?}: {error}");
    }
}

#[test]
fn g_differences_are_named_as_the_file_has_them() {
    let (one, other) = (
        parse("deadline = \"5s\"\n[worker_env]\nA = \"1\"").unwrap(),
        parse(
            "bundles = [\"a\"]\nlog = \"warn\"\n[worker_env]\nA = \"2\"\nB = \"1\"\n\
             [restart]\nlimit = 3\n[python]\nvenv = \"v\"\n[status]\ntcp = \"127.0.0.1:0\"",
        )
        .unwrap(),
    );
    let names = one.differences(&other);
    assert_eq!(
        names,
        ["deadline", "python.venv", "restart.limit", "status.tcp", "worker_env.A", "worker_env.B"]
    );
    assert_eq!(other.differences(&one), names);
    assert!(one.differences(&one).is_empty());
}

#[test]
fn g_differences_are_named_beside_paths_that_are_no_utf_8() {
    let socket = |name: &[u8]| Some(PathBuf::from(OsStr::from_bytes(name)));
    let (mut one, mut other) = (parse("").unwrap(), parse("deadline = \"5s\"").unwrap());
    one.config.worker_dir = socket(b"\xff");
    other.config.worker_dir = socket(b"\xff");
    one.status.socket = socket(b"\xfe");
    other.status.socket = socket(b"\xff");
    assert_eq!(one.differences(&other), ["deadline", "status.socket"]);
}

#[test]
fn g_paths_are_relative_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    let text = "bundles = [\"a\"]\nworker_dir = \"w\"\n[status]\nsocket = \"s.sock\"\n\
                [grants.a]\nread = [\"r\", \"/r\"]\nwrite = [\"w\"]";
    std::fs::write(&path, text).unwrap();
    let file = ConfigFile::read(&path).unwrap();
    assert_eq!(file.bundles, [dir.path().join("a")]);
    assert_eq!(file.config.worker_dir, Some(dir.path().join("w")));
    assert_eq!(file.status.socket, Some(dir.path().join("s.sock")));
    let granted = &file.config.grants["a"];
    assert_eq!(granted.read, [dir.path().join("r"), "/r".into()]);
    assert_eq!(granted.write, [dir.path().join("w")]);
    let missing = ConfigFile::read(&dir.path().join("none.toml")).unwrap_err().to_string();
    assert!(missing.contains("none.toml: "), "{missing}");
}

/// The documented sample. A setting is a line that begins with `#` and no
/// space; where there is no default it ends with `# unset`.
const SAMPLE: &str = include_str!("../../../../docs/menagerie.toml");

fn sample(keep: impl Fn(&str) -> bool) -> String {
    let setting = |line: &str| {
        let rest = line.strip_prefix('#')?;
        (!rest.is_empty() && !rest.starts_with([' ', '#']) && keep(rest)).then(|| rest.to_owned())
    };
    SAMPLE.lines().map(|line| setting(line).unwrap_or_default() + "\n").collect()
}

#[test]
fn g_the_sample_as_it_is_changes_nothing() {
    assert_eq!(parse(SAMPLE).unwrap(), ConfigFile::default());
}

#[test]
fn g_the_samples_defaults_are_the_builders() {
    let defaults = sample(|line| !line.ends_with("# unset"));
    let file = parse(&defaults).unwrap();
    assert_eq!(file.config, Config::default());
    assert_eq!(file.status, StatusConfig::default());
    assert_eq!((file.bundles, file.log.as_deref()), (Vec::new(), Some("info")));
}

#[test]
fn g_the_sample_has_every_setting_and_no_other() {
    let all = sample(|_| true);
    parse(&all).unwrap();
    let table: toml::Table = all.parse().unwrap();
    let mut lacking = Vec::new();
    let mut look = |table: Option<&toml::Table>, path: &str, fields: &[&str]| {
        for field in fields {
            if table.is_none_or(|table| !table.contains_key(*field)) {
                lacking.push(format!("{path}{field}"));
            }
        }
    };
    let (python, venv, hidden) = PYTHON;
    let top: Vec<&str> = config_fields().iter().copied().filter(|f| *f != hidden).collect();
    look(Some(&table), "", &top);
    look(Some(&table), "", program_fields());
    let inner = |name: &str| table.get(name).and_then(toml::Value::as_table);
    look(inner("restart"), "restart.", fields::of::<RestartPolicy>());
    look(inner("signatures"), "signatures.", fields::of::<crate::SignatureConfig>());
    look(inner("status"), "status.", fields::of::<StatusConfig>());
    look(inner(python), "python.", &[venv]);
    assert!(lacking.is_empty(), "docs/menagerie.toml lacks {lacking:?}");
}

#[test]
fn g_every_setting_of_the_sample_is_explained() {
    let mut explained = false;
    for line in SAMPLE.lines() {
        if line.is_empty() {
            explained = false;
        } else if line.starts_with("# ") {
            explained = true;
        } else if line.starts_with('#') && !line.starts_with("#[") && line.len() > 1 {
            assert!(explained, "{line}");
        }
    }
}

#[test]
fn g_settings_are_written_as_they_are_read() {
    let text = toml::to_string(&Config::default()).unwrap();
    assert!(!text.contains("secs"), "a duration without its unit: {text}");
    let text = text.replace("python_venv", "x");
    assert_eq!(parse(&text).unwrap().config, Config::default());
}
