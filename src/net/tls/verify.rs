//! The one verifier of peers, for both sides of a connection and for sessions that are resumed.
//!
//! A peer of the mesh is who its URI says (SPIFFE X.509-SVID section 5): the SPIFFE ID is read first, its trust
//! domain chooses the roots, and only those may stand behind it. So a federated domain can never issue an ID of
//! ours, nor we one of theirs.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::model::ClientCertificate;
use outrigger_config::spiffe::{IdentityPattern, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
    VerifiedPath,
};

use super::certificate::{Facts, KeyStrength, date, moment, name_text, sha256};
use super::peer::Peer;
use super::provider;
use super::refusal::{Refusal, RefusalReason, note};
use super::trust::{Bundle, Revocations, Trust};

/// Who is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expect {
    /// Clients with any certificate that can be verified.
    Clients(ClientCertificate),
    /// Servers with one of these identities.
    Identities(Arc<[IdentityPattern]>),
    /// Servers with one of these names; none: the name that the connection was made to.
    Names(Arc<[ServerName<'static>]>),
}

/// Judges certificates.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    pub(super) revocations: Arc<Revocations>,
    pub(super) expect: Expect,
}

/// What is judged: what the peer sent, the moment, and the name that the connection was made to.
pub(super) struct Presented<'a> {
    pub(super) leaf: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    pub(super) now: UnixTime,
    pub(super) name: Option<&'a ServerName<'a>>,
}

impl Verifier {
    /// Who the peer is.
    pub(super) fn verify(&self, presented: &Presented<'_>) -> Result<Peer, Refusal> {
        let malformed = || Refusal::new(RefusalReason::Malformed, "it is not an X.509 certificate");
        let facts = Facts::of(presented.leaf).ok_or_else(malformed)?;
        check_role(&facts)?;
        let (identity, bundle) = match &self.trust {
            Trust::Roots(bundle) => (None, bundle),
            Trust::Mesh(mesh) => {
                let id = identity_of(&facts)?;
                let Some(bundle) = mesh.domains.get(id.trust_domain()) else {
                    let known: Vec<&str> = mesh.domains.keys().map(|domain| &**domain).collect();
                    let detail = format!("expected a trust domain among {}, got {id}", known.join(", "));
                    return Err(Refusal::new(RefusalReason::UnknownTrustDomain, detail));
                };
                (Some(id), bundle)
            }
        };
        check_key(&facts)?;
        self.check_chain(presented, &facts, bundle, identity.as_ref())?;
        self.check_expected(presented, identity.as_ref())?;
        Ok(Peer {
            identity,
            dns_names: facts.dns_names().map(Box::from).collect(),
            sha256: sha256(presented.leaf),
            not_after: moment(facts.not_after),
            leaf: presented.leaf.clone().into_owned(),
        })
    }

