//! How types and fields are called in messages: the configuration's own words, and those of documents that other programs
//! read with the same reader.

use crate::raw::names::{self, Later};

/// What a reader of documents of its own adds to the words of the configuration. Types are told apart by the names that
/// serde knows, so they must not be called like one of [`crate::language::raw`] that means something else.
pub trait Vocabulary: Sync {
    /// The type in a sentence, such as `a rule`.
    fn describe(&self, name: &str) -> Option<&'static str>;

    /// The forms that a type takes, as advice.
    fn forms(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// The field or word that somebody meant by another name.
    fn meant(&self, _owner: &str, _word: &str) -> Option<&'static str> {
        None
    }

    /// What is refused with an explanation: what is wrong, and the fix.
    fn refused(&self, _owner: &str, _word: &str) -> Option<(&'static str, &'static str)> {
        None
    }
}

/// The words of one reading.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(pub(crate) Option<&'a dyn Vocabulary>);

impl Words<'_> {
    pub(super) fn describe(self, name: &str) -> &'static str {
        self.0.and_then(|own| own.describe(name)).unwrap_or_else(|| names::describe(name))
    }

    pub(super) fn forms(self, name: &str) -> Option<&'static str> {
        self.0.and_then(|own| own.forms(name)).or_else(|| names::forms(name))
    }

    pub(super) fn meant(self, owner: &str, word: &str) -> Option<&'static str> {
        self.0.and_then(|own| own.meant(owner, word)).or_else(|| names::meant(owner, word))
    }

    pub(super) fn later(self, owner: &str, word: &str) -> Option<Later> {
        let own = self.0.and_then(|own| own.refused(owner, word));
        own.map(|(message, fix)| Later { message, fix }).or_else(|| names::later(owner, word))
    }

    pub(super) fn restored(self, owner: &str, word: &str) -> Option<&'static str> {
        names::restored(owner, word)
    }

    pub(super) fn split(self, name: &str) -> &'static str {
        names::split(name)
    }
}
