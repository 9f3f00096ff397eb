//! Route tables as written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{
    Breaker, Criticality, DurationText, Filter, GlobalRateLimit, HashKey, RateLimit, SessionPersistence, SizeText,
    Switch,
};
use crate::limits;
use crate::read::{Entries, Field, List};

/// Hostnames and the rules for them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualHost {
    /// Hostnames: exact (`payments.shop.svc`), exact for requests that name a port (`payments.shop.svc:9090`), by suffix
    /// (`*.example.com`, one or more labels), or `*`. The most specific one wins. Without it: any host.
    pub hostnames: Field<List<String>>,
    /// Tried in order; the first that matches is taken.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub rules: Field<List<Rule>>,
}

/// A routing rule.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// A name for logs, metrics and `explain`, unique in its table. Without it: `HOST/RULE` by position, from 0.
    pub name: Field<String>,
    /// The rule applies when any of these matches. Without it: always.
    pub matches: Field<List<Match>>,
    /// Changes to requests and responses, in this order.
    pub filters: Field<List<Filter>>,
    /// Where requests go, by weight. Exactly one of `backendRefs` and a `redirect` or `directResponse` filter.
    pub backend_refs: Field<List<BackendRef>>,
    /// Time limits.
    pub timeouts: Field<Timeouts>,
    /// What is tried again. Without it: only what certainly never reached an application, once.
    pub retry: Field<Retry>,
    /// A second attempt is started while the first is under way. Without it: never.
    pub hedge: Field<Hedge>,
    /// A breaker of the rule's own, beside those of the cluster.
    pub circuit_breaker: Field<Breaker>,
    /// What consistent hashing goes by: keys are tried in order, those that the request lacks are passed over, the
    /// others are combined up to a terminal one.
    #[schemars(length(min = 1))]
    pub hash: Field<List<HashKey>>,
    /// Sessions that stay with one endpoint.
    pub session_persistence: Field<SessionPersistence>,
    /// Rate limits that this proxy keeps by itself.
    #[schemars(length(min = 1))]
    pub rate_limits: Field<List<RateLimit>>,
    /// Rate limits that a rate limit service is asked about.
    #[schemars(length(min = 1))]
    pub global_rate_limits: Field<List<GlobalRateLimit>>,
    /// How much the requests of the rule matter, whatever they say. Without it: what they say.
    pub criticality: Field<Criticality>,
    /// `off`: the listener's external authorizer is not asked about requests of this rule.
    #[schemars(extend("default" = "on"))]
    pub external_authorization: Field<Switch>,
}

/// Conditions that must all hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Match {
    /// Condition on the path in its normal form (RFC 3986: nothing encoded that need not be, no dot segments). Not
    /// together with `grpc`.
    pub path: Field<PathMatch>,
    /// The method, in capitals.
    pub method: Field<String>,
    /// Conditions on headers; all must hold.
    pub headers: Field<List<Condition>>,
    /// Conditions on query parameters (first occurrence, percent-decoded); all must hold.
    pub query: Field<List<Condition>>,
    /// Only gRPC requests, optionally of one service or method. Not together with `path`.
    pub grpc: Field<GrpcMatch>,
}

/// A condition on the path.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// By whole segments: `/v1` matches `/v1` and `/v1/x`, not `/v1x`.
    Prefix(Field<String>),
    /// The whole path.
    Exact(Field<String>),
    /// A regular expression for the whole path.
    Regex(Field<String>),
}

/// A condition on a header or a query parameter: its name and exactly one of the others.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// Its name.
    #[schemars(extend("x-required" = true))]
    pub name: Field<String>,
    /// The whole value.
    pub exact: Field<String>,
    /// How the value begins.
    pub prefix: Field<String>,
    /// A regular expression for the whole value.
    pub regex: Field<String>,
    /// Whether it is there at all.
    pub present: Field<bool>,
}

/// A gRPC service and method; either may be left out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// Full name of the service, such as `shop.Payments`.
    pub service: Field<String>,
    /// Name of the method.
    pub method: Field<String>,
}

/// A cluster and its share.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// Name of the cluster.
    #[schemars(extend("x-required" = true))]
    pub cluster: Field<String>,
    /// Share of the requests, relative to the other backends of the rule. 0 gets nothing.
    #[schemars(range(min = limits::BACKEND_WEIGHT.min, max = limits::BACKEND_WEIGHT.max), extend("default" = 1))]
    pub weight: Field<u64>,
    /// Only endpoints with these labels. Without it: all.
    pub subset: Field<Entries<String>>,
    /// Header changes for this backend only (`requestHeaders`, `responseHeaders`).
    pub filters: Field<List<Filter>>,
}

