use super::*;

const SHARED: BlamePolicy =
    BlamePolicy { isolate_after: None, limit: 3, window: Duration::from_secs(60) };
const AUTO: BlamePolicy = BlamePolicy { isolate_after: Some(2), ..SHARED };

/// Deaths at these seconds, at which these bundles ran; what becomes of the
/// first of them at each.
fn verdicts(policy: BlamePolicy, deaths: &[(u64, &[&str])]) -> Vec<Verdict> {
    let (mut blame, start) = (Blame::default(), Instant::now());
    let mut verdicts = Vec::new();
    for (second, running) in deaths {
        let now = start + Duration::from_secs(*second);
        let found = blame.died(running.iter().map(|name| (*name, policy)), false, now);
        assert_eq!(found.len(), running.len());
        let first = found.into_iter().find(|(name, _)| *name == running[0]);
        verdicts.push(first.unwrap().1);
    }
    verdicts
}

#[test]
fn s5_second_death_isolates_in_auto_and_third_death_quarantines() {
    let deaths: [(u64, &[&str]); 3] = [(0, &["bad"]), (10, &["bad"]), (20, &["bad"])];
    assert_eq!(
        verdicts(AUTO, &deaths),
        [Verdict::Noted(1), Verdict::Isolate(2), Verdict::Quarantine(3)]
    );
    assert_eq!(
        verdicts(SHARED, &deaths),
        [Verdict::Noted(1), Verdict::Noted(2), Verdict::Quarantine(3)]
    );
}

#[test]
fn s5_deaths_beyond_the_window_are_forgotten() {
    let deaths: [(u64, &[&str]); 4] =
        [(0, &["bad"]), (30, &["bad"]), (60, &["bad"]), (120, &["bad"])];
    assert_eq!(
        verdicts(AUTO, &deaths),
        [Verdict::Noted(1), Verdict::Isolate(2), Verdict::Isolate(2), Verdict::Noted(1)]
    );
}

#[test]
fn s5_nobody_is_quarantined_for_suspicions_alone() {
    let both: &[&str] = &["innocent", "bad"];
    let deaths = [(0, both), (1, both), (2, both), (3, both)];
    assert_eq!(
        verdicts(SHARED, &deaths),
        [Verdict::Noted(1), Verdict::Noted(2), Verdict::Isolate(3), Verdict::Isolate(3)]
    );
}

#[test]
fn s5_once_alone_a_suspect_is_judged_by_that() {
    let both: &[&str] = &["bad", "innocent"];
    let deaths: [(u64, &[&str]); 3] = [(0, both), (1, both), (2, &["bad"])];
    assert_eq!(
        verdicts(SHARED, &deaths),
        [Verdict::Noted(1), Verdict::Noted(2), Verdict::Quarantine(3)]
    );
}

#[test]
fn s5_each_bundle_has_an_account_of_its_own() {
    let (mut blame, now) = (Blame::default(), Instant::now());
    for _ in 0..2 {
        let _ = blame.died([("a", SHARED)], false, now);
    }
    assert_eq!(blame.died([("b", SHARED)], false, now), [("b", Verdict::Noted(1))]);
    assert_eq!(blame.died([("a", SHARED)], false, now), [("a", Verdict::Quarantine(3))]);
}

/// It is quarantined as long as it was at so many deaths within the window.
#[test]
fn s5_the_standing_of_a_bundle_is_that_of_its_last_deaths() {
    let (mut blame, start) = (Blame::default(), Instant::now());
    let at = |second| start + Duration::from_secs(second);
    assert_eq!(blame.standing("a", AUTO, start), Verdict::Noted(0));
    for (second, expected) in
        [(0, Verdict::Noted(1)), (10, Verdict::Isolate(2)), (20, Verdict::Quarantine(3))]
    {
        assert_eq!(blame.died([("a", AUTO)], false, at(second)), [("a", expected)]);
        assert_eq!(blame.standing("a", AUTO, at(second)), expected);
    }
    assert_eq!(blame.remembered_for("a", at(20)), Duration::from_secs(40));
    assert_eq!(blame.standing("a", AUTO, at(59)), Verdict::Quarantine(3));
    assert_eq!(blame.standing("a", AUTO, at(60)), Verdict::Isolate(2));
    assert_eq!(blame.standing("a", AUTO, at(80)), Verdict::Noted(0));
    assert!(blame.deaths.is_empty());
}

/// By the defaults a load may take as long as the window is.
#[test]
fn s5_a_bundle_that_hangs_each_time_is_quarantined_whatever_its_deaths_take() {
    let (mut blame, mut now) = (Blame::default(), Instant::now());
    let config = crate::Config::default();
    let (policy, time) = (config.blame_policy("a"), config.load_timeout);
    for expected in [Verdict::Noted(1), Verdict::Noted(2), Verdict::Quarantine(3)] {
        // And what it takes until the next load begins.
        now += time + Duration::from_secs(10);
        assert_eq!(blame.died([("a", policy)], false, now), [("a", expected)]);
        blame.hung("a", time);
        assert_eq!(blame.standing("a", policy, now), expected);
    }
    // The time in which it does not hang counts.
    let forgotten = now + time + policy.window;
    assert_eq!(blame.remembered_for("a", now + time), policy.window - Duration::from_secs(20));
    assert_eq!(blame.standing("a", policy, forgotten), Verdict::Noted(0));
}

#[test]
fn s5_what_is_forgotten_begins_anew() {
    let (mut blame, now) = (Blame::default(), Instant::now());
    let _ = blame.died([("a", AUTO)], false, now);
    blame.forget("a");
    assert_eq!(blame.died([("a", AUTO)], false, now), [("a", Verdict::Noted(1))]);
}

#[test]
fn s5_a_death_at_which_nothing_ran_is_nobodys() {
    assert!(Blame::default().died([], false, Instant::now()).is_empty());
}
