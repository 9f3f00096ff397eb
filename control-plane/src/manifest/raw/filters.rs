//! Filters of routes, and what else a rule says of requests, as written.

use outrigger_config::language::raw::{DurationText, HeaderPair};
use outrigger_config::language::{Field, List};
use schemars::JsonSchema;
use serde::Deserialize;

use super::RouteBackendRef;

/// A filter: `type`, and the field that belongs to it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RouteFilter {
    /// Which filter it is.
    #[serde(rename = "type")]
    #[schemars(extend("x-required" = true, "enum" = [
        "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "CORS", "RequestMirror"
    ]))]
    pub(crate) kind: Field<String>,
    /// Change request headers.
    pub(crate) request_header_modifier: Field<HeaderModifier>,
    /// Change response headers.
    pub(crate) response_header_modifier: Field<HeaderModifier>,
    /// Answer with a redirect.
    pub(crate) request_redirect: Field<RequestRedirect>,
    /// Rewrite host or path.
    pub(crate) url_rewrite: Field<UrlRewriteFilter>,
    /// Cross-origin resource sharing.
    pub(crate) cors: Field<CorsFilter>,
    /// Send copies of requests elsewhere.
    pub(crate) request_mirror: Field<RequestMirror>,
}

/// Copies of requests, of which nobody waits for the answers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RequestMirror {
    /// Who gets the copies.
    #[schemars(extend("x-required" = true))]
    pub(crate) backend_ref: Field<RouteBackendRef>,
    /// Of how many of a hundred requests. Without it and `fraction`: of all.
    #[schemars(range(min = 0, max = 100))]
    pub(crate) percent: Field<u64>,
    /// The same as a fraction.
    pub(crate) fraction: Field<Fraction>,
}

/// A share of the requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Fraction {
    /// So many…
    #[schemars(extend("x-required" = true), range(min = 0))]
    pub(crate) numerator: Field<u64>,
    /// …of so many.
    #[schemars(range(min = 1), extend("default" = 100))]
    pub(crate) denominator: Field<u64>,
}

/// Requests of one session go to one endpoint.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RouteSession {
    /// The name of the cookie or header.
    #[schemars(extend("x-required" = true))]
    pub(crate) session_name: Field<String>,
    /// The session ends this long after it began. Without it: never.
    pub(crate) absolute_timeout: Field<DurationText>,
    /// The session ends when nothing came for this long. Without it: never.
    pub(crate) idle_timeout: Field<DurationText>,
    /// In what it is named.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Cookie", "Header"], "default" = "Cookie"))]
    pub(crate) kind: Field<String>,
    /// Of a cookie.
    pub(crate) cookie_config: Field<SessionCookieConfig>,
}

/// How long a browser keeps a cookie.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SessionCookieConfig {
    /// `Permanent`: as long as `absoluteTimeout`.
    #[schemars(extend("enum" = ["Session", "Permanent"], "default" = "Session"))]
    pub(crate) lifetime_type: Field<String>,
}

/// Header changes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HeaderModifier {
    /// Replaced, or inserted where absent.
    pub(crate) set: Field<List<HeaderPair>>,
    /// Appended beside values that are there.
    pub(crate) add: Field<List<HeaderPair>>,
    /// Removed.
    pub(crate) remove: Field<List<String>>,
}

/// A redirect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RequestRedirect {
    /// The new scheme.
    #[schemars(extend("enum" = ["http", "https"]))]
    pub(crate) scheme: Field<String>,
    /// The new host.
    pub(crate) hostname: Field<String>,
    /// The new path.
    pub(crate) path: Field<PathModifier>,
    /// The new port.
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) port: Field<u64>,
    /// The status.
    #[schemars(extend("enum" = [301, 302, 303, 307, 308], "default" = 302))]
    pub(crate) status_code: Field<u64>,
}

/// Host and path rewriting.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UrlRewriteFilter {
    /// The host that the backend sees.
    pub(crate) hostname: Field<String>,
    /// The path that the backend sees.
    pub(crate) path: Field<PathModifier>,
}

/// A new path: `type`, and the field that belongs to it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PathModifier {
    /// How it is changed.
    #[serde(rename = "type")]
    #[schemars(extend("x-required" = true, "enum" = ["ReplaceFullPath", "ReplacePrefixMatch"]))]
    pub(crate) kind: Field<String>,
    /// The whole new path.
    pub(crate) replace_full_path: Field<String>,
    /// What the matched prefix becomes.
    pub(crate) replace_prefix_match: Field<String>,
}

/// Cross-origin resource sharing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CorsFilter {
    /// Origins.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub(crate) allow_origins: Field<List<String>>,
    /// Whether credentials may be sent.
    #[schemars(extend("default" = false))]
    pub(crate) allow_credentials: Field<bool>,
    /// Methods, or `*` alone.
    pub(crate) allow_methods: Field<List<String>>,
    /// Request headers, or `*` alone.
    pub(crate) allow_headers: Field<List<String>>,
    /// Response headers that a script may read.
    pub(crate) expose_headers: Field<List<String>>,
    /// Seconds for which the answer to a preflight may be remembered.
    #[schemars(range(min = 1, max = 86400), extend("default" = 5))]
    pub(crate) max_age: Field<u64>,
}
