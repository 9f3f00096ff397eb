//! What a server makes of requests.

use bytes::Bytes;

use super::support::*;
use crate::codec::body::Body;

#[tokio::test]
async fn a_request_is_answered() {
    let down = downstream(handler(|request, _| {
        Box::pin(async move {
            assert!(matches!(request.body, Body::Empty), "{:?}", request.body);
            ok(Body::Full(Bytes::from(format!("{} {}", request.head.method, request.head.path))))
        })
    }))
    .await;
    let mut stream = down.ask(&get("/a?b")).await;
    assert_eq!(stream.status().await, Ok(200));
    assert_eq!(stream.rest().await.map(|(bytes, _)| bytes), Ok(b"GET /a?b".to_vec()));
}

#[tokio::test]
async fn an_upload_is_streamed_and_echoed() {
    let down = downstream(handler(|request, _| Box::pin(async move { ok(request.body) }))).await;
    let mut stream = down.open(&request("POST", "/", &[])).await;
    assert_eq!(stream.status().await, Ok(200));
    stream.out.write_all(&data(b"hello ")).await.expect("written");
    stream.out.write_all(&data(b"world")).await.expect("written");
    stream.out.write_all(&lines(&[("x-sum", "1")])).await.expect("written");
    stream.out.finish().expect("open");
    let (bytes, trailers) = stream.rest().await.expect("whole");
    assert_eq!(bytes, b"hello world");
    assert_eq!(trailers.expect("trailers").headers["x-sum"], "1");
}

#[tokio::test]
async fn both_sides_of_ours_understand_each_other() {
    let ends = ends().await;
    let drain = crate::base::drain::Drain::default();
    let echo = handler(|request, _| Box::pin(async move { ok(request.body) }));
    tokio::spawn(crate::codec::h3::serve(ends.server.clone(), echo, options(&drain)));
    let (connection, driver) = crate::codec::h3::H3Connection::handshake(ends.client.clone(), &client_options())
        .await
        .expect("the handshake succeeds");
    tokio::spawn(driver);
    let slot = connection.reserve().expect("a stream");
    let body = Body::Full(Bytes::from_static(b"hello"));
    let mut response = within(slot.send(std::borrow::Cow::Owned(head("POST", "/")), body, &Interims::default()))
        .await
        .expect("a response");
    assert_eq!(response.head.status, 200);
    assert_eq!(within(drain_body(&mut response.body)).await.expect("whole").0, b"hello");
}
