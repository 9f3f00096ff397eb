//! As much of HPACK (RFC 7541) as the cases need: field representations written out, and the status of a response read.

/// How a field is represented (section 6).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// Literal with incremental indexing (6.2.1).
    Indexing,
    /// Literal without indexing (6.2.2).
    Plain,
    /// Literal never indexed (6.2.3).
    Never,
}

impl Form {
    fn prefix(self) -> (u8, u32) {
        match self {
            Self::Indexing => (0x40, 6),
            Self::Plain => (0x00, 4),
            Self::Never => (0x10, 4),
        }
    }
}

/// Entry `index` of the tables (6.1).
pub(crate) fn indexed(index: usize) -> Vec<u8> {
    integer(0x80, 7, index)
}

/// A literal with a literal name.
pub(crate) fn literal(form: Form, name: &[u8], value: &[u8]) -> Vec<u8> {
    let (pattern, _) = form.prefix();
    [vec![pattern], text(name), text(value)].concat()
}

/// A literal whose name is entry `index`; `value` is an encoded string.
pub(crate) fn literal_indexed(form: Form, index: usize, value: &[u8]) -> Vec<u8> {
    let (pattern, bits) = form.prefix();
    [integer(pattern, bits, index), value.to_vec()].concat()
}

/// A literal with both strings already encoded.
pub(crate) fn literal_encoded(form: Form, name: &[u8], value: &[u8]) -> Vec<u8> {
    let (pattern, _) = form.prefix();
    [&[pattern], name, value].concat()
}

/// A dynamic table size update (6.3).
pub(crate) fn table_size(size: usize) -> Vec<u8> {
    integer(0x20, 5, size)
}

/// A string without Huffman coding (5.2).
pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
    [integer(0, 7, bytes.len()), bytes.to_vec()].concat()
}

/// A string that is said to be Huffman-coded.
pub(crate) fn huffman(coded: &[u8]) -> Vec<u8> {
    [integer(0x80, 7, coded.len()), coded.to_vec()].concat()
}

/// An integer with a prefix of `bits` bits (5.1).
fn integer(pattern: u8, bits: u32, value: usize) -> Vec<u8> {
    let limit = (1_usize << bits) - 1;
    let low = |value: usize| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    if value < limit {
        return vec![pattern | low(value)];
    }
    let mut bytes = vec![pattern | low(limit)];
    let mut rest = value - limit;
    while rest >= 128 {
        bytes.push(low(rest % 128) | 0x80);
        rest /= 128;
    }
    bytes.push(low(rest));
    bytes
}

/// A block of plain literals.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(Form::Plain, name.as_bytes(), value.as_bytes())).collect()
}

/// The status that a response's block starts with. Only `:status` may come first (RFC 9113 section 8.3.2), and only static
/// entries or literals are understood, which is how servers write it.
pub(crate) fn status(block: &[u8]) -> Option<u16> {
    let mut rest = block;
    // Size updates come before the first field (section 4.2).
    while let [first, ..] = rest {
        if first & 0xe0 != 0x20 {
            break;
        }
        let more = if first & 0x1f == 0x1f { 1 + rest[1..].iter().position(|byte| byte & 0x80 == 0)? + 1 } else { 1 };
        rest = rest.get(more..)?;
    }
    let (&first, rest) = rest.split_first()?;
    let fixed = [200, 204, 206, 304, 400, 404, 500];
    if first & 0x80 != 0 {
        return fixed.get(usize::from(first & 0x7f).checked_sub(8)?).copied();
    }
    let name = if first & 0x40 != 0 { first & 0x3f } else { first & 0x0f };
    if !(8..=14).contains(&name) {
        return None;
    }
    let (&length, value) = rest.split_first()?;
    let value = value.get(..usize::from(length & 0x7f))?;
    let digits = if length & 0x80 == 0 { value.to_vec() } else { huffman_digits(value)? };
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// Three Huffman-coded digits (RFC 7541 appendix B): `0` to `2` are five bits, `3` to `9` are six.
fn huffman_digits(coded: &[u8]) -> Option<Vec<u8>> {
    let mut bits = coded.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut digits = Vec::with_capacity(3);
    while digits.len() < 3 {
        let mut five = 0;
        for _ in 0..5 {
            five = five << 1 | bits.next()?;
        }
        digits.push(match five {
            0..=2 => b'0' + five,
            // 011000 is a slash.
            12..=15 => b'3' + ((five - 12) << 1 | bits.next()?).checked_sub(1)?,
            _ => return None,
        });
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_the_examples_of_rfc_7541_c_1() {
        assert_eq!(integer(0, 5, 10), [0x0a]);
        assert_eq!(integer(0, 5, 1337), [0x1f, 0x9a, 0x0a]);
        assert_eq!(integer(0, 8, 42), [0x2a]);
    }

    #[test]
    fn a_status_is_read_in_every_representation() {
        assert_eq!(status(&indexed(8)), Some(200));
        assert_eq!(status(&indexed(12)), Some(400));
        assert_eq!(status(&[table_size(4096), indexed(13)].concat()), Some(404));
        assert_eq!(status(&literal_indexed(Form::Plain, 8, &text(b"431"))), Some(431));
        // RFC 7541 C.6.1: "302" is 64 02.
        assert_eq!(status(&literal_indexed(Form::Indexing, 8, &huffman(&[0x64, 0x02]))), Some(302));
        // RFC 7541 C.6.2: "307" is 64 0e ff.
        assert_eq!(status(&literal_indexed(Form::Indexing, 8, &huffman(&[0x64, 0x0e, 0xff]))), Some(307));
        assert_eq!(status(&literal(Form::Plain, b"x-first", b"1")), None);
        assert_eq!(status(&[]), None);
    }
}
