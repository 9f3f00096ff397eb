//! HTTP/3 on a listener as written.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::DurationText;
use crate::limits;
use crate::read::Field;

/// HTTP/3, in short or in full.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum Http3 {
    /// `true`: with the settings that follow from nothing being said. `false`: none.
    #[serde(rename = "$text")]
    Text(bool),
    /// With settings.
    #[serde(rename = "$map")]
    Map(Http3Settings),
}

/// Settings of HTTP/3 on a listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Http3Settings {
    /// The port that callers over TCP are told of (`Alt-Svc`). Without it: the listener's own.
    #[schemars(range(min = limits::PORT.min, max = limits::PORT.max))]
    pub advertise: Field<u64>,
    /// How long they may remember it. `0s`: they are not told.
    #[schemars(extend("default" = "24h"))]
    pub max_age: Field<DurationText>,
    /// Requests that come before the handshake is over, which somebody may have recorded and sent again.
    #[schemars(extend("default" = "off"))]
    pub early_data: Field<EarlyData>,
}

/// What is done with requests that come before the handshake is over.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EarlyData {
    /// Callers cannot send any.
    Off,
    /// Those with safe methods and without a body are handled; others wait.
    SafeMethods,
}

impl JsonSchema for EarlyData {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EarlyData".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `off` is false to an editor that follows YAML 1.1.
        json_schema!({
            "description": "`off`: callers cannot send any. `safeMethods`: GET, HEAD and OPTIONS without a body are \
                            handled, with `early-data: 1`; others wait for the handshake.",
            "enum": ["off", "safeMethods", false],
        })
    }
}
