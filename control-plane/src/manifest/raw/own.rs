//! Our own kinds as written. What a proxy's configuration has as well is written as there.

use outrigger_config::language::raw::{
    Access, AccessRule, CircuitBreaker, ClusterProtocol, Concurrency, Connection, Criticality, DurationText, Fault,
    GlobalRateLimit, HashKey, HealthCheck, Hedge, Interception, JwtProvider, LoadBalancing, OnFailure,
    OutlierDetection, Queue, RateLimit, Retry, RetryBudget, SessionPersistence, Timeouts, Upgrades,
};
use outrigger_config::language::{Entries, Field, List};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{RouteBackendRef, TargetReference};

/// The registration of one proxy: who it is, where it is, what it serves and what it calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WorkloadSpec {
    /// The service account of its identity, `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    #[schemars(extend("x-required" = true))]
    pub(crate) service_account: Field<String>,
    /// Its zone.
    pub(crate) zone: Field<String>,
    /// Its share of the requests, relative to the other endpoints of its Services.
    #[schemars(range(min = 1, max = 1000), extend("default" = 1))]
    pub(crate) weight: Field<u64>,
    /// The IP address where other proxies reach it.
    #[schemars(extend("x-required" = true))]
    pub(crate) address: Field<String>,
    /// Where its application sends requests.
    #[schemars(extend("default" = "127.0.0.1:15001"))]
    pub(crate) outbound: Field<String>,
    /// Connections of its application are redirected to `outbound`. Without it: they are not.
    pub(crate) interception: Field<Interception>,
    /// What it serves.
    pub(crate) ports: Field<List<WorkloadPortSpec>>,
    /// Services that it calls, as `NAME` or `NAMESPACE/NAME`. Without it: those of its namespace.
    pub(crate) uses: Field<List<String>>,
}

/// A port of a Workload.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WorkloadPortSpec {
    /// Its name, by which a Service's `targetPort` may call it.
    pub(crate) name: Field<String>,
    /// The port by which others know it: a Service's `targetPort`, the port in an EndpointSlice.
    #[schemars(extend("x-required" = true), range(min = 1, max = 65535))]
    pub(crate) port: Field<u64>,
    /// The port on which its proxy listens for it.
    #[schemars(extend("x-required" = true), range(min = 1, max = 65535))]
    pub(crate) inbound: Field<u64>,
    /// Where its application listens. Without it: 127.0.0.1 and `port`.
    pub(crate) application: Field<String>,
    /// What its application speaks: `http1`, `http2`, `auto` or `tcp`.
    #[schemars(extend("default" = "http1"))]
    pub(crate) protocol: Field<ClusterProtocol>,
}

/// Defaults and mutual TLS. In the namespace `outrigger-system` it is for the whole mesh, elsewhere for its namespace.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshPolicySpec {
    /// Labels of the workloads that it is for. Without it: all.
    pub(crate) selector: Field<LabelSelector>,
    /// The trust domain of the mesh. Only in `outrigger-system`.
    #[schemars(extend("default" = "mesh.local"))]
    pub(crate) trust_domain: Field<String>,
    /// What inbound listeners accept.
    pub(crate) mtls: Field<MtlsSpec>,
    /// Proxies serve each other over HTTP/3 as well, where UDP gets through.
    #[schemars(extend("default" = false))]
    pub(crate) http3: Field<bool>,
    /// Upgrades and CONNECT, on all listeners of a proxy.
    pub(crate) upgrades: Field<Upgrades>,
    /// Defaults for calls to the Services of its namespace, or of the mesh.
    pub(crate) defaults: Field<TrafficSpec>,
    /// Services that keep rate limits, by the names that `globalRateLimits` have for them. Only in `outrigger-system`.
    pub(crate) rate_limit_services: Field<Entries<RateLimitServiceSpec>>,
}

/// A rate limit service, asked over Envoy's gRPC rate limit service v3.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RateLimitServiceSpec {
    /// The Service that answers.
    #[schemars(extend("x-required" = true))]
    pub(crate) backend_ref: Field<RouteBackendRef>,
    /// The domain that its limits are configured under.
    #[schemars(extend("x-required" = true))]
    pub(crate) domain: Field<String>,
    /// An answer must come within.
    #[schemars(extend("default" = "20ms"))]
    pub(crate) timeout: Field<DurationText>,
    /// What happens to a request when none comes: `allow` or `deny`.
    #[schemars(extend("x-required" = true))]
    pub(crate) on_failure: Field<OnFailure>,
}

/// Labels that must be there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LabelSelector {
    /// All of these.
    #[schemars(extend("x-required" = true))]
    pub(crate) match_labels: Field<Entries<String>>,
}

/// What inbound listeners accept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MtlsSpec {
    /// The mode.
    #[schemars(extend("x-required" = true))]
    pub(crate) mode: Field<MtlsMode>,
    /// A stricter mode that is rehearsed: proxies report who could no longer connect.
    pub(crate) proposed_mode: Field<MtlsMode>,
}

