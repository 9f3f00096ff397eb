use super::*;
use proptest::prelude::*;

const TIMEOUT: Duration = Duration::from_millis(100);
const PATIENCE: Patience = Patience::new(TIMEOUT);
const MAX: usize = 4;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn join(queue: &mut Queue<&'static str>, who: (Criticality, u64), item: &'static str, now: Instant) -> Ticket {
    match queue.join(who, item, MAX, now) {
        Joined::Waiting { ticket, pushed_out: None } => ticket,
        other => panic!("{item}: {other:?}"),
    }
}

fn take(queue: &mut Queue<&'static str>, now: Instant) -> Option<Taken<&'static str>> {
    queue.take(|_| true, PATIENCE, now)
}

fn order(queue: &mut Queue<&'static str>, now: Instant) -> Vec<&'static str> {
    std::iter::from_fn(|| match take(queue, now) {
        Some(Taken::Turn(item)) => Some(item),
        other => {
            assert_eq!(other, None);
            None
        }
    })
    .collect()
}

#[test]
fn the_more_critical_class_goes_first() {
    let now = Instant::now();
    let mut queue = Queue::default();
    join(&mut queue, (Criticality::Default, 1), "default", now);
    join(&mut queue, (Criticality::Sheddable, 1), "sheddable", now);
    join(&mut queue, (Criticality::Critical, 1), "critical", now);
    assert_eq!(order(&mut queue, now), ["critical", "default", "sheddable"]);
}

#[test]
fn a_class_without_room_is_passed_over() {
    let now = Instant::now();
    let mut queue = Queue::default();
    join(&mut queue, (Criticality::Sheddable, 1), "sheddable", now);
    let only_critical = |class| class == Criticality::Critical;
    assert_eq!(queue.take(only_critical, PATIENCE, now), None);
    join(&mut queue, (Criticality::Critical, 1), "critical", now);
    assert_eq!(queue.take(only_critical, PATIENCE, now), Some(Taken::Turn("critical")));
}

#[test]
fn callers_take_turns_however_much_one_of_them_asks() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for item in ["loud 1", "loud 2", "loud 3"] {
        join(&mut queue, (Criticality::Default, 1), item, now);
    }
    join(&mut queue, (Criticality::Default, 2), "quiet", now);
    assert_eq!(order(&mut queue, now), ["loud 1", "quiet", "loud 2", "loud 3"]);
}

#[test]
fn a_burst_is_served_in_order() {
    let start = Instant::now();
    let mut queue = Queue::default();
    join(&mut queue, (Criticality::Default, 1), "first", start);
    join(&mut queue, (Criticality::Default, 1), "second", start + ms(10));
    assert_eq!(order(&mut queue, start + ms(90)), ["first", "second"]);
}

#[test]
fn a_queue_that_does_not_become_empty_serves_the_newest_and_tells_the_others_early() {
    let start = Instant::now();
    let mut queue = Queue::default();
    join(&mut queue, (Criticality::Default, 1), "a", start);
    join(&mut queue, (Criticality::Default, 1), "b", start + ms(92));
    join(&mut queue, (Criticality::Default, 1), "c", start + ms(99));
    let now = start + ms(101);
    assert_eq!(queue.patience(Criticality::Default, PATIENCE, now), TIMEOUT / STANDING_PART);
    assert_eq!(queue.patience(Criticality::Critical, PATIENCE, now), TIMEOUT, "each class by itself");
    assert_eq!(take(&mut queue, now), Some(Taken::TooLate("a")));
    assert_eq!(take(&mut queue, now), Some(Taken::Turn("c")));
    assert_eq!(take(&mut queue, now), Some(Taken::Turn("b")));
    assert_eq!(queue.patience(Criticality::Default, PATIENCE, now), TIMEOUT, "it became empty");
}

#[test]
fn a_full_queue_gives_way_to_a_more_critical_request_and_to_nobody_else() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for (caller, item) in [(1, "a"), (2, "b"), (3, "c")] {
        join(&mut queue, (Criticality::Default, caller), item, now);
    }
    join(&mut queue, (Criticality::Sheddable, 4), "lowest", now);
    assert_eq!(queue.join((Criticality::Sheddable, 5), "late", MAX, now), Joined::Full("late"));
    let joined = queue.join((Criticality::Default, 5), "d", MAX, now);
    assert!(matches!(joined, Joined::Waiting { pushed_out: Some("lowest"), .. }), "{joined:?}");
    assert_eq!(queue.join((Criticality::Default, 6), "e", MAX, now), Joined::Full("e"));
    let joined = queue.join((Criticality::Critical, 6), "f", MAX, now);
    assert!(matches!(joined, Joined::Waiting { pushed_out: Some("a" | "b" | "c" | "d"), .. }), "{joined:?}");
}

