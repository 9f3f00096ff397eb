//! Who may do what: authorization rules, JSON Web Tokens, and an authorizer outside.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::{HeaderMatch, HostPattern, PathMatch, Place, ValueMatch};
use crate::spiffe::{IdentityPattern, TrustDomain};

/// A named list of authorization rules. A matching `deny` decides before any `allow`; where neither matches, the
/// default does.
#[derive(Debug, Clone, PartialEq)]
pub struct Authorization {
    /// Its name.
    pub name: Arc<str>,
    /// Where no rule decides. Always written, never guessed.
    pub default: Access,
    /// The rules; names are unique within the policy.
    pub rules: Vec<AccessRule>,
    /// Where it is written.
    pub place: Place,
}

/// Let through or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessRule {
    /// In logs and metrics; never shown to callers.
    pub name: Arc<str>,
    /// What a match means.
    pub action: AccessAction,
    /// Evaluated and counted, not enforced.
    pub shadow: bool,
    /// Any of these sources; empty is everybody.
    pub from: Vec<AccessSource>,
    /// Any of these operations; empty is everything.
    pub to: Vec<AccessOperation>,
    /// All of these token claims.
    pub claims: Vec<ClaimMatch>,
    /// Where it is written.
    pub place: Place,
}

impl AccessRule {
    /// The first condition that only requests fulfil, in the words of the file: of a connection, nothing is known but
    /// who makes it and to which port.
    #[must_use]
    pub fn looks_at_requests(&self) -> Option<&'static str> {
        let AccessRule { name: _, action: _, shadow: _, from: _, to, claims, place: _ } = self;
        let of_operation = |operation: &AccessOperation| {
            let AccessOperation {
                hosts,
                not_hosts,
                paths,
                not_paths,
                methods,
                not_methods,
                ports: _,
                not_ports: _,
                headers,
                grpc,
            } = operation;
            let conditions = [
                ("hosts", hosts.is_empty()),
                ("notHosts", not_hosts.is_empty()),
                ("paths", paths.is_empty()),
                ("notPaths", not_paths.is_empty()),
                ("methods", methods.is_empty()),
                ("notMethods", not_methods.is_empty()),
                ("headers", headers.is_empty()),
                ("grpc", grpc.is_empty()),
            ];
            conditions.into_iter().find(|(_, absent)| !absent).map(|(name, _)| name)
        };
        to.iter().find_map(of_operation).or((!claims.is_empty()).then_some("claims"))
    }
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessAction {
    /// Let through, unless something denies.
    Allow,
    /// Refused.
    Deny,
    /// Logged and counted; decides nothing.
    Audit,
}

/// All conditions that are given must hold; of a list any entry, of a `not` list none. An identity condition never
/// holds for a caller without a verified identity, a `not` one always does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AccessSource {
    /// The caller's identity.
    pub identities: Vec<IdentityPattern>,
    /// The caller's identity is none of these.
    pub not_identities: Vec<IdentityPattern>,
    /// The namespace of a Kubernetes-style identity (`/ns/NAMESPACE/sa/ACCOUNT`).
    pub namespaces: Vec<Arc<str>>,
    /// The namespace is none of these.
    pub not_namespaces: Vec<Arc<str>>,
    /// The trust domain of the identity.
    pub trust_domains: Vec<TrustDomain>,
    /// The trust domain is none of these.
    pub not_trust_domains: Vec<TrustDomain>,
    /// The address of the connection's other end.
    pub addresses: Vec<Cidr>,
    /// The address is in none of these.
    pub not_addresses: Vec<Cidr>,
}

/// All conditions that are given must hold; of a list any entry, of a `not` list none. Paths, hosts and methods are
/// those that routing sees.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AccessOperation {
    /// The host of the request, without port.
    pub hosts: Vec<HostPattern>,
    /// The host is none of these.
    pub not_hosts: Vec<HostPattern>,
    /// The normalised path.
    pub paths: Vec<PathMatch>,
    /// The path is none of these.
    pub not_paths: Vec<PathMatch>,
    /// The method.
    pub methods: Vec<Method>,
    /// The method is none of these.
    pub not_methods: Vec<Method>,
    /// The port that the connection was made to.
    pub ports: Vec<u16>,
    /// The port is none of these.
    pub not_ports: Vec<u16>,
    /// All must hold.
    pub headers: Vec<HeaderMatch>,
    /// The call is gRPC (by content type), to this service and method.
    pub grpc: Vec<GrpcOperation>,
}

/// A gRPC service and method; `None` is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcOperation {
    /// The full service name.
    pub service: Option<Arc<str>>,
    /// The method.
    pub method: Option<Arc<str>>,
}

/// A range of addresses. IPv4 is not seen through IPv6: peers are compared in canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The network; bits beyond the prefix are zero.
    pub network: IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

