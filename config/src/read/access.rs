//! How serde walks from a value to the values inside it.

use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::de::{De, ReadError};
use crate::source::Span;
use crate::yaml::NodeId;

/// What [`Field`] reads: four numbers of the span, then the value.
pub(super) struct FieldAccess<'a, 't> {
    pub(super) de: De<'a, 't>,
    pub(super) step: u8,
}

impl<'de> SeqAccess<'de> for FieldAccess<'_, '_> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let Span { start, end, line, column } = self.de.span();
        self.step += 1;
        let number: U32Deserializer<ReadError> = match self.step {
            1 => start,
            2 => end,
            3 => line,
            4 => column,
            _ if self.de.is_slip() => return Err(ReadError::Reported),
            _ => return seed.deserialize(self.de).map(Some).map_err(|e| self.de.report(e)),
        }
        .into_deserializer();
        seed.deserialize(number).map(Some)
    }
}

pub(super) struct Items<'a, 't> {
    pub(super) de: De<'a, 't>,
    pub(super) items: std::slice::Iter<'a, NodeId>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let Some(id) = self.items.next() else { return Ok(None) };
        seed.deserialize(self.de.child(*id, None)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

pub(super) struct Pairs<'a, 't> {
    pub(super) de: De<'a, 't>,
    pub(super) all: &'a [(NodeId, NodeId)],
    pub(super) pairs: std::slice::Iter<'a, (NodeId, NodeId)>,
    pub(super) value: Option<De<'a, 't>>,
    /// For a struct. Unknown keys are reported and left out.
    pub(super) known: Option<Known>,
}

pub(super) struct Known {
    pub(super) owner: &'static str,
    pub(super) fields: &'static [&'static str],
    /// Fields that were given in place of unknown keys.
    pub(super) fed: Vec<&'static str>,
}

impl<'de> MapAccess<'de> for Pairs<'_, '_> {
    type Error = ReadError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        loop {
            let Some((key, value)) = self.pairs.next() else { return Ok(None) };
            let word = self.de.key(*key);
            self.value = Some(self.de.child(*value, Some(word)));
            let Some(Known { owner, fields, fed }) = &mut self.known else {
                return seed.deserialize(self.de.child(*key, None)).map(Some);
            };
            let field = match fields.iter().find(|field| **field == word) {
                Some(field) => field,
                None => {
                    let own = |meant: &str| self.all.iter().any(|(key, _)| self.de.key(*key) == meant);
                    let meant = self.de.unknown(*key, owner, fields);
                    let Some(meant) = meant.filter(|m| fields.contains(m) && !fed.contains(m) && !own(m)) else {
                        continue;
                    };
                    fed.push(meant);
                    self.value = Some(self.de.slip(*value, *key));
                    meant
                }
            };
            let field: StrDeserializer<'_, ReadError> = field.into_deserializer();
            return seed.deserialize(field).map(Some);
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        match self.value.take() {
            Some(de) => seed.deserialize(de),
            None => Err(ReadError::Raised("a value was asked for before its key".to_owned())),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.pairs.len())
    }
}

pub(super) struct Variant<'a, 't> {
    pub(super) de: De<'a, 't>,
    pub(super) variant: &'a str,
    pub(super) value: Option<De<'a, 't>>,
}

impl<'de, 'a, 't> EnumAccess<'de> for Variant<'a, 't> {
    type Error = ReadError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), ReadError> {
        let name: StrDeserializer<'_, ReadError> = self.variant.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        match self.value {
            None => Ok(()),
            Some(value) => {
                let fix = format!("write `{}` alone", self.variant);
                self.de.sink.error(value.span(), format!("`{}` takes no value", self.variant), fix);
                Err(ReadError::Reported)
            }
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, ReadError> {
        match self.value {
            Some(value) => seed.deserialize(value),
            None => {
                let fix = format!("write `{{ {}: … }}`", self.variant);
                self.de.sink.error(self.de.span(), format!("`{}` needs a value", self.variant), fix);
                Err(ReadError::Reported)
            }
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, ReadError> {
        Err(self.de.unfit("one value", "write one value"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.value {
            Some(value) => value.deserialize_struct("", fields, visitor),
            None => Err(self.de.unfit("a mapping", "write `{ key: value }`")),
        }
    }
}
