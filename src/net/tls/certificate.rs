//! What a certificate says of itself, read in one pass without an allocation for each field. The chain's
//! signatures and constraints are webpki's business; here is what it does not tell: dates, key strength, key
//! usage, and every alternative name, also those it would skip.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

use super::der::{Reader, tag, time};

/// The smallest RSA key that is believed, in bits.
const MIN_RSA_BITS: usize = 2048;

/// A certificate, looked into.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    /// Big-endian, without leading zeros.
    pub(super) serial: &'a [u8],
    /// A distinguished name, DER.
    pub(super) issuer: &'a [u8],
    /// A distinguished name, DER.
    pub(super) subject: &'a [u8],
    /// Seconds since 1970.
    pub(super) not_before: i64,
    /// Seconds since 1970.
    pub(super) not_after: i64,
    /// The public key with its algorithm: the contents of the field, without tag and length.
    pub(super) spki: &'a [u8],
    pub(super) key: KeyStrength,
    /// Basic constraints: a certificate authority.
    pub(super) ca: bool,
    /// `None` without the extension.
    pub(super) key_usage: Option<Usage>,
    alt_names: &'a [u8],
}

/// Whether a public key can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyStrength {
    Sound,
    /// Too short.
    Rsa {
        bits: usize,
    },
    /// An algorithm or a curve that is not known.
    Unknown,
}

/// The key usages that matter here (RFC 5280 section 4.2.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) digital_signature: bool,
    pub(super) cert_sign: bool,
    pub(super) crl_sign: bool,
}

impl<'a> Facts<'a> {
    /// `None` when it is not an X.509 certificate.
    pub(super) fn of(certificate: &'a CertificateDer<'_>) -> Option<Self> {
        let mut tbs = Reader::new(Reader::new(Reader::new(certificate).expect(tag::SEQUENCE)?).expect(tag::SEQUENCE)?);
        tbs.optional(tag::VERSION)?;
        let serial = without_zeros(tbs.expect(tag::INTEGER)?);
        tbs.expect(tag::SEQUENCE)?;
        let (_, _, issuer) = tbs.any()?;
        let mut validity = Reader::new(tbs.expect(tag::SEQUENCE)?);
        let mut moment = || validity.any().and_then(|(tag, text, _)| time(tag, text));
        let (not_before, not_after) = (moment()?, moment()?);
        let (_, _, subject) = tbs.any()?;
        let spki = tbs.expect(tag::SEQUENCE)?;
        let mut facts = Self {
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            spki,
            key: strength(spki)?,
            ca: false,
            key_usage: None,
            alt_names: &[],
        };
        while !tbs.is_empty() {
            let (found, contents, _) = tbs.any()?;
            match found {
                // The last field of all.
                tag::EXTENSIONS if tbs.is_empty() => facts.read_extensions(contents)?,
                // Unique identifiers, which nobody uses.
                tag::ISSUER_ID | tag::SUBJECT_ID => {}
                _ => return None,
            }
        }
        Some(facts)
    }

    fn read_extensions(&mut self, contents: &'a [u8]) -> Option<()> {
        let mut extensions = Reader::new(Reader::new(contents).expect(tag::SEQUENCE)?);
        let mut seen: [&[u8]; 3] = [&[]; 3];
        while !extensions.is_empty() {
            let mut extension = Reader::new(extensions.expect(tag::SEQUENCE)?);
            let id = extension.expect(tag::OID)?;
            extension.optional(tag::BOOLEAN)?;
            let mut value = Reader::new(extension.expect(tag::OCTET_STRING)?);
            // An extension must not come twice (RFC 5280 section 4.2): readers would differ in which one counts.
            if let Some(at) = [KEY_USAGE, BASIC_CONSTRAINTS, ALT_NAMES].iter().position(|known| *known == id) {
                if seen[at] == id {
                    return None;
                }
                seen[at] = id;
            }
            match id {
                KEY_USAGE => {
                    let bits = value.expect(tag::BIT_STRING)?;
                    let first = bits.get(1).copied().unwrap_or(0);
                    self.key_usage = Some(Usage {
                        digital_signature: first & 0x80 != 0,
                        cert_sign: first & 0x04 != 0,
                        crl_sign: first & 0x02 != 0,
                    });
                }
                BASIC_CONSTRAINTS => {
                    let mut constraints = Reader::new(value.expect(tag::SEQUENCE)?);
                    self.ca = constraints.optional(tag::BOOLEAN)?.is_some_and(|value| value != [0]);
                }
                ALT_NAMES => self.alt_names = value.expect(tag::SEQUENCE)?,
                _ => {}
            }
        }
        Some(())
    }

