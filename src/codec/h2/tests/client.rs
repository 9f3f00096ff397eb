//! The client side against the library's server.

use std::borrow::Cow;

use bytes::Bytes;
use h2::server;
use http::StatusCode;

use super::support::*;
use crate::codec::body::Body;

#[tokio::test]
async fn a_request_gets_its_response() {
    let (io, _server) = upstream(server::Builder::new(), |(request, mut respond)| async move {
        let (bytes, _) = read_all(&mut request.into_body()).await.expect("the upload is whole");
        let mut stream = respond.send_response(http::Response::new(()), false).expect("sent");
        stream.send_data(Bytes::from(bytes), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let slot = connection.reserve().expect("a free stream");
    let body = Body::Full(Bytes::from_static(b"hello"));
    let interims = Interims::default();
    let sent = slot.send(Cow::Owned(head("POST", "/")), body, &interims);
    let mut response = within(sent).await.expect("a response");
    assert_eq!(response.head.status, StatusCode::OK);
    let (bytes, _) = within(drain_body(&mut response.body)).await.expect("a body");
    assert_eq!(bytes, b"hello");
}
