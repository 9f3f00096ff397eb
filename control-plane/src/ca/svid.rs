//! Certificates of workloads, as SPIFFE X.509-SVID (sections 2 to 4) and RFC 5280 have them.

use std::net::IpAddr;
use std::time::SystemTime;

use outrigger_config::spiffe::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;

use super::material::Material;

/// Names of the control plane beside its SPIFFE ID, for clients that know nothing of those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServingNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// A certificate to be issued.
pub(super) struct Leaf {
    pub(super) id: SpiffeId,
    /// `O` and `CN` of the subject.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) also: ServingNames,
    pub(super) validity: (SystemTime, SystemTime),
}

impl Leaf {
    /// For trying out a signer.
    pub(super) fn trial(domain: &TrustDomain, validity: (SystemTime, SystemTime)) -> Self {
        let id = SpiffeId::parse(&format!("spiffe://{}/trial", domain.as_str())).expect("a trust domain was checked");
        Self { id, namespace: "outrigger".into(), name: "trial".into(), also: ServingNames::default(), validity }
    }

    /// Issues it for a key.
    pub(super) fn sign(self, key: &impl PublicKeyData, by: &Material) -> Result<CertificateDer<'static>, rcgen::Error> {
        let Self { id, namespace, name, also, validity: (not_before, not_after) } = self;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, namespace);
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        for name in also.dns {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        params.subject_alt_names.extend(also.addresses.into_iter().map(SanType::IpAddress));
        // Written out (CA:FALSE), and with a subject key identifier.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial().ok_or(rcgen::Error::RingUnspecified)?);
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.signed_by(key, &by.issuer).map(|certificate| certificate.der().clone())
    }
}

/// 126 random bits behind a leading one: positive, never zero, 16 bytes (RFC 5280 section 4.1.2.2).
pub(super) fn serial() -> Option<SerialNumber> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Some(SerialNumber::from_slice(&bytes))
}
