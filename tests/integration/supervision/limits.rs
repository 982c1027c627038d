//! Rule P1: what holds for every worker, whatever its language does to itself.

use std::collections::BTreeSet;

use crate::support::{config, per_language, setup_with};

async fn p1_a_worker_of_any_language_is_limited(suffix: &str) {
    let mut config = config();
    config.memory_limit = Some(1 << 30);
    config.max_descriptors = 300;
    config.worker_env.insert("MINE".to_owned(), "yes".to_owned());
    let setup = setup_with(suffix, config).await;
    let pid = setup.pid();
    let proc = std::path::PathBuf::from(format!("/proc/{pid}"));
    let read = |file: &str| std::fs::read_to_string(proc.join(file)).unwrap();
    assert!(read("status").contains("NoNewPrivs:\t1\n"));
    assert_eq!(nix::unistd::getsid(Some(pid)), Ok(pid), "a session of its own");
    let limits = read("limits");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        words.join(" ")
    };
    assert_eq!(limit("Max core file size"), "0 0");
    assert_eq!(limit("Max open files"), "300 300");
    assert_eq!(limit("Max data size"), "1073741824 1073741824");
    let environment = std::fs::read(proc.join("environ")).unwrap();
    let names: BTreeSet<&str> = environment
        .split(|byte| *byte == 0)
        .filter_map(|variable| std::str::from_utf8(variable).ok()?.split_once('='))
        .map(|(name, _)| name)
        .collect();
    assert!(names.contains("MINE"), "{names:?}");
    // Cargo sets it for its tests.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
    setup.supervisor.shutdown().await;
}

per_language!(rust, c, py, lua, js, dotnet; {
    p1_a_worker_of_any_language_is_limited,
});
