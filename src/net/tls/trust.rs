//! Whom we believe: roots by trust domain, and what was taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::TrustAnchor;
use webpki::CertRevocationList;

use super::certificate::sha256;

/// Roots, at least one.
pub(super) struct Bundle {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) roots: Vec<Root>,
    /// Of all roots, whatever their order.
    pub(super) fingerprint: [u8; 32],
}

/// What a trust anchor does not tell of its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root {
    /// SHA-256 of the certificate.
    pub(super) sha256: [u8; 32],
    /// Its name, DER.
    pub(super) subject: Box<[u8]>,
    /// Its public key: the contents of the field, as in an anchor.
    pub(super) spki: Box<[u8]>,
    /// Seconds since 1970.
    pub(super) not_after: i64,
}

impl Bundle {
    pub(super) fn new(anchors: Vec<TrustAnchor<'static>>, roots: Vec<Root>) -> Self {
        let distinct: BTreeSet<[u8; 32]> = roots.iter().map(|root| root.sha256).collect();
        let fingerprint = sha256(&distinct.into_iter().flatten().collect::<Vec<u8>>());
        Self { anchors, roots, fingerprint }
    }

    /// Until when an anchor of this bundle may be used. Two roots may share name and key and differ in their
    /// dates (a root that was renewed): the later one counts.
    pub(super) fn anchor_until(&self, anchor: &TrustAnchor<'_>) -> i64 {
        let same = |root: &&Root| {
            *root.spki == *anchor.subject_public_key_info && contents_of(&root.subject) == anchor.subject.as_ref()
        };
        self.roots.iter().filter(same).map(|root| root.not_after).max().unwrap_or(i64::MIN)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

/// An anchor holds its name without tag and length.
fn contents_of(name: &[u8]) -> &[u8] {
    super::der::Reader::new(name).any().map_or(&[], |(_, contents, _)| contents)
}

/// Against what a peer's chain is built.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// The bundles of trust domains; which one counts is said by the peer's SPIFFE ID.
    Mesh(Arc<MeshTrust>),
    /// Ordinary roots.
    Roots(Arc<Bundle>),
}

impl Trust {
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Mesh(mesh) => mesh.fingerprint,
            Self::Roots(bundle) => bundle.fingerprint,
        }
    }
}

/// The bundle of each trust domain that is believed.
#[derive(Debug)]
pub(super) struct MeshTrust {
    pub(super) domains: BTreeMap<Arc<str>, Arc<Bundle>>,
    pub(super) fingerprint: [u8; 32],
}

impl MeshTrust {
    pub(super) fn new(domains: BTreeMap<Arc<str>, Arc<Bundle>>) -> Self {
        let mut all = Vec::new();
        for (domain, bundle) in &domains {
            all.extend_from_slice(domain.as_bytes());
            all.push(0);
            all.extend_from_slice(&bundle.fingerprint);
        }
        Self { fingerprint: sha256(&all), domains }
    }
}

/// Certificates that were revoked: the issuer, by its key or its name, and the serial number.
pub(super) type Revoked = BTreeSet<(Box<[u8]>, Box<[u8]>)>;

/// What was revoked. The signatures of lists whose issuer is known were checked when they were loaded, which
/// saves that work in every handshake, and tells two issuers of one name apart by their keys (an old and a new
/// root often share their name).
#[derive(Default)]
pub(super) struct Revocations {
    /// Serial numbers by the issuer's public key (contents of the field).
    pub(super) by_issuer: BTreeMap<Box<[u8]>, BTreeSet<Box<[u8]>>>,
    /// Lists of issuers that are not known here: intermediates that peers show. Checked with each chain.
    pub(super) others: Vec<CertRevocationList<'static>>,
    /// Their entries: the issuer's name and the serial number.
    pub(super) other_entries: Revoked,
    pub(super) fingerprint: [u8; 32],
}

impl Revocations {
    pub(super) fn is_revoked(&self, issuer_spki: &[u8], serial: &[u8]) -> bool {
        self.by_issuer.get(issuer_spki).is_some_and(|serials| serials.contains(serial))
    }

    /// Everything revoked, for comparing one load with the next.
    pub(super) fn entries(&self) -> Revoked {
        let known = self.by_issuer.iter();
        let known = known.flat_map(|(issuer, serials)| serials.iter().map(|serial| (issuer.clone(), serial.clone())));
        known.chain(self.other_entries.iter().cloned()).collect()
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").field("issuers", &self.by_issuer.len()).finish_non_exhaustive()
    }
}
