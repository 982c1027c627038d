use super::*;

use WorkerState as W;

fn life() -> (Lifecycle, Instant) {
    (Lifecycle::new(RestartPolicy::default()), Instant::now())
}

fn states(life: &mut Lifecycle) -> Vec<W> {
    life.take_path().into_iter().map(|(state, _)| state).collect()
}

fn ready(life: &mut Lifecycle, now: Instant) {
    let _ = life.on(Input::Wanted, now, 0.0);
    let _ = life.on(Input::Loaded, now, 0.0);
    life.take_path();
}

#[test]
fn s1_the_whole_sequence_from_start_to_stop() {
    let (mut life, now) = life();
    assert_eq!(life.on(Input::Wanted, now, 0.0), Action::Spawn);
    assert_eq!(life.on(Input::Wanted, now, 0.0), Action::None);
    assert_eq!(life.on(Input::Loaded, now, 0.0), Action::None);
    assert_eq!(life.on(Input::Stop { restart: false }, now, 0.0), Action::Drain);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::None);
    assert_eq!(states(&mut life), [W::Starting, W::Ready, W::Draining, W::Stopped]);
    assert_eq!((life.incarnation(), life.restarts()), (1, 0));
}

#[test]
fn s1_a_crash_passes_through_crashed_and_backoff() {
    let (mut life, now) = life();
    ready(&mut life, now);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::Spawn);
    assert_eq!(states(&mut life), [W::Crashed, W::Backoff, W::Starting]);
    assert_eq!((life.incarnation(), life.restarts()), (2, 1));
}

#[test]
fn s3_backoff_doubles() {
    let policy = RestartPolicy { limit: 9, ..RestartPolicy::default() };
    let (mut life, mut now) = (Lifecycle::new(policy), Instant::now());
    ready(&mut life, now);
    let mut delays = Vec::new();
    for _ in 0..9 {
        match life.on(Input::Died, now, 0.0) {
            Action::Spawn => delays.push(0),
            Action::WaitUntil(until) => {
                delays.push(u64::try_from((until - now).as_millis()).unwrap());
                now = until;
                assert_eq!(life.on(Input::Timer, now, 0.0), Action::Spawn);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000]);
}

#[test]
fn s3_what_no_limit_bounds_has_a_pause_without_a_delay_too() {
    let none = RestartPolicy { initial_delay: Duration::ZERO, ..RestartPolicy::default() };
    assert_eq!(none.delay(7), Duration::ZERO);
    let pauses = [0, 1, 7].map(|previous| none.pause(previous).as_millis());
    assert_eq!(pauses, [0, 100, 100]);
    let policy = RestartPolicy::default();
    assert_eq!((policy.pause(0), policy.pause(3)), (policy.delay(0), policy.delay(3)));
}

#[test]
fn s3_backoff_has_jitter() {
    let (mut life, now) = life();
    ready(&mut life, now);
    let _ = life.on(Input::Died, now, 1.0);
    let Action::WaitUntil(until) = life.on(Input::Died, now, 1.0) else { panic!() };
    assert_eq!(until - now, Duration::from_millis(110));
}

#[test]
fn s3_health_resets_the_backoff() {
    let (mut life, mut now) = life();
    ready(&mut life, now);
    let _ = life.on(Input::Died, now, 0.0);
    let _ = life.on(Input::Loaded, now, 0.0);
    now += Duration::from_secs(61);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::Spawn);
}

#[test]
fn s3_quarantine_after_more_than_five_restarts_in_sixty_seconds() {
    let (mut life, mut now) = life();
    ready(&mut life, now);
    for _ in 0..5 {
        if let Action::WaitUntil(until) = life.on(Input::Died, now, 0.0) {
            now = until;
            assert_eq!(life.on(Input::Timer, now, 0.0), Action::Spawn);
        }
        let _ = life.on(Input::Loaded, now, 0.0);
    }
    assert_eq!(life.restarts(), 5);
    life.take_path();
    let Action::WaitUntil(trial) = life.on(Input::Died, now, 0.0) else { panic!() };
    assert_eq!(states(&mut life), [W::Crashed, W::Quarantined]);
    assert_eq!(trial - now, Duration::from_secs(60));
    // One trial start, and back at its first failure.
    assert_eq!(life.on(Input::Timer, trial, 0.0), Action::Spawn);
    let Action::WaitUntil(next) = life.on(Input::Died, trial, 0.0) else { panic!() };
    assert_eq!(next - trial, Duration::from_secs(60));
    // By hand at any time.
    assert_eq!(life.on(Input::Wanted, trial, 0.0), Action::Spawn);
}

