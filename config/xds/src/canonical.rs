//! What reading Envoy's fields gives, for the encoder to see what they leave unsaid.

use std::time::Duration;

use outrigger_config::model::{Retry, RetryOn, Setting};

use crate::encode::route::idempotent;
use crate::pb::route;
use crate::{decode, wire};

/// Envoy's retry policy in ours; `None` where it says what ours does not have.
pub(crate) fn retry(policy: Option<&route::RetryPolicy>) -> Option<Retry> {
    let Some(policy) = policy else { return Some(none()) };
    let on = decode::conditions(&policy.retry_on, &policy.retriable_status_codes).ok()?;
    let base = policy.retry_back_off.as_ref().and_then(|backoff| backoff.base_interval.as_ref());
    let max = policy.retry_back_off.as_ref().and_then(|backoff| backoff.max_interval.as_ref());
    let backoff_base = base.map_or(Some(BASE), wire::read_duration)?;
    let backoff_max = max.map_or(Some(backoff_base * 10), wire::read_duration)?;
    let default = u32::from(!on.is_empty());
    let attempts = u8::try_from(policy.num_retries.as_ref().map_or(default, |number| number.value)).ok()?;
    // What was never sent may be sent again whatever the method is.
    let unsent = on.iter().all(|on| matches!(on, RetryOn::ConnectFailure | RetryOn::RefusedStream));
    let non_idempotent = match &policy.retriable_request_headers[..] {
        [] => !unsent,
        [only] if *only == idempotent() => false,
        _ => return None,
    };
    Some(Retry {
        attempts: Setting { value: attempts, place: None },
        on,
        non_idempotent,
        backoff_base,
        backoff_max,
        ..Retry::default()
    })
}

/// No retries.
pub(crate) fn none() -> Retry {
    Retry::default()
}

/// Envoy's default, and ours.
const BASE: Duration = Duration::from_millis(25);
