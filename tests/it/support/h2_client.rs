//! An HTTP/2 client (prior knowledge) on the `h2` crate, with what tests ask about: 1xx heads,
//! trailers, resets, flow control in the test's own hands.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{PATIENCE, within};

/// One connection. Clones share it.
#[derive(Debug)]
pub struct H2Client {
    send: SendRequest<Bytes>,
    /// The connection's driver; its result says how the connection ended.
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The final status.
    pub status: u16,
    /// The final header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: Option<HeaderMap>,
    /// 1xx heads that came first.
    pub informational: Vec<(u16, HeaderMap)>,
}

impl Reply {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("visible ASCII"))
    }

    /// A trailer as text.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        let trailers = self.trailers.as_ref()?;
        trailers.get(name).map(|value| value.to_str().expect("visible ASCII"))
    }

    /// `grpc-status`, from trailers or from a trailers-only head.
    pub fn grpc_status(&self) -> Option<&str> {
        self.trailer("grpc-status").or_else(|| self.header("grpc-status"))
    }

    /// The reason code of an answer that the proxy made itself.
    pub fn reason(&self) -> Option<&str> {
        self.header("x-outrigger-reason")
    }
}

impl H2Client {
    /// Connects with the crate's defaults, except that a test which leaves many small frames unread must not be
    /// ended by its own library.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::connect_with(addr, h2::client::Builder::new().data_frame_budget(usize::MAX)).await
    }

    /// Connects with options.
    pub async fn connect_with(addr: SocketAddr, options: &h2::client::Builder) -> Self {
        let stream = within(PATIENCE, "connecting", TcpStream::connect(addr)).await;
        let stream = stream.expect("the proxy accepts connections");
        Self::over(stream, options).await
    }

    /// Speaks over a connected stream.
    pub async fn over(stream: TcpStream, options: &h2::client::Builder) -> Self {
        stream.set_nodelay(true).ok();
        let (send, connection) =
            within(PATIENCE, "an HTTP/2 handshake", options.handshake(stream)).await.expect("the handshake works");
        Self { send, driver: tokio::spawn(connection) }
    }

    /// Starts a request; `end` when there is no body.
    pub async fn open(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut ready = within(PATIENCE, "room for a stream", self.send.clone().ready()).await?;
        ready.send_request(request, end)
    }

    /// Sends a request without a body and reads its response.
    pub async fn fetch(&self, request: Request<()>) -> Result<Reply, h2::Error> {
        let (response, _) = self.open(request, true).await?;
        within(PATIENCE, "a response", read(response)).await
    }

    /// Sends a request with a body and perhaps trailers, and reads its response.
    pub async fn send(
        &self,
        request: Request<()>,
        body: impl Into<Bytes>,
        trailers: Option<HeaderMap>,
    ) -> Result<Reply, h2::Error> {
        let (response, mut stream) = self.open(request, false).await?;
        let body = body.into();
        let sending = async move {
            // The answer may come first; what it says counts more than the rest of the upload.
            if let Some(trailers) = trailers {
                send_all(&mut stream, body, false).await?;
                stream.send_trailers(trailers)?;
            } else {
                send_all(&mut stream, body, true).await?;
            }
            Ok::<_, h2::Error>(())
        };
        let (_, reply) = within(PATIENCE, "a response", async { tokio::join!(sending, read(response)) }).await;
        reply
    }

    /// `GET path`; panics when there is no response.
    pub async fn get(&self, path: &str) -> Reply {
        self.fetch(get(path)).await.expect("a response")
    }
}

/// A request for `http://a.example{path}`.
pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.example{path}")).body(()).expect("a valid request")
}

/// A POST to `http://a.example{path}`.
pub fn post(path: &str) -> Request<()> {
    Request::post(format!("http://a.example{path}")).body(()).expect("a valid request")
}

/// A gRPC request.
pub fn grpc(path: &str) -> Request<()> {
    Request::post(format!("http://a.example{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a valid request")
}

/// A gRPC message with its five-byte prefix.
pub fn grpc_message(data: &[u8]) -> Bytes {
    let mut out = vec![0];
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out.into()
}

/// Reads a whole response, 1xx heads first.
pub async fn read(mut response: ResponseFuture) -> Result<Reply, h2::Error> {
    let (informational, head) = read_head(&mut response).await?;
    let (parts, mut stream) = head.into_parts();
    let (body, trailers) = read_body(&mut stream).await?;
    Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body, trailers, informational })
}

/// The final head of a response and the 1xx heads before it.
pub async fn read_head(
    response: &mut ResponseFuture,
) -> Result<(Vec<(u16, HeaderMap)>, Response<RecvStream>), h2::Error> {
    let mut informational = Vec::new();
    while let Some(head) = poll_fn(|cx| response.poll_informational(cx)).await {
        let (parts, ()) = head?.into_parts();
        informational.push((parts.status.as_u16(), parts.headers));
    }
    Ok((informational, response.await?))
}

/// The rest of a body, releasing flow control as it comes.
pub async fn read_body(stream: &mut RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body.into(), stream.trailers().await?))
}

/// Sends a body as fast as flow control lets it.
pub async fn send_all(stream: &mut SendStream<Bytes>, mut body: Bytes, end: bool) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(0)) => {}
            Some(Ok(room)) => {
                let piece = body.split_to(room.min(body.len()));
                stream.send_data(piece, end && body.is_empty())?;
                if body.is_empty() {
                    return Ok(());
                }
            }
            Some(Err(error)) => return Err(error),
            None => return Err(h2::Reason::CANCEL.into()),
        }
    }
    if end {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}
