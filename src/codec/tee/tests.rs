use std::sync::atomic::AtomicU32;
use std::task::Wake;

use super::*;

/// Counts how often it is woken.
#[derive(Debug, Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll(body: &mut Body) -> Poll<Option<Result<Frame, BodyError>>> {
    body.poll_frame(&mut Context::from_waker(Waker::noop()))
}

fn data(body: &mut Body) -> Bytes {
    match poll(body) {
        Poll::Ready(Some(Ok(Frame::Data(data)))) => data,
        other => panic!("data, not {other:?}"),
    }
}

/// A body of these chunks.
fn chunks(sizes: &[usize]) -> Body {
    let room = CopyRoom::new(usize::MAX, usize::MAX);
    let copy = Arc::new(Shared { room, queue: Mutex::default() });
    sizes.iter().for_each(|&size| assert!(copy.push(&Bytes::from(vec![7; size]))));
    copy.finish(None);
    Body::Copy(Box::new(CopyBody { copy, left: Some(sizes.iter().sum::<usize>() as u64), ended: false }))
}

#[test]
fn both_read_the_same_bytes_and_share_them() {
    let room = CopyRoom::new(1 << 20, 1 << 20);
    let (mut original, mut copy) = tee(Body::Full(Bytes::from(vec![1; 10_000])), &room);
    assert_eq!((original.exact_len(), copy.exact_len()), (Some(10_000), Some(10_000)));
    let first = data(&mut original);
    assert!(original.is_end() && !copy.is_end());
    assert_eq!(room.taken(), 10_000);
    assert_eq!(data(&mut copy).as_ptr(), first.as_ptr());
    assert!(copy.is_end());
    assert!(matches!(poll(&mut copy), Poll::Ready(None)));
    assert_eq!(room.taken(), 0);
}

#[test]
fn nothing_is_copied_of_nothing() {
    let (original, copy) = tee(Body::Empty, &CopyRoom::new(1, 1));
    assert!(matches!((original, copy), (Body::Empty, Body::Empty)));
}

#[test]
fn a_reader_who_waits_is_woken() {
    let room = CopyRoom::new(1 << 20, 1 << 20);
    let (mut original, mut copy) = tee(chunks(&[5, 5]), &room);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(copy.poll_frame(&mut Context::from_waker(&waker)).is_pending());
    data(&mut original);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    data(&mut copy);
    assert!(copy.poll_frame(&mut Context::from_waker(&waker)).is_pending());
    drop(original);
    assert_eq!(woken.0.load(Ordering::Relaxed), 2, "the end as well");
    assert!(matches!(poll(&mut copy), Poll::Ready(Some(Err(BodyError::Abandoned)))), "and it is no end of the body");
}

#[test]
fn a_reader_who_falls_behind_loses_the_copy_and_the_original_goes_on() {
    for room in [CopyRoom::new(1 << 20, 20_000), CopyRoom::new(20_000, 1 << 20)] {
        let (mut original, mut copy) = tee(chunks(&[10_000, 10_000, 1, 10_000]), &room);
        data(&mut original);
        data(&mut original);
        assert_eq!(room.taken(), 20_000);
        assert_eq!(data(&mut original).len(), 1, "the third is small and takes no less than a block");
        assert_eq!(room.taken(), 0);
        assert_eq!(data(&mut original).len(), 10_000);
        assert!(copy.poll_progress(&mut Context::from_waker(Waker::noop())).is_err());
        assert!(matches!(poll(&mut copy), Poll::Ready(Some(Err(BodyError::Abandoned)))));
    }
}

#[test]
fn a_copy_that_nobody_reads_is_not_kept() {
    let room = CopyRoom::new(1 << 20, 1 << 20);
    let (mut original, copy) = tee(chunks(&[10_000, 10_000]), &room);
    data(&mut original);
    drop(copy);
    assert_eq!(room.taken(), 0);
    data(&mut original);
    assert_eq!(room.taken(), 0);
    assert!(original.is_end());
}

#[test]
fn trailers_are_copied() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("1"));
    let source = Arc::new(Shared { room: CopyRoom::new(1 << 20, 1 << 20), queue: Mutex::default() });
    source.finish(Some(trailers.clone()));
    let source = Body::Copy(Box::new(CopyBody { copy: source, left: None, ended: false }));
    let (mut original, mut copy) = tee(source, &CopyRoom::new(1, 1));
    for body in [&mut original, &mut copy] {
        let Poll::Ready(Some(Ok(Frame::Trailers(read)))) = poll(body) else { panic!("trailers") };
        assert_eq!(read, trailers);
    }
    drop(original);
    assert!(matches!(poll(&mut copy), Poll::Ready(None)));
}