    fn check_chain(
        &self,
        presented: &Presented<'_>,
        facts: &Facts<'_>,
        bundle: &Bundle,
        identity: Option<&SpiffeId>,
    ) -> Result<(), Refusal> {
        let usage = match self.expect {
            Expect::Clients(_) => KeyUsage::client_auth(),
            Expect::Identities(_) | Expect::Names(_) => KeyUsage::server_auth(),
        };
        let now = i64::try_from(presented.now.as_secs()).unwrap_or(i64::MAX);
        let lists: Vec<&webpki::CertRevocationList<'_>> = self.revocations.others.iter().collect();
        let options = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let path_is_fine = |path: &VerifiedPath<'_>| {
            let until = bundle.anchor_until(path.anchor());
            if now > until {
                let not_after = Duration::from_secs(u64::try_from(until).unwrap_or(0));
                let not_after = UnixTime::since_unix_epoch(not_after);
                return Err(webpki::Error::CertExpired { time: presented.now, not_after });
            }
            self.check_revoked(facts, path)
        };
        let algorithms = provider().signature_verification_algorithms.all;
        let result = EndEntityCert::try_from(presented.leaf).and_then(|leaf| {
            leaf.verify_for_usage(
                algorithms,
                &bundle.anchors,
                presented.intermediates,
                presented.now,
                usage,
                options,
                Some(&path_is_fine),
            )
            .map(drop)
        });
        result.map_err(|error| {
            let weak = |certificate| Facts::of(certificate).is_some_and(|facts| facts.key != KeyStrength::Sound);
            if presented.intermediates.iter().any(weak) {
                return Refusal::new(RefusalReason::WeakKey, "an issuer in its chain has a weak key");
            }
            explain(error, facts, identity)
        })
    }

    fn check_revoked(&self, leaf: &Facts<'_>, path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
        if self.revocations.by_issuer.is_empty() {
            return Ok(());
        }
        let mut serial = leaf.serial.to_vec();
        for issuer in path.intermediate_certificates() {
            let der = issuer.der();
            let Some(issuer) = Facts::of(&der) else { return Err(webpki::Error::BadDer) };
            if self.revocations.is_revoked(issuer.spki, &serial) {
                return Err(webpki::Error::CertRevoked);
            }
            serial = issuer.serial.to_vec();
        }
        if self.revocations.is_revoked(&path.anchor().subject_public_key_info, &serial) {
            return Err(webpki::Error::CertRevoked);
        }
        Ok(())
    }

    fn check_expected(&self, presented: &Presented<'_>, identity: Option<&SpiffeId>) -> Result<(), Refusal> {
        match &self.expect {
            Expect::Clients(_) => Ok(()),
            Expect::Identities(patterns) => match identity {
                Some(id) if patterns.iter().any(|pattern| pattern.matches(id)) => Ok(()),
                id => {
                    let got = id.map_or("no SPIFFE ID", SpiffeId::as_str);
                    let detail = format!("expected {}, got {got}", listed(patterns.iter()));
                    Err(Refusal::new(RefusalReason::WrongIdentity, detail))
                }
            },
            Expect::Names(names) => {
                let wanted: &[ServerName<'_>] = match (&**names, presented.name) {
                    ([], Some(name)) => std::slice::from_ref(name),
                    (names, _) => names,
                };
                let leaf = EndEntityCert::try_from(presented.leaf)
                    .map_err(|_| Refusal::new(RefusalReason::Malformed, "it is not an X.509 certificate"))?;
                if wanted.iter().any(|name| leaf.verify_is_valid_for_subject_name(name).is_ok()) {
                    return Ok(());
                }
                let got = Facts::of(presented.leaf).map(|facts| listed(facts.dns_names())).unwrap_or_default();
                let got = if got.is_empty() { "no DNS name".to_owned() } else { got };
                let detail = format!("expected {}, got {got}", listed(wanted.iter().map(ServerName::to_str)));
                Err(Refusal::new(RefusalReason::WrongName, detail))
            }
        }
    }

    /// Verifies within a handshake: the library gets the alert, the step's runner the rest.
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error> {
        let verdict = self.verify(presented);
        let result = verdict.as_ref().map(|_| ()).map_err(|refusal| refusal.reason.alert());
        note(verdict);
        result
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = Presented { leaf: end_entity, intermediates, now, name: Some(server_name) };
        self.judge(&presented).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        matches!(self.expect, Expect::Clients(ClientCertificate::Required))
    }

    /// None are named: the request stays small, and clients of a mesh have one certificate to show.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let presented = Presented { leaf: end_entity, intermediates, now, name: None };
        self.judge(&presented).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The SPIFFE ID of a certificate, as every verification reads it. Nothing else of the certificate is judged, and nobody has
/// vouched for it yet.
///
/// # Errors
/// A certificate that cannot be read, or whose names are not exactly one SPIFFE ID among URIs.
pub fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<SpiffeId, Refusal> {
    let malformed = || Refusal::new(RefusalReason::Malformed, "it is not an X.509 certificate");
    identity_of(&Facts::of(certificate).ok_or_else(malformed)?)
}

/// Who a leaf certificate is for: its SPIFFE ID. Without a path that names the trust domain, which is its
/// authority's and no workload's (SPIFFE X.509-SVID section 3.1).
pub(super) fn identity_of(facts: &Facts<'_>) -> Result<SpiffeId, Refusal> {
    let id = uri_identity(facts)?;
    if id.path().is_empty() {
        let detail = format!("expected a SPIFFE ID, got `{id}`: a workload's has a path");
        return Err(Refusal::new(RefusalReason::InvalidIdentity, detail));
    }
    Ok(id)
}

/// The one SPIFFE ID of a certificate (SPIFFE X.509-SVID section 2: exactly one URI).
pub(super) fn uri_identity(facts: &Facts<'_>) -> Result<SpiffeId, Refusal> {
    let mut uris = facts.uris();
    let Some(first) = uris.next() else {
        let subject = name_text(facts.subject);
        let detail = format!("expected a SPIFFE ID, got a certificate without a URI (subject `{subject}`)");
        return Err(Refusal::new(RefusalReason::NoIdentity, detail));
    };
    let more = uris.count();
    if more > 0 {
        let detail = format!("expected one URI, got {}", more + 1);
        return Err(Refusal::new(RefusalReason::SeveralIdentities, detail));
    }
    let text = String::from_utf8_lossy(first);
    SpiffeId::parse(&text).map_err(|error| {
        let shown: String = text.chars().take(256).flat_map(char::escape_debug).collect();
        Refusal::new(RefusalReason::InvalidIdentity, format!("expected a SPIFFE ID, got `{shown}`: {error}"))
    })
}

