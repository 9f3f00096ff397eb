//! The JSON Schema of the configuration, for editors.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::raw;

/// A JSON Schema (draft 2020-12) of the YAML, with descriptions and defaults. It knows shapes, words and ranges; what
/// needs the whole configuration (references, names that come twice, overlapping binds) only [`crate::load`] knows.
#[must_use]
pub fn json_schema() -> Value {
    schema_of::<raw::Config>("Outrigger proxy configuration")
}

/// A JSON Schema (draft 2020-12) of a type that is made of [`crate::language::Field`]s.
#[must_use]
pub fn schema_of<T: JsonSchema>(title: &str) -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    Tidy.transform(&mut schema);
    schema.to_value()
}

/// Turns what the raw types can say into what JSON Schema says.
struct Tidy;

impl Transform for Tidy {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        // Descriptions come from doc comments, whose line breaks mean nothing.
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = text.replace('\n', " ");
        }
        // To the reader every field is optional, because validation says better what is missing; the types mark
        // those that are not.
        let mut required = Vec::new();
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            for (name, property) in properties {
                if property.as_object_mut().is_some_and(|property| property.remove(REQUIRED).is_some()) {
                    required.push(Value::from(name.as_str()));
                }
            }
        }
        if !required.is_empty() {
            schema.insert("required".to_owned(), required.into());
        }
    }
}

/// Mark of a field that must be there.
const REQUIRED: &str = "x-required";

#[cfg(test)]
mod tests;
