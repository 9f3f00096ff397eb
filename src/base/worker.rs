//! Which worker the current thread is.
//!
//! Workers number themselves when they start; every other thread (control, tests) counts as worker 0 of 1.
//! The number only chooses a shard or a pool, so two threads with one number are slower, never wrong.

use std::cell::Cell;

thread_local! {
    static IDENTITY: Cell<(usize, usize)> = const { Cell::new((0, 1)) };
}

/// The number of this worker, from 0.
#[must_use]
pub fn index() -> usize {
    IDENTITY.get().0
}

/// How many workers there are beside (and with) this one.
#[must_use]
pub fn count() -> usize {
    IDENTITY.get().1
}

/// Makes the current thread worker `index` of `count`. Called once, by the thread that becomes one.
pub fn enter(index: usize, count: usize) {
    debug_assert!(index < count, "a worker's number is below their count");
    IDENTITY.set((index, count));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_knows_itself_and_other_threads_count_as_the_first() {
        let inside = std::thread::spawn(|| {
            enter(2, 4);
            (index(), count())
        });
        assert_eq!(inside.join().expect("the thread ends"), (2, 4));
        assert_eq!(std::thread::spawn(|| (index(), count())).join().expect("the thread ends"), (0, 1));
    }
}
