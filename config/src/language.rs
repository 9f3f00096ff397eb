//! The parts of the language, for programs that read documents of their own which are written in it: the control plane's
//! manifests. The texts are the same YAML, problems are reported in the same way, and what the documents share with a
//! proxy's configuration (routes, filters, authorization, tokens) is read and checked by the same code.
//!
//! A text is cut into [`parts`], each part is parsed into a [`Document`] with a [`Sink`] of its own, its values are read
//! by [`Node::read`] into types made of [`Field`]s, and a [`Checker`] turns those into the model.

use serde::Deserialize;

pub use crate::raw;
pub use crate::read::{Entries, Field, Key, List, Vocabulary};
pub use crate::schema::schema_of;
pub use crate::sink::Sink;
pub use crate::source::Span;
pub use crate::text::{nearest, one_of, quoted};
pub use crate::validate::{CheckedRule, Checker};

use crate::read;
use crate::yaml::{self, Kind, NodeId, Tree};

/// A part of a text: one YAML document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'t> {
    /// Lines above it.
    pub before: u32,
    /// Its text, without the line that divides it from the one above.
    pub text: &'t str,
}

/// Cuts a text at its `---` lines. Parts without any value (blanks, comments, directives) are left out.
#[must_use]
pub fn parts(text: &str) -> Vec<Part<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::new();
    let (mut start, mut before, mut at, mut line) = (0, 0, 0, 0u32);
    let mut push = |start: usize, end: usize, before: u32| {
        let part = Part { before, text: &text[start..end] };
        if part.text.lines().any(|line| !is_idle(line)) {
            out.push(part);
        }
    };
    for content in text.split_inclusive('\n') {
        let end = at + content.len();
        line = line.saturating_add(1);
        if is_divider(content) {
            push(start, at, before);
            // What stands behind the dashes belongs to the part: blanks keep its columns.
            (start, before) = (end, line);
            if !is_idle(&content[3..]) {
                (start, before) = (at + 3, line - 1);
            }
        }
        at = end;
    }
    push(start, at, before);
    out
}

fn is_divider(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Nothing that makes a document: a blank, a comment, a directive, or the end mark.
fn is_idle(line: &str) -> bool {
    let trimmed = line.trim();
    trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%') || trimmed == "..."
}

/// A parsed document.
#[derive(Debug)]
pub struct Document<'t> {
    tree: Tree<'t>,
    root: NodeId,
}

impl<'t> Document<'t> {
    /// Parses the text of `sink`. `None` where there is no value, or where the text is malformed, which is then in `sink`.
    #[must_use]
    pub fn parse(sink: &Sink<'t>) -> Option<Self> {
        let tree = yaml::parse_one(sink);
        let root = tree.root?;
        Some(Self { tree, root })
    }

    /// The whole value.
    #[must_use]
    pub fn root(&self) -> Node<'_, 't> {
        Node { tree: &self.tree, id: self.root }
    }
}

/// A value in a document.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a, 't> {
    tree: &'a Tree<'t>,
    id: NodeId,
}

impl<'a, 't> Node<'a, 't> {
    /// Where it is.
    #[must_use]
    pub fn span(&self) -> Span {
        self.tree.node(self.id).span
    }

    /// The text of a scalar that is not null.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        let node = self.tree.node(self.id);
        if node.is_null() { None } else { self.tree.text(self.id) }
    }

    /// The value of a key, where this is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Self> {
        let Kind::Map(pairs) = &self.tree.node(self.id).kind else { return None };
        let (_, value) = pairs.iter().find(|(name, _)| self.tree.text(*name) == Some(key))?;
        Some(Self { tree: self.tree, id: *value })
    }

    /// The keys with their places, where this is a mapping.
    #[must_use]
    pub fn keys(&self) -> Vec<(&'a str, Span)> {
        let Kind::Map(pairs) = &self.tree.node(self.id).kind else { return Vec::new() };
        pairs.iter().filter_map(|(key, _)| Some((self.tree.text(*key)?, self.tree.node(*key).span))).collect()
    }

    /// The entries, where this is a list.
    #[must_use]
    pub fn items(&self) -> Option<Vec<Self>> {
        let Kind::Seq(items) = &self.tree.node(self.id).kind else { return None };
        Some(items.iter().map(|id| Self { tree: self.tree, id: *id }).collect())
    }

    /// Whether this is a mapping.
    #[must_use]
    pub fn is_map(&self) -> bool {
        matches!(self.tree.node(self.id).kind, Kind::Map(_))
    }

    /// Reads it. Every problem is in `sink`, which must be the one that the document was parsed with; `words` says how
    /// the types are called.
    #[must_use]
    pub fn read<'de, T: Deserialize<'de>>(&self, sink: &Sink<'_>, words: &dyn Vocabulary) -> Field<T> {
        read::read_as(self.tree, sink, (self.id, words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(u32, &str)> {
        parts(text).into_iter().map(|part| (part.before, part.text)).collect()
    }

    #[test]
    fn a_text_is_cut_at_its_dividing_lines_whatever_ends_its_lines() {
        assert_eq!(cut("a: 1\n---\nb: 2\n"), [(0, "a: 1\n"), (2, "b: 2\n")]);
        assert_eq!(cut("---\r\na: 1\r\n---\r\nb: 2\r\n"), [(1, "a: 1\r\n"), (3, "b: 2\r\n")]);
        assert_eq!(cut("# nothing\n---\n\n---\n---\na: 1"), [(5, "a: 1")]);
        assert_eq!(cut("%YAML 1.2\n--- # first\na: 1\n...\n"), [(2, "a: 1\n...\n")]);
        assert_eq!(cut("--- {a: 1}\n--- b\n"), [(0, " {a: 1}\n"), (1, " b\n")]);
        assert_eq!(cut("a: |\n  ---\nb: ----\n"), [(0, "a: |\n  ---\nb: ----\n")]);
        assert_eq!(cut("\u{feff}a: 1"), [(0, "a: 1")]);
        assert!(cut("").is_empty() && cut("---").is_empty() && cut("\n# x\n").is_empty());
    }

    #[test]
    fn problems_of_a_part_are_placed_in_the_whole_text() {
        let text = "a: 1\r\n---\r\nb: [1\r\n---\r\nc: 3\r\n";
        let parts = parts(text);
        let sink = Sink::of_part("f.yaml".into(), parts[1].text, parts[1].before);
        assert!(Document::parse(&sink).is_none());
        let problems = sink.into_diagnostics();
        let first = problems.iter().next().expect("a problem");
        assert!((3..=4).contains(&first.place.line), "{problems}");
        let sink = Sink::of_part("f.yaml".into(), parts[2].text, parts[2].before);
        let document = Document::parse(&sink).expect("the other part is sound");
        let value = document.root().get("c").expect("its key");
        assert_eq!(value.text(), Some("3"));
        assert_eq!((sink.place(value.span()).line, sink.place(value.span()).column), (5, 4));
    }
}
