//! A serde deserialiser over the tree.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

use super::access::{FieldAccess, Items, Known, Pairs, Variant};
use super::field::{FIELD, Field};
use super::words::Words;
use crate::sink::Sink;
use crate::source::Span;
use crate::text::{nearest, one_of, quoted};
use crate::yaml::{Kind, Node, NodeId, Tree};

pub(super) fn read_field<'de, T: Deserialize<'de>>(
    tree: &Tree<'_>,
    sink: &Sink<'_>,
    (id, words): (NodeId, Words<'_>),
) -> Field<T> {
    // A `Field` never fails: it reports and becomes `Bad`.
    Field::deserialize(De { tree, sink, id, words, label: None, slip: None }).unwrap_or_default()
}

/// A node that is to become a value.
#[derive(Clone, Copy)]
pub(super) struct De<'a, 't> {
    tree: &'a Tree<'t>,
    pub(super) sink: &'a Sink<'t>,
    id: NodeId,
    words: Words<'a>,
    /// The key that it is the value of.
    label: Option<&'a str>,
    /// Set where this stands in for a field that was probably meant by an unknown key, at that key: the field is then
    /// wrong, and nobody need be told that it is missing as well.
    slip: Option<Span>,
}

/// Why a value could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The diagnostic is in the sink.
    Reported,
    /// Raised inside serde; not reported yet.
    Raised(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported => f.write_str("reported"),
            Self::Raised(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Raised(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Raised(format!("expected {expected}, found {unexpected}"))
    }
}

impl<'a, 't> De<'a, 't> {
    fn node(&self) -> &'a Node<'t> {
        self.tree.node(self.id)
    }

    pub(super) fn child(&self, id: NodeId, label: Option<&'a str>) -> Self {
        Self { id, label, slip: None, ..*self }
    }

    /// What stands in for the field that was meant by the unknown `key`.
    pub(super) fn slip(&self, value: NodeId, key: NodeId) -> Self {
        Self { slip: Some(self.tree.node(key).span), ..self.child(value, None) }
    }

    /// True for what [`Self::slip`] gives.
    pub(super) fn is_slip(&self) -> bool {
        self.slip.is_some()
    }

    /// The value is not what its field wants.
    pub(super) fn unfit(&self, wanted: &str, fix: &str) -> ReadError {
        self.unfit_as("this", wanted, fix)
    }

    /// As `unfit`, with a name for the thing where it has no key.
    fn unfit_as(&self, name: &str, wanted: &str, fix: &str) -> ReadError {
        let node = self.node();
        let subject = self.label.map_or_else(|| name.to_owned(), |label| format!("`{}`", quoted(label)));
        let found = match &node.kind {
            Kind::Broken => return ReadError::Reported,
            Kind::Scalar { .. } if node.is_null() => {
                let fix = format!("give it a value ({wanted}), or remove it");
                self.sink.error(self.span(), format!("{subject} has no value"), fix);
                return ReadError::Reported;
            }
            Kind::Scalar { text, plain: false } => format!("the text \"{}\"", quoted(text)),
            Kind::Scalar { text, plain: true } => format!("`{}`", quoted(text)),
            Kind::Seq(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
        };
        self.sink.error(self.span(), format!("{subject} must be {wanted}, not {found}"), fix);
        ReadError::Reported
    }

    pub(super) fn span(&self) -> Span {
        self.slip.unwrap_or(self.node().span)
    }

    pub(super) fn report(&self, error: ReadError) -> ReadError {
        if let ReadError::Raised(message) = error {
            self.sink.error(self.span(), message, "see the reference of this field");
        }
        ReadError::Reported
    }

    fn text(&self) -> Result<&'a str, ReadError> {
        let node = self.node();
        match &node.kind {
            Kind::Scalar { text, .. } if !node.is_null() => Ok(text),
            _ => Err(self.unfit("a text", "write one value here")),
        }
    }

    fn number(&self) -> Result<u64, ReadError> {
        let node = self.node();
        match &node.kind {
            Kind::Scalar { text, plain } if !node.is_null() => match (text.parse::<u64>(), plain) {
                (Ok(number), true) if !text.starts_with('+') => Ok(number),
                (Ok(number), false) => Err(self.unfit("a whole number", &format!("remove the quotes: write {number}"))),
                _ if text.bytes().all(|b| b.is_ascii_digit()) => {
                    Err(self.unfit("a whole number", "write a smaller one"))
                }
                _ => Err(self.unfit("a whole number", "write digits only, without unit, sign or fraction")),
            },
            _ => Err(self.unfit("a whole number", "write one number here")),
        }
    }

    fn seq(&self) -> Result<&'a [NodeId], ReadError> {
        match &self.node().kind {
            Kind::Seq(items) => Ok(items),
            _ => Err(self.unfit("a list", "write `[a, b]`, or one entry a line that begins with `- `")),
        }
    }

    fn map(&self, name: &str) -> Result<&'a [(NodeId, NodeId)], ReadError> {
        match &self.node().kind {
            Kind::Map(pairs) => Ok(pairs),
            _ => Err(self.unfit_as(name, "a mapping", "write `{ key: value }`, or indented lines `key: value`")),
        }
    }

    pub(super) fn key(&self, id: NodeId) -> &'a str {
        // Keys that are no scalars were dropped when the tree was built.
        self.tree.text(id).unwrap_or_default()
    }

    /// Reports a key that `owner` does not know, and gives the one that was probably meant.
    pub(super) fn unknown(&self, key: NodeId, owner: &'static str, known: &[&'static str]) -> Option<&'static str> {
        let (word, span) = (self.key(key), self.tree.node(key).span);
        let what = self.words.describe(owner);
        if let Some(later) = self.words.later(owner, word) {
            self.sink.error(span, later.message, later.fix);
            return None;
        }
        let meant = self.words.meant(owner, word).or_else(|| nearest(word, known.iter().copied()));
        let fix = match meant {
            Some(known) => format!("did you mean `{known}`?"),
            None if known.is_empty() => "remove it".to_owned(),
            None => format!("remove it; {what} knows {}", one_of(known).replace(" or ", " and ")),
        };
        self.sink.error(span, format!("unknown field `{}` in {what}", quoted(word)), fix);
        meant
    }

    /// Reports a word that is none of an enum's.
    fn unknown_word(&self, span: Span, word: &str, (owner, known): (&'static str, &[&'static str])) -> ReadError {
        if let Some(later) = self.words.later(owner, word) {
            self.sink.error(span, later.message, later.fix);
            return ReadError::Reported;
        }
        let fix = match self.words.meant(owner, word).or_else(|| nearest(word, known.iter().copied())) {
            Some(known) => format!("did you mean `{known}`?"),
            None => self.words.forms(owner).map_or_else(|| format!("write {}", one_of(known)), str::to_owned),
        };
        self.sink.error(span, format!("`{}` is not {}", quoted(word), self.words.describe(owner)), fix);
        ReadError::Reported
    }
}

