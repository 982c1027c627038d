use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::common::{MENAGERIE, Program, Running, exchange, sample, until};

/// A sample of Prometheus's text format, version 0.0.4.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the format, and takes nothing that is not it: every sample belongs to
/// the family whose HELP and TYPE came before, no family comes twice, no series
/// comes twice, names and labels are well formed, counters end with `_total`,
/// are not negative, and histograms add up.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Sample>) {
    assert!(text.ends_with('\n'));
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let (mut helped, mut family) = (String::new(), String::new());
    let mut samples: Vec<Sample> = Vec::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.trim().is_empty(), "{line}");
            name.clone_into(&mut helped);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, helped, "TYPE without HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            name.clone_into(&mut family);
        } else {
            let sample = parse_sample(line);
            let kind = &kinds[&family];
            let suffix = sample.name.strip_prefix(&family).unwrap_or_else(|| panic!("{line}"));
            let fits = match kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                _ => suffix.is_empty(),
            };
            assert!(fits, "{line} in {family}");
            assert!(kind == "gauge" || sample.value >= 0.0, "{line}");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            samples.push(sample);
        }
    }
    check_histograms(&kinds, &samples);
    (kinds, samples)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn parse_sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let name = line[..end].to_owned();
    assert!(is_name(&name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = &line[end..];
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().unwrap_or_else(|| panic!("{line}")) {
                    (_, '\\') => match chars.next().unwrap().1 {
                        'n' => value.push('\n'),
                        c @ ('\\' | '"') => value.push(c),
                        other => panic!("\\{other} in {line}"),
                    },
                    (at, '"') => break at,
                    (_, c) => value.push(c),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = after[end + 1..].strip_prefix(',').unwrap_or(&after[end + 1..]);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
    Sample { name, labels, value }
}

fn check_histograms(kinds: &BTreeMap<String, String>, samples: &[Sample]) {
    for (family, _) in kinds.iter().filter(|(_, kind)| *kind == "histogram") {
        let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in samples.iter().filter(|s| s.name == format!("{family}_bucket")) {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le").unwrap();
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            series.entry(labels).or_default().push((bound, sample.value));
        }
        assert!(!series.is_empty());
        for (labels, buckets) in series {
            let rising = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
            assert!(buckets.windows(2).all(rising), "{labels:?}: {buckets:?}");
            let (bound, all) = *buckets.last().unwrap();
            let count = |s: &&Sample| s.name == format!("{family}_count") && s.labels == labels;
            assert!(bound.is_infinite());
            assert_eq!(all, samples.iter().find(count).unwrap().value);
        }
    }
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |sample: &&Sample| {
        sample.name == name
            && sample.labels.len() == labels.len()
            && labels.iter().all(|(k, v)| sample.labels.get(*k).is_some_and(|l| l == v))
    };
    samples.iter().find(fits).map(|sample| sample.value)
}

fn scrape(running: &Running) -> Vec<Sample> {
    let response = running.get("/metrics");
    assert_eq!(response.status, 200);
    assert!(response.head.contains("content-type: text/plain; version=0.0.4"), "{response:?}");
    parse(&response.body).1
}

#[test]
fn g_metrics_are_well_formed_and_true() {
    let running = Running::start("");
    for _ in 0..3 {
        running.text(&["call", "greeter-lua/greeter@1", "greet", "\"Ada\""]);
    }
    for args in [&["fail", "\"x\""][..], &["inc", "\"x\""], &["inc"], &["nothing"]] {
        let args: Vec<&str> = ["call", "probe@1"].iter().chain(args).copied().collect();
        assert_eq!(running.menagerie(&args).status.code(), Some(1));
    }
    running.text(&["reload", "greeter-lua"]);
    running.text(&["restart", "lua"]);
    let samples = scrape(&running);
    let of = |name: &str, labels: &[(&str, &str)]| value(&samples, name, labels);
    let greet = [("bundle", "greeter-lua"), ("contract", "greeter@1"), ("function", "greet")];
    let with = |labels: &[(&'static str, &'static str)], more: (&'static str, &'static str)| {
        labels.iter().copied().chain([more]).collect::<Vec<_>>()
    };
    let calls = "menagerie_calls_total";
    assert_eq!(of(calls, &with(&greet, ("outcome", "ok"))), Some(3.0));
    let times = of("menagerie_call_duration_seconds_count", &greet).unwrap();
    assert!(times >= 1.0, "{times}");
    let fail = [("bundle", "probe-lua"), ("contract", "probe@1"), ("function", "fail")];
    assert_eq!(of(calls, &with(&fail, ("outcome", "guest_error"))), Some(1.0));
    let refused = [("bundle", "probe-lua"), ("outcome", "not_found")];
    assert_eq!(of("menagerie_calls_refused_total", &refused), Some(1.0));
    let lua = ("worker", "lua");
    assert_eq!(of("menagerie_worker_state", &[lua, ("state", "ready")]), Some(1.0));
    assert_eq!(of("menagerie_worker_state", &[lua, ("state", "backoff")]), Some(0.0));
    assert!(of("menagerie_worker_resident_memory_bytes", &[lua]).unwrap() > 100_000.0);
    assert!(of("menagerie_worker_cpu_seconds_total", &[lua]).is_some());
    assert_eq!(of("menagerie_worker_starts_total", &[lua]), Some(2.0));
    let requested = [lua, ("cause", "requested")];
    assert_eq!(of("menagerie_worker_restarts_total", &requested), Some(1.0));
    assert_eq!(of("menagerie_worker_deadline_kills_total", &[lua]), Some(0.0));
    let reloads = [("bundle", "greeter-lua"), ("outcome", "ok")];
    assert_eq!(of("menagerie_bundle_reloads_total", &reloads), Some(1.0));
    assert_eq!(of("menagerie_bundle_queue_depth", &[("bundle", "greeter-lua")]), Some(0.0));
    assert_eq!(
        of("menagerie_bundle_state", &[("bundle", "probe-lua"), ("state", "ready")]),
        Some(1.0)
    );
}

/// A bundle that loads, and two folders of its name whose manifests cannot be read: the
/// status has all three, the metrics have one, which is that which runs.
#[test]
fn g_bundles_of_one_name_have_one_series() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(MENAGERIE);
    command.args(["run", "--log", "error", "--bundles"]).arg(sample("greeter-lua"));
    for (place, name) in [("a", "greeter-lua"), ("b", "greeter-lua"), ("c", "x"), ("d", "x")] {
        let broken = dir.path().join(place).join(name);
        std::fs::create_dir_all(&broken).unwrap();
        std::fs::write(broken.join("manifest.toml"), "nonsense").unwrap();
        command.arg("--bundles").arg(broken);
    }
    let socket = dir.path().join("s.sock");
    let mut program = Program::start(command.arg("--socket").arg(&socket));
    program.wait_for("ready at");
    let get = |path| exchange(UnixStream::connect(&socket).unwrap(), "GET", path, &[], b"");
    assert_eq!(get("/v1/bundles").json().as_array().unwrap().len(), 5);
    let samples = parse(&get("/metrics").body).1;
    let state = |name, state| {
        value(&samples, "menagerie_bundle_state", &[("bundle", name), ("state", state)])
    };
    assert_eq!(
        (state("greeter-lua", "ready"), state("greeter-lua", "failed")),
        (Some(1.0), Some(0.0))
    );
    assert_eq!((state("x", "ready"), state("x", "failed")), (Some(0.0), Some(1.0)));
}

#[test]
fn g_crashes_and_deadline_kills_are_counted_by_cause() {
    let running = Running::start("deadline = \"200ms\"\ngrace = \"100ms\"");
    running.kill_worker();
    // A loop that LuaJIT has compiled gives way to nothing softer.
    assert_eq!(running.menagerie(&["call", "probe@1", "spin"]).status.code(), Some(1));
    let counted = |samples: &[Sample], name: &str, cause: &str| {
        value(samples, name, &[("worker", "lua"), ("cause", cause)]).unwrap_or(0.0)
    };
    until(|| {
        let samples = scrape(&running);
        counted(&samples, "menagerie_worker_restarts_total", "sigkill") == 1.0
            && counted(&samples, "menagerie_worker_crashes_total", "sigkill") == 1.0
    });
    let spin = [
        ("bundle", "probe-lua"),
        ("contract", "probe@1"),
        ("function", "spin"),
        ("outcome", "deadline_exceeded"),
    ];
    assert_eq!(value(&scrape(&running), "menagerie_calls_total", &spin), Some(1.0));
}

/// What is said of a death has the bundle's name in it, which says nothing about the cause.
#[test]
fn g_a_load_that_hangs_is_a_timeout_whatever_its_bundle_is_called() {
    let running = Running::start("load_timeout = \"1s\"");
    let dir = running.dir.path().join("deadline-heartbeat");
    std::fs::create_dir(&dir).unwrap();
    let manifest = "name = 'deadline-heartbeat'\nloader = 'lua'\nfile = 'main.lua'\n\
                    provides = ['hangs@1']\n";
    std::fs::write(dir.join("manifest.toml"), manifest).unwrap();
    std::fs::write(dir.join("main.lua"), "while true do end\n").unwrap();
    let loaded = running.menagerie(&["load", dir.to_str().unwrap()]);
    assert_eq!(loaded.status.code(), Some(1));
    let causes = |name: &str| -> Vec<(String, f64)> {
        let all = scrape(&running);
        let of_it = all.iter().filter(|sample| sample.name == name);
        of_it.map(|sample| (sample.labels["cause"].clone(), sample.value)).collect()
    };
    until(|| !causes("menagerie_worker_crashes_total").is_empty());
    let once = [("timeout".to_owned(), 1.0)];
    assert_eq!(causes("menagerie_worker_crashes_total"), once);
    until(|| !causes("menagerie_worker_restarts_total").is_empty());
    assert_eq!(causes("menagerie_worker_restarts_total"), once);
    let kills =
        value(&scrape(&running), "menagerie_worker_deadline_kills_total", &[("worker", "lua")]);
    assert_eq!(kills, Some(0.0));
}

/// Every family is in the table of docs/operating.md, and each of the table's
/// names in the code.
#[test]
fn g_the_operators_document_lists_every_metric() {
    let text = std::fs::read_to_string(super::common::docs().join("operating.md")).unwrap();
    let section = text.split_once("## Metrics\n").unwrap().1;
    let listed: BTreeSet<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let running = Running::start("");
    running.text(&["call", "greeter-lua/greeter@1", "greet", "\"Ada\""]);
    running.kill_worker();
    for family in parse(&running.get("/metrics").body).0.keys() {
        let name = family.strip_prefix("menagerie_").unwrap_or_else(|| panic!("{family}"));
        assert!(listed.contains(name), "docs/operating.md lacks {name}");
    }
    let code = include_str!("../../src/http/metrics.rs");
    for name in &listed {
        assert!(code.contains(&format!("\"{name}\"")), "there is no {name}");
    }
}

#[test]
#[should_panic(expected = "twice")]
fn the_parser_refuses_a_series_that_comes_twice() {
    parse("# HELP a x\n# TYPE a gauge\na{b=\"c\"} 1\na{b=\"c\"} 2\n");
}

#[test]
fn the_parser_reads_escapes() {
    let (_, samples) = parse("# HELP a x\n# TYPE a gauge\na{b=\"c\\\"\\\\,}\",d=\"\"} +Inf\n");
    assert_eq!(samples[0].labels["b"], "c\"\\,}");
    assert!(samples[0].value.is_infinite());
}
