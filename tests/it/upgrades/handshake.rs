//! What is agreed to, what is refused, and what is passed on of a handshake.

use super::*;

#[tokio::test]
async fn fields_of_the_handshake_reach_the_other_side_and_those_of_one_hop_do_not() {
    let server = EchoServer::h1().await;
    let proxy = Proxy::start(&Config::to("http1", &[server.addr])).await;
    let asked =
        "Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Extensions: permessage-deflate\r\nCookie: a=b\r\n";
    let (answer, mut socket) = WebSocket::h1_with(proxy.addr(), "/chat?x=1", asked).await;
    assert_eq!(answer["sec-websocket-protocol"], "chat");
    socket.echoes("hello").await;
    let seen = server.seen.handshakes.lock()[0].clone();
    assert_eq!(seen["sec-websocket-protocol"], "chat, superchat");
    assert_eq!(seen["sec-websocket-extensions"], "permessage-deflate");
    assert_eq!(seen["cookie"], "a=b");
    assert_ne!(
        seen["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==",
        "the key of one connection is not that of another"
    );
    assert_eq!(seen["connection"], "Upgrade");
    socket.close().await;
}

#[tokio::test]
async fn a_bad_handshake_is_refused_and_says_why() {
    let server = EchoServer::h1().await;
    let proxy = Proxy::start(&Config::to("http1", &[server.addr])).await;
    let good = websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "");
    for (bad, status) in [
        (good.replace("Version: 13", "Version: 8"), 426),
        (good.replace("Sec-WebSocket-Version: 13\r\n", ""), 400),
        (good.replace("bm9uY2U=", "").replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), 400),
        (good.replace("Sec-WebSocket-Key", "X-Key"), 400),
        (good.replace("GET", "POST"), 400),
        (good.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi"), 400),
    ] {
        let mut client = H1Client::connect(proxy.addr()).await;
        let reply = client.exchange(bad.clone()).await;
        assert_eq!(reply.status, status, "{bad}");
        assert_eq!(reply.reason(), Some("DPE"));
        if status == 426 {
            assert_eq!(reply.head.get("sec-websocket-version"), Some("13"));
            assert_eq!(reply.head.get("upgrade"), Some("websocket"));
        }
    }
    assert!(server.seen.handshakes.lock().is_empty());
}
