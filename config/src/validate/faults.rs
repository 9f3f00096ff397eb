//! Faults that are injected on purpose, and copies of requests.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{Check, Names, Wrong, matches, small, units};
use crate::limits;
use crate::model::{Abort, Fault, FaultAbort, FaultDelay, Mirror, Share};
use crate::raw;
use crate::read::Field;
use crate::source::Span;
use crate::text::{nearest, quoted};
use crate::words::grpc_statuses;

pub(super) fn fault(check: &Check<'_, '_>, field: &Field<raw::Fault>) -> Option<Arc<Fault>> {
    let (raw, span) = field.here()?;
    let raw::Fault { headers, delay, abort, until } = raw;
    if delay.is_absent() && abort.is_absent() {
        let fix = "add `delay: { percent: 1, duration: 100ms }` or `abort: { percent: 1, status: 503 }`";
        check.error(span, "this fault does nothing", fix);
    }
    let lack = ("this fault has no `until`", "add when it ends by itself: `until: 2030-01-31T12:00:00Z`");
    let until = check.required(until, span, lack).and_then(|(text, at)| check.parsed(units::timestamp(&text.0), at));
    Some(Arc::new(Fault {
        headers: matches::header_conditions(check, headers),
        delay: delay.here().map(|(raw, span)| self::delay(check, raw, span)),
        abort: abort.here().and_then(|(raw, span)| self::abort(check, raw, span)),
        until: until?,
    }))
}

fn delay(check: &Check<'_, '_>, raw: &raw::FaultDelay, span: Span) -> FaultDelay {
    let raw::FaultDelay { percent, duration } = raw;
    let lack = ("this delay has no `duration`", "add how long: `duration: 100ms`");
    check.required(duration, span, lack);
    FaultDelay {
        share: required_share(check, percent, (span, "this delay has no `percent`")),
        by: check.time(duration, Duration::from_millis(100), DELAYS),
    }
}

/// How long a request may be held up.
pub(crate) const DELAYS: (Duration, Duration) =
    (Duration::from_micros(1), Duration::from_secs(limits::MAX_FAULT_MINUTES * 60));

fn abort(check: &Check<'_, '_>, raw: &raw::FaultAbort, span: Span) -> Option<FaultAbort> {
    let raw::FaultAbort { percent, status, grpc_status } = raw;
    let share = required_share(check, percent, (span, "this abort has no `percent`"));
    let with = match (status.span(), grpc_status.span()) {
        (None, None) => {
            let fix = "add `status: 503` or `grpcStatus: unavailable`";
            check.error(span, "this abort does not say what is answered", fix);
            return None;
        }
        (Some(_), Some(second)) => {
            check.error(second, "an abort is exactly one of `status` and `grpcStatus`", "keep one of the two");
            return None;
        }
        (Some(_), None) => {
            let code: u16 = small(check.number(status, 503, limits::DIRECT_STATUS));
            Abort::Status(StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE))
        }
        (None, Some(_)) => {
            let (text, at) = grpc_status.here()?;
            Abort::Grpc(check.parsed(self::grpc_status(&text.0), at)?)
        }
    };
    Some(FaultAbort { share, with })
}

/// The code of a gRPC failure, by its name.
fn grpc_status(text: &str) -> Result<u8, Wrong> {
    let kebab = text.to_ascii_lowercase().replace(['_', ' '], "-");
    let named = |name: &str| grpc_statuses().find(|(other, _)| *other == name);
    if let Some((_, code)) = named(text) {
        return Ok(code);
    }
    let coded = text.parse::<u8>().ok().and_then(|code| grpc_statuses().find(|(_, other)| *other == code));
    let fix = match coded.map(|(name, _)| name).or_else(|| nearest(&kebab, grpc_statuses().map(|(name, _)| name))) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write its name, such as unavailable or resource-exhausted".to_owned(),
    };
    Err(Wrong::new(format!("`{}` is not a gRPC status that fails", quoted(text)), fix))
}

pub(super) fn mirror(check: &Check<'_, '_>, field: &Field<raw::Mirror>, clusters: &Names<'_>) -> Option<Mirror> {
    let (raw::Mirror { cluster, percent }, span) = field.here()?;
    let share = share(check, percent, ALL);
    let lack = ("this mirror has no `cluster`", "add the name of the cluster that gets the copies: `cluster: NAME`");
    let (name, at) = check.required(cluster, span, lack)?;
    clusters.refer(check, name, at);
    Some(Mirror { cluster: Arc::from(name.as_str()), share })
}

fn required_share(check: &Check<'_, '_>, field: &Field<raw::Decimal>, (span, lack): (Span, &str)) -> Share {
    check.required(field, span, (lack, "add the share of the requests: `percent: 0.5`"));
    share(check, field, ALL)
}

/// A share in percent, with four digits after the point: millionths. One that is nothing is most likely a slip.
fn share(check: &Check<'_, '_>, field: &Field<raw::Decimal>, default: Share) -> Share {
    let share = Share(small(check.decimal(field, default.0.into(), (4, limits::MILLIONTHS))));
    if let (0, Some(at)) = (share.0, field.span()) {
        check.warning(at, "a share of 0: this never happens", "write a share above 0, or remove it");
    }
    share
}

const ALL: Share = Share(1_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_status_is_named_and_a_number_is_answered_with_its_name() {
        assert_eq!(grpc_status("unavailable"), Ok(14));
        for (text, near) in [("14", "unavailable"), ("UNAVAILABLE", "unavailable"), ("internl", "internal")] {
            assert_eq!(grpc_status(text).expect_err(text).fix, format!("did you mean `{near}`?"));
        }
        for bad in ["ok", "0", "99", ""] {
            assert!(grpc_status(bad).is_err(), "{bad}");
        }
    }
}
