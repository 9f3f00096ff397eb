//! The certificates of one run: one authority and one leaf for each part, as a mesh would have them.
//!
//! ECDSA P-256 throughout. Every leaf carries exactly one SPIFFE id; the DNS name beside it is for those that cannot match URIs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// The DNS name in every leaf, which is also what clients ask for.
pub const HOST: &str = "compare.test";

/// Who takes part. `NAME.pem` and `NAME.key` belong to `spiffe://compare.test/ns/bench/sa/NAME`.
pub const PARTIES: [&str; 3] = ["proxy", "client", "backend"];

/// Writes `ca.pem`, and for each party its certificate, its key, and both in one file (`NAME.both.pem`).
///
/// # Errors
/// When a certificate cannot be made or a file cannot be written.
pub fn write(directory: &Path) -> anyhow::Result<()> {
    let mut authority = parameters("authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.subject_alt_names = vec![SanType::URI(Ia5String::try_from("spiffe://compare.test")?)];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    save(directory, "ca.pem", &authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for name in PARTIES {
        let mut leaf = parameters(name);
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        leaf.subject_alt_names = vec![
            SanType::URI(Ia5String::try_from(format!("spiffe://compare.test/ns/bench/sa/{name}"))?),
            SanType::DnsName(Ia5String::try_from(HOST)?),
        ];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let (certificate, key_pem) = (leaf.signed_by(&key, &issuer)?.pem(), key.serialize_pem());
        save(directory, &format!("{name}.both.pem"), &format!("{certificate}{key_pem}"))?;
        save(directory, &format!("{name}.pem"), &certificate)?;
        save(directory, &format!("{name}.key"), &key_pem)?;
    }
    Ok(())
}

fn parameters(name: &str) -> CertificateParams {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    parameters.not_before = (now - HOUR).into();
    parameters.not_after = (now + 24 * HOUR).into();
    parameters
}

fn save(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
