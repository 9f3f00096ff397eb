//! A deadline that is cheap to move.
//!
//! Most deadlines are set, moved a thousand times and never reached. [`Deadline`] registers with the
//! runtime's timer only when something waits, and leaves the registration alone while the deadline only
//! moves later; when it fires early it looks again.
//!
//! It does not take part in the runtime's budget of a task: a task that always has something to do uses that up in each
//! turn, and its deadlines would never pass.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::task::coop::unconstrained;
use tokio::time::Sleep;

/// A movable deadline. Cancel safe: it holds nothing but a timer.
#[derive(Debug, Default)]
pub struct Deadline {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Ready once `at` has passed. `at` may differ from call to call.
    pub fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let target = tokio::time::Instant::from_std(at);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(target)));
        if target < sleep.deadline() {
            sleep.as_mut().reset(target);
        }
        while pin!(unconstrained(sleep.as_mut())).poll(cx).is_ready() {
            if tokio::time::Instant::now() >= target {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(target);
        }
        Poll::Pending
    }

    /// As [`Deadline::poll`]; `None` is never reached.
    pub fn poll_opt(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        match at {
            Some(at) => self.poll(cx, at),
            None => Poll::Pending,
        }
    }
}

use std::future::Future as _;

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_later_fires_at_the_later_time() {
        let mut deadline = Deadline::default();
        let start = tokio::time::Instant::now();
        let first = (start + Duration::from_secs(1)).into_std();
        let later = (start + Duration::from_secs(5)).into_std();
        poll_fn(|cx| {
            assert!(deadline.poll(cx, first).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| deadline.poll(cx, later)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_earlier_fires_at_the_earlier_time() {
        let mut deadline = Deadline::default();
        let start = tokio::time::Instant::now();
        let first = (start + Duration::from_secs(10)).into_std();
        let earlier = (start + Duration::from_secs(2)).into_std();
        poll_fn(|cx| {
            assert!(deadline.poll(cx, first).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| deadline.poll(cx, earlier)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_always_busy_sees_its_deadline_pass() {
        let mut deadline = Deadline::default();
        let at = (tokio::time::Instant::now() + Duration::from_secs(1)).into_std();
        let busy = |cx: &mut Context<'_>| {
            while let Poll::Ready(turn) = tokio::task::coop::poll_proceed(cx) {
                turn.made_progress();
            }
        };
        poll_fn(|cx| {
            busy(cx);
            assert!(deadline.poll(cx, at).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::time::advance(Duration::from_secs(2)).await;
        poll_fn(|cx| {
            busy(cx);
            assert!(deadline.poll(cx, at).is_ready());
            Poll::Ready(())
        })
        .await;
    }
}
