//! What a request must pass before it is sent: rate limits.

use std::sync::Arc;

use http::HeaderValue;
use outrigger_config::model;

use crate::policy::rate::Rate;
use crate::upstream::{RateState, Registry};

/// What the requests of a rule must pass. Most rules have none.
#[derive(Debug)]
pub struct Gates {
    /// Rate limits that are kept here.
    pub local: Vec<LocalLimit>,
}

/// A rate limit that is kept here.
#[derive(Debug)]
pub struct LocalLimit {
    /// As configured.
    pub config: model::RateLimit,
    /// What it says.
    pub rate: Rate,
    /// What is remembered.
    pub state: Arc<RateState>,
    /// What callers are told it is: an item of `RateLimit-Policy`.
    pub policy: HeaderValue,
    /// Its name as callers are told it: a string with its quotes (RFC 9651 section 3.3.3).
    pub quoted: Box<str>,
}

impl Gates {
    pub(super) fn compile(rule: &model::Rule, registry: &Registry) -> Option<Box<Self>> {
        let local = LocalLimit::all(&rule.rate_limits, registry);
        (!local.is_empty()).then(|| Box::new(Self { local }))
    }
}

impl LocalLimit {
    pub(super) fn all(limits: &[model::RateLimit], registry: &Registry) -> Vec<Self> {
        limits.iter().map(|limit| Self::compile(limit, registry)).collect()
    }

    fn compile(limit: &model::RateLimit, registry: &Registry) -> Self {
        let rate = Rate::of(limit);
        let quoted = quoted(&limit.name);
        // The field knows whole seconds only; a window below one is left out.
        let window = rate.window();
        let seconds = window.as_secs() + u64::from(window.subsec_nanos() > 0);
        let policy = match window.as_secs() {
            0 if window.subsec_nanos() > 0 => format!("{quoted};q={}", rate.burst()),
            _ => format!("{quoted};q={};w={seconds}", rate.burst()),
        };
        Self {
            config: limit.clone(),
            rate,
            state: registry.rate(&limit.name),
            // Printable ASCII.
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("")),
            quoted,
        }
    }
}

/// A string of a structured field. What cannot stand in one is left out.
fn quoted(name: &str) -> Box<str> {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for c in name.chars().filter(|c| matches!(c, ' '..='~')) {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_string_of_a_structured_field() {
        assert_eq!(&*quoted("per caller"), r#""per caller""#);
        assert_eq!(&*quoted("a\"b\\c\u{e9}\n"), r#""a\"b\\c""#);
    }
}
