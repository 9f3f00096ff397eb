//! Asking somebody outside whether a request may pass: Envoy's gRPC `envoy.service.auth.v3.Authorization`.
//!
//! The question goes over a cluster like any other: its endpoints, pools, TLS and ceilings. Whatever is not a clear
//! yes is a no: no endpoint, no answer in time, an error, an answer that cannot be read. Only an authorizer that is
//! configured to fail open lets requests pass then, and that is counted and told to the upstream.

mod changes;
mod question;
mod wire;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{EXPECT, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};

pub(super) use changes::Changes;
pub(super) use question::Surroundings;

use self::changes::Unusable;
use self::wire::{CheckResponse, DeniedResponse, HttpResponse};
use super::local;
use super::reason::Reason;
use super::unary::{self, Call, CallError};
use crate::base::timer::Deadline;
use crate::codec::headers::{has_token, strip_hop_by_hop};
use crate::codec::{Body, Interim, Peeked, PrefixedBody, RequestHead};
use crate::snapshot::External;
use crate::telemetry::metrics::Asked;

/// Told to the upstream when a request passed because the authorizer could not be asked; as Envoy calls it.
pub(super) const FAILED_OPEN: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// A request that may pass.
pub(super) struct Passed {
    /// Its body, whole.
    pub(super) body: Body,
    /// What is changed in the answer.
    pub(super) changes: Changes,
}

/// A request that may not.
pub(super) enum Refused {
    /// The authorizer said so, and what the caller is told.
    Denied(Box<Denied>),
    /// The authorizer could not be asked, or gave no usable answer.
    Unavailable {
        /// What the caller is told.
        status: StatusCode,
        /// For the log.
        details: &'static str,
    },
    /// The body, of which a part is shown to the authorizer, did not come.
    Body(Reason),
}

/// The answer that an authorizer gives to a caller.
pub(super) struct Denied {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Asks the authorizer about a request, and changes the request as it says; `before_edit` is told of every header
/// that is about to be changed. Boxed by the caller: it is large, and most listeners ask nobody.
///
/// # Errors
/// See [`Refused`].
pub(super) async fn check(
    external: &External,
    surroundings: &Surroundings<'_>,
    head: &mut RequestHead,
    body: Body,
    interim: &dyn Interim,
    mut before_edit: impl FnMut(&HeaderName, &HeaderMap),
) -> Result<Passed, Refused> {
    before_edit(&EXPECT, &head.headers);
    let peeked = peek(external, surroundings.idle, head, body, interim).await.map_err(Refused::Body)?;
    let question = question::encode(&external.config, surroundings, head, &peeked);
    let Peeked { body, .. } = peeked;
    let mut count = Count { external, began: Instant::now(), what: Asked::Cancelled };
    let how = Call { path: CHECK, idempotent: true, limit: external.config.timeout };
    let answer = unary::call(&external.cluster, question, how).await;
    let judged = judge(answer);
    count.what = match &judged {
        Judged::Pass(_) => Asked::Allowed,
        Judged::Deny(_) => Asked::Denied,
        Judged::Failed { details, .. } if *details == TIMEOUT => Asked::Timeout,
        Judged::Failed { .. } => Asked::Error,
    };
    drop(count);
    match judged {
        Judged::Pass(changes) => {
            for name in changes.names() {
                before_edit(name, &head.headers);
            }
            changes.apply_to_request(head);
            Ok(Passed { body, changes })
        }
        Judged::Deny(denied) => Err(Refused::Denied(Box::new(denied))),
        Judged::Failed { .. } if external.config.fail_open => {
            external.metrics.failed_open();
            before_edit(&FAILED_OPEN, &head.headers);
            head.headers.insert(FAILED_OPEN, HeaderValue::from_static("true"));
            Ok(Passed { body, changes: Changes::default() })
        }
        Judged::Failed { details, status } => {
            Err(Refused::Unavailable { status: status.unwrap_or(external.config.status_on_error), details })
        }
    }
}

/// The answer to a gRPC caller for a status that an authorizer chose, by the table of the gRPC HTTP mapping; a `403`
/// is what it is for everybody.
pub(super) fn grpc_status_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Counts a question at its end, however it ends.
struct Count<'a> {
    external: &'a External,
    began: Instant,
    what: Asked,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.external.metrics.asked(self.what, self.began.elapsed());
    }
}

