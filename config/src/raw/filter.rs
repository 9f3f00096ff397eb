//! Filters as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{DurationText, Fault, Mirror};
use crate::limits;
use crate::read::{Entries, Field, List};

/// One change to requests or responses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// Change request headers.
    RequestHeaders(Field<HeaderEdit>),
    /// Change response headers, also of answers that the proxy makes itself.
    ResponseHeaders(Field<HeaderEdit>),
    /// Rewrite host or path before the upstream sees them.
    UrlRewrite(Field<UrlRewrite>),
    /// Cross-origin resource sharing.
    Cors(Field<Cors>),
    /// Delay or abort a share of the requests, for a time.
    Fault(Field<Fault>),
    /// Send copies of a share of the requests elsewhere.
    Mirror(Field<Mirror>),
    /// Answer with a redirect. Not together with `backendRefs`.
    Redirect(Field<Redirect>),
    /// Answer with a fixed response. Not together with `backendRefs`.
    DirectResponse(Field<DirectResponse>),
}

/// Header changes: removed first, then set, then added.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderEdit {
    /// Replaced, or inserted where absent.
    pub set: Field<HeaderValues>,
    /// Appended beside values that are there.
    pub add: Field<HeaderValues>,
    /// Removed.
    pub remove: Field<List<String>>,
}

/// Headers with their values, as a mapping or as a list of `{ name, value }`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum HeaderValues {
    /// `{ x-name: value }`.
    #[serde(rename = "$map")]
    Map(Entries<String>),
    /// `[{ name: x-name, value: value }]`.
    #[serde(rename = "$list")]
    List(List<HeaderPair>),
}

/// A header and its value.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderPair {
    /// The header.
    #[schemars(extend("x-required" = true))]
    pub name: Field<String>,
    /// Its value.
    #[schemars(extend("x-required" = true))]
    pub value: Field<String>,
}

/// Host and path rewriting.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The host (and port) that the upstream sees.
    pub hostname: Field<String>,
    /// The path that the upstream sees. The query is kept.
    pub path: Field<PathRewrite>,
}

/// How a path is rewritten: exactly one of `replaceFullPath`, `replacePrefixMatch`, and `regex` with `substitution`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathRewrite {
    /// The whole path.
    pub replace_full_path: Field<String>,
    /// What the matched prefix becomes. Only in rules that match by path prefix.
    pub replace_prefix_match: Field<String>,
    /// What is looked for; every occurrence is replaced. Not anchored.
    pub regex: Field<String>,
    /// What an occurrence of `regex` becomes; `$1` and `${name}` are its groups, `$$` is a dollar sign.
    pub substitution: Field<String>,
}

/// Cross-origin resource sharing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// Origins: `https://app.example`, `https://*.example`, or `*`.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub allow_origins: Field<List<String>>,
    /// Methods, or `*` alone.
    #[schemars(extend("default" = ["GET", "HEAD", "POST"]))]
    pub allow_methods: Field<List<String>>,
    /// Request headers, or `*` alone.
    pub allow_headers: Field<List<String>>,
    /// Response headers that a script may read.
    pub expose_headers: Field<List<String>>,
    /// Whether cookies and other credentials may be sent.
    #[schemars(extend("default" = false))]
    pub allow_credentials: Field<bool>,
    /// How long a browser may remember the answer to a preflight.
    #[schemars(extend("default" = "5s"))]
    pub max_age: Field<DurationText>,
}

/// A redirect. What is not said is taken from the request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// The new scheme.
    pub scheme: Field<Scheme>,
    /// The new host.
    pub hostname: Field<String>,
    /// The new port.
    #[schemars(range(min = limits::PORT.min, max = limits::PORT.max))]
    pub port: Field<u64>,
    /// The new path.
    pub path: Field<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    #[schemars(extend("enum" = [301, 302, 303, 307, 308], "default" = 302))]
    pub status: Field<u64>,
}

/// A scheme.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scheme {
    /// In clear.
    Http,
    /// Over TLS.
    Https,
}

/// A fixed response.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectResponse {
    /// The status.
    #[schemars(range(min = limits::DIRECT_STATUS.min, max = limits::DIRECT_STATUS.max), extend("default" = 200))]
    pub status: Field<u64>,
    /// The body, at most 64 KiB.
    pub body: Field<String>,
    /// Its media type.
    #[schemars(extend("default" = "text/plain; charset=utf-8"))]
    pub content_type: Field<String>,
}
