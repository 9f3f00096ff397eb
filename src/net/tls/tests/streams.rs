//! Bytes over TLS: readiness, quiet, ends.

use super::*;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

async fn connection() -> (Io, Io) {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let (server, client) = (Side::server(&clock, &root).build(), Side::client(&clock, &root).build());
    let ((server, _), (client, _)) = agree(&server, &client).await;
    (server, client)
}

/// What `poll` says without anybody being woken.
fn now<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn many_bytes_go_both_ways_unchanged() {
    let (server, client) = connection().await;
    let block: Vec<u8> = (0..1_000_000u32).map(|n| u8::try_from(n % 251).expect("small")).collect();
    let (mut a_read, mut a_write) = tokio::io::split(server);
    let (mut b_read, mut b_write) = tokio::io::split(client);
    let (mut a_got, mut b_got) = (Vec::new(), Vec::new());
    let (a, b, c, d) = tokio::join!(
        async {
            a_write.write_all(&block).await?;
            a_write.shutdown().await
        },
        async {
            b_write.write_all(&block).await?;
            b_write.shutdown().await
        },
        a_read.read_to_end(&mut a_got),
        b_read.read_to_end(&mut b_got),
    );
    for sent in [a, b] {
        sent.expect("sent");
    }
    for received in [c, d] {
        received.expect("received");
    }
    assert!(a_got == block && b_got == block);
}

#[tokio::test]
async fn slices_are_written_as_one() {
    let (mut server, mut client) = connection().await;
    assert!(client.is_write_vectored());
    let slices = [io::IoSlice::new(b"one "), io::IoSlice::new(b""), io::IoSlice::new(b"two")];
    let n = poll_fn(|cx| Pin::new(&mut client).poll_write_vectored(cx, &slices)).await.expect("written");
    assert_eq!(n, 7);
    client.flush().await.expect("flushed");
    let mut got = [0; 7];
    server.read_exact(&mut got).await.expect("received");
    assert_eq!(&got, b"one two");
}

#[tokio::test]
async fn plaintext_that_waits_in_the_session_is_ready() {
    let (mut server, mut client) = connection().await;
    client.write_all(b"0123456789").await.expect("sent");
    client.flush().await.expect("sent");
    server.read_exact(&mut [0; 4]).await.expect("received");
    // The socket is empty now, and the session is not.
    assert!(now(|cx| server.poll_read_ready(cx)).is_ready());
    assert!(!server.is_quiet());
    server.read_exact(&mut [0; 6]).await.expect("received");
    assert!(now(|cx| server.poll_read_ready(cx)).is_pending());
    assert!(server.is_quiet());
}

#[tokio::test]
async fn a_session_ticket_is_quiet() {
    let (server, mut client) = connection().await;
    // The ticket arrives after the handshake; it is taken, and nothing else happened.
    poll_fn(|cx| match client.poll_read_ready(cx) {
        Poll::Ready(result) => panic!("a ticket is no plaintext: {result:?}"),
        Poll::Pending => Poll::Ready(()),
    })
    .await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(now(|cx| client.poll_read_ready(cx)).is_pending());
    assert!(client.is_quiet());
    drop(server);
    let error = client.read(&mut [0; 8]).await.expect_err("not a clean end");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(!client.is_quiet());
}

#[tokio::test]
async fn what_comes_in_is_not_quiet_and_not_lost() {
    let (mut server, mut client) = connection().await;
    assert!(client.is_quiet());
    server.write_all(b"late").await.expect("sent");
    server.shutdown().await.expect("closed");
    poll_fn(|cx| client.poll_read_ready(cx)).await.expect("ready");
    assert!(!client.is_quiet());
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.expect("a clean end");
    assert_eq!(got, b"late");
    assert!(!client.is_quiet(), "it is closed");
}

#[tokio::test]
async fn an_end_without_notice_is_an_error() {
    let (mut server, mut client) = connection().await;
    server.write_all(b"half of").await.expect("sent");
    server.flush().await.expect("sent");
    drop(server);
    let mut got = Vec::new();
    let error = client.read_to_end(&mut got).await.expect_err("not a clean end");
    assert_eq!((error.kind(), &got[..]), (io::ErrorKind::UnexpectedEof, &b"half of"[..]));
}

#[tokio::test]
async fn a_writer_is_held_back_and_its_reader_pushes_the_rest_out() {
    let (mut server, mut client) = connection().await;
    let chunk = vec![7; 64 * 1024];
    let mut sent = 0;
    while let Poll::Ready(n) = now(|cx| Pin::new(&mut client).poll_write(cx, &chunk)) {
        sent += n.expect("written");
        assert!(sent < 64 * 1024 * 1024, "the socket is full at some point");
    }
    let reading = async {
        let mut left = sent;
        let mut buffer = vec![0; 32 * 1024];
        while left > 0 {
            left -= server.read(&mut buffer).await.expect("received");
        }
        server.write_all(b"done").await.expect("sent");
        server.flush().await.expect("sent");
        server
    };
    // The client only reads from now on; what it wrote goes out all the same.
    let mut answer = [0; 4];
    let (server, answered) = tokio::join!(reading, client.read_exact(&mut answer));
    answered.expect("received");
    drop(server);
}

#[tokio::test]
async fn a_client_learns_after_the_handshake_that_it_was_refused() {
    let clock = Arc::new(TestClock::default());
    let (root, other) = (Authority::root("Mesh CA"), Authority::root("Other CA"));
    let mut server = Side::server(&clock, &root);
    let server = server.put("bundle.pem", &root.pem).build();
    // It believes the server, which does not believe it.
    let mut client = Side::client(&clock, &other);
    client.put("bundle.pem", &format!("{}{}", root.pem, other.pem));
    let (accepted, connected) = shake(&server, &client.build()).await;
    assert_eq!(accepted.expect_err("refused").code(), "unknown-issuer");
    let (mut io, _) = connected.expect("in TLS 1.3 the client cannot know yet");
    let error = io.read(&mut [0; 8]).await.expect_err("refused");
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<PeerAlert>()).expect("an alert");
    assert_eq!(alert.to_string(), "the peer ended the connection: unknown_ca");
}

#[tokio::test]
async fn a_connection_can_be_reset() {
    let (server, mut client) = connection().await;
    server.reset_on_close();
    drop(server);
    let error = client.read(&mut [0; 8]).await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_write_of_which_nothing_went_out_fails_at_once() {
    let (server, mut client) = connection().await;
    server.reset_on_close();
    drop(server);
    let error = client.read(&mut [0; 8]).await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = client.write(b"a request").await.expect_err("nothing was sent");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_write_of_which_a_part_went_out_is_not_taken_back() {
    let (server, mut client) = connection().await;
    // Until the socket takes no more, in the middle of a write.
    let chunk = vec![7; 64 * 1024];
    while let Poll::Ready(n) = now(|cx| Pin::new(&mut client).poll_write(cx, &chunk)) {
        assert!(n.expect("written") > 0);
    }
    server.reset_on_close();
    drop(server);
    let error = client.flush().await.expect_err("the rest cannot go out");
    assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error:?}");
}