/// What an answer means.
enum Judged {
    Pass(Changes),
    Deny(Denied),
    Failed { details: &'static str, status: Option<StatusCode> },
}

fn judge(answer: Result<CheckResponse, CallError>) -> Judged {
    let failed = |details| Judged::Failed { details, status: None };
    let CheckResponse { status, http_response } = match answer {
        Ok(answer) => answer,
        Err(CallError::Timeout) => return failed(TIMEOUT),
        Err(CallError::Failed) => return failed(ERROR),
    };
    // A status that is missing is one of 0, which is yes (proto3). Envoy reads it so.
    let pass = status.is_none_or(|status| status.code == 0);
    let judged = match (pass, http_response) {
        (true, None) => Ok(Judged::Pass(Changes::default())),
        (true, Some(HttpResponse::Ok(answer))) => Changes::read(answer).map(Judged::Pass),
        // Yes and no at once.
        (true, Some(HttpResponse::Denied(_) | HttpResponse::Error(_))) => Err(Unusable),
        (false, Some(HttpResponse::Denied(answer))) => deny(answer).map(Judged::Deny),
        (false, Some(HttpResponse::Error(answer))) => {
            Ok(Judged::Failed { details: ERROR, status: answer.status.and_then(|status| status_of(status.code)) })
        }
        (false, None | Some(HttpResponse::Ok(_))) => deny(DeniedResponse::default()).map(Judged::Deny),
    };
    judged.unwrap_or(failed(UNUSABLE))
}

fn deny(answer: DeniedResponse) -> Result<Denied, Unusable> {
    let DeniedResponse { status, headers, body } = answer;
    let status = status.and_then(|status| status_of(status.code)).unwrap_or(StatusCode::FORBIDDEN);
    let mut headers = changes::response_headers(headers)?;
    strip_hop_by_hop(&mut headers);
    headers.insert(local::REASON, HeaderValue::from_static(Reason::ExternallyDenied.code()));
    headers.insert(http::header::DATE, local::date());
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(Denied { status, headers, body: if bodiless { Bytes::new() } else { body.into() } })
}

/// A final status (RFC 9110 section 15).
fn status_of(code: i32) -> Option<StatusCode> {
    u16::try_from(code).ok().filter(|code| (200..600).contains(code)).and_then(|code| StatusCode::from_u16(code).ok())
}

/// Reads as much of the body as the authorizer is shown. A caller that waits to be told to send it is told.
async fn peek(
    external: &External,
    idle: Option<Duration>,
    head: &mut RequestHead,
    body: Body,
    interim: &dyn Interim,
) -> Result<Peeked, Reason> {
    let limit = external.config.max_body_bytes as usize;
    if limit > 0 && head.version == Version::HTTP_11 && has_token(&head.headers, &EXPECT, "100-continue") {
        interim.send(StatusCode::CONTINUE, &HeaderMap::new());
        // Told once; the upstream gets the body without asking for it.
        head.headers.remove(EXPECT);
    }
    let mut timer = Deadline::default();
    let until = idle.map(|idle| Instant::now() + idle);
    let mut reading = pin!(PrefixedBody::peek(body, limit));
    poll_fn(|cx| match reading.as_mut().poll(cx) {
        Poll::Ready(read) => Poll::Ready(read.map_err(|_| Reason::RequestBody)),
        Poll::Pending => timer.poll_opt(cx, until).map(|()| Err(Reason::Idle)),
    })
    .await
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const TIMEOUT: &str = "ext_authz_timeout";
const ERROR: &str = "ext_authz_error";
const UNUSABLE: &str = "ext_authz_unusable_answer";

#[cfg(test)]
mod tests;
