//! What signs: a key, its certificate, and what stands above it.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use outrigger_config::spiffe::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;

use super::bundle::{Bundle, fingerprint, pem, validity};
use super::{limits, svid};

/// An authority that was made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaterialFiles {
    /// PEM: the certificate that signs, then those above it in order, the root last. One that is its own root stands
    /// alone.
    pub certificates: PathBuf,
    /// PEM: the key of the first. Must not be accessible to others.
    pub key: PathBuf,
}

/// A signer.
pub(super) struct Material {
    /// SHA-256 of the certificate that signs.
    pub(super) id: String,
    /// The certificate that signs and those above it, without the root: what leaves are sent with.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) root: CertificateDer<'static>,
    /// From when all of them are valid.
    pub(super) not_before: SystemTime,
    /// Until when all of them are.
    pub(super) not_after: SystemTime,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Material {
    /// A new root of its own, ECDSA with P-256. Its URI is the trust domain (SPIFFE X.509-SVID section 3.2).
    pub(super) fn make(domain: &TrustDomain, now: SystemTime, lifetime: Duration) -> Result<Self, String> {
        let problem = |error: rcgen::Error| format!("no root can be made: {error}");
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(problem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, domain.as_str());
        // Roots of one domain must have different names: some verifiers look a root up by its name alone.
        let name = format!("Outrigger root {}", &fingerprint(key.public_key_raw())[..8]);
        params.distinguished_name.push(DnType::CommonName, name);
        let uri = format!("spiffe://{}", domain.as_str());
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(problem)?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(svid::serial().ok_or("there are no random numbers")?);
        params.not_before = (now - ROOT_BACKDATED).into();
        params.not_after = (now + lifetime).into();
        let certificate = params.self_signed(&key).map_err(problem)?;
        Self::new(vec![certificate.der().clone()], key)
    }

    /// From PEM. The signer is tried: what it issues must be believed by somebody who knows only its root.
    pub(super) fn read(certificates: &[u8], key: &[u8], domain: &TrustDomain, now: SystemTime) -> Result<Self, String> {
        let material = Self::read_kept(certificates, key, domain)?;
        material.try_out(domain, now)?;
        Ok(material)
    }

    /// The same for one that was tried when it was taken, and may have run out since.
    pub(super) fn read_kept(certificates: &[u8], key: &[u8], domain: &TrustDomain) -> Result<Self, String> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the certificates cannot be read: {error}"))?;
        if chain.is_empty() || chain.len() > limits::CHAIN_CERTIFICATES {
            return Err(format!("expected 1 to {} certificates, got {}", limits::CHAIN_CERTIFICATES, chain.len()));
        }
        let key = std::str::from_utf8(key).map_err(|_| "the key is not PEM".to_owned())?;
        // The library's own words could repeat what it read.
        let key = KeyPair::from_pem(key)
            .map_err(|_| "the key cannot be read, or is of a kind that cannot sign".to_owned())?;
        for certificate in &chain {
            check_domain(certificate, domain)?;
        }
        Self::new(chain, key)
    }

    fn new(mut chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Result<Self, String> {
        let unreadable = || "a certificate cannot be read".to_owned();
        let first = chain.first().ok_or_else(unreadable)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first).map_err(|_| unreadable())?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("the key does not belong to the first certificate".to_owned());
        }
        if !parsed.is_ca() {
            return Err("the first certificate is not that of an authority (basic constraints)".to_owned());
        }
        let issuer = Issuer::from_ca_cert_der(first, key)
            .map_err(|error| format!("the first certificate cannot be used: {error}"))?;
        let id = fingerprint(first);
        let (mut not_before, mut not_after) = (SystemTime::UNIX_EPOCH, None::<SystemTime>);
        for certificate in &chain {
            let (_, begin, end) = validity(certificate).ok_or_else(unreadable)?;
            not_before = not_before.max(begin);
            not_after = Some(not_after.map_or(end, |known| known.min(end)));
        }
        let (Some(root), Some(not_after)) = (chain.pop(), not_after) else { return Err(unreadable()) };
        if !validity(&root).is_some_and(|(self_issued, ..)| self_issued) {
            return Err("the last certificate is not a root: put the root at the end of the file".to_owned());
        }
        webpki::anchor_from_trusted_cert(&root).map_err(|_| "the root cannot be used".to_owned())?;
        Ok(Self { id, chain, root, not_before, not_after, issuer })
    }

    /// Issues a certificate to nobody, and verifies it as a peer would.
    fn try_out(&self, domain: &TrustDomain, now: SystemTime) -> Result<(), String> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
        let lifetime = Duration::from_secs(60);
        let trial = svid::Leaf::trial(domain, self.validity(now, lifetime).ok_or("its time is over")?);
        let leaf = trial.sign(&key, self).map_err(|error| format!("it cannot sign: {error}"))?;
        let bundle = Bundle::new(vec![self.root.clone()]).ok_or("its root cannot be read")?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let anchors = bundle.anchors(now);
        let end_entity = webpki::EndEntityCert::try_from(&leaf).map_err(|error| error.to_string())?;
        end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &self.chain,
                UnixTime::since_unix_epoch(since),
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .map(drop)
            .map_err(|error| format!("what it issues is not believed by who knows its root: {error}"))
    }

    /// From when until when something that is issued now is valid: never longer than what signs it. `None` when that
    /// is over, or has not begun.
    pub(super) fn validity(&self, now: SystemTime, lifetime: Duration) -> Option<(SystemTime, SystemTime)> {
        let begin = (now - LEAF_BACKDATED).max(self.not_before);
        let end = (now + lifetime).min(self.not_after);
        (begin <= now && now < end).then_some((begin, end))
    }

    /// Every certificate, PEM, the root last.
    pub(super) fn certificates_pem(&self) -> String {
        self.chain.iter().chain([&self.root]).map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    /// The key, PEM.
    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

/// SPIFFE X.509-SVID section 3.2: an authority that names a trust domain signs for that one only.
fn check_domain(certificate: &CertificateDer<'_>, domain: &TrustDomain) -> Result<(), String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| "a certificate cannot be read".to_owned())?;
    let names = parsed.subject_alternative_name().map_err(|_| "a certificate cannot be read".to_owned())?;
    let ours = format!("spiffe://{}", domain.as_str());
    let other = names.iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") && *uri != ours => Some((*uri).to_owned()),
        _ => None,
    });
    other.map_or(Ok(()), |uri| Err(format!("expected an authority of {ours}, got one of {uri}")))
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How long ago a new root began: clocks differ, and a root is not to be the reason that a leaf is not valid yet.
const ROOT_BACKDATED: Duration = Duration::from_secs(3600);
/// The same for leaves.
const LEAF_BACKDATED: Duration = Duration::from_secs(60);
