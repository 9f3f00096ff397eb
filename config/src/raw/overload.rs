//! What is let in, as written: queues, concurrency, classes, rates, and what is done when the process runs short.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{DurationText, SizeText};
use crate::limits;
use crate::read::{Field, List};

/// Requests over the limit wait for their turn.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Queue {
    /// At most this long, and never beyond the request's deadline.
    #[schemars(extend("default" = "100ms"))]
    pub timeout: Field<DurationText>,
    /// At most so many.
    #[schemars(range(min = limits::QUEUE.min, max = limits::QUEUE.max), extend("default" = 256))]
    pub max: Field<u64>,
}

/// A limit of requests in flight that follows the latency: `adaptive`, or its settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum Concurrency {
    /// `adaptive`: with the defaults. `off`: only the ceilings hold.
    #[serde(rename = "$text")]
    Text(#[schemars(schema_with = "adaptive_or_off")] String),
    /// With settings.
    #[serde(rename = "$map")]
    Map(AdaptiveConcurrency),
}

fn adaptive_or_off(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["adaptive", "off", false] })
}

/// A limit of requests in flight that follows the latency.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// It never goes below.
    #[schemars(range(min = limits::CONCURRENCY.min, max = limits::CONCURRENCY.max), extend("default" = 3))]
    pub min: Field<u64>,
    /// Nor above.
    #[schemars(range(min = limits::CONCURRENCY.min, max = limits::CONCURRENCY.max), extend("default" = 1000))]
    pub max: Field<u64>,
    /// Latency may grow by this many percent before the limit goes down.
    #[schemars(range(min = limits::TOLERANCE.min, max = limits::TOLERANCE.max), extend("default" = 50))]
    pub tolerance: Field<u64>,
}

/// How much requests matter when not all can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Criticality {
    /// Shed last.
    Critical,
    /// What was not said to be anything else.
    Default,
    /// Shed first.
    Sheddable,
}

/// A rate limit that this proxy keeps by itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Names it in answers, metrics and logs; unique in the configuration.
    #[schemars(extend("x-required" = true))]
    pub name: Field<String>,
    /// What has a rate of its own: each combination of `identity`, `address` and `{ header: NAME }`. Without it: all
    /// requests together. A request that lacks one of them is not limited.
    #[schemars(length(min = 1))]
    pub by: Field<List<RateKey>>,
    /// Requests…
    #[schemars(range(min = limits::RATE.min, max = limits::RATE.max), extend("x-required" = true))]
    pub requests: Field<u64>,
    /// …in this time.
    #[schemars(extend("x-required" = true))]
    pub per: Field<DurationText>,
    /// How many may come at once. Without it: as many as `requests`.
    #[schemars(range(min = limits::RATE.min, max = limits::RATE.max))]
    pub burst: Field<u64>,
    /// Only counted; nothing is refused.
    #[schemars(extend("default" = false))]
    pub shadow: Field<bool>,
}

/// What a rate belongs to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RateKey {
    /// The SPIFFE identity of the caller.
    Identity,
    /// The address of the client, as the listener's `trust` finds it.
    Address,
    /// The value of a header.
    Header(Field<String>),
}

/// A rate limit service, asked over Envoy's gRPC rate limit service v3.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitService {
    /// Name of the cluster that serves it; it must speak HTTP/2.
    #[schemars(extend("x-required" = true))]
    pub cluster: Field<String>,
    /// The domain that its limits are configured under.
    #[schemars(extend("x-required" = true))]
    pub domain: Field<String>,
    /// An answer must come within.
    #[schemars(extend("default" = "20ms"))]
    pub timeout: Field<DurationText>,
    /// What happens to a request when none comes: `allow` or `deny`.
    #[schemars(extend("x-required" = true))]
    pub on_failure: Field<OnFailure>,
}

/// What happens to a request when a rate limit service does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
}

/// A question to a rate limit service.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GlobalRateLimit {
    /// Name of the service.
    #[schemars(extend("x-required" = true))]
    pub service: Field<String>,
    /// The descriptor's entries, in order. When a request lacks one of the values, it is not asked about.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub descriptor: Field<List<DescriptorEntry>>,
}

/// An entry of a descriptor: its key and exactly one of the others.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DescriptorEntry {
    /// The key.
    #[schemars(extend("x-required" = true))]
    pub key: Field<String>,
    /// The value is this text.
    pub text: Field<String>,
    /// The value is that of a header.
    pub header: Field<String>,
    /// The value is a property of the request.
    pub from: Field<DescriptorSource>,
}

/// A property of the request that becomes the value of a descriptor's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DescriptorSource {
    /// The SPIFFE identity of the caller.
    Identity,
    /// The address of the client, without port.
    Address,
    /// The path without query.
    Path,
    /// The method.
    Method,
    /// The cluster that the request goes to.
    Cluster,
}

/// What is done when the process runs short of memory or connections.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Overload {
    /// The memory that it may use. Without it: what the control group allows; without a limit there, none.
    pub memory_limit: Field<SizeText>,
    /// From this many percent on, idle connections are closed and buffers given back.
    #[schemars(range(min = limits::SHARE.min, max = limits::SHARE.max), extend("default" = 80))]
    pub shrink_at: Field<u64>,
    /// From this many percent on, new requests are refused, those of critical class excepted.
    #[schemars(range(min = limits::SHARE.min, max = limits::SHARE.max), extend("default" = 90))]
    pub refuse_at: Field<u64>,
    /// From this many percent on, no connection is accepted.
    #[schemars(range(min = limits::SHARE.min, max = limits::SHARE.max), extend("default" = 95))]
    pub stop_accepting_at: Field<u64>,
    /// Connections of all listeners; more wait in the kernel's queue. 0: as many as file descriptors allow.
    #[schemars(range(min = limits::ALL_CONNECTIONS.min, max = limits::ALL_CONNECTIONS.max), extend("default" = 0))]
    pub max_connections: Field<u64>,
}
