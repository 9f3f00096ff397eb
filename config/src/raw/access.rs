//! Authorization, tokens and authorizers outside as written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{Condition, DurationText, GrpcMatch, PathMatch, SizeText};
use crate::limits;
use crate::read::{Entries, Field, List};

/// A list of authorization rules. A matching `deny` decides before any `allow`; where no rule decides, `default` does.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    /// What is done where no rule decides.
    #[schemars(extend("x-required" = true))]
    pub default: Field<Access>,
    /// The rules. Their order means nothing.
    #[schemars(length(min = 1))]
    pub rules: Field<List<AccessRule>>,
}

/// Let through or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
}

/// An authorization rule: it matches when one of `from`, one of `to` and all of `claims` do.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// A name for logs and metrics, unique in its policy. Callers never see it.
    #[schemars(extend("x-required" = true))]
    pub name: Field<String>,
    /// What a match means.
    #[schemars(extend("x-required" = true))]
    pub action: Field<AccessAction>,
    /// Evaluated and counted, but not enforced.
    #[schemars(extend("default" = false))]
    pub shadow: Field<bool>,
    /// Any of these sources. Without it: everybody.
    #[schemars(length(min = 1))]
    pub from: Field<List<AccessSource>>,
    /// Any of these operations. Without it: everything.
    #[schemars(length(min = 1))]
    pub to: Field<List<AccessOperation>>,
    /// Conditions on claims of a verified token; all must hold.
    #[schemars(length(min = 1))]
    pub claims: Field<List<ClaimMatch>>,
}

/// What a match of an authorization rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessAction {
    /// Let through, unless something denies.
    Allow,
    /// Refused.
    Deny,
    /// Logged and counted; decides nothing.
    Audit,
}

/// Who calls. All conditions that are written must hold; of a list any entry, of a `not` list none. A condition on the
/// identity never holds for a caller without a verified one, and a `not` condition always does.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessSource {
    /// Identities: a SPIFFE ID, or all below one (`spiffe://mesh.local/ns/shop/*`).
    #[schemars(length(min = 1))]
    pub identities: Field<List<String>>,
    /// None of these identities.
    #[schemars(length(min = 1))]
    pub not_identities: Field<List<String>>,
    /// Namespaces of identities `spiffe://…/ns/NAMESPACE/sa/ACCOUNT`.
    #[schemars(length(min = 1))]
    pub namespaces: Field<List<String>>,
    /// None of these namespaces.
    #[schemars(length(min = 1))]
    pub not_namespaces: Field<List<String>>,
    /// Trust domains of identities.
    #[schemars(length(min = 1))]
    pub trust_domains: Field<List<String>>,
    /// None of these trust domains.
    #[schemars(length(min = 1))]
    pub not_trust_domains: Field<List<String>>,
    /// Addresses that the connection comes from: `10.0.0.0/8`, `192.0.2.7`, `fd00::/8`.
    #[schemars(length(min = 1))]
    pub addresses: Field<List<String>>,
    /// None of these addresses.
    #[schemars(length(min = 1))]
    pub not_addresses: Field<List<String>>,
}

/// What is called. All conditions that are written must hold; of a list any entry, of a `not` list none. Hosts, paths
/// and methods are those that routing sees.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessOperation {
    /// Hosts: exact, by suffix (`*.example.com`), or `*`.
    #[schemars(length(min = 1))]
    pub hosts: Field<List<String>>,
    /// None of these hosts.
    #[schemars(length(min = 1))]
    pub not_hosts: Field<List<String>>,
    /// Paths in their normal form, as in `matches` of a rule.
    #[schemars(length(min = 1))]
    pub paths: Field<List<PathMatch>>,
    /// None of these paths.
    #[schemars(length(min = 1))]
    pub not_paths: Field<List<PathMatch>>,
    /// Methods, in capitals.
    #[schemars(length(min = 1))]
    pub methods: Field<List<String>>,
    /// None of these methods.
    #[schemars(length(min = 1))]
    pub not_methods: Field<List<String>>,
    /// Ports that the connection was made to.
    #[schemars(length(min = 1))]
    pub ports: Field<List<Port>>,
    /// None of these ports.
    #[schemars(length(min = 1))]
    pub not_ports: Field<List<Port>>,
    /// Conditions on headers; all must hold.
    #[schemars(length(min = 1))]
    pub headers: Field<List<Condition>>,
    /// gRPC calls of these services and methods.
    #[schemars(length(min = 1))]
    pub grpc: Field<List<GrpcMatch>>,
}

/// A TCP port.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Port(pub u64);

impl JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": limits::PORT.min, "maximum": limits::PORT.max })
    }
}

/// A condition on a claim of a verified token. It never holds without a token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimMatch {
    /// The provider that verified the token. Without it: any.
    pub provider: Field<String>,
    /// The claim.
    #[schemars(extend("x-required" = true))]
    pub claim: Field<ClaimPath>,
    /// Any of these. Of a claim that is a list, one entry; of `scope`, one word. Numbers and booleans are compared as
    /// they are written in JSON.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub values: Field<List<ClaimValue>>,
}

