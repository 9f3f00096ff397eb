//! JSON Schemas of all kinds and CRDs of our own, from the types that read them.

use std::collections::BTreeMap;

use outrigger_config::language::schema_of;
use serde_json::{Map, Value, json};

use super::Kind;
use super::raw::{self, EndpointSliceManifest, Manifest};

/// A JSON Schema (draft 2020-12) of a kind. It knows shapes, words and ranges; what needs other objects only
/// [`super::load`] knows.
#[must_use]
pub fn json_schema(kind: Kind) -> Value {
    let title = kind.as_str();
    let mut schema = match kind {
        Kind::Service => schema_of::<Manifest<raw::ServiceSpec>>(title),
        Kind::EndpointSlice => schema_of::<EndpointSliceManifest>(title),
        Kind::HttpRoute => schema_of::<Manifest<raw::HttpRouteSpec>>(title),
        Kind::GrpcRoute => schema_of::<Manifest<raw::GrpcRouteSpec>>(title),
        Kind::TcpRoute => schema_of::<Manifest<raw::TcpRouteSpec>>(title),
        Kind::TlsRoute => schema_of::<Manifest<raw::TlsRouteSpec>>(title),
        Kind::ReferenceGrant => schema_of::<Manifest<raw::ReferenceGrantSpec>>(title),
        Kind::BackendTlsPolicy => schema_of::<Manifest<raw::BackendTlsSpec>>(title),
        Kind::Workload => schema_of::<Manifest<raw::WorkloadSpec>>(title),
        Kind::MeshPolicy => schema_of::<Manifest<raw::MeshPolicySpec>>(title),
        Kind::TrafficPolicy => schema_of::<Manifest<raw::TrafficPolicySpec>>(title),
        Kind::AuthorizationPolicy => schema_of::<Manifest<raw::AuthorizationPolicySpec>>(title),
        Kind::JwtPolicy => schema_of::<Manifest<raw::JwtPolicySpec>>(title),
    };
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("apiVersion".to_owned(), json!({ "enum": kind.api_versions() }));
        properties.insert("kind".to_owned(), json!({ "const": kind.as_str() }));
    }
    schema
}

/// The schemas of all kinds, by the name of the kind.
#[must_use]
pub fn json_schemas() -> BTreeMap<&'static str, Value> {
    Kind::ALL.into_iter().map(|kind| (kind.as_str(), json_schema(kind))).collect()
}

/// The CustomResourceDefinitions of our own kinds, as one text of several documents. JSON, which is YAML as well.
#[must_use]
pub fn crds() -> String {
    let own = Kind::ALL.into_iter().filter(|kind| kind.group() == GROUP);
    let texts: Vec<String> = own.map(|kind| format!("{:#}\n", crd(kind))).collect();
    texts.join("---\n")
}

const GROUP: &str = "outrigger.dev";

fn crd(kind: Kind) -> Value {
    let schema = json_schema(kind);
    let definitions = schema.get("$defs").cloned().unwrap_or_default();
    let spec = schema.pointer("/properties/spec").cloned().unwrap_or_default();
    let singular = kind.as_str().to_lowercase();
    let plural = match singular.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{singular}s"),
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{GROUP}") },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": { "kind": kind.as_str(), "plural": plural, "singular": singular },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "spec": structural(&spec, &definitions, 0),
                        "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    },
                } },
            }],
        },
    })
}

/// A schema as CRDs take it: without references, and with what has several forms left to the control plane.
fn structural(schema: &Value, definitions: &Value, depth: usize) -> Value {
    let Some(object) = schema.as_object() else { return json!({ "x-kubernetes-preserve-unknown-fields": true }) };
    if let Some(name) = object.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
        let mut out = structural(definitions.get(name).unwrap_or(&Value::Null), definitions, depth + 1);
        if let (Some(out), Some(text)) = (out.as_object_mut(), object.get("description")) {
            out.insert("description".to_owned(), text.clone());
        }
        return out;
    }
    let mut out = Map::new();
    let forms = object.contains_key("anyOf") || object.contains_key("oneOf");
    let words: Option<Vec<Value>> = object.get("oneOf").and_then(Value::as_array).and_then(|forms| {
        forms.iter().map(|form| form.get("const").filter(|word| word.is_string()).cloned()).collect()
    });
    if let Some(words) = words {
        out.insert("type".to_owned(), "string".into());
        out.insert("enum".to_owned(), words.into());
    } else if object.get("x-kubernetes-int-or-string").is_some() {
        out.insert("x-kubernetes-int-or-string".to_owned(), true.into());
    } else if forms || depth > MAX_DEPTH || !object.contains_key("type") {
        out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
    } else {
        for key in ["type", "enum", "minimum", "maximum", "minItems", "maxItems", "pattern", "required"] {
            if let Some(value) = object.get(key) {
                out.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(properties) = object.get("properties").and_then(Value::as_object) {
            let each = properties.iter().map(|(name, value)| (name.clone(), structural(value, definitions, depth + 1)));
            out.insert("properties".to_owned(), Value::Object(each.collect()));
        } else if let Some(values) = object.get("additionalProperties").filter(|values| values.is_object()) {
            out.insert("additionalProperties".to_owned(), structural(values, definitions, depth + 1));
        }
        if let Some(items) = object.get("items") {
            out.insert("items".to_owned(), structural(items, definitions, depth + 1));
        }
    }
    if let Some(text) = object.get("description") {
        out.insert("description".to_owned(), text.clone());
    }
    Value::Object(out)
}

/// Schemas inside each other.
const MAX_DEPTH: usize = 24;
