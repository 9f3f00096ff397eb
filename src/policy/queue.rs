//! In which order requests that wait get their turn, and which are given up.
//!
//! The more critical class goes first. Within a class callers take turns, so that one caller who asks a thousand times
//! does not push the others back. Within a caller it depends: a queue that was empty a moment ago holds a burst, and the
//! oldest goes first. A queue that has not been empty for as long as a request may wait holds more than can be served.
//! Serving the oldest first would then answer every request just before its caller gives up, or just after; so the
//! newest goes first, and those that do not get a turn soon are told early ([`Patience`]). Most of those served have then
//! hardly waited, which keeps goodput up and latency down while the overload lasts.
//!
//! Pure: `now` is an argument. What waits is of any type; who takes an item out says what becomes of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use outrigger_config::model::Criticality;

/// Those that wait.
#[derive(Debug)]
pub struct Queue<T> {
    /// By class, the most critical last.
    classes: [Class<T>; CLASSES],
    next: u64,
}

/// How long requests may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(Duration);

/// A place in the queue, to leave it with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    class: Criticality,
    caller: u64,
    number: u64,
}

/// What came of joining.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined<T> {
    /// It waits.
    Waiting {
        /// To leave with.
        ticket: Ticket,
        /// Whose place it took: the queue was full.
        pushed_out: Option<T>,
    },
    /// The queue is full, and nobody in it matters less.
    Full(T),
}

/// One that was taken out.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// It is its turn.
    Turn(T),
    /// It has waited too long.
    TooLate(T),
}

#[derive(Debug)]
struct Class<T> {
    /// Whose turn it is first. Nobody here waits for nothing.
    callers: VecDeque<Caller<T>>,
    len: usize,
    /// Since when it has not been empty.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Caller<T> {
    key: u64,
    /// The oldest first.
    waiting: VecDeque<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    number: u64,
    since: Instant,
    item: T,
}

/// How many classes there are.
pub const CLASSES: usize = 3;
/// All classes, the least critical first: as [`index`] numbers them.
pub const ALL: [Criticality; CLASSES] = [Criticality::Sheddable, Criticality::Default, Criticality::Critical];
/// In a queue that does not become empty a request waits for this part of its time.
const STANDING_PART: u32 = 8;

/// A class as an index, the least critical first.
#[must_use]
pub const fn index(class: Criticality) -> usize {
    match class {
        Criticality::Sheddable => 0,
        Criticality::Default => 1,
        Criticality::Critical => 2,
    }
}

impl Patience {
    /// A request may wait for this long.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self(timeout)
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let class = || Class { callers: VecDeque::new(), len: 0, since: None };
        Self { classes: [class(), class(), class()], next: 0 }
    }
}

impl<T> Queue<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.classes.iter().map(|class| class.len).sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.iter().all(|class| class.len == 0)
    }

    /// Whether somebody of this class or a more critical one waits.
    #[must_use]
    pub fn is_before(&self, class: Criticality) -> bool {
        self.classes[index(class)..].iter().any(|class| class.len > 0)
    }

    /// How long a request that joins now may wait.
    #[must_use]
    pub fn patience(&self, class: Criticality, patience: Patience, now: Instant) -> Duration {
        self.classes[index(class)].patience(patience, now)
    }

    /// Joins the queue, which may hold `max`. In a full one the oldest request of the least critical class makes room,
    /// of that caller who has the most there, for a request that is more critical or whose caller has fewer.
    pub fn join(&mut self, (class, caller): (Criticality, u64), item: T, max: usize, now: Instant) -> Joined<T> {
        let mut pushed_out = None;
        if self.len() >= max {
            match self.make_room(class, caller) {
                Some(oldest) => pushed_out = Some(oldest),
                None => return Joined::Full(item),
            }
        }
        let number = self.next;
        self.next += 1;
        self.classes[index(class)].push(caller, Waiting { number, since: now, item }, now);
        Joined::Waiting { ticket: Ticket { class, caller, number }, pushed_out }
    }

    /// Takes one out that may go on, or that has waited too long. `has_room` says which classes may go on.
    pub fn take(
        &mut self,
        has_room: impl Fn(Criticality) -> bool,
        patience: Patience,
        now: Instant,
    ) -> Option<Taken<T>> {
        let class = ALL.into_iter().rev().find(|class| self.classes[index(*class)].len > 0 && has_room(*class))?;
        self.classes[index(class)].take(patience, now)
    }

    /// Leaves. `None`: it was taken out before.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        self.classes[index(ticket.class)].leave(ticket)
    }

    /// Takes out whoever must make room, if anybody must.
    fn make_room(&mut self, class: Criticality, caller: u64) -> Option<T> {
        let lowest = ALL.into_iter().find(|class| self.classes[index(*class)].len > 0)?;
        let from = &mut self.classes[index(lowest)];
        let (at, most) =
            from.callers.iter().map(|caller| caller.waiting.len()).enumerate().max_by_key(|(_, waiting)| *waiting)?;
        if lowest == class {
            let own = from.callers.iter().find(|known| known.key == caller).map_or(0, |known| known.waiting.len());
            if most <= own + 1 {
                return None;
            }
        }
        (lowest <= class).then(|| from.pop(at, End::Oldest))?
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Oldest,
    Newest,
}

impl<T> Class<T> {
    fn push(&mut self, key: u64, waiting: Waiting<T>, now: Instant) {
        self.since.get_or_insert(now);
        self.len += 1;
        match self.callers.iter_mut().find(|caller| caller.key == key) {
            Some(caller) => caller.waiting.push_back(waiting),
            None => self.callers.push_back(Caller { key, waiting: VecDeque::from([waiting]) }),
        }
    }

    /// The next one, whose caller then goes to the end of the line.
    fn take(&mut self, patience: Patience, now: Instant) -> Option<Taken<T>> {
        let longest = self.patience(patience, now);
        let first = self.callers.front()?;
        let oldest = first.waiting.front()?;
        if now.saturating_duration_since(oldest.since) > longest {
            // Its caller keeps its turn.
            return self.pop(0, End::Oldest).map(Taken::TooLate);
        }
        let end = if self.is_standing(patience, now) { End::Newest } else { End::Oldest };
        let key = first.key;
        let item = self.pop(0, end)?;
        if self.callers.front().is_some_and(|caller| caller.key == key) {
            self.callers.rotate_left(1);
        }
        Some(Taken::Turn(item))
    }

    fn pop(&mut self, at: usize, end: End) -> Option<T> {
        let caller = self.callers.get_mut(at)?;
        let waiting = match end {
            End::Oldest => caller.waiting.pop_front(),
            End::Newest => caller.waiting.pop_back(),
        }?;
        if caller.waiting.is_empty() {
            self.callers.remove(at);
        }
        self.count_out();
        Some(waiting.item)
    }

    fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let at = self.callers.iter().position(|caller| caller.key == ticket.caller)?;
        let waiting = &mut self.callers[at].waiting;
        let place = waiting.binary_search_by_key(&ticket.number, |waiting| waiting.number).ok()?;
        let left = waiting.remove(place)?;
        if waiting.is_empty() {
            self.callers.remove(at);
        }
        self.count_out();
        Some(left.item)
    }

    fn count_out(&mut self) {
        self.len -= 1;
        if self.len == 0 {
            self.since = None;
        }
    }

    fn is_standing(&self, Patience(timeout): Patience, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= timeout)
    }

    fn patience(&self, patience: Patience, now: Instant) -> Duration {
        if self.is_standing(patience, now) { patience.0 / STANDING_PART } else { patience.0 }
    }
}

#[cfg(test)]
mod tests;
