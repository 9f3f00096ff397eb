//! Kinds of the Gateway API as written.

use outrigger_config::language::raw::DurationText;
use outrigger_config::language::{Entries, Field, List};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{RouteFilter, RouteSession};

/// An HTTPRoute.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HttpRouteSpec {
    /// The Services that it is attached to.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub(crate) parent_refs: Field<List<ParentReference>>,
    /// Its rules. Without it: one that takes everything and has no backend.
    pub(crate) rules: Field<List<HttpRouteRule>>,
}

/// A TCPRoute.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TcpRouteSpec {
    /// The Services that it is attached to: their ports with `appProtocol: tcp`.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub(crate) parent_refs: Field<List<ParentReference>>,
    /// One rule.
    #[schemars(extend("x-required" = true), length(min = 1, max = 1))]
    pub(crate) rules: Field<List<TcpRouteRule>>,
}

/// A TLSRoute.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TlsRouteSpec {
    /// The Services that it is attached to: their ports with `appProtocol: tcp`.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub(crate) parent_refs: Field<List<ParentReference>>,
    /// Server names that callers ask for, exact or by suffix (`*.example.com`). The most specific one decides.
    #[schemars(extend("x-required" = true), length(min = 1, max = 16))]
    pub(crate) hostnames: Field<List<String>>,
    /// One rule.
    #[schemars(extend("x-required" = true), length(min = 1, max = 1))]
    pub(crate) rules: Field<List<TcpRouteRule>>,
}

/// The rule of a TCPRoute or a TLSRoute.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TcpRouteRule {
    /// A name for logs and metrics.
    pub(crate) name: Field<String>,
    /// Where connections go, by weight.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub(crate) backend_refs: Field<List<RouteBackendRef>>,
}

/// A reference to a Service that a route is attached to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ParentReference {
    /// Empty, the core group: only Services are parents.
    pub(crate) group: Field<String>,
    /// `Service`.
    #[schemars(extend("x-required" = true))]
    pub(crate) kind: Field<String>,
    /// Its name.
    #[schemars(extend("x-required" = true))]
    pub(crate) name: Field<String>,
    /// Its namespace. Without it: the route's. In another namespace the route is for callers of its own namespace only.
    pub(crate) namespace: Field<String>,
    /// One of its ports. Without it: all of them.
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) port: Field<u64>,
    /// One of its ports by name.
    pub(crate) section_name: Field<String>,
}

/// A rule of an HTTPRoute.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HttpRouteRule {
    /// A name for logs and metrics.
    pub(crate) name: Field<String>,
    /// The rule applies when any of these matches. Without it: always.
    pub(crate) matches: Field<List<HttpRouteMatch>>,
    /// Changes to requests and responses.
    pub(crate) filters: Field<List<RouteFilter>>,
    /// Where requests go, by weight.
    pub(crate) backend_refs: Field<List<RouteBackendRef>>,
    /// Time limits.
    pub(crate) timeouts: Field<RouteTimeouts>,
    /// What is tried again.
    pub(crate) retry: Field<RouteRetry>,
    /// Requests of one session go to one endpoint.
    pub(crate) session_persistence: Field<RouteSession>,
}

/// Conditions that must all hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HttpRouteMatch {
    /// Condition on the path. Without it: the prefix `/`.
    pub(crate) path: Field<HttpPathMatch>,
    /// Conditions on headers.
    pub(crate) headers: Field<List<NamedMatch>>,
    /// Conditions on query parameters.
    pub(crate) query_params: Field<List<NamedMatch>>,
    /// The method.
    pub(crate) method: Field<String>,
}

/// A condition on the path.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HttpPathMatch {
    /// How `value` is compared.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Exact", "PathPrefix", "RegularExpression"], "default" = "PathPrefix"))]
    pub(crate) kind: Field<String>,
    /// The path, prefix or regular expression.
    #[schemars(extend("default" = "/"))]
    pub(crate) value: Field<String>,
}

/// A condition on a header or a query parameter.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NamedMatch {
    /// How `value` is compared.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Exact", "RegularExpression"], "default" = "Exact"))]
    pub(crate) kind: Field<String>,
    /// Its name.
    #[schemars(extend("x-required" = true))]
    pub(crate) name: Field<String>,
    /// The value or regular expression.
    #[schemars(extend("x-required" = true))]
    pub(crate) value: Field<String>,
}

/// A Service, its port and its share.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RouteBackendRef {
    /// Empty, the core group.
    pub(crate) group: Field<String>,
    /// `Service`.
    #[schemars(extend("default" = "Service"))]
    pub(crate) kind: Field<String>,
    /// Its name.
    #[schemars(extend("x-required" = true))]
    pub(crate) name: Field<String>,
    /// Its namespace. Without it: the route's.
    pub(crate) namespace: Field<String>,
    /// Its port.
    #[schemars(extend("x-required" = true), range(min = 1, max = 65535))]
    pub(crate) port: Field<u64>,
    /// Its share. 0 gets nothing.
    #[schemars(range(min = 0, max = 1000000), extend("default" = 1))]
    pub(crate) weight: Field<u64>,
    /// Header changes for it alone.
    pub(crate) filters: Field<List<RouteFilter>>,
}

/// Time limits. `0s` switches one off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RouteTimeouts {
    /// The whole request.
    pub(crate) request: Field<DurationText>,
    /// One attempt.
    pub(crate) backend_request: Field<DurationText>,
}

