//! Layer 9: the admin server, for people, probes and scrapers. It runs on the control thread and sees the
//! proxy only through [`Subject`], so it can neither hold up nor change a request.
//!
//! A web page in a browser on this machine can reach a loopback address under a name of its own (DNS
//! rebinding), so on loopback only requests for a loopback host are answered.

use std::future::IntoFuture as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use self::limited::Limited;
use crate::base::task;

mod breakers;
mod limited;

pub use self::breakers::{BreakerName, BreakerState};

/// What the admin server shows and can do.
pub trait Subject: Send + Sync + 'static {
    /// Whether callers should be sent here.
    fn readiness(&self) -> Readiness;
    /// What is done because memory is short, if anything.
    fn shortage(&self) -> Option<&'static str>;
    /// The configuration in effect and what was refused, without credentials.
    fn config(&self) -> impl Serialize;
    /// Clusters and their endpoints.
    fn clusters(&self) -> impl Serialize;
    /// Circuit breakers.
    fn breakers(&self) -> impl Serialize;
    /// Orders a breaker to be something; it holds until it is taken back.
    ///
    /// # Errors
    /// Why there is no such breaker, in a sentence.
    fn order_breaker(&self, name: &BreakerName, state: BreakerState) -> Result<impl Serialize + use<Self>, String>;
    /// Listeners and their connections.
    fn listeners(&self) -> impl Serialize;
    /// Certificates in effect and what was refused, without keys.
    fn certificates(&self) -> impl Serialize;
    /// Who would be refused if listeners were stricter.
    fn rehearsal(&self) -> impl Serialize;
    /// All metrics and their content type.
    fn metrics(&self) -> (String, &'static str);
    /// Begins to go down.
    fn drain(&self);
    /// The log level or filter in effect.
    fn log_filter(&self) -> String;
    /// Changes it.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    fn set_log_filter(&self, filter: &str) -> Result<(), String>;
}

/// Whether callers should be sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Readiness {
    /// Not yet: the listeners are not bound.
    Starting,
    /// Yes.
    Ready,
    /// No longer.
    Draining,
}

/// A bound admin server.
#[derive(Debug)]
pub struct Server {
    socket: tokio::net::TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds. The port is not shared: two proxies with one admin address are a mistake.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = tokio::net::TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens, the port filled in.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for `subject` until the task is aborted.
    pub fn start<S: Subject>(self, subject: Arc<S>) -> JoinHandle<()> {
        let router = router(subject, self.address.ip());
        let serving = axum::serve(Limited::new(self.socket), router).into_future();
        task::spawn("admin", async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the admin server has ended");
            }
        })
    }
}

fn router<S: Subject>(subject: Arc<S>, bound: IpAddr) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/ready", get(ready::<S>))
        .route("/live", get(async || "live\n"))
        .route("/config", get(async |State(s): State<Arc<S>>| json(&s.config())))
        .route("/clusters", get(async |State(s): State<Arc<S>>| json(&s.clusters())))
        .route("/breakers", get(async |State(s): State<Arc<S>>| json(&s.breakers())).post(breakers::order::<S>))
        .route("/listeners", get(async |State(s): State<Arc<S>>| json(&s.listeners())))
        .route("/certs", get(async |State(s): State<Arc<S>>| json(&s.certificates())))
        .route("/rehearsal", get(async |State(s): State<Arc<S>>| json(&s.rehearsal())))
        .route("/metrics", get(metrics::<S>))
        .route("/drain", post(drain::<S>))
        .route("/log", get(log_filter::<S>).post(set_log_filter::<S>))
        .method_not_allowed_fallback(async || {
            sentence(StatusCode::METHOD_NOT_ALLOWED, "This path answers another method; see / for which.")
        })
        .fallback(async || sentence(StatusCode::NOT_FOUND, "There is nothing here; see / for what there is."))
        .layer(middleware::from_fn_with_state(bound, guard))
        .with_state(subject)
}

async fn guard(State(bound): State<IpAddr>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if bound.is_loopback() && !host.is_some_and(is_local) {
        return sentence(
            StatusCode::FORBIDDEN,
            "This server answers only requests for localhost or a loopback address.",
        );
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a `Host` names this machine, with or without a port.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(_, port)| is_port(port)).map(|(name, _)| name),
        None => match host.split_once(':') {
            None => Some(host),
            Some((name, port)) => is_port(&format!(":{port}")).then_some(name),
        },
    };
    name.is_some_and(|name| {
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    })
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

async fn index() -> Response {
    sentence(StatusCode::OK, INDEX)
}

const INDEX: &str = "\
outrigger admin
GET  /ready         200 while callers should be sent here, else 503
GET  /live          200 while this process works
GET  /config        what runs, and what was refused last
GET  /clusters      endpoints with live health
GET  /breakers      circuit breakers
POST /breakers?…    force one: cluster=…[&endpoint=…] or rule=…[&routes=…], with state=open, closed or auto
GET  /listeners     listeners with their connections
GET  /certs         certificates, roots and when they end
GET  /rehearsal     who would be refused if listeners were stricter
GET  /metrics       Prometheus
POST /drain         go down gracefully
GET  /log           the log filter
POST /log?level=…   change it: error, warn, info, debug, trace, or module=level,…";

async fn ready<S: Subject>(State(subject): State<Arc<S>>) -> Response {
    match subject.readiness() {
        // Whoever is taken out of balancing because it has much to do leaves that to others, who have no more room.
        Readiness::Ready => match subject.shortage() {
            None => sentence(StatusCode::OK, "ready"),
            Some(level) => sentence(StatusCode::OK, &format!("ready, short of memory: {level}")),
        },
        Readiness::Starting => sentence(StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Readiness::Draining => sentence(StatusCode::SERVICE_UNAVAILABLE, "draining"),
    }
}

async fn metrics<S: Subject>(State(subject): State<Arc<S>>) -> Response {
    let (text, content_type) = subject.metrics();
    ([(CONTENT_TYPE, content_type)], text).into_response()
}

async fn drain<S: Subject>(State(subject): State<Arc<S>>) -> Response {
    subject.drain();
    sentence(StatusCode::ACCEPTED, "draining")
}

async fn log_filter<S: Subject>(State(subject): State<Arc<S>>) -> Response {
    sentence(StatusCode::OK, &subject.log_filter())
}

#[derive(Debug, Deserialize)]
struct LogQuery {
    level: Option<String>,
}

async fn set_log_filter<S: Subject>(State(subject): State<Arc<S>>, query: Query<LogQuery>) -> Response {
    let Some(level) = &query.level else {
        return sentence(StatusCode::BAD_REQUEST, "Say which: POST /log?level=debug");
    };
    match subject.set_log_filter(level) {
        Ok(()) => sentence(StatusCode::OK, &subject.log_filter()),
        Err(problem) => sentence(StatusCode::BAD_REQUEST, &problem),
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => sentence(StatusCode::INTERNAL_SERVER_ERROR, &format!("This cannot be shown: {error}.")),
    }
}

fn sentence(status: StatusCode, text: &str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{text}\n")).into_response()
}

#[cfg(test)]
mod tests;