/// A mode of mutual TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum MtlsMode {
    /// Mutual TLS and plaintext.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// How calls are made.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TrafficSpec {
    /// What is spoken to endpoints outside the mesh: `http1`, `http2` or `auto`. Inside it is HTTP/2, or HTTP/3.
    pub(crate) protocol: Field<ClusterProtocol>,
    /// How an endpoint is chosen, for each request.
    pub(crate) load_balancing: Field<LoadBalancing>,
    /// Ceilings, over which a request fails at once, and breakers, which open after failures.
    pub(crate) circuit_breaker: Field<CircuitBreaker>,
    /// Endpoints are asked whether they are well.
    pub(crate) health_check: Field<HealthCheck>,
    /// Endpoints are taken out for a time by what came of requests.
    pub(crate) outlier_detection: Field<OutlierDetection>,
    /// Requests over the limit wait for their turn.
    pub(crate) queue: Field<Queue>,
    /// A limit of requests in flight that follows the latency.
    pub(crate) concurrency: Field<Concurrency>,
    /// How much retries may add to the traffic.
    pub(crate) retry_budget: Field<RetryBudget>,
    /// How connections are made and kept.
    pub(crate) connection: Field<Connection>,
    /// Time limits. What a route says goes before.
    pub(crate) timeouts: Field<Timeouts>,
    /// What is tried again. What a route says goes before.
    pub(crate) retry: Field<Retry>,
    /// A second attempt is started while the first is under way.
    pub(crate) hedge: Field<Hedge>,
    /// What consistent hashing goes by: for `loadBalancing` with `policy: ringHash` or `maglev`.
    #[schemars(length(min = 1))]
    pub(crate) hash: Field<List<HashKey>>,
    /// Requests of one session go to one endpoint.
    pub(crate) session_persistence: Field<SessionPersistence>,
    /// Rate limits, kept by the proxy of each Workload of the Service, for all callers together or each.
    #[schemars(length(min = 1))]
    pub(crate) rate_limits: Field<List<RateLimit>>,
    /// Rate limits that a service keeps, which the same proxies ask: one of the MeshPolicy's `rateLimitServices`.
    #[schemars(length(min = 1))]
    pub(crate) global_rate_limits: Field<List<GlobalRateLimit>>,
    /// How much requests matter when not all can be served, whatever they say themselves.
    pub(crate) criticality: Field<Criticality>,
    /// Faults that the proxies of callers inject, until a moment.
    #[schemars(length(min = 1))]
    pub(crate) faults: Field<List<Fault>>,
}

/// How one Service is called.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TrafficPolicySpec {
    /// The Service, in its namespace.
    #[schemars(extend("x-required" = true))]
    pub(crate) target_ref: Field<TargetReference>,
    /// What is spoken to endpoints outside the mesh: `http1`, `http2` or `auto`. Inside it is HTTP/2, or HTTP/3.
    pub(crate) protocol: Field<ClusterProtocol>,
    /// How an endpoint is chosen, for each request.
    pub(crate) load_balancing: Field<LoadBalancing>,
    /// Ceilings, over which a request fails at once, and breakers, which open after failures.
    pub(crate) circuit_breaker: Field<CircuitBreaker>,
    /// Endpoints are asked whether they are well.
    pub(crate) health_check: Field<HealthCheck>,
    /// Endpoints are taken out for a time by what came of requests.
    pub(crate) outlier_detection: Field<OutlierDetection>,
    /// Requests over the limit wait for their turn.
    pub(crate) queue: Field<Queue>,
    /// A limit of requests in flight that follows the latency.
    pub(crate) concurrency: Field<Concurrency>,
    /// How much retries may add to the traffic.
    pub(crate) retry_budget: Field<RetryBudget>,
    /// How connections are made and kept.
    pub(crate) connection: Field<Connection>,
    /// Time limits. What a route says goes before.
    pub(crate) timeouts: Field<Timeouts>,
    /// What is tried again. What a route says goes before.
    pub(crate) retry: Field<Retry>,
    /// A second attempt is started while the first is under way.
    pub(crate) hedge: Field<Hedge>,
    /// What consistent hashing goes by: for `loadBalancing` with `policy: ringHash` or `maglev`.
    #[schemars(length(min = 1))]
    pub(crate) hash: Field<List<HashKey>>,
    /// Requests of one session go to one endpoint.
    pub(crate) session_persistence: Field<SessionPersistence>,
    /// Rate limits, kept by the proxy of each Workload of the Service, for all callers together or each.
    #[schemars(length(min = 1))]
    pub(crate) rate_limits: Field<List<RateLimit>>,
    /// Rate limits that a service keeps, which the same proxies ask: one of the MeshPolicy's `rateLimitServices`.
    #[schemars(length(min = 1))]
    pub(crate) global_rate_limits: Field<List<GlobalRateLimit>>,
    /// How much requests matter when not all can be served, whatever they say themselves.
    pub(crate) criticality: Field<Criticality>,
    /// Faults that the proxies of callers inject, until a moment.
    #[schemars(length(min = 1))]
    pub(crate) faults: Field<List<Fault>>,
}

/// Who may do what on workloads. Policies add up: what any of them denies is refused, then what any of them allows
/// passes, and the rest is refused where any of them has `default: deny`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuthorizationPolicySpec {
    /// Labels of the workloads that it is for. Without it: all.
    pub(crate) selector: Field<LabelSelector>,
    /// What is done where no rule decides.
    #[schemars(extend("x-required" = true))]
    pub(crate) default: Field<Access>,
    /// The rules. Their order means nothing.
    #[schemars(length(min = 1))]
    pub(crate) rules: Field<List<AccessRule>>,
}

/// Tokens that workloads verify.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct JwtPolicySpec {
    /// Labels of the workloads that it is for. Without it: all.
    pub(crate) selector: Field<LabelSelector>,
    /// Whether a request without a token is refused. A token that is there must be valid either way.
    #[schemars(extend("default" = true))]
    pub(crate) required: Field<bool>,
    /// Who issues tokens, by name.
    #[schemars(extend("x-required" = true))]
    pub(crate) providers: Field<Entries<JwtProvider>>,
}
