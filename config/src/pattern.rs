//! Regular expressions as the model holds them.

use regex::Regex;
use thiserror::Error;

use crate::limits::MAX_PATTERN_BYTES;
use crate::validate::{Anchors, compile};

/// What is wrong with a text that should be a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}; {fix}")]
pub struct PatternError {
    message: String,
    fix: String,
}

/// A pattern that stands for a whole value, as in [`crate::model::PathMatch::Regex`].
///
/// # Errors
/// The text is malformed, or too large.
pub fn whole(text: &str) -> Result<Regex, PatternError> {
    checked(text, Anchors::Whole)
}

/// A pattern that is looked for inside a value, as in [`crate::model::PathRewrite::Regex`].
///
/// # Errors
/// The text is malformed, or too large.
pub fn inside(text: &str) -> Result<Regex, PatternError> {
    checked(text, Anchors::Inside)
}

/// The text of a pattern that stands for a whole value, as [`whole`] took it.
#[must_use]
pub fn text(pattern: &Regex) -> &str {
    let anchored = pattern.as_str();
    anchored.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(anchored)
}

fn checked(text: &str, anchors: Anchors) -> Result<Regex, PatternError> {
    if text.len() > MAX_PATTERN_BYTES {
        let fix = format!("use at most {MAX_PATTERN_BYTES} bytes");
        return Err(PatternError { message: "the regular expression is too long".to_owned(), fix });
    }
    compile(text, anchors).map_err(|wrong| PatternError { message: wrong.message, fix: wrong.fix })
}
