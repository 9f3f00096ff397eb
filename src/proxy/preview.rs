//! What the pipeline would do with a request, for `outrigger explain`: the pipeline's own steps, nothing sent.

use std::time::Duration;

use http::HeaderMap;
use outrigger_config::model::{Filter, Redirect, Timeouts};

use super::filters;
use super::local::Caller;
use super::pipeline::exchange_of;
use crate::codec::{RequestHead, ResponseHead};
use crate::policy::deadline::{self, Limits};

/// Whether a request is a gRPC call, by its `content-type`.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    Caller::of(headers) == Caller::Grpc
}

/// The time limits of a request with these headers, and where each comes from.
#[must_use]
pub fn limits<'a>(timeouts: &'a Timeouts, headers: &HeaderMap, listener_idle: Duration) -> Limits<'a> {
    let (exchange, says, _) = exchange_of(Caller::of(headers), headers);
    deadline::limits(timeouts, exchange, says, listener_idle)
}

/// The head that an upstream would see after a rule's and a backend's filters. `prefix_len` is how much of
/// the path the matched prefix covers.
#[must_use]
pub fn upstream_head(head: &RequestHead, filters: [&[Filter]; 2], prefix_len: usize) -> RequestHead {
    let mut head = head.clone();
    for list in filters {
        filters::apply_to_request(list, &mut head, prefix_len);
    }
    head
}

/// The answer of a redirect.
#[must_use]
pub fn redirect(redirect: &Redirect, head: &RequestHead, prefix_len: usize) -> ResponseHead {
    filters::redirect(redirect, head, prefix_len).head
}
