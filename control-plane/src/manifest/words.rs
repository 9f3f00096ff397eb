//! How the types of manifests are called in messages, and what people write who know the thing by another name.

use outrigger_config::language::Vocabulary;

/// The words of manifests.
pub(crate) struct Words;

impl Vocabulary for Words {
    fn describe(&self, name: &str) -> Option<&'static str> {
        Some(match name {
            "Manifest" | "EndpointSliceManifest" => "a manifest",
            "ObjectMeta" => "`metadata`",
            "ServiceSpec" => "`spec` of a Service",
            "ServicePortSpec" => "a port of a Service",
            "EndpointSpec" => "an endpoint",
            "EndpointConditions" => "`conditions` of an endpoint",
            "EndpointPortSpec" => "a port of an EndpointSlice",
            "HttpRouteSpec" => "`spec` of an HTTPRoute",
            "GrpcRouteSpec" => "`spec` of a GRPCRoute",
            "TcpRouteSpec" => "`spec` of a TCPRoute",
            "TlsRouteSpec" => "`spec` of a TLSRoute",
            "ParentReference" => "a parent",
            "HttpRouteRule" | "GrpcRouteRule" | "TcpRouteRule" => "a rule",
            "HttpRouteMatch" | "GrpcRouteMatch" => "a match",
            "HttpPathMatch" => "a path condition",
            "NamedMatch" => "a header or query condition",
            "GrpcMethodMatch" => "a condition on a gRPC method",
            "RouteFilter" => "a filter",
            "HeaderModifier" => "a header filter",
            "RequestRedirect" => "`requestRedirect`",
            "UrlRewriteFilter" => "`urlRewrite`",
            "PathModifier" => "a path of a filter",
            "CorsFilter" => "`cors`",
            "RouteBackendRef" => "a backend",
            "RequestMirror" => "`requestMirror`",
            "Fraction" => "`fraction`",
            "RouteSession" => "`sessionPersistence`",
            "SessionCookieConfig" => "`cookieConfig`",
            "RouteTimeouts" => "`timeouts`",
            "RouteRetry" => "`retry`",
            "ReferenceGrantSpec" => "`spec` of a ReferenceGrant",
            "GrantFrom" => "an entry of `from`",
            "GrantTo" => "an entry of `to`",
            "BackendTlsSpec" => "`spec` of a BackendTLSPolicy",
            "TargetReference" => "a target",
            "BackendTlsValidation" => "`validation`",
            "SubjectAltName" => "a subject name",
            "WorkloadSpec" => "`spec` of a Workload",
            "WorkloadPortSpec" => "a port of a Workload",
            "MeshPolicySpec" => "`spec` of a MeshPolicy",
            "LabelSelector" => "a selector",
            "MtlsSpec" => "`mtls`",
            "RateLimitServiceSpec" => "a rate limit service",
            "MtlsMode" => "a mode of mutual TLS",
            "TrafficSpec" => "`defaults`",
            "TrafficPolicySpec" => "`spec` of a TrafficPolicy",
            "AuthorizationPolicySpec" => "`spec` of an AuthorizationPolicy",
            "JwtPolicySpec" => "`spec` of a JwtPolicy",
            _ => return None,
        })
    }

    fn forms(&self, name: &str) -> Option<&'static str> {
        Some(match name {
            "MtlsMode" => "write permissive or strict",
            _ => return None,
        })
    }

    fn meant(&self, owner: &str, word: &str) -> Option<&'static str> {
        Some(match (owner, word) {
            ("HttpRouteMatch", "query" | "queryParameters") => "queryParams",
            ("HttpRouteRule" | "GrpcRouteRule" | "TcpRouteRule", "backends" | "backendRef") => "backendRefs",
            ("HttpRouteSpec" | "GrpcRouteSpec" | "TcpRouteSpec" | "TlsRouteSpec", "parentRef") => "parentRefs",
            ("TlsRouteSpec", "hosts" | "sniHosts" | "hostname" | "snis") => "hostnames",
            ("WorkloadSpec", "ip" | "host") => "address",
            ("WorkloadSpec", "serviceAccountName" | "account") => "serviceAccount",
            ("WorkloadSpec", "services" | "upstreams" | "dependencies") => "uses",
            ("WorkloadPortSpec", "app" | "target") => "application",
            ("LabelSelector", "labels") => "matchLabels",
            ("MeshPolicySpec", "rateLimitService") => "rateLimitServices",
            ("RateLimitServiceSpec", "service" | "backend" | "cluster") => "backendRef",
            ("MeshPolicySpec", "tls" | "mTLS") => "mtls",
            ("TrafficPolicySpec" | "TrafficSpec", "rateLimit") => "rateLimits",
            ("TrafficPolicySpec" | "TrafficSpec", "fault") => "faults",
            ("TrafficPolicySpec" | "TrafficSpec", "session") => "sessionPersistence",
            ("TrafficPolicySpec" | "TrafficSpec", "hashKeys" | "hashOn") => "hash",
            ("TrafficPolicySpec", "target" | "targetRefs") => "targetRef",
            ("MtlsMode", "STRICT") => "strict",
            ("MtlsMode", "PERMISSIVE") => "permissive",
            ("BackendTlsSpec", "targetRef") => "targetRefs",
            ("BackendTlsValidation", "subjectAltName") => "subjectAltNames",
            _ => return None,
        })
    }

    fn refused(&self, owner: &str, word: &str) -> Option<(&'static str, &'static str)> {
        Some(match (owner, word) {
            ("HttpRouteSpec" | "GrpcRouteSpec", "hostnames") => (
                "`hostnames` means nothing in a mesh, where a route is for the names of its parent Service",
                "remove it; to tell hosts apart, match the header `Host`",
            ),
            ("TcpRouteSpec", "hostnames") => {
                ("a TCPRoute takes every connection of its ports", "remove it, or write a TLSRoute")
            }
            ("TcpRouteRule", "matches" | "filters" | "timeouts" | "retry") => {
                ("connections are handed on as they are: nothing in them is looked at or changed", "remove it")
            }
            ("HttpRouteSpec" | "GrpcRouteSpec" | "TcpRouteSpec" | "TlsRouteSpec", "useDefaultGateways") => {
                ("gateways are not supported", "remove it, and name Services in `parentRefs`")
            }
            ("RouteFilter", "extensionRef") => ("filters of other kinds are not supported", "remove the filter"),
            ("RouteFilter", "externalAuth") => (
                "external authorization is not supported in routes",
                "remove the filter; AuthorizationPolicy and JwtPolicy say who may call",
            ),
            ("BackendTlsValidation", "caCertificateRefs") => (
                "roots in ConfigMaps and Secrets are not supported",
                "write `wellKnownCACertificates: System`, or the option `outrigger.dev/trust-bundle: /path/of/roots.pem`",
            ),
            ("SubjectAltName", "uri") => (
                "subject names of type URI are not supported",
                "write `type: Hostname`; workloads of the mesh are verified by their identity without a policy",
            ),
            ("ServiceSpec", "externalName") => {
                ("Services of type ExternalName are not supported", "write an EndpointSlice with `addressType: FQDN`")
            }
            ("ServiceSpec", "externalIPs" | "loadBalancerIP" | "loadBalancerClass" | "loadBalancerSourceRanges") => {
                ("this is not supported: the mesh carries traffic between its workloads only", "remove it")
            }
            ("ServiceSpec", "sessionAffinityConfig") => {
                ("session affinity is not supported", "remove it: every request is balanced")
            }
            ("ServiceSpec", "trafficDistribution") => ("`trafficDistribution` is not supported", "remove it"),
            ("ObjectMeta", "deletionTimestamp" | "deletionGracePeriodSeconds") => {
                ("this object is being deleted", "leave it out")
            }
            ("MtlsMode", "off" | "disable" | "DISABLE" | "none" | "plaintext") => {
                ("mutual TLS cannot be switched off", "write permissive to take plaintext as well")
            }
            ("ParentReference", "sectionNames") => ("a parent has one `sectionName`", "write one parent for each"),
            _ => return None,
        })
    }
}
