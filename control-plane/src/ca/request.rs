//! Signing requests (PKCS #10, RFC 2986), read as what a stranger sent.
//!
//! Of a request only its key is used. It is proven that whoever asks has the private half; what the request says
//! besides must agree with who the caller is, so that nobody believes to have been given what they asked for.

use outrigger_config::spiffe::SpiffeId;
use rcgen::SubjectPublicKeyInfo;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as KeyInfo;

use super::limits;
use crate::peer::WorkloadKey;

/// A request whose signature holds and whose key is good.
#[derive(Debug)]
pub(super) struct SigningRequest {
    key: SubjectPublicKeyInfo,
    common_names: Vec<String>,
    organizations: Vec<String>,
    uris: Vec<String>,
    /// Alternative names of other kinds.
    others: usize,
    authority: bool,
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("there is no signing request")]
    Missing,
    #[error("the signing request is larger than {} bytes", limits::REQUEST_BYTES)]
    TooLarge,
    #[error("the signing request is not PKCS #10 in DER")]
    NotPkcs10,
    #[error("the signing request has a name or an extension that cannot be read")]
    Unreadable,
    #[error("the key must be ECDSA with P-256 or P-384, Ed25519, or RSA with 2048 to 8192 bits")]
    WeakKey,
    #[error("the signing request must be signed with its own key, and with SHA-256, SHA-384, SHA-512 or Ed25519")]
    Signature,
}

/// What a request asks for that its caller is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Disagreement {
    #[error("the signing request names another identity than the caller's")]
    Identity,
    #[error("the signing request names another workload than the caller's in its subject")]
    Subject,
    #[error("the signing request asks for names that are not given: leave out all but the SPIFFE ID")]
    Names,
    #[error("the signing request asks for the certificate of an authority")]
    Authority,
}

impl SigningRequest {
    pub(super) fn parse(der: &[u8]) -> Result<Self, Malformed> {
        match der.len() {
            0 => return Err(Malformed::Missing),
            length if length > limits::REQUEST_BYTES => return Err(Malformed::TooLarge),
            _ => {}
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| Malformed::NotPkcs10)?;
        // Signatures are whole bytes: bits that do not count would give one request several forms.
        if !rest.is_empty() || request.signature_value.unused_bits != 0 {
            return Err(Malformed::NotPkcs10);
        }
        let info = &request.certification_request_info;
        let key = good_key(&info.subject_pki).ok_or(Malformed::WeakKey)?;
        let believed = [
            OID_PKCS1_SHA256WITHRSA,
            OID_PKCS1_SHA384WITHRSA,
            OID_PKCS1_SHA512WITHRSA,
            OID_SIG_ECDSA_WITH_SHA256,
            OID_SIG_ECDSA_WITH_SHA384,
            OID_SIG_ED25519,
        ];
        if !believed.contains(&request.signature_algorithm.algorithm) || request.verify_signature().is_err() {
            return Err(Malformed::Signature);
        }
        let texts = |attributes: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            let text = |attribute: &&x509_parser::x509::AttributeTypeAndValue<'_>| {
                attribute.as_str().map(str::to_owned).map_err(|_| Malformed::Unreadable)
            };
            attributes.iter().map(text).collect::<Result<Vec<_>, _>>()
        };
        let mut read = Self {
            key,
            common_names: texts(info.subject.iter_common_name().collect())?,
            organizations: texts(info.subject.iter_organization().collect())?,
            uris: Vec::new(),
            others: 0,
            authority: false,
        };
        for attribute in info.iter_attributes() {
            if let ParsedCriAttribute::ExtensionRequest(extensions) = attribute.parsed_attribute() {
                for extension in &extensions.extensions {
                    read.extension(extension.parsed_extension())?;
                }
            }
        }
        Ok(read)
    }

    fn extension(&mut self, extension: &ParsedExtension<'_>) -> Result<(), Malformed> {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                        _ => self.others += 1,
                    }
                }
            }
            ParsedExtension::BasicConstraints(constraints) => self.authority |= constraints.ca,
            ParsedExtension::KeyUsage(usage) => self.authority |= usage.key_cert_sign() || usage.crl_sign(),
            ParsedExtension::ParseError { .. } => return Err(Malformed::Unreadable),
            _ => {}
        }
        Ok(())
    }

    /// Whether the request asks for no other names than these.
    pub(super) fn agrees(&self, id: &SpiffeId, workload: &WorkloadKey) -> Result<(), Disagreement> {
        if self.uris.iter().any(|uri| uri != id.as_str()) || self.uris.len() > 1 {
            return Err(Disagreement::Identity);
        }
        let is = |names: &[String], name: &str| names.iter().all(|asked| asked == name);
        if !is(&self.common_names, &workload.name) || !is(&self.organizations, &workload.namespace) {
            return Err(Disagreement::Subject);
        }
        if self.others > 0 {
            return Err(Disagreement::Names);
        }
        if self.authority {
            return Err(Disagreement::Authority);
        }
        Ok(())
    }

    /// The key that it is for.
    pub(super) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

/// The key, if it is of a kind that cannot be broken. Taken from the key itself: what a request was signed with says
/// nothing of the curve.
fn good_key(info: &KeyInfo<'_>) -> Option<SubjectPublicKeyInfo> {
    let algorithm = &info.algorithm.algorithm;
    let good = if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
        curve == OID_EC_P256 || curve == OID_NIST_EC_P384
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(key)) = info.parsed() else { return None };
        let modulus = key.modulus.iter().position(|byte| *byte != 0).map(|zeros| &key.modulus[zeros..])?;
        let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
        (2048..=8192).contains(&bits)
    } else {
        *algorithm == OID_SIG_ED25519
    };
    good.then(|| SubjectPublicKeyInfo::from_der(info.raw).ok())?
}

#[cfg(test)]
mod tests;