#[test]
fn in_a_full_queue_the_loudest_caller_makes_room_for_one_who_has_less() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for item in ["loud 1", "loud 2", "loud 3"] {
        join(&mut queue, (Criticality::Default, 1), item, now);
    }
    join(&mut queue, (Criticality::Default, 2), "quiet 1", now);
    let joined = queue.join((Criticality::Default, 2), "quiet 2", MAX, now);
    assert!(matches!(joined, Joined::Waiting { pushed_out: Some("loud 1"), .. }), "{joined:?}");
    assert_eq!(queue.join((Criticality::Default, 1), "loud 4", MAX, now), Joined::Full("loud 4"));
    assert_eq!(queue.join((Criticality::Default, 2), "quiet 3", MAX, now), Joined::Full("quiet 3"));
}

#[test]
fn who_leaves_is_gone_and_does_not_leave_twice() {
    let now = Instant::now();
    let mut queue = Queue::default();
    let first = join(&mut queue, (Criticality::Default, 1), "first", now);
    let second = join(&mut queue, (Criticality::Default, 1), "second", now);
    assert_eq!(queue.leave(first), Some("first"));
    assert_eq!(queue.leave(first), None);
    assert_eq!(take(&mut queue, now), Some(Taken::Turn("second")));
    assert_eq!(queue.leave(second), None);
    assert!(queue.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Join(Criticality, u64),
    Take,
    Leave(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop_oneof![Just(ALL[0]), Just(ALL[1]), Just(ALL[2])];
    let step = prop_oneof![
        4 => (class, 0..4_u64).prop_map(|(class, caller)| Step::Join(class, caller)),
        2 => Just(Step::Take),
        1 => any::<prop::sample::Index>().prop_map(|at| Step::Leave(at.index(1000))),
        1 => (0..60_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Everybody who joins comes out exactly once, the queue never holds more than it may, and nobody is served while
    /// somebody more critical waits.
    #[test]
    fn nobody_is_lost_and_nobody_overtakes_a_higher_class(steps in steps(), max in 1..6_usize) {
        let mut now = Instant::now();
        let mut queue: Queue<usize> = Queue::default();
        let mut classes = Vec::new();
        let mut tickets: Vec<Option<Ticket>> = Vec::new();
        let out = |tickets: &mut Vec<Option<Ticket>>, id: usize| {
            prop_assert!(tickets[id].take().is_some(), "{id} came out twice");
            Ok(())
        };
        for step in steps {
            match step {
                Step::Join(class, caller) => {
                    let id = tickets.len();
                    classes.push(class);
                    match queue.join((class, caller), id, max, now) {
                        Joined::Waiting { ticket, pushed_out } => {
                            tickets.push(Some(ticket));
                            if let Some(other) = pushed_out {
                                prop_assert!(classes[other] <= class);
                                out(&mut tickets, other)?;
                            }
                        }
                        Joined::Full(_) => tickets.push(None),
                    }
                }
                Step::Take => match queue.take(|_| true, PATIENCE, now) {
                    Some(Taken::Turn(id) | Taken::TooLate(id)) => {
                        let waiting = tickets.iter().zip(&classes).filter(|(ticket, _)| ticket.is_some());
                        let highest = waiting.map(|(_, class)| *class).max();
                        prop_assert_eq!(highest, Some(classes[id]));
                        out(&mut tickets, id)?;
                    }
                    None => prop_assert!(queue.is_empty()),
                },
                Step::Leave(at) if at < tickets.len() => {
                    if let Some(ticket) = tickets[at] {
                        prop_assert_eq!(queue.leave(ticket), Some(at));
                        out(&mut tickets, at)?;
                    }
                }
                Step::Leave(_) => {}
                Step::Wait(millis) => now += ms(millis),
            }
            prop_assert!(queue.len() <= max);
            prop_assert_eq!(queue.len(), tickets.iter().flatten().count());
        }
    }
}
