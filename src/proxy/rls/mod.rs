//! Asking a rate limit service whether a request may pass: Envoy's gRPC `envoy.service.ratelimit.v3`.
//!
//! The question goes over a cluster like any other. All descriptors of a request go in one question. A service that does
//! not answer clearly and in time has failed; what then happens to the request is configured, and counted.

mod wire;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use outrigger_config::model::{DescriptorEntry, DescriptorValue};

use self::wire::{Entry, OVER_LIMIT, RateLimitDescriptor, RateLimitRequest, RateLimitResponse};
use super::field::{Field, is_ours};
use super::limiting::{Asking, client};
use super::unary::{self, Call, CallError};
use crate::policy::path;
use crate::snapshot::GlobalLimits;
use crate::telemetry::metrics::ServiceAnswer;

/// Says in an answer that a rate limit service refused the request; as Envoy calls it.
pub(super) const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// Fields that a service asks to be added.
pub(super) type Fields = Vec<(HeaderName, HeaderValue)>;

/// What a service asks to be added to a request that may pass, and to its answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) request: Fields,
    pub(super) response: Fields,
}

/// A request that may not pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is over a limit.
    OverLimit {
        /// When it would pass, as far as the service says so.
        after: Option<Duration>,
        /// Fields of the answer.
        response: Fields,
        /// What the answer says, if anything.
        body: Bytes,
    },
    /// The service failed; the reason is for the log.
    Failed(&'static str),
}

/// Asks a service about a request that goes to `cluster`. Boxed by the caller: it is large, and most rules ask nobody.
///
/// # Errors
/// See [`Refused`].
pub(super) async fn ask(limits: &GlobalLimits, asking: Asking<'_>, cluster: Option<&str>) -> Result<Passed, Refused> {
    let GlobalLimits { service, descriptors } = limits;
    let descriptors: Vec<_> = descriptors.iter().filter_map(|entries| descriptor(entries, asking, cluster)).collect();
    if descriptors.is_empty() {
        return Ok(Passed::default());
    }
    let question = RateLimitRequest { domain: service.config.domain.to_string(), descriptors, hits_addend: 1 };
    let mut count = Count { limits, began: Instant::now(), what: ServiceAnswer::Cancelled };
    // Asked twice, a request would count twice.
    let how = Call { path: SHOULD_RATE_LIMIT, idempotent: false, limit: service.config.timeout };
    let judged = judge(unary::call(&service.cluster, unary::encode(&question), how).await);
    count.what = match &judged {
        Ok(_) => ServiceAnswer::Ok,
        Err(Refused::OverLimit { .. }) => ServiceAnswer::OverLimit,
        Err(Refused::Failed(TIMEOUT)) => ServiceAnswer::Timeout,
        Err(Refused::Failed(_)) => ServiceAnswer::Error,
    };
    drop(count);
    match judged {
        Err(Refused::Failed(_)) if service.config.allow_on_failure => {
            service.metrics.failure_allowed();
            Ok(Passed::default())
        }
        judged => judged,
    }
}

/// Counts a question at its end, however it ends.
struct Count<'a> {
    limits: &'a GlobalLimits,
    began: Instant,
    what: ServiceAnswer,
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.limits.service.metrics.asked(self.what, self.began.elapsed());
    }
}

fn judge(answer: Result<RateLimitResponse, CallError>) -> Result<Passed, Refused> {
    let answer = answer.map_err(|error| match error {
        CallError::Timeout => Refused::Failed(TIMEOUT),
        CallError::Failed => Refused::Failed(ERROR),
    })?;
    let RateLimitResponse { overall_code, statuses, response_headers_to_add, request_headers_to_add, raw_body } =
        answer;
    let response = fields(response_headers_to_add)?;
    match overall_code {
        wire::OK => Ok(Passed { request: fields(request_headers_to_add)?, response }),
        OVER_LIMIT => {
            let over = statuses.iter().filter(|status| status.code == OVER_LIMIT);
            let after = over.filter_map(|status| duration(status.duration_until_reset?)).max();
            Err(Refused::OverLimit { after, response, body: raw_body })
        }
        _ => Err(Refused::Failed(UNUSABLE)),
    }
}

/// A descriptor with its values; `None` where the request lacks one.
fn descriptor(entries: &[DescriptorEntry], asking: Asking<'_>, cluster: Option<&str>) -> Option<RateLimitDescriptor> {
    let entries = entries.iter().map(|DescriptorEntry { key, value }| {
        let value = match value {
            DescriptorValue::Text(text) => text.to_string(),
            DescriptorValue::Header(name) => header(asking, name)?,
            DescriptorValue::Identity => asking.origin.identity()?.to_string(),
            DescriptorValue::Address => client(asking).to_string(),
            DescriptorValue::Path => path::split(asking.head.path.as_str()).0.to_owned(),
            DescriptorValue::Method => asking.head.method.to_string(),
            DescriptorValue::Cluster => cluster?.to_owned(),
        };
        Some(Entry { key: key.to_string(), value })
    });
    Some(RateLimitDescriptor { entries: entries.collect::<Option<_>>()? })
}

/// A header's lines, joined. What is no text is replaced: the field of the message is text.
fn header(asking: Asking<'_>, name: &HeaderName) -> Option<String> {
    let lines: Vec<Cow<'_, str>> =
        asking.head.headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// Fields that may be added; those that say where a message goes or how it is framed are passed over.
fn fields(headers: Vec<Field>) -> Result<Fields, Refused> {
    let unusable = || Refused::Failed(UNUSABLE);
    let mut fields = Vec::with_capacity(headers.len());
    for header in headers {
        let Some((name, value)) = header.read().map_err(|_| unusable())? else { continue };
        if !is_ours(&name) {
            fields.push((name, value));
        }
    }
    Ok(fields)
}

/// `None` for what is no time to wait.
fn duration(wire: wire::Duration) -> Option<Duration> {
    let (seconds, nanos) = (u64::try_from(wire.seconds).ok()?, u32::try_from(wire.nanos).ok()?);
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const TIMEOUT: &str = "rate_limit_service_timeout";
const ERROR: &str = "rate_limit_service_error";
const UNUSABLE: &str = "rate_limit_service_unusable_answer";

#[cfg(test)]
mod tests;
