//! The numbers of `DESIGN.md`: each is the default, and each can be another.

use std::path::Path;
use std::time::Duration;

use super::Config;
use crate::placement::Isolation;
use crate::{ConfigFile, RestartPolicy};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn s3_the_numbers_of_restarts_are_the_designs() {
    let RestartPolicy {
        initial_delay,
        max_delay,
        reset_after,
        limit,
        window,
        trial_interval,
        jitter,
    } = Config::default().restart;
    assert_eq!((initial_delay, max_delay, reset_after), (ms(100), s(10), s(60)));
    assert_eq!((limit, window, trial_interval), (5, s(60), s(60)));
    assert!(jitter > 0.0 && jitter <= 1.0, "there is some");
}

#[test]
fn s5_the_numbers_of_blame_are_the_designs() {
    let mut config = Config::default();
    assert_eq!((config.isolate_after, config.bundle_crash_limit), (2, 3));
    assert_eq!(config.bundle_crash_window, s(60));
    // Bundles move in "auto" only; they are quarantined in every isolation.
    for isolation in [Isolation::Shared, Isolation::Bundle, Isolation::Auto] {
        config.isolation = isolation;
        let policy = config.blame_policy("a");
        assert_eq!(policy.isolate_after, (isolation == Isolation::Auto).then_some(2));
        assert_eq!((policy.limit, policy.window), (3, s(60)));
    }
}

#[test]
fn s6_the_times_are_the_designs() {
    let config = Config::default();
    assert_eq!((config.deadline, config.grace), (s(30), ms(500)));
    assert_eq!((config.heartbeat, config.heartbeat_warn, config.heartbeat_kill), (s(1), 3, 15));
    assert_eq!((config.drain, config.term_timeout), (s(5), s(2)));
    assert_eq!((config.start_timeout, config.slow_start_timeout), (s(10), s(30)));
}

#[test]
fn s9_what_costs_something_is_off_by_default() {
    let config = Config::default();
    assert_eq!(
        (config.isolation, config.replicas_of("python"), config.standby),
        (Isolation::Shared, 1, 0)
    );
    assert_eq!(
        (config.idle_stop, config.recycle_after_calls, config.recycle_after_rss),
        (None, None, None)
    );
}

#[test]
fn s3_every_number_of_supervision_can_be_another() {
    let text = r#"
        deadline = "1s"
        grace = "2ms"
        start_timeout = "3s"
        slow_start_timeout = "4s"
        load_timeout = "5s"
        drain = "6s"
        term_timeout = "7s"
        heartbeat = "8s"
        heartbeat_warn = 9
        heartbeat_kill = 10
        memory_limit = "11MiB"
        max_descriptors = 120
        max_processes = 13
        crash_history = 14
        isolation = "auto"
        isolate_after = 15
        bundle_crash_limit = 16
        bundle_crash_window = "17s"
        standby = 1
        idle_stop = "18s"
        recycle_after_calls = 19
        recycle_after_rss = "20MiB"
        [bundle_isolation]
        alone = "bundle"
        [restart]
        initial_delay = "21ms"
        max_delay = "22ms"
        reset_after = "23s"
        limit = 24
        window = "25s"
        trial_interval = "26s"
        jitter = 0.27
        "#;
    let read = ConfigFile::parse(text, Path::new("m.toml")).unwrap().config;
    let mut expected = Config {
        deadline: s(1),
        grace: ms(2),
        start_timeout: s(3),
        slow_start_timeout: s(4),
        load_timeout: s(5),
        drain: s(6),
        term_timeout: s(7),
        heartbeat: s(8),
        heartbeat_warn: 9,
        heartbeat_kill: 10,
        memory_limit: Some(11 << 20),
        max_descriptors: 120,
        max_processes: Some(13),
        crash_history: 14,
        isolation: Isolation::Auto,
        isolate_after: 15,
        bundle_crash_limit: 16,
        bundle_crash_window: s(17),
        standby: 1,
        idle_stop: Some(s(18)),
        recycle_after_calls: Some(19),
        recycle_after_rss: Some(20 << 20),
        restart: RestartPolicy {
            initial_delay: ms(21),
            max_delay: ms(22),
            reset_after: s(23),
            limit: 24,
            window: s(25),
            trial_interval: s(26),
            jitter: 0.27,
        },
        ..Config::default()
    };
    expected.bundle_isolation.insert("alone".to_owned(), Isolation::Bundle);
    assert_eq!(read, expected);
}
