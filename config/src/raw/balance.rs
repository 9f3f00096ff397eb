//! How requests are spread over endpoints, as written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{Decimal, DurationText};
use crate::limits;
use crate::read::Field;

/// How an endpoint is chosen.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancing {
    /// The policy.
    #[schemars(extend("default" = "leastRequest"))]
    pub policy: Field<Policy>,
    /// With `ringHash` and `maglev`: an endpoint takes at most this percentage of its fair share of the requests in
    /// flight; over it the next one is taken. `off`: no bound.
    #[schemars(extend("default" = 150))]
    pub bounded_load: Field<BoundedLoad>,
    /// New endpoints get their share gradually. Without it: at once.
    pub slow_start: Field<SlowStart>,
    /// Which zones are preferred.
    #[schemars(extend("default" = "any"))]
    pub locality: Field<Locality>,
    /// Below this share of healthy endpoints, in percent, all are used. 0: never.
    #[schemars(range(min = limits::PERCENT.min, max = limits::PERCENT.max), extend("default" = 50))]
    pub panic_threshold: Field<u64>,
    /// How much more than its share the healthy rest of a priority or zone may take, in percent.
    #[schemars(range(min = limits::OVERPROVISIONING.min, max = limits::OVERPROVISIONING.max), extend("default" = 140))]
    pub overprovisioning: Field<u64>,
    /// What happens when no endpoint has the labels of a backend's `subset`.
    #[schemars(extend("default" = "none"))]
    pub subset_fallback: Field<SubsetFallback>,
}

/// A load-balancing policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two random ones.
    LeastRequest,
    /// The lower of two random ones by recent latency times load.
    PeakEwma,
    /// At random, by weight.
    Random,
    /// Consistent hashing on a ring; the rule's `hash` says of what.
    RingHash,
    /// Consistent hashing by Maglev's table; the rule's `hash` says of what.
    Maglev,
}

/// A percentage, or `off`.
#[derive(Debug, Clone, Deserialize)]
pub struct BoundedLoad(pub String);

impl JsonSchema for BoundedLoad {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BoundedLoad".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let limits::Bounds { min, max } = limits::BOUNDED_LOAD;
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": min, "maximum": max }, { "enum": ["off", false] }] })
    }
}

/// A new endpoint's weight grows to all of it over a time.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowStart {
    /// How long it grows.
    #[schemars(extend("default" = "30s"))]
    pub window: Field<DurationText>,
    /// Percent of its weight that an endpoint has at once.
    #[schemars(range(min = limits::SHARE.min, max = limits::SHARE.max), extend("default" = 10))]
    pub min_weight: Field<u64>,
    /// 1 is linear; above, it grows faster in the beginning. From 0.1 to 10.
    #[schemars(extend("default" = 1))]
    pub aggression: Field<Decimal>,
}

/// Which zones are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Locality {
    /// None.
    Any,
    /// The proxy's own (`node.zone`), as far as it has the capacity.
    PreferZone,
}

/// When no endpoint has the labels asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SubsetFallback {
    /// The request is answered with 503.
    None,
    /// Any endpoint is taken.
    Any,
}
