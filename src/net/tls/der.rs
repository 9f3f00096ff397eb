//! Just enough DER (X.690) to look into certificates that a strict parser accepts or will be shown.
//!
//! Lengths are definite and below 4 GiB; anything else ends the reading with `None`.

/// Tags of the universal class, and the context-specific ones that certificates use.
pub(super) mod tag {
    pub(in super::super) const BOOLEAN: u8 = 0x01;
    pub(in super::super) const INTEGER: u8 = 0x02;
    pub(in super::super) const BIT_STRING: u8 = 0x03;
    pub(in super::super) const OCTET_STRING: u8 = 0x04;
    pub(in super::super) const OID: u8 = 0x06;
    pub(in super::super) const UTC_TIME: u8 = 0x17;
    pub(in super::super) const GENERALIZED_TIME: u8 = 0x18;
    pub(in super::super) const SEQUENCE: u8 = 0x30;
    /// The bit that tells a constructed element from a primitive one.
    pub(in super::super) const CONSTRUCTED: u8 = 0x20;
    /// `[0]`, constructed: the version.
    pub(in super::super) const VERSION: u8 = 0xa0;
    /// `[1]`: the issuer's unique identifier.
    pub(in super::super) const ISSUER_ID: u8 = 0x81;
    /// `[2]`: the subject's unique identifier.
    pub(in super::super) const SUBJECT_ID: u8 = 0x82;
    /// `[3]`, constructed: the extensions.
    pub(in super::super) const EXTENSIONS: u8 = 0xa3;
    /// `[2]`: a DNS name among alternative names.
    pub(in super::super) const DNS_NAME: u8 = 0x82;
    /// `[6]`: a URI among alternative names.
    pub(in super::super) const URI: u8 = 0x86;
}

/// Reads elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element's tag.
    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: its tag, its contents, and all of it.
    pub(super) fn any(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (digits, rest) = rest.split_at_checked(count)?;
            (digits.iter().fold(0usize, |len, &digit| len << 8 | usize::from(digit)), rest)
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some((tag, contents, whole))
    }

    /// The contents of the next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        (self.peek()? == tag).then(|| self.any())?.map(|(_, contents, _)| contents)
    }

    /// The contents of the next element if it has this tag; nothing is read otherwise.
    pub(super) fn optional(&mut self, tag: u8) -> Option<Option<&'a [u8]>> {
        if self.peek() == Some(tag) { self.expect(tag).map(Some) } else { Some(None) }
    }
}

/// Seconds since 1970 of a `UTCTime` or `GeneralizedTime` as certificates write them (RFC 5280 section 4.1.2.5).
pub(super) fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let two = |at: usize| -> Option<i64> {
        let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
        Some(digit(*text.get(at)?)? * 10 + digit(*text.get(at + 1)?)?)
    };
    let (year, at) = match tag {
        tag::UTC_TIME => {
            let year = two(0)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        tag::GENERALIZED_TIME => (two(0)? * 100 + two(2)?, 4),
        _ => return None,
    };
    let (month, day, hour, minute, second) = (two(at)?, two(at + 2)?, two(at + 4)?, two(at + 6)?, two(at + 8)?);
    let shape = text.len() == at + 11 && text[at + 10] == b'Z';
    let range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    (shape && range).then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a date. Years are counted from March, so that the leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read() {
        for (tag, text, seconds) in [
            (tag::UTC_TIME, "700101000000Z", 0),
            (tag::UTC_TIME, "491231235959Z", 2_524_607_999),
            (tag::UTC_TIME, "500101000000Z", -631_152_000),
            (tag::GENERALIZED_TIME, "20000229000000Z", 951_782_400),
            (tag::GENERALIZED_TIME, "99991231235959Z", 253_402_300_799),
        ] {
            assert_eq!(time(tag, text.as_bytes()), Some(seconds), "{text}");
        }
        for text in ["", "7001010000Z", "700101000000", "701301000000Z", "700101000000+0100", "7001010x0000Z"] {
            assert_eq!(time(tag::UTC_TIME, text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn lengths_beyond_the_input_end_the_reading() {
        assert_eq!(Reader::new(&[0x30, 0x02, 0x05]).any(), None);
        assert_eq!(Reader::new(&[0x30, 0x80]).any(), None);
        assert_eq!(Reader::new(&[0x30, 0x85, 1, 1, 1, 1, 1]).any(), None);
        assert_eq!(Reader::new(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).any(), None);
        let whole = [0x30, 0x81, 0x01, 0x07, 0x05];
        assert_eq!(Reader::new(&whole).any(), Some((0x30, &whole[3..4], &whole[..4])));
    }

    proptest! {
        #[test]
        fn whatever_comes_reading_ends(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            let mut read = 0;
            while let Some((_, _, whole)) = reader.any() {
                read += whole.len();
            }
            prop_assert!(read <= bytes.len());
        }
    }
}
