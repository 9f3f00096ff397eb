//! A configuration text with the means to name places in it.

use std::sync::Arc;

use crate::model::Place;

/// A text and the name it was loaded under.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    pub(crate) file: Arc<str>,
    pub(crate) text: &'t str,
    /// Lines of the file before the text, where it is a part of one.
    before: u32,
}

/// A stretch of a text. Line and column come from the scanner, so that finding a place costs nothing, also in a
/// text of one very long line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Byte offset of the first byte.
    pub start: u32,
    /// Byte offset behind the last byte.
    pub end: u32,
    /// Line of `start`, from 1; 0 only in a span that was never set.
    pub line: u32,
    /// Column of `start` in characters, from 1.
    pub column: u32,
}

impl Span {
    /// The first character of a text.
    pub const START: Self = Self { start: 0, end: 0, line: 1, column: 1 };
}

impl<'t> Source<'t> {
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        Self { file: Arc::from(file), text, before: 0 }
    }

    /// A part of a file, with `before` lines above it.
    pub(crate) fn part(file: Arc<str>, text: &'t str, before: u32) -> Self {
        Self { file, text, before }
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        Place {
            file: Arc::clone(&self.file),
            line: span.line.max(1).saturating_add(self.before),
            column: span.column.max(1),
        }
    }

    /// The word at a place; the end of the text for a place that is not in it.
    pub(crate) fn word_at(&self, place: &Place) -> Span {
        let Place { file: _, line, column } = *place;
        let number = |n: u32| usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
        let line_at = match number(line) {
            0 => Some(0),
            before => self.text.match_indices('\n').nth(before - 1).map(|(at, _)| at + 1),
        };
        let rest = line_at.map_or("", |at| &self.text[at..]);
        let in_line = rest.char_indices().nth(number(column)).map_or(rest.len(), |(at, _)| at);
        let start = self.text.len() - rest.len() + in_line;
        let word = self.text[start..].find(|c: char| c.is_whitespace() || ",{}[]".contains(c));
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Span { start: offset(start), end: offset(word.map_or(self.text.len(), |word| start + word)), line, column }
    }

    /// The line around `span`, cut to a window where it is long.
    pub(crate) fn excerpt(&self, span: Span) -> Excerpt {
        let start = floor_boundary(self.text, span.start as usize);
        let end = floor_boundary(self.text, (span.end as usize).max(start));
        let before = self.text.get(..start).unwrap_or_default();
        let after = self.text.get(start..).unwrap_or_default();

        let mut lead: Vec<char> = before.chars().rev().take_while(|c| !is_break(*c)).take(BEFORE + 1).collect();
        let cut_before = lead.len() > BEFORE;
        lead.truncate(BEFORE);
        lead.reverse();
        let mut tail: Vec<char> = after.chars().take_while(|c| !is_break(*c)).take(AFTER + 1).collect();
        let cut_after = tail.len() > AFTER;
        tail.truncate(AFTER);

        let marked =
            self.text.get(start..end).unwrap_or_default().chars().take(AFTER).take_while(|c| !is_break(*c)).count();
        let mut text = String::with_capacity(lead.len() + tail.len() + 2);
        if cut_before {
            text.push('…');
        }
        text.extend(lead.iter().map(|c| printable(*c)));
        let caret = lead.len() + usize::from(cut_before);
        text.extend(tail.iter().map(|c| printable(*c)));
        if cut_after {
            text.push('…');
        }
        Excerpt { caret, width: marked.clamp(1, tail.len().max(1)), text: text.trim_end().to_owned() }
    }
}

/// A line of a text, safe to print, and which part of it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Excerpt {
    pub(crate) text: String,
    /// Characters before the caret.
    pub(crate) caret: usize,
    /// Carets, at least one.
    pub(crate) width: usize,
}

/// Characters shown before and after the start of a place.
const BEFORE: usize = 100;
const AFTER: usize = 140;

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

/// One column for every character, and nothing that a terminal would obey.
pub(crate) fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        // Direction marks and isolates: they could show a line in another order than it is read.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