#[test]
fn s3_a_worker_that_cannot_be_started_is_tried_again_if_it_is_needed() {
    let (mut life, mut now) = life();
    let fails = |needed| Input::CannotStart { needed };
    // Nobody but who has asked, and is told.
    let _ = life.on(Input::Wanted, now, 0.0);
    assert_eq!(life.on(fails(false), now, 0.0), Action::None);
    assert_eq!((life.state(), life.restarts()), (&State::Stopped, 0));
    ready(&mut life, now);
    let mut action = life.on(Input::Died, now, 0.0);
    let mut waited = Vec::new();
    while *life.state() == (State::Starting { trial: false }) {
        assert_eq!(action, Action::Spawn);
        life.take_path();
        let Action::WaitUntil(until) = life.on(fails(true), now, 0.0) else { panic!() };
        waited.push(u64::try_from((until - now).as_millis()).unwrap());
        now = until;
        if matches!(life.state(), State::Quarantined { .. }) {
            // Nothing has died.
            assert_eq!(states(&mut life), [W::Quarantined]);
            break;
        }
        assert_eq!(states(&mut life), [W::Backoff]);
        action = life.on(Input::Timer, now, 0.0);
    }
    assert_eq!(waited, [100, 200, 400, 800, 60_000]);
    // A trial start that fails is the only one.
    assert_eq!(life.on(Input::Timer, now, 0.0), Action::Spawn);
    let again = Action::WaitUntil(now + Duration::from_secs(60));
    assert_eq!(life.on(fails(true), now, 0.0), again);
    assert!(matches!(life.state(), State::Quarantined { .. }));
}

#[test]
fn s3_restarts_spread_over_time_do_not_quarantine() {
    let (mut life, mut now) = life();
    ready(&mut life, now);
    for _ in 0..50 {
        now += Duration::from_secs(15);
        if let Action::WaitUntil(until) = life.on(Input::Died, now, 0.0) {
            now = until;
            let _ = life.on(Input::Timer, now, 0.0);
        }
        let _ = life.on(Input::Loaded, now, 0.0);
        assert_eq!(life.state().name(), W::Ready);
    }
}

#[test]
fn s3_a_requested_stop_is_not_restarted() {
    let (mut life, now) = life();
    ready(&mut life, now);
    let _ = life.on(Input::Stop { restart: false }, now, 0.0);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::None);
    assert_eq!(life.on(Input::Timer, now, 0.0), Action::None);
    assert_eq!(life.state(), &State::Stopped);
}

#[test]
fn s3_a_requested_restart_counts_as_no_restart() {
    let (mut life, now) = life();
    ready(&mut life, now);
    assert_eq!(life.on(Input::Stop { restart: true }, now, 0.0), Action::Drain);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::Spawn);
    assert_eq!(states(&mut life), [W::Draining, W::Stopped, W::Starting]);
    assert_eq!((life.incarnation(), life.restarts()), (2, 0));
}

#[test]
fn s3_a_requested_restart_starts_a_worker_whatever_it_is_doing() {
    // It has stopped since somebody looked.
    let (mut life, now) = life();
    assert_eq!(life.on(Input::Stop { restart: true }, now, 0.0), Action::Spawn);
    let _ = life.on(Input::CannotStart { needed: false }, now, 0.0);
    assert_eq!(life.on(Input::Stop { restart: true }, now, 0.0), Action::Spawn);
    let _ = life.on(Input::Loaded, now, 0.0);
    // It is about to stop, for idleness.
    let _ = life.on(Input::Idle, now, 0.0);
    assert_eq!(life.on(Input::Stop { restart: true }, now, 0.0), Action::None);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::Spawn);
    assert_eq!((life.incarnation(), life.restarts()), (3, 0));
    // But a stop that comes later is a stop.
    let _ = life.on(Input::Stop { restart: true }, now, 0.0);
    let _ = life.on(Input::Stop { restart: false }, now, 0.0);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::None);
    assert_eq!(life.state(), &State::Stopped);
}

#[test]
fn s3_a_policy_whose_limit_can_never_be_reached_is_refused() {
    RestartPolicy::default().check().unwrap();
    let policy = RestartPolicy { limit: 20, ..RestartPolicy::default() };
    assert!(matches!(policy.check(), Err(PolicyError::LimitNeverReached { .. })));
    let policy = RestartPolicy { jitter: 2.0, ..RestartPolicy::default() };
    assert!(policy.check().is_err());
    let policy = RestartPolicy { limit: 0, ..RestartPolicy::default() };
    assert!(policy.check().is_err());
    let policy = RestartPolicy { max_delay: Duration::ZERO, ..RestartPolicy::default() };
    assert!(policy.check().is_err());
}

