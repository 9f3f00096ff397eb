//! Faults that are injected on purpose, and copies of requests, as written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{Condition, Decimal, DurationText};
use crate::limits;
use crate::read::{Field, List};

/// Delays and aborts a share of the requests, until a moment.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Only requests with all of these headers.
    pub headers: Field<List<Condition>>,
    /// Requests are held up before anything else is done with them.
    pub delay: Field<FaultDelay>,
    /// Requests are answered here.
    pub abort: Field<FaultAbort>,
    /// After this moment nothing is injected any more: `2030-01-31T12:00:00Z`.
    #[schemars(extend("x-required" = true))]
    pub until: Field<Timestamp>,
}

/// Holds requests up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// The share of the requests, in percent. At most four digits after the point.
    #[schemars(extend("x-required" = true))]
    pub percent: Field<Decimal>,
    /// How long.
    #[schemars(extend("x-required" = true))]
    pub duration: Field<DurationText>,
}

/// Answers requests instead of an upstream: exactly one of `status` and `grpcStatus`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// The share of the requests, in percent. At most four digits after the point.
    #[schemars(extend("x-required" = true))]
    pub percent: Field<Decimal>,
    /// With this status. gRPC callers get the one that it means to them.
    #[schemars(range(min = limits::DIRECT_STATUS.min, max = limits::DIRECT_STATUS.max))]
    pub status: Field<u64>,
    /// With this gRPC status, such as `unavailable`. Other callers get 503.
    pub grpc_status: Field<GrpcStatus>,
}

/// Sends copies of requests elsewhere. Their answers are thrown away, and nothing waits for them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// Name of the cluster that gets the copies.
    #[schemars(extend("x-required" = true))]
    pub cluster: Field<String>,
    /// The share of the requests, in percent. At most four digits after the point.
    #[schemars(extend("default" = 100))]
    pub percent: Field<Decimal>,
}

/// A moment as written: `2030-01-31T12:00:00Z` (RFC 3339).
#[derive(Debug, Clone, Deserialize)]
pub struct Timestamp(pub String);

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "examples": ["2030-01-31T12:00:00Z"] })
    }
}

/// A gRPC status by name.
#[derive(Debug, Clone, Deserialize)]
pub struct GrpcStatus(pub String);

impl JsonSchema for GrpcStatus {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "GrpcStatus".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = crate::words::grpc_statuses().map(|(name, _)| name).collect();
        json_schema!({ "description": "A gRPC status by name.", "enum": names })
    }
}
