//! A value with its place, which may have turned out wrong.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::source::Span;

/// A value as written.
#[derive(Debug, Clone, Default)]
pub enum Field<T> {
    /// Not written.
    #[default]
    Absent,
    /// Written, but wrong; this has been reported.
    Bad(Span),
    /// Written.
    Here(T, Span),
}

/// A list whose entries are read independently of each other.
pub type List<T> = Vec<Field<T>>;

impl<T> Field<T> {
    /// The value, when it was written and could be read.
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Here(value, _) => Some(value),
            Self::Absent | Self::Bad(_) => None,
        }
    }

    /// The value and where it is.
    pub fn here(&self) -> Option<(&T, Span)> {
        match self {
            Self::Here(value, span) => Some((value, *span)),
            Self::Absent | Self::Bad(_) => None,
        }
    }

    /// Where it is written, well or badly.
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::Here(_, span) | Self::Bad(span) => Some(*span),
            Self::Absent => None,
        }
    }

    /// Not written.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Written, but wrong.
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Bad(_))
    }
}

impl<T> Field<T> {
    /// Another value in the same place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Bad(span) => Field::Bad(span),
            Self::Here(value, span) => Field::Here(change(value), span),
        }
    }

    /// The value itself, when it was written and could be read.
    pub fn into_value(self) -> Option<T> {
        match self {
            Self::Here(value, _) => Some(value),
            Self::Absent | Self::Bad(_) => None,
        }
    }
}

impl<T> Field<List<T>> {
    /// The entries; none where the list is absent or wrong.
    pub fn entries(&self) -> &[Field<T>] {
        self.get().map_or(&[], Vec::as_slice)
    }
}

/// The name under which [`Field`] asks our deserialiser for places.
pub(super) const FIELD: &str = "$field";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field<T>, A::Error> {
        let mut number = || Ok(seq.next_element::<u32>()?.unwrap_or_default());
        let span = Span { start: number()?, end: number()?, line: number()?, column: number()? };
        // The error has been reported by the deserialiser, at the place where it is.
        Ok(match seq.next_element::<T>() {
            Ok(Some(value)) => Field::Here(value, span),
            Ok(None) | Err(_) => Field::Bad(span),
        })
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A mapping from names that people choose, in the order in which it is written.
#[derive(Debug, Clone)]
pub struct Entries<T> {
    /// In the order of the text.
    pub pairs: Vec<(Key, Field<T>)>,
}

/// A name in [`Entries`] and where it stands.
#[derive(Debug, Clone)]
pub struct Key {
    /// The name.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
        let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or_default());
        while let Some(key) = map.next_key::<Field<String>>()? {
            let value = map.next_value()?;
            if let Field::Here(text, span) = key {
                pairs.push((Key { text, span }, value));
            }
        }
        Ok(Entries { pairs })
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("EntriesOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        schemars::json_schema!({ "type": "object", "additionalProperties": value })
    }
}
