//! The JSON Schema of the configuration, for editors.

use schemars::generate::SchemaSettings;

use crate::raw;

/// A JSON Schema (draft 2020-12) of the YAML, with descriptions and defaults. It knows shapes, words and ranges; what
/// needs the whole configuration (references, names that come twice, overlapping binds) only [`crate::load`] knows.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<raw::Config>();
    schema.insert("title".to_owned(), "Outrigger proxy configuration".into());
    schema.to_value()
}
