//! Requests that come before the handshake of their connection is over (RFC 8470). Somebody may have recorded them, and
//! send them again or later. So only what is safe to repeat goes on at once, marked for those behind us; anything else
//! waits for the end of the handshake, which only its sender can bring about.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::timeout_at;

use super::ConnectionHandler;
use super::attempt::{self, Answered, Exchange, Failure};
use super::record::Record;
use crate::codec::{Body, Interim, PollBody as _, Refusal, Request, RequestHead};
use crate::snapshot::Listener;
use crate::telemetry::metrics::EarlyRequest;

const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

const TOO_EARLY: Refusal = Refusal {
    status: StatusCode::TOO_EARLY,
    code: "early_data",
    detail: "The request came in early data, and the handshake did not end well.",
};

/// How a request stands to the handshake of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Early {
    /// It is handled after it.
    #[default]
    No,
    /// It is handled before its end, and we have said so in the request.
    Marked,
    /// It is handled before its end, and its sender has said that it may be early: it, not we, hears when it is too early.
    MarkedBefore,
}

impl ConnectionHandler {
    /// Waits for the end of the handshake, unless the request need not. What it need not by is what it is handled by: a
    /// configuration that comes in between may have rules that it would have to wait for.
    pub(super) async fn settle(&self, request: &mut Request) -> (Arc<Listener>, Result<Early, Refusal>) {
        let listener = self.listener();
        let Some(end) = self.origin.info.handshake.as_ref().filter(|end| !end.has_come()) else {
            return (listener, Ok(Early::No));
        };
        if may_go_ahead(request, &listener) {
            listener.metrics.early(EarlyRequest::Handled);
            // RFC 8470 section 5.1: what is there already stays.
            let early = match request.head.headers.contains_key(EARLY_DATA) {
                true => Early::MarkedBefore,
                false => {
                    request.head.headers.insert(EARLY_DATA, HeaderValue::from_static("1"));
                    Early::Marked
                }
            };
            return (listener, Ok(early));
        }
        listener.metrics.early(EarlyRequest::Held);
        drop(listener);
        let over = end.wait().await;
        (self.listener(), if over { Ok(Early::No) } else { Err(TOO_EARLY) })
    }

    /// The upstream did not want to take a request that was early because of us: it is asked again, once, after the end of
    /// the handshake (RFC 8470 section 5.2). What it said stands if that does not come in time.
    pub(super) async fn ask_again(
        &self,
        refused: Answered,
        exchange: &Exchange<'_>,
        head: &mut RequestHead,
        interim: &dyn Interim,
        record: &mut Record,
    ) -> Result<Answered, Failure> {
        let Some(end) = &self.origin.info.handshake else { return Ok(refused) };
        let over = match exchange.limits.answer_until() {
            Some(until) => timeout_at(until.into(), end.wait()).await.unwrap_or(false),
            None => end.wait().await,
        };
        if !over {
            return Ok(refused);
        }
        let now = Instant::now();
        refused.permit.answered(now);
        drop(refused);
        record.listener().metrics.early(EarlyRequest::Repeated);
        record.early = Early::No;
        head.headers.remove(EARLY_DATA);
        attempt::run(exchange, head, Body::Empty, interim, record, now).await
    }
}

/// A safe request without content, of which nobody here decides by who the caller is: before the end of the handshake
/// neither its certificate nor its address is proved.
fn may_go_ahead(request: &Request, listener: &Listener) -> bool {
    let safe = matches!(request.head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    // A request for a tunnel may look like GET.
    let safe = safe && !request.head.asks_for_tunnel() && request.body.is_end();
    safe && listener.authorization.is_none() && listener.external.is_none()
}
