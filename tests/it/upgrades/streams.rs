//! Streams that are no tunnels: server-sent events and requests that are held.

use super::*;
use crate::support::http1::chunk;
use crate::support::{Conn, H1Backend};

#[tokio::test]
async fn events_are_passed_on_at_once_and_their_last_id_reaches_the_server() {
    let (send, events) = tokio::sync::watch::channel(0u32);
    let backend = H1Backend::start(move |mut conn: Conn| {
        let mut events = events.clone();
        async move {
            if conn.request().await.is_none() {
                return;
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            conn.send(head).await.ok();
            while events.changed().await.is_ok() {
                let id = *events.borrow_and_update();
                if conn.send(chunk(format!("id: {id}\ndata: x\n\n").as_bytes())).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send("GET /events HTTP/1.1\r\nhost: a.example\r\naccept: text/event-stream\r\nlast-event-id: 41\r\ncookie: s=1\r\n\r\n").await;
    let reply = client.response_head().await;
    assert_eq!(reply.head.get("content-type"), Some("text/event-stream"));
    for id in [42, 43, 44] {
        send.send_replace(id);
        let event = within(PATIENCE, "an event", client.wire.chunk()).await.unwrap().unwrap();
        assert_eq!(event, format!("id: {id}\ndata: x\n\n").into_bytes());
    }
    let asked = backend.requests().remove(0);
    assert_eq!((asked.head.get("last-event-id"), asked.head.get("cookie")), (Some("41"), Some("s=1")));
}