    /// Every URI among the alternative names, whatever it looks like.
    pub(super) fn uris(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.names(tag::URI)
    }

    /// The DNS names among the alternative names, without those that are none: what is returned can be shown and
    /// sent as it is.
    pub(super) fn dns_names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*');
        let names = self.names(tag::DNS_NAME).filter(move |name| !name.is_empty() && name.iter().all(fits));
        names.filter_map(|name| std::str::from_utf8(name).ok())
    }

    fn names(&self, kind: u8) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut names = Reader::new(self.alt_names);
        // A name in constructed form is none by DER, and still no other parser may see one that is not counted here.
        let is_of_kind = move |(found, _, _): &(u8, _, _)| found & !tag::CONSTRUCTED == kind;
        std::iter::from_fn(move || names.any()).filter(is_of_kind).map(|(_, name, _)| name)
    }

    /// Whether it names itself as its issuer.
    pub(super) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }
}

/// A certificate's SHA-256 fingerprint.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, bytes).as_ref());
    fingerprint
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// A moment from seconds since 1970; earlier ones count as 1970.
pub(super) fn moment(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Seconds since 1970.
pub(super) fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A date and time to the second, UTC.
pub(super) fn date(seconds: i64) -> String {
    let text = crate::telemetry::rfc3339(moment(seconds));
    text.split_once('.').map_or_else(|| text.clone(), |(second, _)| format!("{second}Z"))
}

/// A distinguished name as text, for people: on one line, and not longer than they read.
pub(super) fn name_text(name: &[u8]) -> String {
    use x509_parser::prelude::FromDer as _;
    const MAX_CHARS: usize = 512;
    match x509_parser::x509::X509Name::from_der(name) {
        Ok((_, name)) => {
            let text = name.to_string();
            text.chars().take(MAX_CHARS).map(|char| if char.is_control() { '?' } else { char }).collect()
        }
        Err(_) => "?".to_owned(),
    }
}

fn strength(key: &[u8]) -> Option<KeyStrength> {
    let mut key = Reader::new(key);
    let mut algorithm = Reader::new(key.expect(tag::SEQUENCE)?);
    let id = algorithm.expect(tag::OID)?;
    let bits = key.expect(tag::BIT_STRING)?;
    Some(match id {
        EC_PUBLIC_KEY => {
            let curve = algorithm.optional(tag::OID)?.unwrap_or(&[]);
            if [CURVE_P256, CURVE_P384, CURVE_P521].contains(&curve) {
                KeyStrength::Sound
            } else {
                KeyStrength::Unknown
            }
        }
        ED25519 => KeyStrength::Sound,
        RSA => {
            let (_, rsa) = bits.split_first()?;
            let modulus = without_zeros(Reader::new(Reader::new(rsa).expect(tag::SEQUENCE)?).expect(tag::INTEGER)?);
            let unused = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
            let bits = modulus.len() * 8 - unused;
            if bits < MIN_RSA_BITS { KeyStrength::Rsa { bits } } else { KeyStrength::Sound }
        }
        _ => KeyStrength::Unknown,
    })
}

fn without_zeros(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    &integer[zeros..]
}

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const ALT_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const CURVE_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const CURVE_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const CURVE_P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
