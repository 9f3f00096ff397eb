//! `grpc.health.v1.Health/Check`, by hand: a question of one field and an answer of one number.
//!
//! An endpoint is well when it says that it is serving, and in no other case: one that does not know the service asked
//! about, or does not implement the check at all, is not.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message;

use super::probe::{Said, read};
use crate::codec::{Body, ResponseHead};
use crate::telemetry::metrics::CheckResult;

/// The question.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// The answer.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What is asked, and how.
pub(super) fn question(service: &str, limit: Duration) -> (PathAndQuery, HeaderMap, Bytes) {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    // At most eight digits (gRPC over HTTP/2, "TimeoutValue"): in milliseconds that is a day.
    let millis = limit.as_millis().clamp(1, 99_999_999);
    if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
        headers.insert(GRPC_TIMEOUT, value);
    }
    let question = HealthCheckRequest { service: service.to_owned() };
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(question.encoded_len()).unwrap_or(u32::MAX));
    message.extend_from_slice(&question.encode_to_vec());
    (PathAndQuery::from_static("/grpc.health.v1.Health/Check"), headers, message.freeze())
}

/// What an answer says.
pub(super) async fn judge(head: ResponseHead, body: Body) -> Said {
    if head.status != StatusCode::OK {
        return Said::new(CheckResult::Failure, format!("status {} instead of gRPC", head.status.as_u16()));
    }
    let (message, trailers) = match read(body).await {
        Ok(read) => read,
        Err(error) => return Said::new(CheckResult::Unreachable, format!("the answer broke off: {error}")),
    };
    // Trailers alone come as the head.
    match status(trailers.as_ref().unwrap_or(&head.headers)) {
        None => Said::new(CheckResult::Failure, "an answer without a gRPC status"),
        Some(0) => match decode(&message) {
            None => Said::new(CheckResult::Failure, "an answer that is no health check's"),
            Some(SERVING) => Said::new(CheckResult::Success, "SERVING"),
            Some(2) => Said::new(CheckResult::Failure, "NOT_SERVING"),
            Some(3) => Said::new(CheckResult::Failure, "SERVICE_UNKNOWN"),
            Some(other) => Said::new(CheckResult::Failure, format!("health {other}")),
        },
        Some(5) => Said::new(CheckResult::Failure, "gRPC status 5 (NOT_FOUND): it does not know the service"),
        Some(12) => Said::new(CheckResult::Failure, "gRPC status 12 (UNIMPLEMENTED): it has no health check"),
        Some(other) => Said::new(CheckResult::Failure, format!("gRPC status {other}")),
    }
}

fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

fn decode(message: &[u8]) -> Option<i32> {
    let (&[0, a, b, c, d], answer) = message.split_first_chunk::<5>()? else { return None };
    (u32::from_be_bytes([a, b, c, d]) as usize == answer.len())
        .then(|| HealthCheckResponse::decode(answer).ok().map(|answer| answer.status))
        .flatten()
}

const SERVING: i32 = 1;
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_question_is_a_message_of_one_field() {
        let (path, headers, message) = question("shop.Cart", Duration::from_millis(250));
        assert_eq!(path.as_str(), "/grpc.health.v1.Health/Check");
        assert_eq!(headers["grpc-timeout"], "250m");
        assert_eq!(&message[..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
        assert_eq!(&question("", Duration::from_secs(1)).2[..], b"\0\0\0\0\0");
    }

    #[test]
    fn answers_are_numbers() {
        assert_eq!(decode(b"\0\0\0\0\x02\x08\x01"), Some(SERVING));
        assert_eq!(decode(b"\0\0\0\0\0"), Some(0));
        for broken in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x03\x08\x01", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x01\x08"] {
            assert_eq!(decode(broken), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }
}
