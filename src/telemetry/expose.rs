//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

/// The content type of what [`Text`] writes.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The kind of a metric family.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Label pairs, escaped and joined once, so that every family of a label set reuses them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn new(pairs: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (name, value) in pairs {
            push_pair(&mut text, name, value);
        }
        Self(text)
    }

    pub(super) fn none() -> Self {
        Self(String::new())
    }

    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let mut text = self.0.clone();
        push_pair(&mut text, name, value);
        Self(text)
    }
}

/// The text being written: families one after another, each with all its samples.
#[derive(Debug, Default)]
pub(super) struct Text {
    out: String,
    name: &'static str,
}

impl Text {
    /// Begins a family. Every sample up to the next call belongs to it.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        self.name = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, labels: &Labels, value: impl Display) {
        self.suffixed("", labels, value);
    }

    /// A sample whose name is the family's with `_bucket`, `_sum` or `_count` behind it.
    pub(super) fn suffixed(&mut self, suffix: &str, labels: &Labels, value: impl Display) {
        let name = self.name;
        let _ = if labels.0.is_empty() {
            writeln!(self.out, "{name}{suffix} {value}")
        } else {
            writeln!(self.out, "{name}{suffix}{{{}}} {value}", labels.0)
        };
    }

    pub(super) fn finish(self) -> String {
        self.out
    }
}

fn push_pair(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let labels = Labels::new(&[("route", "a\"b\\c\nd"), ("x", "y")]);
        assert_eq!(labels.0, r#"route="a\"b\\c\nd",x="y""#);
    }

    #[test]
    fn a_family_is_written_with_help_type_and_samples() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "Things.");
        text.sample(&Labels::none(), 1);
        text.sample(&Labels::new(&[("l", "v")]).with("k", "w"), 2.5);
        assert_eq!(
            text.finish(),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 1\na_total{l=\"v\",k=\"w\"} 2.5\n"
        );
    }
}
