use std::task::Waker;

use proptest::prelude::*;

use super::*;
use crate::codec::prefixed::PrefixedBody;

const LIMIT: usize = 64 * 1024;

fn read(body: &mut Body) -> Option<Bytes> {
    match body.poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(Frame::Data(data)))) => Some(data),
        Poll::Ready(None) => None,
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn small_chunks_of_a_long_body_do_not_pin_their_buffers() {
    let mut state = Replay::new(Body::Empty, LIMIT);
    let state = Arc::get_mut(&mut state.0).expect("one owner").get_mut();
    let reader = state.enter();
    let buffer = Bytes::from(vec![7; 64 * 1024]);
    for n in 0..10 {
        state.keep(&buffer.slice(n..n + 5), reader);
    }
    assert_eq!(state.kept_bytes, 50);
    let shared = state.kept.iter().filter(|kept| buffer.as_ptr_range().contains(&kept.as_ptr())).count();
    assert_eq!(shared, SHARED_CHUNKS);
    state.keep(&buffer.slice(..JOIN_BELOW), reader);
    assert!(buffer.as_ptr_range().contains(&state.kept[5].as_ptr()), "a large one is shared");
    assert_eq!(state.kept[4].len(), 6 * 5, "those before it were joined");
}

#[test]
fn a_second_attempt_reads_the_same_bytes() {
    let replay = Replay::new(Body::Full(Bytes::from_static(b"pay once")), LIMIT);
    for _ in 0..3 {
        let mut attempt = replay.attempt();
        assert_eq!(attempt.exact_len(), Some(8));
        assert_eq!(read(&mut attempt).as_deref(), Some(&b"pay once"[..]));
        assert!(attempt.is_end());
        assert_eq!(read(&mut attempt), None);
    }
    assert!(replay.is_whole());
}

#[test]
fn a_body_over_the_limit_is_not_whole_once_read() {
    let replay = Replay::new(Body::Full(Bytes::from(vec![0; LIMIT + 1])), LIMIT);
    assert!(replay.is_whole(), "nothing was read yet");
    let mut attempt = replay.attempt();
    assert!(read(&mut attempt).is_some());
    assert!(!replay.is_whole());
}

#[test]
fn an_empty_body_stays_empty() {
    assert!(matches!(Replay::new(Body::Empty, LIMIT).attempt(), Body::Empty));
}

#[test]
fn chunks_of_a_byte_do_not_keep_a_block_each() {
    let replay = Replay::new(Body::Full(Bytes::from_static(b"x")), LIMIT);
    let mut state = replay.0.lock();
    let reader = state.enter();
    for _ in 0..1000 {
        state.keep(&Bytes::from(vec![7; 8192]).slice(..1), reader);
    }
    assert_eq!((state.kept.len(), state.tail.len()), (SHARED_CHUNKS, 1000 - SHARED_CHUNKS));
    state.keep(&Bytes::from(vec![8; JOIN_BELOW]), reader);
    state.keep(&Bytes::from_static(&[9]), reader);
    drop(state);
    let mut again = replay.attempt();
    let sizes: Vec<usize> = (0..7).map(|_| read(&mut again).expect("kept").len()).collect();
    assert_eq!(sizes, [1, 1, 1, 1, 996, JOIN_BELOW, 1]);
}

#[test]
fn what_was_kept_goes_with_the_last_attempt() {
    let replay = Replay::new(Body::Full(Bytes::from(vec![1; 10_000])), LIMIT);
    let mut attempt = replay.attempt();
    assert!(read(&mut attempt).is_some());
    drop(attempt);
    let mut last = replay.attempt();
    replay.commit();
    assert_eq!(read(&mut last).map(|data| data.len()), Some(10_000), "a retry still reads what was kept");
    assert!(replay.0.lock().kept.iter().all(Bytes::is_empty), "and gives it back");
    drop(last);
    assert_eq!(replay.received(), 10_000);
}

#[test]
fn the_callers_body_is_given_back_when_nobody_reads_it() {
    for committed_first in [true, false] {
        let replay = Replay::new(Body::Full(Bytes::from(vec![1; 10])), LIMIT);
        let attempt = replay.attempt();
        if committed_first {
            replay.commit();
            drop(attempt);
        } else {
            drop(attempt);
            assert!(matches!(replay.0.lock().source, Body::Full(_)), "another attempt may need it");
            replay.commit();
        }
        assert!(matches!(replay.0.lock().source, Body::Empty));
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("end"))])
}

/// A body, what was read of it, and whether that was all.
type Attempt = (Body, (Vec<u8>, Option<HeaderMap>), bool);

