//! Polling what seldom happens only once it has happened.
//!
//! A task that moves bytes is woken for each of them. Whatever else it waits for (a timer, a drain, a cut) would be asked
//! just as often, though it wakes the task itself when there is something to hear. With a [`WakeFlag`] it is asked then only,
//! and a load tells that it need not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// Whether something that was polled, and was not ready, has woken its task since. It may be several things: they are
/// polled together.
#[derive(Debug, Default)]
pub struct WakeFlag {
    flag: Option<Arc<Flag>>,
}

#[derive(Debug)]
struct Flag {
    woken: AtomicBool,
    task: Waker,
}

impl WakeFlag {
    /// The waker to poll it with; `None`: it is as pending as it was. Whoever gets a waker must poll with it.
    pub fn take(&mut self, cx: &Context<'_>) -> Option<Waker> {
        if let Some(flag) = self.flag.as_ref().filter(|flag| flag.task.will_wake(cx.waker())) {
            // Lowered before it is polled: what happens from then on raises it again.
            let woken = flag.woken.load(Ordering::Relaxed) && flag.woken.swap(false, Ordering::AcqRel);
            return woken.then(|| Waker::from(Arc::clone(flag)));
        }
        // It has never been polled, or another task has it now.
        let flag = Arc::new(Flag { woken: AtomicBool::new(false), task: cx.waker().clone() });
        Some(Waker::from(Arc::clone(self.flag.insert(flag))))
    }

    /// It is to be polled next time, whether it wakes anyone or not.
    pub fn reset(&mut self) {
        self.flag = None;
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task() -> (Arc<Task>, Waker) {
        let task = Arc::<Task>::default();
        (Arc::clone(&task), Waker::from(task))
    }

    #[test]
    fn it_is_polled_first_and_then_once_for_each_time_it_wakes() {
        let (task, waker) = task();
        let cx = Context::from_waker(&waker);
        let mut flag = WakeFlag::default();
        let given = flag.take(&cx).expect("never polled before");
        assert!(flag.take(&cx).is_none(), "the task was woken for something else");
        given.wake_by_ref();
        given.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 2, "the task hears of it");
        assert!(flag.take(&cx).expect("it woke").will_wake(&given));
        assert!(flag.take(&cx).is_none());
        flag.reset();
        assert!(flag.take(&cx).is_some());
    }

    #[test]
    fn another_task_polls_it_anew_and_is_the_one_that_is_woken() {
        let ((before, first), (after, second)) = (task(), task());
        let mut flag = WakeFlag::default();
        let _ = flag.take(&Context::from_waker(&first)).expect("never polled before");
        let given = flag.take(&Context::from_waker(&second)).expect("it would wake the task that it was in");
        given.wake();
        assert_eq!((before.0.load(Ordering::Relaxed), after.0.load(Ordering::Relaxed)), (0, 1));
        assert!(flag.take(&Context::from_waker(&second)).is_some());
    }
}
