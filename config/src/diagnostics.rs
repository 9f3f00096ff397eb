//! Problems in a configuration: where, what, and how to put it right.

use std::fmt::{self, Write as _};

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::limits::MAX_DIAGNOSTICS;
use crate::model::Place;
use crate::source::{Excerpt, Source};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but probably not as meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub place: Place,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// How to put it right, in one sentence without a full stop.
    pub fix: String,
    /// Another place that has to do with it, and what is there.
    pub related: Option<(Place, String)>,
    pub(crate) excerpt: Option<Excerpt>,
}

impl Diagnostic {
    /// A problem that has no place inside a text, such as a file that cannot be read.
    #[must_use]
    pub fn for_file(file: &str, message: String, fix: String) -> Self {
        let place = Place { file: file.into(), line: 1, column: 1 };
        Self { severity: Severity::Error, place, message, fix, related: None, excerpt: None }
    }

    /// A problem at a place of a configuration that was loaded, such as one of a file that it names. `text` is that
    /// configuration's, so that the line can be shown.
    #[must_use]
    pub fn at(place: &Place, text: &str, message: String, fix: String) -> Self {
        let source = Source::new(&place.file, text);
        let excerpt = Some(source.excerpt(source.word_at(place)));
        Self { severity: Severity::Error, place: place.clone(), message, fix, related: None, excerpt }
    }

    /// A problem at a place of a part of a file. `part` is the part's text and how many lines are above it.
    #[must_use]
    pub fn in_part(severity: Severity, place: &Place, part: (&str, u32), (message, fix): (String, String)) -> Self {
        let (text, before) = part;
        let source = Source::part(std::sync::Arc::clone(&place.file), text, before);
        let inside = Place { line: place.line.saturating_sub(before), ..place.clone() };
        let excerpt = Some(source.excerpt(source.word_at(&inside)));
        let clean = |text: String| text.chars().map(crate::source::printable).collect();
        Self { severity, place: place.clone(), message: clean(message), fix: clean(fix), related: None, excerpt }
    }

    /// The line of the text that the place is in (cut where it is very long), when there is one.
    #[must_use]
    pub fn source_line(&self) -> Option<&str> {
        self.excerpt.as_ref().map(|e| e.text.as_str())
    }

    fn write(&self, out: &mut String, style: Style) -> fmt::Result {
        let Place { file, line, column } = &self.place;
        let paint = Paint(style);
        let head = match self.severity {
            Severity::Error => RED,
            Severity::Warning => YELLOW,
        };
        writeln!(out, "{}", paint.on(BOLD, &format!("{}: {}", paint.on(head, self.severity.as_str()), self.message)))?;
        let number = line.to_string();
        let pad = " ".repeat(number.len());
        writeln!(out, "{pad}{} {file}:{line}:{column}", paint.on(BLUE, "-->"))?;
        if let Some(excerpt) = &self.excerpt {
            let bar = paint.on(BLUE, "|");
            writeln!(out, "{pad} {bar}")?;
            let line = format!("{} {bar} {}", paint.on(BLUE, &number), excerpt.text);
            writeln!(out, "{}", line.trim_end())?;
            let carets = "^".repeat(excerpt.width);
            writeln!(out, "{pad} {bar} {}{}", " ".repeat(excerpt.caret), paint.on(head, &carets))?;
        }
        if let Some((Place { file, line, column }, what)) = &self.related {
            writeln!(out, "{pad} {} note: {what}: {file}:{line}:{column}", paint.on(BLUE, "="))?;
        }
        writeln!(out, "{pad} {} {} {}", paint.on(BLUE, "="), paint.on(GREEN, "help:"), self.fix)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out, Style::Plain)?;
        f.write_str(&out)
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("Diagnostic", 8)?;
        s.serialize_field("severity", self.severity.as_str())?;
        s.serialize_field("file", &*self.place.file)?;
        s.serialize_field("line", &self.place.line)?;
        s.serialize_field("column", &self.place.column)?;
        s.serialize_field("message", &self.message)?;
        s.serialize_field("fix", &self.fix)?;
        s.serialize_field("source", &self.source_line())?;
        let related = self.related.as_ref().map(|(place, message)| SerializeRelated { place, message });
        s.serialize_field("related", &related)?;
        s.end()
    }
}