/// Reads one frame more; whether it was the last.
fn read_on(body: &mut Body, into: &mut (Vec<u8>, Option<HeaderMap>)) -> bool {
    match body.poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(Frame::Data(data)))) => {
            into.0.extend_from_slice(&data);
            false
        }
        Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
            into.1 = Some(trailers);
            true
        }
        Poll::Ready(None) => true,
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn one_that_reads_on_wakes_the_other() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Count(std::sync::atomic::AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let count = || woken.0.load(std::sync::atomic::Ordering::Relaxed);
    let replay = Replay::new(PrefixedBody::of([Bytes::from_static(b"one"), Bytes::from_static(b"two")], None), LIMIT);
    let mut first = replay.attempt();
    assert!(first.poll_frame(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(count(), 0, "alone there is nobody to wake");
    let mut second = replay.attempt();
    assert!(second.poll_frame(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(count(), 0, "it read what was kept");
    assert!(second.poll_frame(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(count(), 1);
}

#[test]
fn a_body_that_outgrows_the_limit_stays_with_the_one_that_reads_on() {
    let pieces = (0..3_u8).map(|n| Bytes::from(vec![n; LIMIT / 2]));
    let replay = Replay::new(PrefixedBody::of(pieces, None), LIMIT);
    let (mut slow, mut fast) = (replay.attempt(), replay.attempt());
    assert!(read(&mut slow).is_some());
    let sizes: Vec<u8> = (0..3).map(|_| read(&mut fast).expect("whole")[0]).collect();
    assert_eq!(sizes, [0, 1, 2]);
    assert_eq!(read(&mut fast), None);
    assert!(!slow.is_end(), "it must not look like a short body");
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(slow.poll_progress(&mut cx), Err(BodyError::Outrun));
    assert!(matches!(slow.poll_frame(&mut cx), Poll::Ready(Some(Err(BodyError::Outrun)))));
    assert!(!replay.is_whole());
    let mut late = replay.attempt();
    assert!(matches!(late.poll_frame(&mut cx), Poll::Ready(Some(Err(BodyError::Outrun)))));
}

#[test]
fn what_several_read_is_given_back_when_the_last_of_them_has_read_it() {
    let pieces = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
    let replay = Replay::new(PrefixedBody::of(pieces, None), LIMIT);
    let (mut first, mut second) = (replay.attempt(), replay.attempt());
    assert!(read(&mut first).is_some() && read(&mut first).is_some());
    replay.commit();
    assert!(!replay.0.lock().kept.iter().any(Bytes::is_empty));
    drop(first);
    assert_eq!(read(&mut second).as_deref(), Some(&b"one"[..]));
    assert!(replay.0.lock().kept[0].is_empty());
    assert_eq!(read(&mut second).as_deref(), Some(&b"two"[..]));
    assert_eq!(read(&mut second), None);
}

proptest! {
    /// Whatever the sizes and whoever reads when: each attempt reads exactly the body, also those that begin late.
    #[test]
    fn attempts_at_once_read_the_same(
        sizes in proptest::collection::vec(prop_oneof![1..60_usize, 1..6_000_usize], 0..12),
        turns in proptest::collection::vec(0..3_usize, 0..120),
        with_trailers: bool,
    ) {
        let mut next = 0_u8;
        let pieces: Vec<Bytes> = sizes
            .iter()
            .map(|size| (0..*size).map(|_| { next = next.wrapping_add(1); next }).collect::<Vec<u8>>().into())
            .collect();
        let whole = pieces.concat();
        prop_assume!(whole.len() <= LIMIT);
        let end = with_trailers.then(trailers);
        let replay = Replay::new(PrefixedBody::of(pieces, end.clone()), LIMIT);
        let mut attempts: [Option<Attempt>; 3] = [None, None, None];
        let all = turns.into_iter().chain((0..3).flat_map(|at| std::iter::repeat_n(at, 20)));
        for at in all {
            let (body, seen, ended) =
                attempts[at].get_or_insert_with(|| (replay.attempt(), (Vec::new(), None), false));
            prop_assert!(!*ended || body.is_end());
            *ended = *ended || read_on(body, seen);
            if body.is_end() && !*ended {
                prop_assert_eq!(seen.0.len(), whole.len(), "an end that was none");
            }
        }
        for attempt in attempts {
            let (_, seen, ended) = attempt.expect("each had a turn");
            prop_assert!(ended);
            prop_assert!(seen.0 == whole, "{} of {} bytes, or others", seen.0.len(), whole.len());
            prop_assert_eq!(seen.1, end.clone());
        }
        prop_assert!(replay.is_whole());
    }
}
