//! What ties requests to endpoints, as written: hashing and sessions.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::DurationText;
use crate::read::Field;

/// What consistent hashing goes by.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum HashKey {
    /// `sourceAddress` or `path`.
    #[serde(rename = "$text")]
    Text(#[schemars(schema_with = "plain_key")] String),
    /// With a name, or with `terminal`.
    #[serde(rename = "$map")]
    Map(Box<HashSource>),
}

fn plain_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["sourceAddress", "path"] })
}

/// Exactly one of `header`, `cookie`, `query`, `sourceAddress` and `path`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HashSource {
    /// A header.
    pub header: Field<String>,
    /// A cookie.
    pub cookie: Field<HashCookie>,
    /// A query parameter.
    pub query: Field<String>,
    /// `true`: the address of the client, as the listener's `trust` finds it.
    pub source_address: Field<bool>,
    /// `true`: the path in its normal form.
    pub path: Field<bool>,
    /// When the request has it, the keys after it are not looked at.
    #[schemars(extend("default" = false))]
    pub terminal: Field<bool>,
}

/// A cookie that is hashed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HashCookie {
    /// Its name.
    #[schemars(extend("x-required" = true))]
    pub name: Field<String>,
    /// A request without it gets one that lasts this long; `0s`: as long as the browser's session. Without it: none is
    /// made.
    pub ttl: Field<DurationText>,
    /// The path of a cookie that is made.
    #[schemars(extend("default" = "/"))]
    pub path: Field<String>,
}

/// Requests of one session go to one endpoint, which is named, signed, in a cookie or header.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// The session is named in a cookie. Instead of `header`.
    pub cookie: Field<SessionCookie>,
    /// The session is named in this header of responses, which the caller repeats. Instead of `cookie`.
    pub header: Field<String>,
    /// The session ends this long after it began. Without it: never.
    pub absolute_timeout: Field<DurationText>,
    /// The session ends when nothing came for this long. Without it: never.
    pub idle_timeout: Field<DurationText>,
    /// The file with the key that names are signed with, at least 32 bytes. All proxies of a service need the same.
    #[schemars(extend("x-required" = true))]
    pub key_file: Field<String>,
    /// When the endpoint is gone or unfit: `false` takes another one, `true` answers with 503.
    #[schemars(extend("default" = false))]
    pub strict: Field<bool>,
}

/// A cookie that names a session.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionCookie {
    /// Its name.
    #[schemars(extend("x-required" = true))]
    pub name: Field<String>,
    /// Kept beyond the browser's session, as long as `absoluteTimeout` says.
    #[schemars(extend("default" = false))]
    pub permanent: Field<bool>,
    /// Its path.
    #[schemars(extend("default" = "/"))]
    pub path: Field<String>,
}
