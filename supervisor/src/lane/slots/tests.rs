use super::*;
use crate::lane::Payload;

fn value(n: u8) -> Outcome {
    Outcome::Value(Payload::Heap(vec![n]))
}

fn complete(slots: &Slots, ticket: Ticket) -> Option<Waiter> {
    slots.complete::<()>(ticket, |_| Ok(value(1))).map(Result::unwrap)
}

#[test]
fn slots_beyond_the_first_are_made_when_they_are_needed() {
    let first = u32::try_from(FIRST).unwrap();
    let slots = Slots::new(first + 2);
    let mut tickets: Vec<Ticket> = (0..first)
        .map(|n| slots.open(n.into(), (0, Terms::default()), None).unwrap().ticket)
        .collect();
    assert!(slots.rest.get().is_none());
    assert!(slots.get(first).is_none());
    tickets.extend((0..2).map(|n| slots.open(n, (0, Terms::default()), None).unwrap().ticket));
    assert!(slots.open(9, (0, Terms::default()), None).is_none());
    let indices: Vec<u32> = tickets.iter().map(|ticket| ticket.index).collect();
    assert_eq!(indices, (0..first + 2).collect::<Vec<_>>());
    let last = *tickets.last().unwrap();
    assert!(complete(&slots, last).is_some());
    assert!(slots.take(last).is_some());
    assert_eq!(slots.open(9, (0, Terms::default()), None).unwrap().ticket.index, last.index);
    // All others are in flight.
    let failed = slots.fail_all(0, |_| value(2));
    assert_eq!(failed.ended, u64::from(first) + 2);
    // No more than may be are ever made.
    let few = Slots::new(1);
    assert!(
        few.open(1, (0, Terms::default()), None).is_some()
            && few.open(2, (0, Terms::default()), None).is_none()
    );
}

#[test]
fn slots_give_an_outcome_once() {
    let slots = Slots::new(2);
    let ticket = slots.open(0, (7, Terms::default()), None).unwrap().ticket;
    assert!(slots.take(ticket).is_none());
    assert!(matches!(complete(&slots, ticket), Some(Waiter::Nobody)));
    assert!(complete(&slots, ticket).is_none(), "answered twice");
    assert!(matches!(slots.take(ticket), Some((Outcome::Value(_), None))));
    assert!(slots.take(ticket).is_none());
    assert!(complete(&slots, ticket).is_none(), "answered after it was taken");
}

#[test]
fn slots_tell_uses_of_one_slot_apart() {
    let slots = Slots::new(1);
    let first = slots.open(0, (0, Terms::default()), None).unwrap().ticket;
    assert!(slots.open(1, (0, Terms::default()), None).is_none(), "no more than there are");
    complete(&slots, first);
    slots.take(first).unwrap();
    let second = slots.open(1, (0, Terms::default()), None).unwrap().ticket;
    assert_ne!(first, second);
    assert!(complete(&slots, first).is_none());
    assert!(!slots.abandon(first));
    assert!(slots.is_running(second, 2));
    assert!(!slots.is_running(second, 1));
}

#[test]
fn slots_never_give_a_call_the_id_0() {
    let slots = Slots::new(1);
    // After 2^32 calls in one slot, an hour or two of a hot lane.
    let last = State { generation: u32::MAX, phase: Phase::Free };
    slots.first[0].state.store(last.pack(), Relaxed);
    let ticket = slots.open(0, (0, Terms::default()), None).unwrap().ticket;
    assert_ne!(ticket.wire(), 0);
    assert!(matches!(complete(&slots, ticket), Some(Waiter::Nobody)));
    assert!(slots.take(ticket).is_some());
}

#[test]
fn slots_wake_who_sleeps() {
    let slots = Slots::new(4);
    let ticket = slots.open(0, (0, Terms::default()), None).unwrap().ticket;
    assert!(slots.wait(ticket, Waiter::Thread(std::thread::current())));
    assert!(slots.any_thread().is_some());
    assert!(matches!(complete(&slots, ticket), Some(Waiter::Thread(_))));
    assert!(slots.any_thread().is_none());
    assert!(!slots.wait(ticket, Waiter::Nobody), "the outcome is there");
    assert!(slots.take(ticket).is_some());
}

#[test]
fn slots_of_callers_that_went_are_freed_by_the_answer() {
    let slots = Slots::new(1);
    let ticket = slots.open(0, (0, Terms::default()), None).unwrap().ticket;
    assert!(slots.abandon(ticket));
    assert!(slots.open(1, (0, Terms::default()), None).is_none(), "its answer is still due");
    assert!(matches!(complete(&slots, ticket), Some(Waiter::Nobody)));
    assert!(slots.open(1, (0, Terms::default()), None).is_some());
}

