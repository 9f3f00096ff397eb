//! From text to a configuration or its problems.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::limits::MAX_TEXT_BYTES;
use crate::model::{Config, ControlPlane, Validated};
use crate::read::{self, Field};
use crate::sink::Sink;
use crate::source::{Source, Span};
use crate::{validate, yaml};

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Validated<Config>,
    /// What works but is probably not meant.
    pub warnings: Diagnostics,
    /// First 16 hexadecimal digits of the SHA-256 of the text: equal for equal texts.
    pub hash: String,
    /// The control plane that says what the text does not: listeners, routes and clusters are empty then.
    pub control_plane: Option<ControlPlane>,
}

/// Reads and checks a configuration. `file_name` is only used in places.
///
/// Never panics, whatever the text.
///
/// # Errors
/// Every problem that was found, in the order of the text, warnings included.
pub fn load(file_name: &str, text: &str) -> Result<Loaded, Diagnostics> {
    if text.len() > MAX_TEXT_BYTES {
        let message = format!("the configuration is too large: {} bytes of at most {MAX_TEXT_BYTES}", text.len());
        let fix = "split it over several proxies, or generate less".to_owned();
        return Err(Diagnostic::for_file(file_name, message, fix).into());
    }
    let sink = Sink::new(Source::new(file_name, text));
    let tree = yaml::parse(&sink);
    let raw = read::read(&tree, &sink);
    let config = match &raw {
        Field::Here(raw, span) => Some(validate::validate(raw, *span, tree.incomplete, &sink)),
        Field::Absent if !tree.incomplete => {
            // An empty file is far more often one that is being written than a proxy that should do nothing.
            sink.error(
                Span::START,
                "the configuration is empty",
                "write at least `listeners`, `routes` and `clusters`; config/examples/minimal.yaml shows how",
            );
            None
        }
        Field::Absent | Field::Bad(_) => None,
    };
    match config {
        Some((config, control_plane)) if !sink.has_errors() => Ok(Loaded {
            config: Validated::new(config),
            warnings: sink.into_diagnostics(),
            hash: hash(text),
            control_plane,
        }),
        _ => Err(sink.into_diagnostics()),
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().take(8).fold(String::with_capacity(16), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}