macro_rules! refuse {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ReadError> {
            Err(ReadError::Raised(concat!(stringify!($method), " is not part of the configuration language").to_owned()))
        }
    )*};
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            visitor.visit_u64(self.number()?).map_err(|e| self.report(e))
        }
    )*};
}

impl<'de> Deserializer<'de> for De<'_, '_> {
    type Error = ReadError;

    refuse! { deserialize_any deserialize_char deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_f32 deserialize_f64 deserialize_option }
    numbers! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node().kind {
            Kind::Scalar { text, plain: true } if text == "true" => visitor.visit_bool(true),
            Kind::Scalar { text, plain: true } if text == "false" => visitor.visit_bool(false),
            Kind::Scalar { text, .. } => {
                let fix = match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" | "y" | "1" => "write true (without quotes)",
                    "false" | "no" | "off" | "n" | "0" => "write false (without quotes)",
                    _ => "write true or false",
                };
                Err(self.unfit("true or false", fix))
            }
            _ => Err(self.unfit("true or false", "write true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_str(self.text()?).map_err(|e| self.report(e))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, v: V) -> Result<V::Value, ReadError> {
        if name == FIELD { v.visit_seq(FieldAccess { de: self, step: 0 }) } else { v.visit_newtype_struct(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_seq(Items { de: self, items: self.seq()?.iter() })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, ReadError> {
        Err(self.unfit("nothing", "remove it"))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let all = self.map("this")?;
        visitor.visit_map(Pairs { de: self, all, pairs: all.iter(), value: None, known: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let all = self.map(self.words.describe(name))?;
        let known = Some(Known { owner: name, fields, fed: Vec::new() });
        visitor.visit_map(Pairs { de: self, all, pairs: all.iter(), value: None, known })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let node = self.node();
        // Variants named by a shape: see `raw`.
        let by_shape = variants.iter().any(|v| v.starts_with('$'));
        let (variant, value) = match &node.kind {
            Kind::Broken => return Err(ReadError::Reported),
            Kind::Scalar { .. } if node.is_null() => {
                return Err(self.unfit(self.words.describe(name), "write a value"));
            }
            kind if by_shape => {
                let shape = match kind {
                    Kind::Scalar { .. } => "$text",
                    Kind::Seq(_) => "$list",
                    Kind::Map(_) | Kind::Broken => "$map",
                };
                if !variants.contains(&shape) {
                    return Err(
                        self.unfit(self.words.describe(name), self.words.forms(name).unwrap_or("write one value"))
                    );
                }
                (shape, Some(self))
            }
            Kind::Scalar { text, plain: true } if self.words.restored(name, text).is_some() => {
                (self.words.restored(name, text).unwrap_or_default(), None)
            }
            Kind::Scalar { text, .. } => {
                if !variants.contains(&&**text) {
                    return Err(self.unknown_word(node.span, text, (name, variants)));
                }
                (&**text, None)
            }
            Kind::Map(pairs) => match pairs.as_slice() {
                [(key, value)] => {
                    let word = self.key(*key);
                    if !variants.contains(&word) {
                        self.unknown(*key, name, variants);
                        return Err(ReadError::Reported);
                    }
                    (word, Some(self.child(*value, Some(word))))
                }
                [] => return Err(self.unfit(self.words.describe(name), &format!("write one of {}", one_of(variants)))),
                [_, (second, _), ..] => {
                    for (key, _) in pairs.iter().filter(|(key, _)| !variants.contains(&self.key(*key))) {
                        self.unknown(*key, name, variants);
                    }
                    if pairs.iter().filter(|(key, _)| variants.contains(&self.key(*key))).count() > 1 {
                        self.sink.error(
                            self.tree.node(*second).span,
                            format!("{} is exactly one of {}", self.words.describe(name), one_of(variants)),
                            self.words.split(name),
                        );
                    }
                    return Err(ReadError::Reported);
                }
            },
            Kind::Seq(_) => {
                return Err(self.unfit(self.words.describe(name), self.words.forms(name).unwrap_or("write one value")));
            }
        };
        visitor.visit_enum(Variant { de: self, variant, value })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }
}