#[test]
fn slots_abandoned_after_the_answer_are_free_at_once() {
    let slots = Slots::new(1);
    let ticket = slots.open(0, (0, Terms::default()), None).unwrap().ticket;
    complete(&slots, ticket);
    assert!(!slots.abandon(ticket));
    assert!(slots.open(1, (0, Terms::default()), None).is_some());
}

#[test]
fn slots_fail_what_had_begun_and_give_back_the_rest() {
    let slots = Slots::new(4);
    let begun = slots.open(0, (3, Terms::default()), None).unwrap().ticket;
    slots.sent_at(begun, Instant::now(), None);
    let waiting = slots.open(1, (4, Terms::default()), None).unwrap().ticket;
    let gone = slots.open(2, (5, Terms::default()), None).unwrap().ticket;
    assert!(slots.abandon(gone));
    let failed = slots.fail_all(1, |started| if started { value(0) } else { Outcome::NotBegun });
    assert_eq!((failed.ended, failed.running.len()), (3, 1));
    assert_eq!(failed.running[0].function, 3);
    assert!(failed.running[0].age.is_some());
    assert!(matches!(slots.take(begun), Some((Outcome::Value(_), _))));
    assert!(matches!(slots.take(waiting), Some((Outcome::NotBegun, _))));
}

#[test]
fn slots_give_the_readers_own_outcome_straight_back() {
    let slots = Slots::new(1);
    let ticket = slots.open(0, (0, Terms::default()), None).unwrap().ticket;
    assert!(matches!(slots.own_segment(ticket), Some(None)));
    slots.complete_own(ticket);
    assert!(slots.own_segment(ticket).is_none());
    assert!(slots.open(1, (0, Terms::default()), None).is_some());
}

#[test]
fn slots_whose_answer_is_nonsense_go_on_waiting_for_the_lanes_end() {
    let slots = Slots::new(1);
    let ticket = slots.open(0, (0, Terms::default()), None).unwrap().ticket;
    assert!(matches!(slots.own_segment(ticket), Some(None)));
    let failed = slots.fail_all(1, |_| value(0));
    assert_eq!(failed.ended, 1);
    assert!(slots.take(ticket).is_some());
}

/// Those of calls that nobody has timed are not known; those of calls that have ended are
/// of no interest.
#[test]
fn l7_the_last_deadline_is_that_of_a_call_in_flight() {
    let slots = Slots::new(4);
    let now = Instant::now();
    let [first, second, third] =
        [0, 1, 2].map(|n| slots.open(n, (0, Terms::default()), None).unwrap().ticket);
    assert_eq!(slots.last_deadline(), None);
    let hour = Duration::from_secs(3600);
    slots.sent_at(first, now, Some(now + hour));
    slots.sent_at(second, now, Some(now + 2 * hour));
    slots.sent_at(third, now, None);
    assert_eq!(slots.last_deadline(), Some(now + 2 * hour));
    // Its caller has gone; it runs on.
    assert!(slots.abandon(second));
    assert_eq!(slots.last_deadline(), Some(now + 2 * hour));
    assert_eq!(slots.running(2), [first, second]);
    assert!(complete(&slots, second).is_some());
    assert_eq!(slots.last_deadline(), Some(now + hour));
    slots.complete_own(first);
    assert_eq!(slots.last_deadline(), None);
    assert_eq!(slots.running(3), [third]);
    // The next use of a slot has a deadline of its own.
    slots.open(3, (0, Terms::default()), None).unwrap();
    assert_eq!(slots.last_deadline(), None);
}

/// Whether somebody has looked at the clock for it or not.
#[test]
fn s6_what_a_call_is_made_with_is_known() {
    let hour = Duration::from_secs(3600);
    let slots = Slots::new(4);
    let open = |limit| slots.open(0, (0, Terms::new(7, limit)), None).unwrap().ticket;
    let (limited, endless) = (open(hour), open(Duration::ZERO));
    let before = Instant::now();
    let Some((7, Due::At(due))) = slots.made_for(limited) else { panic!() };
    assert!(due >= before + hour && due <= Instant::now() + hour);
    assert_eq!(slots.made_for(endless), Some((7, Due::Never)));
    assert_eq!(slots.last_deadline(), None, "nobody has looked at the clock");
    let until = Instant::now() + hour / 2;
    slots.sent_at(limited, Instant::now(), Some(until));
    slots.sent_at(endless, Instant::now(), None);
    assert_eq!(slots.made_for(limited), Some((7, Due::At(until))));
    assert_eq!(slots.made_for(endless), Some((7, Due::Never)));
    assert_eq!(slots.last_deadline(), Some(until));
    // Longer than any clock runs.
    assert!(matches!(slots.made_for(open(Duration::MAX)), Some((7, Due::At(_) | Due::Never))));
    assert!(slots.abandon(limited));
    assert!(slots.complete(limited, |_| Ok::<_, ()>(Outcome::NotBegun)).is_some());
    assert_eq!(slots.made_for(limited), None);
}
