//! The roots of the trust domain that are believed now.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64, HEXLOWER};
use rustls::pki_types::{CertificateDer, TrustAnchor};

/// Every root that is believed. Two are equal when their versions are.
#[derive(Clone)]
pub struct Bundle {
    roots: Vec<Root>,
    version: String,
}

#[derive(Clone)]
struct Root {
    certificate: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_after: SystemTime,
}

impl Bundle {
    /// Of these roots; what is there twice counts once. `None` when one cannot be read.
    pub(super) fn new(mut certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        certificates.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        certificates.dedup();
        let version = fingerprint(&certificates.iter().flat_map(|root| root.to_vec()).collect::<Vec<_>>());
        let roots = certificates.into_iter().map(|certificate| {
            let anchor = webpki::anchor_from_trusted_cert(&certificate).ok()?.to_owned();
            let (_, _, not_after) = validity(&certificate)?;
            Some(Root { anchor, not_after, certificate })
        });
        Some(Self { roots: roots.collect::<Option<_>>()?, version })
    }

    /// The roots, DER.
    pub fn certificates(&self) -> impl ExactSizeIterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.certificate)
    }

    /// The roots, PEM, one after the other.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificates().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    /// Changes when the roots do, and only then: lower-case hexadecimal digits.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What a chain may end in at a moment: a root that has run out is none.
    pub(crate) fn anchors(&self, now: SystemTime) -> Vec<TrustAnchor<'_>> {
        self.roots.iter().filter(|root| now <= root.not_after).map(|root| root.anchor.clone()).collect()
    }
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Eq for Bundle {}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("roots", &self.roots.len()).field("version", &self.version).finish()
    }
}

/// SHA-256, lower-case hexadecimal digits.
pub(super) fn fingerprint(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// The parsed subject-is-issuer flag, begin and end of a certificate.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(bool, SystemTime, SystemTime)> {
    let (rest, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let moment = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = parsed.validity();
    let self_issued = parsed.issuer().as_raw() == parsed.subject().as_raw();
    rest.is_empty()
        .then(|| (self_issued, moment(validity.not_before.timestamp()), moment(validity.not_after.timestamp())))
}

/// RFC 7468.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}
