//! The wire under a connection.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::support::within;
use crate::codec::h2::wire::Wire;

#[tokio::test]
async fn small_writes_are_held_until_they_are_released() {
    let (near, mut far) = tokio::io::duplex(1024);
    let mut wire = Wire::new(near);
    wire.take_turns();
    let traffic = wire.traffic();
    wire.write_all(b"one ").await.expect("taken");
    wire.flush().await.expect("nothing to do");
    wire.write_all(b"two").await.expect("taken");
    assert_eq!(traffic.written(), 0, "nothing has left");
    poll_fn(|cx| wire.poll_release(cx)).await.expect("written");
    assert_eq!(traffic.written(), 7);
    let mut bytes = [0; 7];
    within(far.read_exact(&mut bytes)).await.expect("arrived");
    assert_eq!(&bytes, b"one two");
}

#[tokio::test]
async fn a_wire_that_does_not_take_turns_writes_through() {
    let (near, mut far) = tokio::io::duplex(1024);
    let mut wire = Wire::new(near);
    wire.write_all(b"now").await.expect("written");
    let mut bytes = [0; 3];
    within(far.read_exact(&mut bytes)).await.expect("arrived");
    assert_eq!(&bytes, b"now");
}

#[tokio::test]
async fn order_is_kept_whatever_the_sizes() {
    let (near, mut far) = tokio::io::duplex(777);
    let mut wire = Wire::new(near);
    wire.take_turns();
    let sizes = [1, 4096, 4097, 10, 20_000, 3, 4000, 4000, 4000, 4000, 4000, 9, 65_536, 0, 1];
    let chunks: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(n, size)| vec![n as u8; *size]).collect();
    let expected: Vec<u8> = chunks.concat();
    let reading = tokio::spawn(async move {
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.expect("read");
        bytes
    });
    for chunk in &chunks {
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            // A head and a payload, as the library writes them.
            let (head, payload) = rest.split_at(rest.len().min(9));
            let slices = [IoSlice::new(head), IoSlice::new(payload)];
            let n = within(poll_fn(|cx| Pin::new(&mut wire).poll_write_vectored(cx, &slices))).await.expect("written");
            assert!(n > 0);
            rest = &rest[n..];
        }
    }
    within(wire.shutdown()).await.expect("shut down");
    drop(wire);
    let bytes = within(reading).await.expect("runs");
    assert!(bytes == expected, "the bytes differ");
}

#[tokio::test]
async fn a_full_socket_holds_the_writer_back() {
    let (near, _far) = tokio::io::duplex(64);
    let mut wire = Wire::new(near);
    wire.take_turns();
    let chunk = [0; 1024];
    let mut taken = 0;
    poll_fn(|cx| {
        while let Poll::Ready(n) = Pin::new(&mut wire).poll_write(cx, &chunk) {
            taken += n.expect("no failure");
            assert!(taken <= 64 * 1024, "it takes without end");
        }
        Poll::Ready(())
    })
    .await;
    assert!(taken >= 1024);
}

#[tokio::test]
async fn a_turn_reads_a_bounded_amount() {
    const SIZE: usize = 1024 * 1024;
    let (near, mut far) = tokio::io::duplex(SIZE);
    far.write_all(&vec![0; SIZE]).await.expect("written");
    drop(far);
    let mut wire = Wire::new(near);
    wire.take_turns();
    let (mut read, mut turns) = (0, 0);
    let mut buffer = vec![0; 8 * 1024];
    within(poll_fn(|cx| {
        turns += 1;
        loop {
            let mut buf = ReadBuf::new(&mut buffer);
            match Pin::new(&mut wire).poll_read(cx, &mut buf) {
                Poll::Ready(done) => done.expect("no failure"),
                Poll::Pending => break,
            }
            if buf.filled().is_empty() {
                return Poll::Ready(());
            }
            read += buf.filled().len();
        }
        assert!(wire.poll_release(cx).is_ready());
        Poll::Pending
    }))
    .await;
    assert_eq!((read, turns), (SIZE, 17));
}