/// What is tried again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RouteRetry {
    /// Statuses beside connections that fail.
    pub(crate) codes: Field<List<StatusText>>,
    /// How many times at most.
    #[schemars(range(min = 0, max = 5), extend("default" = 1))]
    pub(crate) attempts: Field<u64>,
    /// Waiting before the first retry at most; doubled for each further one.
    pub(crate) backoff: Field<DurationText>,
}

/// A status of HTTP.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct StatusText(pub(crate) u64);

impl JsonSchema for StatusText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Status".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 400, "maximum": 599 })
    }
}

/// A GRPCRoute.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GrpcRouteSpec {
    /// The Services that it is attached to.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub(crate) parent_refs: Field<List<ParentReference>>,
    /// Its rules. Without it: one that takes every call and has no backend.
    pub(crate) rules: Field<List<GrpcRouteRule>>,
}

/// A rule of a GRPCRoute.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GrpcRouteRule {
    /// A name for logs and metrics.
    pub(crate) name: Field<String>,
    /// The rule applies when any of these matches. Without it: always.
    pub(crate) matches: Field<List<GrpcRouteMatch>>,
    /// Changes to requests and responses.
    pub(crate) filters: Field<List<RouteFilter>>,
    /// Where calls go, by weight.
    pub(crate) backend_refs: Field<List<RouteBackendRef>>,
    /// Calls of one session go to one endpoint.
    pub(crate) session_persistence: Field<RouteSession>,
}

/// Conditions that must all hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GrpcRouteMatch {
    /// Condition on service and method. Without it: any.
    pub(crate) method: Field<GrpcMethodMatch>,
    /// Conditions on headers.
    pub(crate) headers: Field<List<NamedMatch>>,
}

/// A condition on service and method; at least one of the two.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GrpcMethodMatch {
    /// How they are compared.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Exact", "RegularExpression"], "default" = "Exact"))]
    pub(crate) kind: Field<String>,
    /// Full name of the service, such as `shop.Payments`.
    pub(crate) service: Field<String>,
    /// Name of the method.
    pub(crate) method: Field<String>,
}

/// A ReferenceGrant.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ReferenceGrantSpec {
    /// Who may refer.
    #[schemars(extend("x-required" = true), length(min = 1, max = 16))]
    pub(crate) from: Field<List<GrantFrom>>,
    /// What may be referred to.
    #[schemars(extend("x-required" = true), length(min = 1, max = 16))]
    pub(crate) to: Field<List<GrantTo>>,
}

/// Who may refer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GrantFrom {
    /// `gateway.networking.k8s.io`.
    #[schemars(extend("x-required" = true))]
    pub(crate) group: Field<String>,
    /// `HTTPRoute`, `GRPCRoute`, `TCPRoute` or `TLSRoute`.
    #[schemars(extend("x-required" = true))]
    pub(crate) kind: Field<String>,
    /// The namespace of the routes.
    #[schemars(extend("x-required" = true))]
    pub(crate) namespace: Field<String>,
}

/// What may be referred to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GrantTo {
    /// Empty, the core group.
    pub(crate) group: Field<String>,
    /// `Service`.
    #[schemars(extend("x-required" = true))]
    pub(crate) kind: Field<String>,
    /// One of them. Without it: all of the namespace.
    pub(crate) name: Field<String>,
}

/// A BackendTLSPolicy.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BackendTlsSpec {
    /// The Services, in its namespace.
    #[schemars(extend("x-required" = true), length(min = 1, max = 16))]
    pub(crate) target_refs: Field<List<TargetReference>>,
    /// How the servers are verified.
    #[schemars(extend("x-required" = true))]
    pub(crate) validation: Field<BackendTlsValidation>,
    /// `outrigger.dev/trust-bundle`: a PEM file on the hosts of the proxies, with the roots. `outrigger.dev/min-version`:
    /// `1.2` or `1.3`.
    pub(crate) options: Field<Entries<String>>,
}

/// A reference to a Service of the same namespace.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TargetReference {
    /// Empty, the core group.
    pub(crate) group: Field<String>,
    /// `Service`.
    #[schemars(extend("x-required" = true))]
    pub(crate) kind: Field<String>,
    /// Its name.
    #[schemars(extend("x-required" = true))]
    pub(crate) name: Field<String>,
    /// One of its ports by name. Without it: all.
    pub(crate) section_name: Field<String>,
}

/// How servers are verified.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BackendTlsValidation {
    /// `System`: the system's roots on the hosts of the proxies.
    #[serde(rename = "wellKnownCACertificates")]
    #[schemars(extend("enum" = ["System"]))]
    pub(crate) well_known: Field<String>,
    /// The server name that is sent, and that the certificate must have where `subjectAltNames` says nothing.
    #[schemars(extend("x-required" = true))]
    pub(crate) hostname: Field<String>,
    /// Names of which the certificate must have one.
    pub(crate) subject_alt_names: Field<List<SubjectAltName>>,
}

/// A name of a certificate: `type`, and the field that belongs to it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SubjectAltName {
    /// `Hostname`.
    #[serde(rename = "type")]
    #[schemars(extend("x-required" = true, "enum" = ["Hostname"]))]
    pub(crate) kind: Field<String>,
    /// The name.
    pub(crate) hostname: Field<String>,
}
