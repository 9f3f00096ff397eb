//! Connections to requests, and their orderly end.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};
use tower::ServiceExt as _;

use super::limits::{HEAD_TIMEOUT, MAX_HEAD, MAX_HEADERS, STOP_TIMEOUT};
use crate::tls::Conn;

/// Serves a router on connections.
#[derive(Debug)]
pub struct Server {
    router: Router,
}

impl Server {
    /// For a router.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self { router }
    }

    /// Serves what comes from `connections` until `stop` is true or there are no more; then requests that are being
    /// answered get a few seconds.
    pub async fn serve(
        self,
        mut connections: impl Stream<Item = std::io::Result<Conn>> + Unpin,
        mut stop: watch::Receiver<bool>,
    ) {
        let connections_stop = stop.clone();
        let mut tasks = JoinSet::new();
        let router = Arc::new(self.router);
        loop {
            tokio::select! {
                biased;
                // Without a sender nobody can stop us any more: the same as a stop.
                _ = stop.wait_for(|stop| *stop) => break,
                Some(_) = tasks.join_next() => {}
                connection = connections.next() => match connection {
                    Some(Ok(connection)) => _ = tasks.spawn(one(connection, Arc::clone(&router), connections_stop.clone())),
                    Some(Err(error)) => tracing::debug!(%error, "a connection to the API failed"),
                    None => break,
                },
            }
        }
        let rest = async { while tasks.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, rest).await.is_err() {
            tracing::warn!("requests to the API were cut off by the stop");
        }
    }
}

async fn one(connection: Conn, router: Arc<Router>, mut stop: watch::Receiver<bool>) {
    let peer = connection.peer().clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let router = Router::clone(&router);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        async move {
            match router.oneshot(request).await {
                Ok(response) => Ok::<_, Infallible>(response),
                Err(never) => match never {},
            }
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(connection), service);
    tokio::pin!(serving);
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stopped => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the API ended");
    }
}
