//! What one exchange costs in memory before anything is sent.

use std::borrow::Cow;

use super::support::{Interims, TestHandler, client_options, connect, head, pipe};
use crate::codec::body::Body;
use crate::codec::h2::{H2ClientBody, exchange};

fn size_of_future<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

#[tokio::test]
async fn the_futures_of_an_exchange_stay_small() {
    let task = size_of_future(exchange::answer::<TestHandler>);
    assert!(task <= 640, "the task of a downstream stream: {task} bytes");
    let (near, _far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let slot = connection.reserve().expect("a free stream");
    let interims = Interims::default();
    let send = size_of_val(&slot.send(Cow::Owned(head("GET", "/")), Body::Empty, &interims));
    assert!(send <= 256, "sending a request: {send} bytes");
    let body = size_of::<H2ClientBody>();
    assert!(body <= 256, "the body of a response: {body} bytes");
}
