//! A certificate authority for as long as the demo runs. Its key never leaves memory.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The authority of one trust domain.
pub(super) struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    domain: &'static str,
    begin: SystemTime,
}

/// A certificate and its key, both PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) private_key: String,
}

/// How long what it issues is valid.
const VALID: Duration = Duration::from_secs(7 * 24 * 3600);

impl Authority {
    /// An authority whose certificates are valid from now on.
    pub(super) fn new(domain: &'static str, now: SystemTime) -> io::Result<Self> {
        let mut params = params(&format!("spiffe://{domain}"), "Outrigger demo authority", now)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params, key()?).map_err(io::Error::other)?;
        Ok(Self { root, domain, begin: now })
    }

    /// Its own certificate, PEM.
    pub(super) fn bundle(&self) -> String {
        self.root.pem()
    }

    /// The identity of a service.
    pub(super) fn identity(&self, service: &str) -> String {
        format!("spiffe://{}/ns/demo/sa/{service}", self.domain)
    }

    /// A certificate for a service, as the SPIFFE X.509-SVID document asks for.
    pub(super) fn issue(&self, service: &str) -> io::Result<Issued> {
        let mut params = params(&self.identity(service), service, self.begin)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = key()?;
        let certificate = params.signed_by(&key, &self.root).map_err(io::Error::other)?;
        Ok(Issued { certificate: certificate.pem(), private_key: key.serialize_pem() })
    }
}

fn key() -> io::Result<KeyPair> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)
}

fn params(uri: &str, name: &str, begin: SystemTime) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).map_err(io::Error::other)?)];
    params.distinguished_name.push(DnType::CommonName, name);
    let since = begin.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs());
    params.not_after = params.not_before + VALID;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use x509_parser::extensions::GeneralName;

    #[test]
    fn a_service_gets_a_certificate_with_its_one_identity_below_the_root() {
        let authority = Authority::new("demo.outrigger", SystemTime::now()).expect("an authority");
        let issued = authority.issue("shop").expect("issued");
        let root = CertificateDer::from_pem_slice(authority.bundle().as_bytes()).expect("PEM");
        let leaf = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM");
        let (_, root) = x509_parser::parse_x509_certificate(&root).expect("a certificate");
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).expect("a certificate");
        assert!(root.is_ca() && !leaf.is_ca());
        assert_eq!(leaf.issuer(), root.subject());
        let names = &leaf.subject_alternative_name().expect("readable").expect("there").value.general_names;
        assert!(matches!(&names[..], [GeneralName::URI("spiffe://demo.outrigger/ns/demo/sa/shop")]), "{names:?}");
        assert!(leaf.validity().is_valid());
        assert!(issued.private_key.contains("PRIVATE KEY"));
    }
}