/// A leaf is no authority, and signs (SPIFFE X.509-SVID section 5.2).
pub(super) fn check_role(facts: &Facts<'_>) -> Result<(), Refusal> {
    let signs_others = facts.key_usage.is_some_and(|usage| usage.cert_sign || usage.crl_sign);
    if facts.ca || signs_others {
        let subject = name_text(facts.subject);
        let detail = format!("expected a leaf certificate, got that of an authority (subject `{subject}`)");
        return Err(Refusal::new(RefusalReason::CertificateAuthority, detail));
    }
    if facts.key_usage.is_some_and(|usage| !usage.digital_signature) {
        return Err(Refusal::new(RefusalReason::NotForThisUse, "its key usage lacks digitalSignature"));
    }
    Ok(())
}

/// Keys that can be broken prove nothing.
pub(super) fn check_key(facts: &Facts<'_>) -> Result<(), Refusal> {
    match facts.key {
        KeyStrength::Sound => Ok(()),
        KeyStrength::Rsa { bits } => {
            Err(Refusal::new(RefusalReason::WeakKey, format!("expected RSA with 2048 bits or more, got {bits}")))
        }
        KeyStrength::Unknown => Err(Refusal::new(
            RefusalReason::WeakKey,
            "expected RSA, Ed25519, or ECDSA with P-256, P-384 or P-521, got another kind of key",
        )),
    }
}

fn explain(error: webpki::Error, facts: &Facts<'_>, identity: Option<&SpiffeId>) -> Refusal {
    use webpki::Error as E;
    let domain = || match identity {
        Some(id) => format!("the trust bundle of {}", id.trust_domain()),
        None => "the trust bundle".to_owned(),
    };
    let at = |time: UnixTime| date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    let (reason, detail) = match error {
        E::CertExpired { time, not_after } => {
            let whose = if at(not_after) == date(facts.not_after) { "it" } else { "an issuer in its chain" };
            (RefusalReason::Expired, format!("{whose} expired at {}, and it is {}", at(not_after), at(time)))
        }
        E::InvalidCertValidity => (RefusalReason::Expired, "it ends before it begins".to_owned()),
        E::CertNotValidYet { time, not_before } => {
            (RefusalReason::NotYetValid, format!("it is valid from {}, and it is {}", at(not_before), at(time)))
        }
        E::CertRevoked => (RefusalReason::Revoked, "it, or an issuer in its chain, is on a revocation list".to_owned()),
        E::UnknownIssuer | E::InvalidSignatureForPublicKey if facts.is_self_issued() => (
            RefusalReason::SelfSigned,
            format!("expected an issuer in {}, got a certificate that vouches for itself", domain()),
        ),
        E::UnknownIssuer => (
            RefusalReason::UnknownIssuer,
            format!("expected an issuer in {}, got `{}`", domain(), name_text(facts.issuer)),
        ),
        E::InvalidSignatureForPublicKey => {
            let issuer = name_text(facts.issuer);
            let detail = format!("expected an issuer in {}, got another `{issuer}` with another key", domain());
            (RefusalReason::UnknownIssuer, detail)
        }
        E::CaUsedAsEndEntity => {
            (RefusalReason::CertificateAuthority, "expected a leaf certificate, got that of an authority".to_owned())
        }
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
            (RefusalReason::NotForThisUse, "its extended key usage does not allow this side of a connection".to_owned())
        }
        E::NameConstraintViolation => {
            (RefusalReason::NameConstraint, "an issuer in its chain may not issue its names".to_owned())
        }
        E::BadDer | E::BadDerTime | E::TrailingData(_) | E::MalformedExtensions | E::UnsupportedCertVersion => {
            (RefusalReason::Malformed, "it is not a well-formed X.509 certificate".to_owned())
        }
        E::UnsupportedSignatureAlgorithmContext(_) | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            (RefusalReason::WeakKey, "its chain is signed with an algorithm that is not accepted".to_owned())
        }
        other => (RefusalReason::Unverifiable, format!("its chain cannot be verified: {other}")),
    };
    Refusal::new(reason, detail)
}

/// A few of many, for people.
fn listed<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    const SHOWN: usize = 4;
    let mut text = String::new();
    let mut more = 0;
    for (at, item) in items.enumerate() {
        if at >= SHOWN {
            more += 1;
        } else {
            let _ = write!(text, "{}{item}", if at > 0 { " or " } else { "" });
        }
    }
    if more > 0 {
        let _ = write!(text, " or {more} more");
    }
    text
}
