//! A raw HTTP/1.1 client: it sends what it is told to, byte for byte, and reads strictly.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::http1::{Response, Wire, Writer};
use super::{PATIENCE, within};

/// One connection.
#[derive(Debug)]
pub struct H1Client {
    /// The connection, for reading piece by piece.
    pub wire: Wire,
}

impl H1Client {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = within(PATIENCE, "connecting", TcpStream::connect(addr)).await;
        Self { wire: Wire::new(stream.expect("the proxy accepts connections")) }
    }

    /// Connects with a small receive buffer, so that not reading is felt early.
    pub async fn connect_narrow(addr: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("make a socket");
        socket.set_recv_buffer_size(16 * 1024).expect("set the receive buffer");
        let stream = within(PATIENCE, "connecting", socket.connect(addr)).await;
        Self { wire: Wire::new(stream.expect("the proxy accepts connections")) }
    }

    /// Writes bytes. An error is ignored: the answer, or its absence, is what counts.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) {
        within(PATIENCE, "sending", self.wire.send(bytes)).await.ok();
    }

    /// A handle that writes.
    pub fn writer(&self) -> Writer {
        self.wire.writer()
    }

    /// Reads one response; panics when there is none.
    pub async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    /// Reads the response to a request with this method.
    pub async fn response_to(&mut self, method: &str) -> Response {
        match within(PATIENCE, "a response", self.wire.response(method)).await {
            Ok(response) => response,
            Err(error) => panic!("no well-formed response: {error}; read {}", self.seen()),
        }
    }

    /// Reads the head of a response; the body stays in the connection.
    pub async fn response_head(&mut self) -> Response {
        match within(PATIENCE, "a response head", self.wire.response_head("GET")).await {
            Ok(response) => response,
            Err(error) => panic!("no well-formed response head: {error}; read {}", self.seen()),
        }
    }

    /// Sends a request and reads its response.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> Response {
        let request = request.as_ref();
        let method = request.split(|&b| b == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(method).into_owned();
        self.send(request).await;
        self.response_to(&method).await
    }

    /// `GET path` with `host: a.example`.
    pub async fn get(&mut self, path: &str) -> Response {
        self.exchange(format!("GET {path} HTTP/1.1\r\nhost: a.example\r\n\r\n")).await
    }

    /// Everything until the proxy closes; panics when it does not within `limit`.
    pub async fn rest(&mut self, limit: Duration) -> Vec<u8> {
        within(limit, "the proxy closing the connection", self.wire.rest()).await
    }

    /// Waits until the proxy closes; true when that was a reset.
    pub async fn closed(&mut self, limit: Duration) -> bool {
        within(limit, "the proxy closing the connection", self.wire.closed()).await
    }

    /// Listens for a while: whether the connection stays open. What comes is read.
    pub async fn stays_open(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.wire.rest()).await.is_err()
    }

    fn seen(&self) -> String {
        self.wire.seen.escape_ascii().to_string()
    }
}

/// One request on its own connection.
pub async fn exchange(addr: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    H1Client::connect(addr).await.exchange(request).await
}

/// `GET path` with `host: a.example` on its own connection.
pub async fn get(addr: SocketAddr, path: &str) -> Response {
    H1Client::connect(addr).await.get(path).await
}
