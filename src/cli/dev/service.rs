//! A demo service: answers every request with what it saw of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::uri::Scheme;
use serde_json::json;
use tokio::net::TcpListener;

use crate::base::drain::Drain;
use crate::base::task;
use crate::codec::{Body, Handler, Interim, Refusal, Request, Response, ResponseHead, ServerOptions, h1};
use crate::net::io::Io;

/// A demo service: answers with what it saw.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: Arc<str>,
    /// The instance.
    pub(super) workload: String,
}

/// Serves until the runtime ends.
pub(super) async fn serve(socket: TcpListener, service: Arc<Service>) {
    let drain = Drain::default();
    loop {
        // A failure concerns one caller or passes; the demo goes on.
        let Ok((stream, _)) = socket.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let options = ServerOptions {
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            max_concurrent_streams: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            retire_at: None,
            scheme: Scheme::HTTP,
            drain: drain.watch(),
            pressure: Arc::<crate::base::pressure::Pressure>::default().watch(),
        };
        drop(task::spawn("demo-connection", h1::serve(Io::tcp(stream), Arc::clone(&service), options)));
    }
}

impl Handler for Service {
    type Body = Body;

    async fn handle(&self, request: Request, _: &dyn Interim) -> Response<Body> {
        let Request { head, mut body, .. } = request;
        // What is meant for a tunnel is no body, and there is no tunnel here.
        let received = if head.asks_for_tunnel() { 0 } else { count_bytes(&mut body).await };
        let mut headers = BTreeMap::<&str, String>::new();
        for (name, value) in &head.headers {
            let text = String::from_utf8_lossy(value.as_bytes());
            let line = headers.entry(name.as_str()).or_default();
            // Writing to a string cannot fail.
            let _ = write!(line, "{}{text}", if line.is_empty() { "" } else { ", " });
        }
        let seen = json!({
            "service": &*self.name,
            "workload": &*self.workload,
            "method": head.method.as_str(),
            "authority": head.authority.map(|authority| authority.to_string()),
            "path": head.path.as_str(),
            "headers": headers,
            "bodyBytes": received,
        });
        json_response(StatusCode::OK, format!("{seen:#}\n"))
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        json_response(refusal.status, format!("{:#}\n", json!({ "refused": refusal.detail })))
    }
}

/// Reads a body to its end; a broken one counts as far as it came.
async fn count_bytes(body: &mut Body) -> usize {
    use crate::codec::{Frame, PollBody as _};
    let mut count = 0;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        if let Frame::Data(data) = frame {
            count += data.len();
        }
    }
    count
}

fn json_response(status: StatusCode, text: String) -> Response<Body> {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    Response { head: ResponseHead { status, headers }, body: Body::Full(Bytes::from(text)) }
}