impl Cidr {
    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A condition on a claim of a verified token. Never holds without a token.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimMatch {
    /// The provider that verified the token; `None`: any.
    pub provider: Option<Arc<str>>,
    /// The claim; dots lead into objects (`realm_access.roles`).
    pub path: Vec<Arc<str>>,
    /// Any of these. Of a claim that is a list, one entry must hold; numbers and booleans are compared by their JSON
    /// text, and a `scope` string by its words.
    pub values: Vec<ValueMatch>,
}

/// Who issues tokens and how they are verified.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtProvider {
    /// Its name.
    pub name: Arc<str>,
    /// What `iss` must be.
    pub issuer: Arc<str>,
    /// `aud` must have one of these; at least one.
    pub audiences: Vec<Arc<str>>,
    /// Where its keys are.
    pub keys: KeySource,
    /// Signature algorithms that are believed.
    pub algorithms: Vec<JwtAlgorithm>,
    /// How far clocks may differ (default 60 s).
    pub clock_skew: Duration,
    /// Where a token is looked for, in order (default `authorization: Bearer`).
    pub from: Vec<TokenPlace>,
    /// Whether the token is sent on (default false: it is removed once verified).
    pub forward: bool,
    /// Claims that are sent on as headers; those headers are always removed from what callers send.
    pub claims_to_headers: Vec<ClaimHeader>,
    /// Where it is written.
    pub place: Place,
}

/// Where a provider's keys are.
#[derive(Debug, Clone, PartialEq)]
pub enum KeySource {
    /// A JWKS file, watched.
    File(PathBuf),
    /// A JWKS document on the web.
    Url {
        /// `https://…`, or `http://` to a loopback address.
        url: Arc<str>,
        /// How often it is fetched again (default 10 min).
        refresh: Duration,
        /// How long a fetch may take (default 5 s).
        timeout: Duration,
        /// Roots to verify the server by (PEM). `None`: the system's.
        trust_bundle: Option<PathBuf>,
    },
}

/// Signature algorithms (RFC 7518, RFC 8037). No symmetric ones, and never `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JwtAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// ECDSA with P-256.
    Es256,
    /// ECDSA with P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl JwtAlgorithm {
    /// Every one, in the order of the documentation.
    pub const ALL: [Self; 6] = [Self::Rs256, Self::Rs384, Self::Rs512, Self::Es256, Self::Es384, Self::EdDsa];

    /// Its name in the `alg` of a token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Where a token is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// In a header, after a prefix.
    Header {
        /// The header.
        name: HeaderName,
        /// What comes before the token, such as `Bearer `; compared without regard to case.
        prefix: Arc<str>,
    },
    /// In a query parameter.
    Query(Arc<str>),
}

/// A claim that is sent on as a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The claim; dots lead into objects.
    pub path: Vec<Arc<str>>,
    /// The header.
    pub header: HeaderName,
}

/// Tokens on a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerJwt {
    /// The providers that are believed, in order; they exist in `Config::jwt_providers`.
    pub providers: Vec<Arc<str>>,
    /// Whether a request without a token is refused (default true). A token that is there must be valid either way.
    pub required: bool,
}

/// An authorizer outside, asked over Envoy's gRPC `envoy.service.auth.v3.Authorization`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalAuthorizer {
    /// Its name.
    pub name: Arc<str>,
    /// The cluster it is; speaks HTTP/2.
    pub cluster: Arc<str>,
    /// How long it may take (default 200 ms).
    pub timeout: Duration,
    /// Whether a request passes when it cannot be asked (default false).
    pub fail_open: bool,
    /// The answer to the caller when it cannot be asked (default 403).
    pub status_on_error: StatusCode,
    /// How much of a request body it is shown; 0 (default): none, and nothing is waited for.
    pub max_body_bytes: u32,
    /// Told with every question.
    pub context: Vec<(Arc<str>, Arc<str>)>,
    /// Where it is written.
    pub place: Place,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_what_shares_its_leading_bits() {
        let contains = |network: &str, prefix, address: &str| {
            Cidr { network: network.parse().expect("network"), prefix }.contains(address.parse().expect("address"))
        };
        assert!(contains("0.0.0.0", 0, "255.1.2.3"));
        assert!(contains("10.0.0.0", 8, "10.255.0.1") && !contains("10.0.0.0", 8, "11.0.0.0"));
        assert!(contains("10.0.0.128", 25, "10.0.0.200") && !contains("10.0.0.128", 25, "10.0.0.127"));
        assert!(contains("192.0.2.7", 32, "192.0.2.7") && !contains("192.0.2.7", 32, "192.0.2.6"));
        assert!(contains("::", 0, "fd00::1"));
        assert!(contains("fd00::", 8, "fdff::1") && !contains("fd00::", 8, "fe00::1"));
        assert!(contains("::1", 128, "::1") && !contains("::1", 128, "::2"));
    }

    #[test]
    fn families_do_not_contain_each_other_and_mapped_addresses_are_ipv4() {
        let contains = |network: &str, prefix, address: &str| {
            Cidr { network: network.parse().expect("network"), prefix }.contains(address.parse().expect("address"))
        };
        assert!(!contains("::", 0, "10.0.0.1") && !contains("0.0.0.0", 0, "::1"));
        assert!(contains("10.0.0.0", 8, "::ffff:10.0.0.1") && !contains("::", 0, "::ffff:10.0.0.1"));
    }
}
