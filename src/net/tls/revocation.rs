//! Certificate revocation lists (RFC 5280 section 5), read once and checked against the roots that are known.

use std::path::Path;

use outrigger_config::model::Place;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use webpki::{BorrowedCertRevocationList, CertRevocationList, OwnedCertRevocationList};

use super::certificate::{date, hex, moment, name_text, seconds, sha256};
use super::der::{Reader, tag, time};
use super::material::{DAMAGED, Loader, RENEW};
use super::problem::{MaterialReason as Reason, Problem};
use super::provider;
use super::status::{CertificateRole, CertificateStatus};
use super::trust::{Revocations, Root};

impl Loader<'_> {
    /// All lists. Those signed by one of `roots` are ready to be looked up; a list that claims to come from a
    /// root and is signed by another key is refused.
    pub(super) fn revocations<'p>(
        &mut self,
        files: impl Iterator<Item = &'p Path>,
        place: &Place,
        roots: &[Root],
    ) -> Revocations {
        let mut revocations = Revocations::default();
        let mut all = Vec::new();
        for file in files {
            let Some(bytes) = self.read(file, place) else { continue };
            all.extend_from_slice(&sha256(bytes));
            let lists = match lists(bytes) {
                Ok(lists) => lists,
                Err(problem) => {
                    self.fail(file, place, problem);
                    continue;
                }
            };
            for der in lists {
                match self.read_list(&der, roots, &mut revocations) {
                    Ok(mut status) => {
                        status.file = file.to_owned();
                        self.statuses.push(status);
                    }
                    Err(problem) => self.fail(file, place, problem),
                }
            }
        }
        if !all.is_empty() {
            revocations.fingerprint = sha256(&all);
        }
        revocations
    }

    fn read_list(
        &self,
        der: &CertificateRevocationListDer<'_>,
        roots: &[Root],
        revocations: &mut Revocations,
    ) -> Result<CertificateStatus, Problem> {
        let unusable = |error: webpki::Error| {
            let text = format!("it is not a revocation list that can be used ({error})");
            Reason::Unusable.problem(text, "renew it at the authority")
        };
        let list = BorrowedCertRevocationList::from_der(der).map_err(unusable)?;
        let malformed = || Reason::Malformed.problem("it is not a well-formed revocation list", RENEW);
        let signed = Signed::of(der).ok_or_else(malformed)?;
        let mut warnings = Vec::new();
        let now = seconds(self.now);
        if now > signed.next_update {
            warnings.push(format!("its successor is due since {}; it is still used", date(signed.next_update)));
        }
        let mut serials = Vec::new();
        for revoked in &list {
            let revoked = revoked.map_err(unusable)?;
            let zeros = revoked.serial_number.iter().take_while(|byte| **byte == 0).count();
            serials.push(Box::<[u8]>::from(&revoked.serial_number[zeros..]));
        }
        let name = name_text(signed.issuer);
        let issuers: Vec<&Root> = roots.iter().filter(|root| *root.subject == *signed.issuer).collect();
        if issuers.is_empty() {
            warnings.push(format!("no root named `{name}` is known; it counts for an intermediate of that name"));
            let owned = OwnedCertRevocationList::from_der(der).map_err(unusable)?;
            revocations.others.push(CertRevocationList::Owned(owned));
            revocations.other_entries.extend(serials.into_iter().map(|serial| (signed.issuer.into(), serial)));
        } else {
            let signer = issuers.iter().find(|root| signed.is_signed_by(&root.spki));
            let Some(signer) = signer else {
                let text = format!("it is not signed by the root `{name}` that it names");
                return Err(Reason::NotSigned.problem(text, "take the list of today's root"));
            };
            revocations.by_issuer.entry(signer.spki.clone()).or_default().extend(serials);
        }
        Ok(CertificateStatus {
            file: std::path::PathBuf::new(),
            role: CertificateRole::RevocationList,
            identity: None,
            dns_names: Vec::new(),
            subject: String::new(),
            issuer: name,
            serial: String::new(),
            not_before: moment(signed.this_update),
            not_after: moment(signed.next_update),
            sha256: hex(&sha256(der)),
            warnings,
        })
    }
}

/// The signed envelope of a list.
struct Signed<'a> {
    /// What is signed.
    body: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    this_update: i64,
    next_update: i64,
}

impl<'a> Signed<'a> {
    fn of(der: &'a [u8]) -> Option<Self> {
        let mut envelope = Reader::new(Reader::new(der).expect(tag::SEQUENCE)?);
        let (_, contents, body) = envelope.any()?;
        let algorithm = envelope.expect(tag::SEQUENCE)?;
        let (_, signature) = envelope.expect(tag::BIT_STRING)?.split_first()?;
        let mut fields = Reader::new(contents);
        fields.optional(tag::INTEGER)?;
        fields.expect(tag::SEQUENCE)?;
        let (_, _, issuer) = fields.any()?;
        let mut moment = || fields.any().and_then(|(tag, text, _)| time(tag, text));
        Some(Self { body, algorithm, signature, issuer, this_update: moment()?, next_update: moment()? })
    }

    fn is_signed_by(&self, spki: &[u8]) -> bool {
        let mut key = Reader::new(spki);
        let (Some(algorithm), Some(bits)) = (key.expect(tag::SEQUENCE), key.expect(tag::BIT_STRING)) else {
            return false;
        };
        let Some((_, key)) = bits.split_first() else { return false };
        provider().signature_verification_algorithms.all.iter().any(|known| {
            known.signature_alg_id().as_ref() == self.algorithm
                && known.public_key_alg_id().as_ref() == algorithm
                && known.verify_signature(key, self.body, self.signature).is_ok()
        })
    }
}

/// The lists of a PEM or DER file, at least one.
fn lists(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    if bytes.first() == Some(&tag::SEQUENCE) {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => {
            let fix = "write DER, or PEM with `-----BEGIN X509 CRL-----`";
            Err(Reason::Malformed.problem("it holds no revocation list", fix))
        }
        Err(_) => Err(Reason::Malformed.problem(DAMAGED, RENEW)),
    }
}
