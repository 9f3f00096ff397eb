//! From files to keys, roots and lists: everything is checked before anything replaces what is in use.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::model::{CertificateFiles, Place};
use outrigger_config::spiffe::SpiffeId;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::{Facts, KeyStrength, date, hex, name_text, seconds, sha256};
use super::problem::{MaterialError, MaterialReason as Reason, Problem};
use super::provider;
use super::secrets::Secrets;
use super::status::{CertificateRole, CertificateStatus};
use super::trust::{Bundle, Root};
use super::verify::{check_key, check_role, identity_of};

/// A certificate with its key, ready to be shown.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) key: Arc<CertifiedKey>,
    /// Its SPIFFE ID, if it has exactly one.
    pub(super) identity: Option<SpiffeId>,
    pub(super) dns_names: Vec<Box<str>>,
    /// SHA-256 over the chain.
    pub(super) fingerprint: [u8; 32],
}

/// Reads files and keeps account of what was found.
pub(super) struct Loader<'a> {
    pub(super) secrets: &'a Secrets,
    /// What was in effect before.
    in_use: &'a [CertificateStatus],
    pub(super) now: SystemTime,
    pub(super) errors: Vec<MaterialError>,
    pub(super) statuses: Vec<CertificateStatus>,
    /// Of every bundle so far.
    pub(super) roots: Vec<Root>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(secrets: &'a Secrets, in_use: &'a [CertificateStatus], now: SystemTime) -> Self {
        Self { secrets, in_use, now, errors: Vec::new(), statuses: Vec::new(), roots: Vec::new() }
    }

    /// A file's contents. What is missing is noted.
    pub(super) fn read(&mut self, file: &Path, place: &Place) -> Option<&'a [u8]> {
        match self.secrets.get(file) {
            Ok(bytes) => Some(bytes),
            Err(problem) => {
                let problem = format!("it cannot be read: {problem}");
                self.fail(file, place, Reason::Unreadable.problem(problem, "check the path and who may read it"));
                None
            }
        }
    }

    pub(super) fn fail(&mut self, file: &Path, place: &Place, problem: Problem) {
        let Problem { reason, text: problem, fix } = problem;
        let error = MaterialError { place: place.clone(), file: file.to_owned(), reason, problem, fix };
        // One file may be used in many places; once is enough.
        if !self.errors.iter().any(|known| known.file == error.file && known.problem == error.problem) {
            self.errors.push(error);
        }
    }

    /// Whether a certificate came from the same file before.
    pub(super) fn is_in_use(&self, file: &Path, der: &CertificateDer<'_>) -> bool {
        let fingerprint = hex(&sha256(der));
        self.in_use.iter().any(|known| known.sha256 == fingerprint && known.file == file)
    }

    /// A chain and its key. `role` says whether the rules of SPIFFE apply.
    pub(super) fn credentials(&mut self, files: &CertificateFiles, role: CertificateRole) -> Option<Credentials> {
        let place = &files.place;
        let chain = self.read(&files.certificate, place).map(certificates);
        let key = self.read(&files.private_key, place).map(private_key);
        let chain = chain.and_then(|chain| chain.map_err(|problem| self.fail(&files.certificate, place, problem)).ok());
        let key = key.and_then(|key| key.map_err(|problem| self.fail(&files.private_key, place, problem)).ok());
        let (chain, key) = (chain?, key?);
        let Ok(signer) = provider().key_provider.load_private_key(key) else {
            let fix = "make one for ECDSA P-256, Ed25519 or RSA with 2048 bits";
            let problem = Reason::UnusableKey.problem("the key is of a kind that cannot be used", fix);
            self.fail(&files.private_key, place, problem);
            return None;
        };
        let certified = CertifiedKey::new(chain, signer);
        if certified.keys_match().is_err() {
            let problem = format!("the certificate is not for the key in `{}`", files.private_key.display());
            let fix = "write both files at the same time, or swap a directory that holds both";
            self.fail(&files.certificate, place, Reason::KeyMismatch.problem(problem, fix));
            return None;
        }
        self.check_leaf(&certified, files, role).map_err(|problem| self.fail(&files.certificate, place, problem)).ok()
    }

    fn check_leaf(
        &mut self,
        certified: &CertifiedKey,
        files: &CertificateFiles,
        role: CertificateRole,
    ) -> Result<Credentials, Problem> {
        let malformed = || Reason::Malformed.problem("its first certificate is not well-formed X.509", RENEW);
        let leaf = certified.cert.first().ok_or_else(malformed)?;
        let facts = Facts::of(leaf).ok_or_else(malformed)?;
        let now = seconds(self.now);
        let mut warnings = Vec::new();
        if now > facts.not_after {
            let text = format!("the certificate expired at {}, and it is {}", date(facts.not_after), date(now));
            // What was put into effect in its time stays there for want of a better one, and is in nobody's way
            // who changes something else.
            if !self.is_in_use(&files.certificate, leaf) {
                return Err(Reason::Expired.problem(text, "renew it, or set the clock right"));
            }
            warnings.push(text);
        }
        if now < facts.not_before {
            let text = format!("the certificate is valid from {}, and it is {}", date(facts.not_before), date(now));
            return Err(Reason::NotYetValid.problem(text, "wait, or set the clock right"));
        }
        check_role(&facts)
            .map_err(|refusal| Reason::WrongKind.problem(refusal.detail, "put the leaf certificate first"))?;
        check_key(&facts).map_err(|refusal| Reason::WeakKey.problem(refusal.detail, "make a stronger key"))?;
        let identity = identity_of(&facts);
        let svid = role == CertificateRole::Identity;
        if svid && let Err(refusal) = &identity {
            let text = format!("it is no X.509-SVID: {}", refusal.detail);
            return Err(Reason::NoIdentity.problem(text, "give it one URI name, the SPIFFE ID of this workload"));
        }
        let mut status = CertificateStatus::of(files.certificate.clone(), role, leaf, &facts);
        status.warnings = warnings;
        if svid && facts.key_usage.is_none() {
            status.warnings.push("it has no key usage; an X.509-SVID should have digitalSignature".to_owned());
        }
        for issuer in certified.cert.iter().skip(1) {
            if let Some(issuer) = Facts::of(issuer)
                && now > issuer.not_after
            {
                let name = name_text(issuer.subject);
                status.warnings.push(format!("the issuer `{name}` in its chain expired at {}", date(issuer.not_after)));
            }
        }
        self.statuses.push(status);
        Ok(Credentials {
            identity: identity.ok(),
            dns_names: facts.dns_names().map(|name| name.to_ascii_lowercase().into()).collect(),
            fingerprint: sha256(&certified.cert.iter().flat_map(|der| der.as_ref().to_vec()).collect::<Vec<u8>>()),
            key: Arc::new(certified.clone()),
        })
    }

    /// Roots: each an authority with a sound key, at least one of them not expired.
    pub(super) fn bundle(&mut self, file: &Path, place: &Place, role: &CertificateRole) -> Option<Bundle> {
        let bytes = self.read(file, place)?;
        match self.read_bundle(bytes, file, role) {
            Ok(bundle) => {
                self.roots.extend(bundle.roots.iter().cloned());
                Some(bundle)
            }
            Err(problem) => {
                self.fail(file, place, problem);
                None
            }
        }
    }

    fn read_bundle(&mut self, bytes: &[u8], file: &Path, role: &CertificateRole) -> Result<Bundle, Problem> {
        let now = seconds(self.now);
        let (mut anchors, mut roots) = (Vec::new(), Vec::new());
        let (mut last_end, mut in_use) = (None, true);
        for (at, der) in certificates(bytes)?.iter().enumerate() {
            let which = |reason: Reason, text: &str| {
                reason.problem(format!("certificate {} {text}", at + 1), "take it out: a bundle holds sound roots only")
            };
            let facts = Facts::of(der).ok_or_else(|| which(Reason::Malformed, "is not well-formed X.509"))?;
            let name = name_text(facts.subject);
            if !facts.ca {
                return Err(which(Reason::WrongKind, &format!("(`{name}`) is not an authority's")));
            }
            if facts.key_usage.is_some_and(|usage| !usage.cert_sign) {
                return Err(which(Reason::WrongKind, &format!("(`{name}`) may not sign certificates")));
            }
            if facts.key != KeyStrength::Sound {
                let detail = check_key(&facts).err().map(|refusal| refusal.detail).unwrap_or_default();
                return Err(which(Reason::WeakKey, &format!("(`{name}`) has a weak key: {detail}")));
            }
            let mut status = CertificateStatus::of(file.to_owned(), role.clone(), der, &facts);
            if now > facts.not_after {
                last_end = last_end.max(Some(facts.not_after));
                in_use &= self.is_in_use(file, der);
                status.warnings.push(format!("it expired at {} and is not used; take it out", date(facts.not_after)));
            } else {
                if now < facts.not_before {
                    status.warnings.push(format!("it is valid only from {}", date(facts.not_before)));
                }
                let anchor = webpki::anchor_from_trusted_cert(der)
                    .map_err(|_| which(Reason::Unusable, "cannot serve as a root"))?;
                anchors.push(anchor.to_owned());
                roots.push(Root {
                    sha256: sha256(der),
                    subject: facts.subject.into(),
                    spki: facts.spki.into(),
                    not_after: facts.not_after,
                });
            }
            self.statuses.push(status);
        }
        // A bundle that ran out while it was in use believes nobody, and is in nobody's way.
        if let (true, Some(end), false) = (anchors.is_empty(), last_end, in_use) {
            let text = format!("all its certificates are expired, the last since {}", date(end));
            return Err(Reason::Expired.problem(text, "put in today's roots"));
        }
        Ok(Bundle::new(anchors, roots))
    }
}

/// All certificates of a PEM file, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            Err(Reason::Malformed.problem("it holds no certificate", "write PEM with `-----BEGIN CERTIFICATE-----`"))
        }
        Err(_) => Err(Reason::Malformed.problem(DAMAGED, RENEW)),
    }
}

/// The first private key of a PEM file. The parser's errors may quote the input, so none is passed on.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        if pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
            let fix = "store it without a passphrase, readable only by the proxy";
            return Reason::UnusableKey.problem("the key is encrypted", fix);
        }
        match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                Reason::Malformed.problem("it holds no private key", "write PEM with `-----BEGIN PRIVATE KEY-----`")
            }
            _ => Reason::Malformed.problem(DAMAGED, RENEW),
        }
    })
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";
pub(super) const DAMAGED: &str = "it is damaged PEM: a section does not end, or is not base64";
pub(super) const RENEW: &str = "write the whole file again, as its authority gave it";
