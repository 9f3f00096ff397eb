//! The tree to the raw types, through serde, without stopping at a mistake.
//!
//! serde's derived code gives up at the first error. Two things turn that into "all problems in one pass": the
//! deserialiser here sees the list of fields that a struct knows, so it reports and drops unknown ones itself; and
//! every field and list entry of the raw types is a [`Field`], which reports what is wrong inside it and goes on.

mod access;
mod de;
mod field;
mod words;

pub use field::{Entries, Field, Key, List};
pub use words::Vocabulary;
pub(crate) use words::Words;

use serde::Deserialize;

use crate::raw;
use crate::sink::Sink;
use crate::yaml::{NodeId, Tree};

/// Reads a whole configuration. Problems are in `sink`.
pub(crate) fn read(tree: &Tree<'_>, sink: &Sink<'_>) -> Field<raw::Config> {
    match tree.root {
        Some(root) => de::read_field(tree, sink, (root, Words(None))),
        None => Field::default(),
    }
}

/// Reads one value of a tree as `T`. Problems are in `sink`.
pub(crate) fn read_as<'de, T: Deserialize<'de>>(
    tree: &Tree<'_>,
    sink: &Sink<'_>,
    (id, words): (NodeId, &dyn Vocabulary),
) -> Field<T> {
    de::read_field(tree, sink, (id, Words(Some(words))))
}