#[test]
fn s5_a_worker_is_not_punished_for_a_bundle_that_has_left_it() {
    let (mut life, now) = life();
    ready(&mut life, now);
    for _ in 0..20 {
        // Each crash is blamed on another bundle, which is taken away.
        let _ = life.on(Input::CulpritGone, now, 0.0);
        assert_eq!(life.on(Input::Died, now, 0.0), Action::Spawn);
        let _ = life.on(Input::Loaded, now, 0.0);
    }
    assert_eq!((life.incarnation(), life.restarts()), (21, 20));
}

#[test]
fn s5_a_worker_is_not_punished_for_what_it_was_to_load_for_the_first_time() {
    let (mut life, now) = life();
    for _ in 0..20 {
        ready(&mut life, now);
        let _ = states(&mut life);
        assert_eq!(life.on(Input::DiedOfNewcomer, now, 0.0), Action::Spawn);
        assert_eq!(states(&mut life), [W::Crashed, W::Backoff, W::Starting]);
    }
    assert_eq!(life.restarts(), 20);
    // What else it dies of counts as before.
    assert_eq!(life.on(Input::Died, now, 0.0), Action::Spawn);
    assert!(matches!(life.on(Input::Died, now, 0.0), Action::WaitUntil(_)));
}

#[test]
fn s5_a_trial_start_that_dies_of_a_first_load_is_followed_by_another_trial() {
    let (mut life, mut now) = life();
    let _ = life.on(Input::Wanted, now, 0.0);
    while *life.state() != (State::Starting { trial: true }) {
        if let Action::WaitUntil(until) = life.on(Input::Died, now, 0.0) {
            now = until;
            let _ = life.on(Input::Timer, now, 0.0);
        }
    }
    assert_eq!(life.on(Input::DiedOfNewcomer, now, 0.0), Action::Spawn);
    assert_eq!(*life.state(), State::Starting { trial: true });
}

#[test]
fn s8_a_process_that_takes_over_is_a_new_incarnation_of_a_ready_worker() {
    let (mut life, now) = life();
    ready(&mut life, now);
    assert_eq!(life.on(Input::Replaced, now, 0.0), Action::None);
    assert_eq!(states(&mut life), [W::Ready]);
    assert_eq!((life.incarnation(), life.restarts()), (2, 0));
}

#[test]
fn s9_an_idle_worker_stops_and_is_started_by_the_next_call() {
    let (mut life, now) = life();
    ready(&mut life, now);
    assert_eq!(life.on(Input::Idle, now, 0.0), Action::Drain);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::None);
    assert_eq!(states(&mut life), [W::Draining, W::Stopped]);
    assert_eq!(life.on(Input::Needed, now, 0.0), Action::Spawn);
    assert_eq!((life.incarnation(), life.restarts()), (2, 0));
    // What is needed does not hurry a worker that waits for its time.
    let _ = life.on(Input::Loaded, now, 0.0);
    let _ = life.on(Input::Died, now, 0.0);
    let Action::WaitUntil(until) = life.on(Input::Died, now, 0.0) else { panic!() };
    assert_eq!(life.on(Input::Needed, now, 0.0), Action::None);
    assert_eq!(life.state(), &State::Backoff { until });
}

#[test]
fn s9_a_call_that_comes_while_an_idle_worker_stops_starts_it_again() {
    let (mut life, now) = life();
    ready(&mut life, now);
    let _ = life.on(Input::Idle, now, 0.0);
    assert_eq!(life.on(Input::Needed, now, 0.0), Action::None);
    assert_eq!(life.on(Input::Died, now, 0.0), Action::Spawn);
}

#[test]
fn s3_a_policy_without_delays_may_have_any_limit() {
    let policy = RestartPolicy {
        limit: u32::MAX,
        initial_delay: Duration::ZERO,
        max_delay: Duration::ZERO,
        ..RestartPolicy::default()
    };
    policy.check().unwrap();
    let policy = RestartPolicy { limit: u32::MAX, ..RestartPolicy::default() };
    let Err(PolicyError::LimitNeverReached { delays, .. }) = policy.check() else { panic!() };
    assert!(delays >= policy.window);
}
