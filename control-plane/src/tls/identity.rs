//! Whose a client certificate is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_config::spiffe::{SpiffeId, TrustDomain};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::AttributeTypeAndValue;

use crate::peer::WorkloadKey;

/// What a certificate says of its holder. Says nothing of whether it is to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) id: SpiffeId,
    /// The workload, where the identity is a service account's and the subject names one of the same namespace.
    pub(super) workload: Option<WorkloadKey>,
    pub(super) not_after: SystemTime,
}

/// SPIFFE X.509-SVID sections 2 and 5: no authority, and exactly one URI, which is an ID of the trust domain with a
/// path.
pub(super) fn of(certificate: &CertificateDer<'_>, domain: &TrustDomain) -> Option<Holder> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let signs_others = match certificate.key_usage().ok()? {
        Some(usage) => usage.value.key_cert_sign() || usage.value.crl_sign() || !usage.value.digital_signature(),
        None => false,
    };
    if !rest.is_empty() || certificate.is_ca() || signs_others {
        return None;
    }
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else { return None };
    let id = SpiffeId::parse(uri).ok()?;
    if id.trust_domain() != domain.as_str() || id.path().is_empty() {
        return None;
    }
    let end = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    let workload = workload(&certificate).filter(|workload| id.namespace() == Some(&workload.namespace));
    Some(Holder { id, workload, not_after: UNIX_EPOCH + Duration::from_secs(end) })
}

/// `O` and `CN` of the subject, once each.
fn workload(certificate: &X509Certificate<'_>) -> Option<WorkloadKey> {
    let subject = certificate.subject();
    let namespace = only(subject.iter_organization())?;
    let name = only(subject.iter_common_name())?;
    WorkloadKey::new(namespace, name)
}

fn only<'a>(mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<&'a str> {
    match (values.next(), values.next()) {
        (Some(value), None) => value.as_str().ok(),
        _ => None,
    }
}
