//! Where problems are collected while a text is read and checked.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::diagnostics::{Diagnostic, Diagnostics, Severity};
use crate::limits::MAX_DIAGNOSTICS;
use crate::model::Place;
use crate::source::{Source, Span, printable};

/// Collects problems of one text.
#[derive(Debug)]
pub struct Sink<'t> {
    pub(crate) source: Source<'t>,
    list: RefCell<Vec<Diagnostic>>,
    left_out: Cell<usize>,
    errors: Cell<usize>,
    warnings: Cell<usize>,
}

impl<'t> Sink<'t> {
    /// For a part of a file, with `before` lines above it.
    #[must_use]
    pub fn of_part(file: Arc<str>, text: &'t str, before: u32) -> Self {
        Self::new(Source::part(file, text, before))
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &'t str {
        self.source.text
    }

    /// The place of a stretch.
    #[must_use]
    pub fn place(&self, span: Span) -> Place {
        self.source.place(span)
    }

    /// How many errors there were so far.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.errors.get()
    }

    pub(crate) fn new(source: Source<'t>) -> Self {
        Self { source, list: RefCell::default(), left_out: Cell::new(0), errors: Cell::new(0), warnings: Cell::new(0) }
    }

    /// Reports an error.
    pub fn error(&self, span: Span, message: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Error, span, None, (message.into(), fix.into()));
    }

    /// An error that has to do with a second place: `what` says what is there.
    pub fn error_with(&self, span: Span, other: (Span, &str), text: (String, String)) {
        self.push(Severity::Error, span, Some(other), text);
    }

    /// Reports what works but is probably not meant.
    pub fn warning(&self, span: Span, message: impl Into<String>, fix: impl Into<String>) {
        self.push(Severity::Warning, span, None, (message.into(), fix.into()));
    }

    /// A warning that has to do with a second place.
    pub fn warning_with(&self, span: Span, other: (Span, &str), text: (String, String)) {
        self.push(Severity::Warning, span, Some(other), text);
    }

    /// Whether anything was an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors.get() > 0
    }

    /// Everything that was reported.
    #[must_use]
    pub fn into_diagnostics(self) -> Diagnostics {
        Diagnostics::new(self.list.into_inner(), self.left_out.get())
    }

    fn push(&self, severity: Severity, span: Span, other: Option<(Span, &str)>, (message, fix): (String, String)) {
        let count = match severity {
            Severity::Error => &self.errors,
            Severity::Warning => &self.warnings,
        };
        count.set(count.get() + 1);
        if count.get() > MAX_DIAGNOSTICS {
            self.left_out.set(self.left_out.get() + 1);
            return;
        }
        self.list.borrow_mut().push(Diagnostic {
            severity,
            place: self.source.place(span),
            // Whatever was quoted, nothing that a terminal would obey gets out.
            message: message.chars().map(printable).collect(),
            fix: fix.chars().map(printable).collect(),
            related: other.map(|(span, what)| (self.source.place(span), what.to_owned())),
            excerpt: Some(self.source.excerpt(span)),
        });
    }
}