/// A claim of a token: `sub`; dots lead into objects (`realm_access.roles`). A name that has dots itself is written as
/// a list (`["https://id.example/roles"]`).
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum ClaimPath {
    /// Names with dots between them.
    #[serde(rename = "$text")]
    Text(#[schemars(schema_with = "word")] String),
    /// Names one by one.
    #[serde(rename = "$list")]
    List(#[schemars(length(min = 1))] List<String>),
}

/// A condition on the value of a claim: the value itself, or one of `exact`, `prefix`, `regex` and `present`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum ClaimValue {
    /// The whole value.
    #[serde(rename = "$text")]
    Text(#[schemars(schema_with = "word")] String),
    /// Another condition.
    #[serde(rename = "$map")]
    Map(ClaimCondition),
}

/// A condition on the value of a claim; exactly one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimCondition {
    /// The whole value.
    pub exact: Field<String>,
    /// How the value begins.
    pub prefix: Field<String>,
    /// A regular expression for the whole value.
    pub regex: Field<String>,
    /// Whether the claim is there at all.
    pub present: Field<bool>,
}

/// What an editor may see as a number or a truth value is compared as it is written.
fn word(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "string" }, { "type": "integer" }, { "type": "boolean" }] })
}

/// Tokens on a listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerJwt {
    /// Names of the providers that are believed.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub providers: Field<List<String>>,
    /// Whether a request without a token is refused. A token that is there must be valid either way.
    #[schemars(extend("default" = true))]
    pub required: Field<bool>,
}

/// Who issues tokens (JWT), and how they are verified.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtProvider {
    /// What `iss` must be.
    #[schemars(extend("x-required" = true))]
    pub issuer: Field<String>,
    /// Of these `aud` must have one.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub audiences: Field<List<String>>,
    /// Where its keys are: a file or a URL.
    #[schemars(extend("x-required" = true))]
    pub jwks: Field<Jwks>,
    /// Signature algorithms that are believed. Without it: all of them.
    #[schemars(extend("default" = ["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"]), length(min = 1))]
    pub algorithms: Field<List<JwtAlgorithm>>,
    /// How far the issuer's clock may differ.
    #[schemars(extend("default" = "60s"))]
    pub clock_skew: Field<DurationText>,
    /// Where a token is looked for, in this order. Without it: `authorization: Bearer TOKEN`.
    #[schemars(extend("default" = [{ "header": "authorization", "prefix": "Bearer " }]), length(min = 1))]
    pub from: Field<List<TokenPlace>>,
    /// Whether the token is sent on to the upstream; else it is removed once it was verified.
    #[schemars(extend("default" = false))]
    pub forward: Field<bool>,
    /// Claims that are sent on as headers. What callers send in those headers is always removed.
    #[schemars(length(min = 1))]
    pub claims_to_headers: Field<List<ClaimHeader>>,
}

/// Where the keys of a provider are: exactly one of `file` and `url`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwks {
    /// A JWKS file. Read again when it changes.
    pub file: Field<String>,
    /// A JWKS document: `https://…`, or `http://` to a loopback address.
    pub url: Field<String>,
    /// `url`: how often it is fetched again.
    #[schemars(extend("default" = "10m"))]
    pub refresh: Field<DurationText>,
    /// `url`: how long a fetch may take.
    #[schemars(extend("default" = "5s"))]
    pub timeout: Field<DurationText>,
    /// `url`: roots that the server is verified by (PEM). Without it: the system's.
    pub trust_bundle: Field<String>,
}

/// A signature algorithm (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// ECDSA with P-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA with P-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// Where a token is looked for: exactly one of `header` and `query`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenPlace {
    /// A header.
    pub header: Field<String>,
    /// `header`: what comes before the token. Without it: `Bearer ` in `authorization`, nothing in other headers.
    pub prefix: Field<String>,
    /// A query parameter.
    pub query: Field<String>,
}

/// A claim that is sent on as a header.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimHeader {
    /// The claim.
    #[schemars(extend("x-required" = true))]
    pub claim: Field<ClaimPath>,
    /// The header.
    #[schemars(extend("x-required" = true))]
    pub header: Field<String>,
}

/// An authorizer outside, asked over gRPC (`envoy.service.auth.v3.Authorization`).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalAuthorizer {
    /// Name of the cluster that it is, with `protocol: http2`.
    #[schemars(extend("x-required" = true))]
    pub cluster: Field<String>,
    /// How long it may take.
    #[schemars(extend("default" = "200ms"))]
    pub timeout: Field<DurationText>,
    /// Whether a request passes when it cannot be asked.
    #[schemars(extend("default" = false))]
    pub fail_open: Field<bool>,
    /// The answer to the caller when it cannot be asked.
    #[schemars(range(min = limits::ERROR_STATUS.min, max = limits::ERROR_STATUS.max), extend("default" = 403))]
    pub status_on_error: Field<u64>,
    /// How much of a request's body it is shown. `0B`: nothing, and nothing is waited for.
    #[schemars(extend("default" = "0B"))]
    pub max_body_bytes: Field<SizeText>,
    /// Told with every question.
    pub context: Field<Entries<String>>,
}

/// `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

impl JsonSchema for Switch {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Switch".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Both are truth values to an editor that follows YAML 1.1.
        json_schema!({ "enum": ["on", "off", true, false] })
    }
}
