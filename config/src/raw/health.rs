//! Health checks and ejection as written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{Decimal, DurationText, HeaderValues};
use crate::limits;
use crate::read::{Field, List};

/// Endpoints are asked whether they are well: exactly one of `http`, `tcp` and `grpc`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// By an HTTP request, over the cluster's protocol and TLS.
    pub http: Field<HttpProbe>,
    /// By a connection, with the cluster's TLS.
    pub tcp: Field<TcpProbe>,
    /// By `grpc.health.v1.Health/Check`.
    pub grpc: Field<GrpcProbe>,
    /// Between two probes of one endpoint.
    #[schemars(extend("default" = "10s"))]
    pub interval: Field<DurationText>,
    /// Each interval is shorter or longer by up to this many percent.
    #[schemars(range(min = limits::PERCENT.min, max = limits::PERCENT.max), extend("default" = 10))]
    pub jitter: Field<u64>,
    /// An answer must come within.
    #[schemars(extend("default" = "1s"))]
    pub timeout: Field<DurationText>,
    /// Good answers in a row that make an unhealthy endpoint healthy.
    #[schemars(range(min = limits::PROBES.min, max = limits::PROBES.max), extend("default" = 1))]
    pub healthy_threshold: Field<u64>,
    /// Bad answers in a row that make a healthy endpoint unhealthy.
    #[schemars(range(min = limits::PROBES.min, max = limits::PROBES.max), extend("default" = 3))]
    pub unhealthy_threshold: Field<u64>,
    /// The interval while the cluster has had no request for the length of it.
    #[schemars(extend("default" = "60s"))]
    pub no_traffic_interval: Field<DurationText>,
    /// Another port than the endpoint's.
    #[schemars(range(min = limits::PORT.min, max = limits::PORT.max))]
    pub port: Field<u64>,
}

/// A probe by an HTTP request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// Its path, with a query if need be.
    #[schemars(extend("x-required" = true))]
    pub path: Field<String>,
    /// Its host. Without it: the endpoint's name or address.
    pub host: Field<String>,
    /// Its method, in capitals.
    #[schemars(extend("default" = "GET"))]
    pub method: Field<String>,
    /// More headers.
    pub headers: Field<HeaderValues>,
    /// Statuses that are well: `200`, or a range such as `200-299`.
    #[schemars(length(min = 1), extend("default" = ["200-299"]))]
    pub expected: Field<List<StatusRange>>,
}

/// A status, or a range of them.
#[derive(Debug, Clone, Deserialize)]
pub struct StatusRange(pub String);

impl JsonSchema for StatusRange {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusRange".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let limits::Bounds { min, max } = limits::PROBE_STATUS;
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": "^[1-5][0-9]{2}-[1-5][0-9]{2}$" },
        ] })
    }
}

/// A probe by a connection. It has no settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {}

/// A probe by `grpc.health.v1.Health/Check`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcProbe {
    /// The service asked about. Without it: the server as a whole.
    pub service: Field<String>,
    /// The authority of the call. Without it: the endpoint's name or address.
    pub authority: Field<String>,
}

/// Endpoints are taken out for a time by what came of requests. Thresholds of 0 are off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierDetection {
    /// Failures in a row: 5xx, or what counts as such.
    #[schemars(range(min = limits::FAILURES.min, max = limits::FAILURES.max), extend("default" = 5))]
    pub consecutive_errors: Field<u64>,
    /// Gateway failures in a row: 502, 503, 504, and what got no answer.
    #[schemars(range(min = limits::FAILURES.min, max = limits::FAILURES.max), extend("default" = 0))]
    pub consecutive_gateway_errors: Field<u64>,
    /// With `splitLocalOrigin`: failures in a row without an answer.
    #[schemars(range(min = limits::FAILURES.min, max = limits::FAILURES.max), extend("default" = 5))]
    pub consecutive_local_errors: Field<u64>,
    /// What got no answer is counted by itself, and not as 5xx.
    #[schemars(extend("default" = false))]
    pub split_local_origin: Field<bool>,
    /// Ejection of endpoints whose success rate is far below that of the others.
    pub success_rate: Field<SuccessRate>,
    /// How often rates are looked at and ejections ended.
    #[schemars(extend("default" = "10s"))]
    pub interval: Field<DurationText>,
    /// An ejection lasts this long times how often the endpoint was ejected before.
    #[schemars(extend("default" = "30s"))]
    pub base_ejection: Field<DurationText>,
    /// But at most this long.
    #[schemars(extend("default" = "5m"))]
    pub max_ejection: Field<DurationText>,
    /// At most this share of the endpoints is out, in percent; never the last one.
    #[schemars(range(min = limits::PERCENT.min, max = limits::PERCENT.max), extend("default" = 50))]
    pub max_ejection_percent: Field<u64>,
}

/// Ejection by success rate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SuccessRate {
    /// Ejected below the mean minus this many standard deviations. At most three digits after the point.
    #[schemars(extend("default" = 1.9))]
    pub stdev_factor: Field<Decimal>,
    /// Only when at least so many endpoints have had enough requests. 0: off.
    #[schemars(range(min = limits::RATED_HOSTS.min, max = limits::RATED_HOSTS.max), extend("default" = 5))]
    pub min_hosts: Field<u64>,
    /// An endpoint has had enough with so many in an interval.
    #[schemars(range(min = limits::MIN_REQUESTS.min, max = limits::MIN_REQUESTS.max), extend("default" = 100))]
    pub min_requests: Field<u64>,
}