/// Time limits of a rule. `0s` switches one off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// The whole request with its retries, from the end of its head to the end of the response. Without it: 15 s,
    /// but none for streaming (gRPC, server-sent events, upgrades).
    pub request: Field<DurationText>,
    /// One attempt, to its response head. Without it: none beside `request`.
    pub backend_request: Field<DurationText>,
    /// Nothing moved in either direction. Without it: `timeouts.streamIdle` of the listener.
    pub idle: Field<DurationText>,
}

/// Retries of a rule.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// How many times a request is tried again at most: extra attempts after the first one.
    #[schemars(range(min = limits::RETRY_ATTEMPTS.min, max = limits::RETRY_ATTEMPTS.max), extend("default" = 1))]
    pub attempts: Field<u64>,
    /// When: `connect-failure`, `refused-stream`, `reset`, `gateway-error` (502, 503, 504), `5xx`, a status such as
    /// 503, or a gRPC status such as `unavailable`.
    #[schemars(extend("default" = ["connect-failure", "refused-stream"]))]
    pub on: Field<List<RetryCondition>>,
    /// Waiting before each attempt, with full jitter.
    pub backoff: Field<Backoff>,
    /// Also try again requests with a method that is not idempotent (POST, PATCH) after they may have been executed.
    #[schemars(extend("default" = false))]
    pub non_idempotent: Field<bool>,
    /// Also try again responses with any of these headers.
    #[schemars(length(min = 1))]
    pub headers: Field<List<Condition>>,
    /// A request with an `Idempotency-Key` counts as idempotent, whatever its method. Only where the application honours
    /// the key.
    #[schemars(extend("default" = false))]
    pub idempotency_key: Field<bool>,
    /// `Retry-After` and `grpc-retry-pushback-ms` are waited for up to this long; a longer one ends the retries.
    #[schemars(extend("default" = "5m"))]
    pub max_pushback: Field<DurationText>,
    /// Prefer an endpoint in another zone than those tried.
    #[schemars(extend("default" = false))]
    pub other_locality: Field<bool>,
    /// How much of a request's body is kept for another attempt. A longer body is not tried again.
    #[schemars(extend("default" = "64KiB"))]
    pub buffer: Field<SizeText>,
}

/// Hedged requests: exactly one of `after` and `percentile`. The first good answer wins. Only idempotent requests,
/// unless `retry` says otherwise.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Hedge {
    /// So long after the attempt before.
    pub after: Field<DurationText>,
    /// After this percentile of the recent times to the response head.
    #[schemars(range(min = limits::HEDGE_PERCENTILE.min, max = limits::HEDGE_PERCENTILE.max))]
    pub percentile: Field<u64>,
    /// With `percentile`: not before.
    #[schemars(extend("default" = "1ms"))]
    pub min: Field<DurationText>,
    /// Attempts beside the first.
    #[schemars(range(min = limits::HEDGES.min, max = limits::HEDGES.max), extend("default" = 1))]
    pub max: Field<u64>,
    /// Hedged attempts of the cluster are at most this share of its requests, in percent.
    #[schemars(range(min = limits::SHARE.min, max = limits::SHARE.max), extend("default" = 10))]
    pub budget_percent: Field<u64>,
}

/// Waiting before a retry: a random time up to `base`, doubled for each further one, up to `max`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Backoff {
    /// Upper bound before the first retry.
    #[schemars(extend("default" = "25ms"))]
    pub base: Field<DurationText>,
    /// Upper bound before any retry.
    #[schemars(extend("default" = "250ms"))]
    pub max: Field<DurationText>,
}

/// When an attempt is tried again.
#[derive(Debug, Clone, Deserialize)]
pub struct RetryCondition(pub String);

impl JsonSchema for RetryCondition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RetryCondition".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = crate::words::RETRY_CONDITIONS.iter().map(|(name, _)| *name).collect();
        json_schema!({
            "description": "When an attempt is tried again.",
            "anyOf": [
                { "enum": names },
                { "type": "integer", "minimum": limits::RETRY_STATUS.min, "maximum": limits::RETRY_STATUS.max },
            ]
        })
    }
}
