//! The state machine against a process that is made up, at times that are made
//! up: whatever happens, in whatever order.

use proptest::prelude::*;

use super::*;

/// A process, as far as the machine knows of it.
#[derive(Default)]
struct Made {
    lives: bool,
    started: u64,
}

/// Whether a worker may go from one state to another (S1).
fn may_follow(from: WorkerState, to: WorkerState) -> bool {
    use WorkerState as W;
    matches!(
        (from, to),
        (W::Stopped | W::Backoff | W::Quarantined, W::Starting)
            | (W::Starting, W::Ready | W::Draining | W::Crashed | W::Stopped)
            // It could not be started.
            | (W::Starting, W::Backoff | W::Quarantined)
            // Another process has taken over.
            | (W::Ready, W::Ready | W::Draining | W::Crashed)
            | (W::Draining | W::Backoff | W::Quarantined, W::Stopped)
            | (W::Crashed, W::Backoff | W::Quarantined)
    )
}

/// What can happen in a state, by a number.
fn happening(state: &State, which: u8) -> Option<Input> {
    let starting = matches!(state, State::Starting { .. });
    let ready = matches!(state, State::Ready { .. });
    let lives = starting || ready || matches!(state, State::Draining { .. });
    match which % 12 {
        0 => Some(Input::Wanted),
        1 => Some(Input::Needed),
        2 => ready.then_some(Input::Idle),
        3 | 4 => starting.then_some(Input::Loaded),
        5 => starting.then_some(Input::CannotStart { needed: which & 0x10 == 0 }),
        6 | 7 => lives.then_some(Input::Died),
        8 => Some(Input::Stop { restart: which & 0x10 == 0 }),
        9 => ready.then_some(Input::Replaced),
        10 => lives.then_some(Input::DiedOfNewcomer),
        _ => Some(if which & 0x10 == 0 { Input::Timer } else { Input::CulpritGone }),
    }
}

proptest! {
    #[test]
    fn s1_whatever_happens_there_is_one_process_at_most_and_none_is_forgotten(
        steps in proptest::collection::vec((any::<u8>(), 0..70_000_u64, 0.0..1.0_f64), 1..80)
    ) {
        let policy = RestartPolicy::default();
        let (mut life, mut now) = (Lifecycle::new(policy.clone()), Instant::now());
        let (mut made, mut at) = (Made::default(), WorkerState::Stopped);
        let mut replaced = 0;
        for (which, pause, jitter) in steps {
            // Many things happen at once, or nearly.
            now += Duration::from_millis(if pause % 3 == 0 { pause } else { pause % 300 });
            let Some(input) = happening(life.state(), which) else { continue };
            match input {
                Input::Died | Input::DiedOfNewcomer | Input::CannotStart { .. } => made.lives = false,
                Input::Replaced => replaced += 1,
                _ => {}
            }
            let action = life.on(input, now, jitter);
            for (next, _) in life.take_path() {
                prop_assert!(may_follow(at, next), "{input:?}: from {at} to {next}");
                at = next;
            }
            prop_assert_eq!(at, life.state().name());
            if action == Action::Spawn {
                prop_assert!(!made.lives, "{:?} starts a second process", input);
                made = Made { lives: true, started: made.started + 1 };
            }
            // Nothing is where it cannot go on from.
            match *life.state() {
                State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => {
                    prop_assert!(made.lives, "{:?} without a process", life.state());
                }
                State::Stopped => prop_assert!(!made.lives),
                State::Backoff { until } => {
                    prop_assert!(!made.lives);
                    let most = policy.max_delay.mul_f64(1.0 + policy.jitter);
                    prop_assert!(until.saturating_duration_since(now) <= most);
                }
                State::Quarantined { until } => {
                    prop_assert!(!made.lives);
                    prop_assert!(until.saturating_duration_since(now) <= policy.trial_interval);
                }
                State::Crashed => prop_assert!(false, "nobody leaves it"),
            }
            prop_assert_eq!(life.incarnation(), made.started + replaced);
        }
        // And it comes back when its time has come.
        if let State::Backoff { until } | State::Quarantined { until } = *life.state() {
            prop_assert_eq!(life.on(Input::Timer, until, 0.0), Action::Spawn);
        }
    }

    /// However a worker dies, and whenever, it is not started without end.
    #[test]
    fn s3_no_worker_is_restarted_more_often_than_the_limit_says(
        lives in proptest::collection::vec(0..20_000_u64, 1..60)
    ) {
        let policy = RestartPolicy::default();
        let (mut life, mut now) = (Lifecycle::new(policy.clone()), Instant::now());
        let mut starts: Vec<Instant> = Vec::new();
        let _ = life.on(Input::Wanted, now, 0.0);
        for lived in lives {
            let _ = life.on(Input::Loaded, now, 0.0);
            now += Duration::from_millis(lived);
            if let Action::WaitUntil(until) = life.on(Input::Died, now, 0.0) {
                now = until;
                prop_assert_eq!(life.on(Input::Timer, now, 0.0), Action::Spawn);
            }
            starts.push(now);
            let recent = starts.iter().filter(|at| now.duration_since(**at) < policy.window);
            prop_assert!(recent.count() <= policy.limit as usize);
        }
    }
}
