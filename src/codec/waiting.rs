//! Those who wait for something of a connection that they share.

use std::task::Waker;

/// Wakers, by place. There are never more places than waited at once: whoever leaves gives its place back.
#[derive(Debug, Default)]
pub(super) struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Places {
    /// One more waits; where it does.
    pub(super) fn insert(&mut self, waker: Waker) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.wakers[place] = Some(waker);
                place
            }
            None => {
                self.wakers.push(Some(waker));
                self.wakers.len() - 1
            }
        }
    }

    /// It waits on, and is woken so.
    pub(super) fn update(&mut self, place: usize, waker: &Waker) {
        match &mut self.wakers[place] {
            Some(before) => before.clone_from(waker),
            empty => *empty = Some(waker.clone()),
        }
    }

    /// It waits no more.
    pub(super) fn remove(&mut self, place: usize) {
        self.wakers[place] = None;
        self.free.push(place);
    }

    /// How many wait, and how many places there are.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.wakers.len() - self.free.len(), self.wakers.len())
    }

    /// Everyone to be woken now. They keep their places.
    pub(super) fn take(&mut self) -> Vec<Waker> {
        self.wakers.iter_mut().filter_map(Option::take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_gives_its_place_to_the_next() {
        let mut places = Places::default();
        let stays = places.insert(Waker::noop().clone());
        for _ in 0..1_000 {
            let place = places.insert(Waker::noop().clone());
            places.update(place, Waker::noop());
            places.remove(place);
        }
        assert_eq!(places.counts(), (1, 2));
        assert_eq!(places.take().len(), 1);
        assert!(places.take().is_empty(), "each is woken once");
        places.update(stays, Waker::noop());
        assert_eq!(places.take().len(), 1);
    }
}
