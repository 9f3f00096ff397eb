//! Field sections as they come in.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::table::{LINES, Name};
use super::{huffman, integer};
use crate::codec::heads::fields;

/// Pseudo-header fields (RFC 9114 section 4.3, RFC 9220).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pseudo {
    /// `:authority`
    Authority,
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:protocol`
    Protocol,
    /// `:scheme`
    Scheme,
    /// `:status`
    Status,
}

/// How many there are.
const PSEUDOS: usize = 6;

/// What a field section says.
#[derive(Debug, Default)]
pub struct Section {
    pseudo: [Option<Bytes>; PSEUDOS],
    /// The fields.
    pub headers: HeaderMap,
}

impl Section {
    /// The value of a pseudo-header field, which is then no longer there.
    pub fn take(&mut self, pseudo: Pseudo) -> Option<Bytes> {
        self.pseudo[pseudo as usize].take()
    }

    /// Whether there are pseudo-header fields.
    #[must_use]
    pub fn has_pseudo(&self) -> bool {
        self.pseudo.iter().any(Option::is_some)
    }
}

/// Why a section is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// It cannot be decoded: a connection error (RFC 9204 section 2.2).
    Failed(&'static str),
    /// It can, but is malformed: a stream error (RFC 9114 section 4.1.2).
    Malformed(&'static str),
    /// It is larger than is allowed, as RFC 9114 section 4.2.2 counts.
    TooLarge,
}

/// Decodes a field section of up to `max_size`.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn decode(section: &[u8], max_size: usize) -> Result<Section, DecodeError> {
    let mut input = section;
    if integer::take(&mut input, 8).map_err(broken)? != 0 {
        return Err(DYNAMIC);
    }
    // Means nothing without a dynamic table (RFC 9204 section 4.5.1.2), except that with a count of 0 no sign may be there.
    if input.first().is_some_and(|base| base & 0x80 != 0) {
        return Err(DecodeError::Failed("a negative base"));
    }
    integer::take(&mut input, 7).map_err(broken)?;
    let mut lines = Lines { input, strings: BytesMut::new() };
    let mut section = Section { headers: HeaderMap::with_capacity(EXPECTED_FIELDS), ..Section::default() };
    let mut size = 0_usize;
    while let Some(Line { name, value, sensitive }) = lines.next()? {
        let name_len = match &name {
            Name::Pseudo(pseudo) => pseudo.name().len(),
            Name::Field(name) => name.as_str().len(),
        };
        size = size.saturating_add(name_len + value.len() + 32);
        if size > max_size {
            return Err(DecodeError::TooLarge);
        }
        match name {
            Name::Pseudo(pseudo) => {
                // RFC 9114 section 4.3.
                if !section.headers.is_empty() {
                    return Err(DecodeError::Malformed("a pseudo-header field behind fields"));
                }
                let place = &mut section.pseudo[pseudo as usize];
                if place.replace(value.into_bytes()).is_some() {
                    return Err(DecodeError::Malformed("a pseudo-header field is there twice"));
                }
            }
            Name::Field(name) => {
                let mut value = value.into_field()?;
                if fields::is_forbidden(&name, &value) {
                    return Err(DecodeError::Malformed("a connection-specific field"));
                }
                value.set_sensitive(sensitive);
                // Fails for more fields than can be within any sensible size.
                section.headers.try_append(name, value).map_err(|_| DecodeError::TooLarge)?;
            }
        }
    }
    Ok(section)
}

impl Pseudo {
    fn name(self) -> &'static str {
        match self {
            Self::Authority => ":authority",
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Scheme => ":scheme",
            Self::Status => ":status",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        let all = [Self::Authority, Self::Method, Self::Path, Self::Protocol, Self::Scheme, Self::Status];
        all.into_iter().find(|pseudo| pseudo.name().as_bytes() == name)
    }
}

struct Line {
    name: Name,
    value: Value,
    sensitive: bool,
}

enum Value {
    Static(&'static str),
    Text(Bytes),
}

impl Value {
    fn len(&self) -> usize {
        match self {
            Self::Static(text) => text.len(),
            Self::Text(text) => text.len(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Static(text) => Bytes::from_static(text.as_bytes()),
            Self::Text(text) => text,
        }
    }

    fn into_field(self) -> Result<HeaderValue, DecodeError> {
        match self {
            Self::Static(text) => Ok(HeaderValue::from_static(text)),
            Self::Text(text) => HeaderValue::from_maybe_shared(text)
                .map_err(|_| DecodeError::Malformed("a value with characters that may not be in one")),
        }
    }
}

/// The lines of a section.
struct Lines<'a> {
    input: &'a [u8],
    /// Literal values are put here one behind the other, so that a section takes one allocation, and keeps nothing of
    /// the datagrams that it came in.
    strings: BytesMut,
}

impl Lines<'_> {
    fn next(&mut self) -> Result<Option<Line>, DecodeError> {
        let Some(&first) = self.input.first() else { return Ok(None) };
        let line = match first {
            // RFC 9204 section 4.5.2: an indexed line, static or dynamic.
            0xc0.. => {
                let (name, value) = self.line(6)?;
                Line { name: name.clone(), value: Value::Static(value), sensitive: false }
            }
            // Section 4.5.4: the name of a line.
            0x40..0x80 if first & 0x10 != 0 => {
                let (name, _) = self.line(4)?;
                Line { name: name.clone(), value: self.value()?, sensitive: first & 0x20 != 0 }
            }
            // Section 4.5.6.
            0x20..0x40 => {
                let name = self.name()?;
                Line { name, value: self.value()?, sensitive: first & 0x10 != 0 }
            }
            // Sections 4.5.3 and 4.5.5, and the dynamic halves of the others.
            _ => return Err(DYNAMIC),
        };
        Ok(Some(line))
    }

    /// A line of the static table, by an index in the low `prefix` bits.
    fn line(&mut self, prefix: u8) -> Result<&'static (Name, &'static str), DecodeError> {
        let index = integer::take(&mut self.input, prefix).map_err(broken)?;
        usize::try_from(index)
            .ok()
            .and_then(|index| LINES.get(index))
            .ok_or(DecodeError::Failed("an index that is not in the static table"))
    }

    fn name(&mut self) -> Result<Name, DecodeError> {
        let name = self.string(3)?;
        if name.first() == Some(&b':') {
            let pseudo = Pseudo::of(&name).ok_or(DecodeError::Malformed("an unknown pseudo-header field"))?;
            return Ok(Name::Pseudo(pseudo));
        }
        // RFC 9114 section 4.2. The constructor would make them lower-case.
        if name.iter().any(u8::is_ascii_uppercase) {
            return Err(DecodeError::Malformed("a name with upper-case letters"));
        }
        HeaderName::from_bytes(&name).map(Name::Field).map_err(|_| DecodeError::Malformed("a name that is no token"))
    }

    fn value(&mut self) -> Result<Value, DecodeError> {
        self.string(7).map(|text| Value::Text(text.freeze()))
    }

    /// A string, whose length has `prefix` bits behind the one that tells that it is coded.
    fn string(&mut self, prefix: u8) -> Result<BytesMut, DecodeError> {
        let first = *self.input.first().ok_or(TRUNCATED)?;
        let coded = first & 1 << prefix != 0;
        let length = integer::take(&mut self.input, prefix).map_err(broken)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= self.input.len()).ok_or(TRUNCATED)?;
        let (text, rest) = self.input.split_at(length);
        if self.strings.capacity() == 0 {
            // Everything that is left, were it coded as densely as can be, which nothing real is.
            self.strings.reserve(self.input.len() + self.input.len() / 2);
        }
        self.input = rest;
        if coded {
            huffman::decode(text, &mut self.strings)
                .map_err(|()| DecodeError::Failed("a string that is badly coded"))?;
        } else {
            self.strings.extend_from_slice(text);
        }
        Ok(self.strings.split())
    }
}

/// Fields that a head has room for from the beginning.
const EXPECTED_FIELDS: usize = 16;

const DYNAMIC: DecodeError = DecodeError::Failed("a reference to the dynamic table, which is empty");
const TRUNCATED: DecodeError = DecodeError::Failed("it ends in the middle of a line");

fn broken(error: integer::Error) -> DecodeError {
    match error {
        integer::Error::Truncated => TRUNCATED,
        integer::Error::Overflow => DecodeError::Failed("a number that is too large"),
    }
}