struct SerializeRelated<'a> {
    place: &'a Place,
    message: &'a str,
}

impl Serialize for SerializeRelated<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("Related", 4)?;
        s.serialize_field("file", &*self.place.file)?;
        s.serialize_field("line", &self.place.line)?;
        s.serialize_field("column", &self.place.column)?;
        s.serialize_field("message", self.message)?;
        s.end()
    }
}

/// Whether rendered diagnostics carry colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text only.
    Plain,
    /// ANSI colours, for a terminal.
    Ansi,
}

/// Problems in the order of their places.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// Problems found beyond [`crate::limits::MAX_DIAGNOSTICS`].
    left_out: usize,
}

impl Diagnostics {
    pub(crate) fn new(mut list: Vec<Diagnostic>, left_out: usize) -> Self {
        list.sort_by_key(|d| (d.place.line, d.place.column, d.severity));
        list.dedup();
        Self { list, left_out }
    }

    /// In the order of their places.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// How many are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True when nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many more were found than are listed.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// How many of the listed ones are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// How many of the listed ones are warnings.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.len() - self.errors()
    }

    /// For people: each problem with its place, its line, a caret and the fix, an empty line between two.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let mut out = String::new();
        for (i, diagnostic) in self.list.iter().enumerate() {
            if i > 0 {
                out.push('\n');
            }
            // Writing to a String cannot fail.
            let _ = diagnostic.write(&mut out, style);
        }
        if self.left_out > 0 {
            let _ = writeln!(out, "\n… and {} more", self.left_out);
        }
        out
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { list: vec![diagnostic], left_out: 0 }
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(diagnostics: I) -> Self {
        let mut list: Vec<Diagnostic> = diagnostics.into_iter().collect();
        let left_out = list.len().saturating_sub(MAX_DIAGNOSTICS);
        list.truncate(MAX_DIAGNOSTICS);
        Self::new(list, left_out)
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// As a list of objects `{severity, file, line, column, message, fix, source, related}`.
impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.list)
    }
}

struct Paint(Style);

impl Paint {
    fn on(&self, code: &str, text: &str) -> String {
        match self.0 {
            Style::Plain => text.to_owned(),
            // What is inside may have reset the style: it is switched on again behind every reset.
            Style::Ansi => format!("\x1b[{code}m{}\x1b[0m", text.replace(RESET, &format!("{RESET}\x1b[{code}m"))),
        }
    }
}

const RESET: &str = "\x1b[0m";
const BOLD: &str = "1";
const RED: &str = "31";
const YELLOW: &str = "33";
const GREEN: &str = "32";
const BLUE: &str = "34";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_a_loaded_configuration_is_shown_at_its_line() {
        let text = "a: 1\nidentity: { certificate: /ü/a.pem, privateKey: b }\n";
        let place = Place { file: "c.yaml".into(), line: 2, column: 26 };
        let shown = Diagnostic::at(&place, text, "wrong".to_owned(), "right".to_owned()).to_string();
        let expected = "error: wrong\n --> c.yaml:2:26\n  |\n2 | identity: { certificate: /ü/a.pem, privateKey: b }\n  \
                        |                          ^^^^^^^^\n  = help: right\n";
        assert_eq!(shown, expected);
        for (line, column) in [(1, 1), (1, 99), (3, 1), (77, 5), (0, 0)] {
            let place = Place { line, column, ..place.clone() };
            assert!(Diagnostic::at(&place, text, "m".to_owned(), "f".to_owned()).to_string().contains("error: m"));
        }
    }
}
