//! Handshakes take turns on a worker: their steps are the longest things that run there (signatures and key
//! exchanges, up to a millisecond), and a burst of new connections must not hold up requests that are under way.
//!
//! After each step every task that was ready gets its turn before the next step runs: whoever ran a step goes
//! to the end of the runtime's queue, and so does the one who is let in. The gate is never held while a
//! handshake waits for its peer. First come, first served.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

thread_local! {
    static GATE: RefCell<Gate> = const { RefCell::new(Gate { holder: None, waiting: VecDeque::new(), next: 0 }) };
}

#[derive(Debug)]
struct Gate {
    /// Whose turn it is: it runs its step, or has run it and yields.
    holder: Option<u64>,
    waiting: VecDeque<(u64, Option<Waker>)>,
    next: u64,
}

impl Gate {
    /// Lets the next one in. It runs when the runtime comes to it, after what is ready now.
    fn pass_on(&mut self) -> Option<Waker> {
        let next = self.waiting.pop_front();
        self.holder = next.as_ref().map(|(ticket, _)| *ticket);
        next.and_then(|(_, waker)| waker)
    }
}

/// Runs one step of a handshake in its turn. Cancel safe: dropped before the step, it does not run; dropped
/// after, its result is lost and the next one is let in.
pub(in crate::net) async fn step<T>(work: impl FnOnce() -> T) -> T {
    let mut turn = Turn { ticket: None };
    (&mut turn).await;
    let result = work();
    turn.end().await;
    result
}

/// A place in the queue. Dropping it gives the place up.
struct Turn {
    ticket: Option<u64>,
}

impl Turn {
    /// Lets every task that is ready run, then opens the gate, unless it was handed on at once.
    async fn end(self) {
        let handed_on = GATE.with_borrow_mut(|gate| (!gate.waiting.is_empty()).then(|| gate.pass_on()));
        match handed_on {
            Some(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            None => Lap(false).await,
        }
        // Dropping opens the gate if this still holds it.
        drop(self);
    }
}

impl Future for &mut Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        GATE.with_borrow_mut(|gate| {
            let ticket = *self.ticket.get_or_insert_with(|| {
                gate.next += 1;
                gate.next
            });
            if gate.holder == Some(ticket) {
                return Poll::Ready(());
            }
            if gate.holder.is_none() && gate.waiting.is_empty() {
                gate.holder = Some(ticket);
                return Poll::Ready(());
            }
            match gate.waiting.iter_mut().find(|(waiting, _)| *waiting == ticket) {
                Some((_, waker)) => waker.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker()),
                None => gate.waiting.push_back((ticket, Some(cx.waker().clone()))),
            }
            Poll::Pending
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let waker = GATE.with_borrow_mut(|gate| {
            if gate.holder == Some(ticket) {
                return gate.pass_on();
            }
            gate.waiting.retain(|(waiting, _)| *waiting != ticket);
            None
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Ready after all tasks that are ready now.
struct Lap(bool);

impl Future for Lap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What ran, in order.
    type Log = Arc<Mutex<Vec<&'static str>>>;

    async fn others(log: Log, times: usize) {
        for _ in 0..times {
            log.lock().expect("no panic").push("other");
            Lap(false).await;
        }
    }

    async fn handshake(log: Log, steps: usize) {
        for _ in 0..steps {
            step(|| log.lock().expect("no panic").push("step")).await;
        }
    }

    #[tokio::test]
    async fn between_two_steps_every_ready_task_runs() {
        let log = Log::default();
        let mut tasks = Vec::new();
        for _ in 0..5 {
            tasks.push(tokio::spawn(handshake(Arc::clone(&log), 3)));
        }
        for _ in 0..2 {
            tasks.push(tokio::spawn(others(Arc::clone(&log), 200)));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        let log = log.lock().expect("no panic");
        let steps: Vec<usize> = log.iter().enumerate().filter(|(_, what)| **what == "step").map(|(at, _)| at).collect();
        assert_eq!(steps.len(), 15);
        for pair in steps.windows(2) {
            assert!(pair[1] - pair[0] > 2, "both others run between: {log:?}");
        }
        assert!(*steps.last().expect("some") < 200, "and the steps do not wait for the others to end");
    }

    #[tokio::test]
    async fn one_that_leaves_lets_the_next_one_in() {
        let log = Log::default();
        let (leave, left) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn(async move {
            let mut turn = Turn { ticket: None };
            (&mut turn).await;
            left.await.expect("told");
        });
        Lap(false).await;
        let second = tokio::spawn(handshake(Arc::clone(&log), 1));
        let third = tokio::spawn(handshake(Arc::clone(&log), 1));
        Lap(false).await;
        assert!(log.lock().expect("no panic").is_empty(), "the gate is held");
        second.abort();
        assert!(second.await.expect_err("aborted").is_cancelled());
        leave.send(()).expect("it waits");
        first.await.expect("no panic");
        third.await.expect("no panic");
        assert_eq!(*log.lock().expect("no panic"), ["step"]);
        GATE.with_borrow(|gate| assert!(gate.holder.is_none() && gate.waiting.is_empty()));
    }
}
