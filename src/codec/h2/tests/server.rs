//! The server side against the library's client.

use bytes::Bytes;
use http::StatusCode;

use super::support::*;
use crate::codec::body::Body;

#[tokio::test]
async fn a_request_is_answered_with_its_body() {
    let mut down = downstream(handler(|mut request, _| {
        Box::pin(async move {
            let (bytes, _) = drain_body(&mut request.body).await.expect("the upload is whole");
            ok(Body::Full(Bytes::from(bytes)))
        })
    }))
    .await;
    let (response, mut upload) = down.client.send_request(post("/echo"), false).expect("sent");
    upload.send_data(Bytes::from_static(b"hello"), true).expect("sent");
    let response = within(response).await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    let (bytes, _) = within(read_all(&mut response.into_body())).await.expect("a body");
    assert_eq!(bytes, b"hello");
}
