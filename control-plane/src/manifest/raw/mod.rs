//! Manifests as written: a mirror of the YAML, one type for one shape, nothing interpreted. The same types give the JSON
//! Schemas and the CRDs.

mod core;
mod filters;
mod gateway;
mod own;

pub(crate) use self::core::*;
pub(crate) use filters::*;
pub(crate) use gateway::*;
pub(crate) use own::*;

use std::borrow::Cow;

use outrigger_config::language::{Entries, Field};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

/// A manifest whose content is in `spec`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Manifest<S: Default> {
    /// Group and version of the kind.
    #[schemars(extend("x-required" = true))]
    pub(crate) api_version: Field<String>,
    /// The kind.
    #[schemars(extend("x-required" = true))]
    pub(crate) kind: Field<String>,
    /// How the object is called.
    #[schemars(extend("x-required" = true))]
    pub(crate) metadata: Field<ObjectMeta>,
    /// What it says.
    #[schemars(extend("x-required" = true))]
    pub(crate) spec: Field<S>,
    /// Written by others; not read.
    pub(crate) status: Field<Anything>,
}

/// How an object is called. What an API server adds is taken and not read.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ObjectMeta {
    /// Its name, unique for its kind in its namespace.
    #[schemars(extend("x-required" = true))]
    pub(crate) name: Field<String>,
    /// Its namespace.
    #[schemars(extend("default" = "default"))]
    pub(crate) namespace: Field<String>,
    /// Its labels.
    pub(crate) labels: Field<Entries<String>>,
    /// Notes; not read.
    pub(crate) annotations: Field<Anything>,
    /// When it was made: of two objects that want the same, the older one wins.
    pub(crate) creation_timestamp: Field<Anything>,
    /// Not read.
    pub(crate) uid: Field<Anything>,
    /// Not read.
    pub(crate) resource_version: Field<Anything>,
    /// Not read.
    pub(crate) generation: Field<Anything>,
    /// Not read.
    pub(crate) generate_name: Field<Anything>,
    /// Not read.
    pub(crate) managed_fields: Field<Anything>,
    /// Not read.
    pub(crate) owner_references: Field<Anything>,
    /// Not read.
    pub(crate) finalizers: Field<Anything>,
    /// Not read.
    pub(crate) self_link: Field<Anything>,
}

/// Any value, not read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl JsonSchema for Anything {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Anything".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
    }
}
