//! The mesh identity, files, and text with the grammar of SPIFFE.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Check, Wrong};
use crate::limits;
use crate::model::{CertificateFiles, Identity};
use crate::raw;
use crate::read::{Entries, Field, List};
use crate::source::Span;
use crate::spiffe::{IdentityPattern, SpiffeError, SpiffeId, TrustDomain};
use crate::text::quoted;

/// Whether there is a mesh identity, and whether anything needs it.
pub(super) struct Mesh {
    there: bool,
    needed: Cell<bool>,
}

impl Mesh {
    pub(super) fn of(field: &Field<raw::Identity>) -> Self {
        Self { there: !field.is_absent(), needed: Cell::new(false) }
    }

    /// As where there is one.
    pub(super) fn given() -> Self {
        Self { there: true, needed: Cell::new(false) }
    }

    pub(super) fn warn_unused(&self, check: &Check<'_, '_>, field: &Field<raw::Identity>) {
        if let (false, false, Some(span)) = (self.needed.get(), check.sink.has_errors(), field.span()) {
            let fix = "add `tls: { mode: strict }` to a listener or `tls: { peerIdentities: […] }` to a cluster, or remove it";
            check.warning(span, "nothing uses `identity`: no listener and no cluster speaks TLS in the mesh", fix);
        }
    }
}

impl Check<'_, '_> {
    /// Notes that `what` needs the mesh identity, and reports it where there is none. `instead` is another way out.
    pub(super) fn needs_identity(&self, span: Span, what: &str, instead: &str) {
        self.mesh.needed.set(true);
        if !self.mesh.there && !self.partial {
            let fix = format!("add `identity: {{ certificate: …, privateKey: …, trustBundle: … }}`{instead}");
            self.error(span, format!("{what}, and there is no `identity`"), fix);
        }
    }

    /// A file that must be named.
    pub(super) fn file(&self, field: &Field<String>, owner: Span, lack: (&str, &str)) -> Option<PathBuf> {
        let (text, span) = self.required(field, owner, lack)?;
        self.parsed(file(text), span)
    }

    /// A file that may be named.
    pub(super) fn optional_file(&self, field: &Field<String>) -> Option<PathBuf> {
        field.here().and_then(|(text, span)| self.parsed(file(text), span))
    }

    /// A certificate and its key. `owner` is what they belong to, in words and in the text.
    pub(super) fn certificate(
        &self,
        (certificate, private_key): (&Field<String>, &Field<String>),
        (owner, span): (&str, Span),
    ) -> Option<CertificateFiles> {
        let lack = format!("{owner} has no `certificate`");
        let chain = self.file(certificate, span, (&lack, "add the file of the certificate chain: `certificate: …`"));
        let lack = format!("{owner} has no `privateKey`");
        let key = self.file(private_key, span, (&lack, "add the file of its key: `privateKey: …`"));
        let at = certificate.span().unwrap_or(span);
        Some(CertificateFiles { certificate: chain?, private_key: key?, place: self.place(at) })
    }

    /// Identities by pattern.
    pub(super) fn identities(&self, field: &Field<List<String>>, name: &str) -> Vec<IdentityPattern> {
        self.each(self.filled(field, name, limits::MAX_ACCESS_ENTRIES), identity_pattern)
    }
}

pub(super) fn identity(check: &Check<'_, '_>, field: &Field<raw::Identity>) -> Option<Identity> {
    let (raw, span) = field.here()?;
    let raw::Identity {
        certificate,
        private_key,
        trust_bundle,
        federated_bundles,
        revocation_lists,
        proposed_trust_bundle,
    } = raw;
    let files = check.certificate((certificate, private_key), ("`identity`", span));
    let lack = ("`identity` has no `trustBundle`", "add the file with the roots of its trust domain: `trustBundle: …`");
    let bundle = check.file(trust_bundle, span, lack);
    let proposed = check.optional_file(proposed_trust_bundle);
    if let (true, Some(at)) = (proposed.is_some() && proposed == bundle, proposed_trust_bundle.span()) {
        let fix = "name the bundle that is to replace it, or remove `proposedTrustBundle`";
        check.warning(at, "the proposed bundle is the one in use: nothing would be rehearsed", fix);
    }
    let federated_bundles = federated(check, federated_bundles);
    let revocation_lists =
        check.each(check.filled(revocation_lists, "revocationLists", limits::MAX_REVOCATION_LISTS), file);
    Some(Identity {
        certificate: files?,
        trust_bundle: bundle?,
        federated_bundles,
        revocation_lists,
        proposed_trust_bundle: proposed,
        place: check.place(span),
    })
}

fn federated(check: &Check<'_, '_>, field: &Field<Entries<String>>) -> BTreeMap<TrustDomain, PathBuf> {
    let Some((entries, span)) = field.here() else { return BTreeMap::new() };
    if entries.pairs.is_empty() {
        check.error(span, "`federatedBundles` is empty", "add a trust domain and its bundle, or remove it");
    }
    let mut out = BTreeMap::new();
    for (key, value) in check.within(&entries.pairs, limits::MAX_FEDERATED_BUNDLES, (Some(span), "bundles")) {
        let domain = check.parsed(trust_domain(&key.text), key.span);
        let bundle = check.optional_file(value);
        if let (Some(domain), Some(bundle)) = (domain, bundle) {
            out.insert(domain, bundle);
        }
    }
    out
}

/// The path of a file.
pub(crate) fn file(text: &str) -> Result<PathBuf, Wrong> {
    // Nothing of it is quoted: it may be a key.
    if text.contains("-----BEGIN") {
        let fix = "write it to a file that only this proxy can read, and name that file here";
        return Err(Wrong::new("this is the content of a file, not its path", fix));
    }
    let fix = "write a path such as `/certs/svid.pem`";
    if text.is_empty() || text.contains('\0') || text.len() > limits::MAX_FILE_NAME_BYTES {
        return Err(Wrong::new("this is not the path of a file", fix));
    }
    if text.ends_with('/') {
        return Err(Wrong::new(format!("`{}` is a folder", quoted(text)), "name the file in it"));
    }
    Ok(PathBuf::from(text))
}

/// A trust domain.
pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, Wrong> {
    TrustDomain::parse(text).map_err(|error| {
        let name = text.strip_prefix("spiffe://").unwrap_or(text).trim_end_matches(['/', '*']).to_ascii_lowercase();
        let fix = match TrustDomain::parse(&name) {
            Ok(_) => format!("write `{}`", quoted(&name)),
            Err(_) => "write its name alone, such as `mesh.local`".to_owned(),
        };
        Wrong::new(format!("`{}` is not a trust domain: {error}", quoted(text)), fix)
    })
}

/// A namespace, as a segment of an identity.
pub(crate) fn namespace(text: &str) -> Result<std::sync::Arc<str>, Wrong> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if text.is_empty() || matches!(text, "." | "..") || text.len() > limits::MAX_NAME_BYTES || !text.bytes().all(fits) {
        let fix = if text.contains('*') {
            "namespaces are compared whole: list them, or name the trust domain: `trustDomains: [mesh.local]`"
        } else {
            "write its name alone, such as `shop`"
        };
        return Err(Wrong::new(format!("`{}` is not a namespace", quoted(text)), fix));
    }
    Ok(text.into())
}

/// A SPIFFE ID, or all below one.
pub(crate) fn identity_pattern(text: &str) -> Result<IdentityPattern, Wrong> {
    let pattern = IdentityPattern::parse(text).map_err(|error| {
        let message = format!("`{}` is not a SPIFFE identity: {error}", quoted(text));
        Wrong::new(message, identity_fix(text, error))
    })?;
    match &pattern {
        // Such an ID is the domain's authority's; a certificate of a workload has a path (X.509-SVID, section 2).
        IdentityPattern::Exact(id) if id.path().is_empty() => Err(Wrong::new(
            format!("`{}` names the trust domain itself, which no workload is", quoted(text)),
            format!("write `{}/*` for every workload in it", quoted(text)),
        )),
        IdentityPattern::Exact(_) | IdentityPattern::Prefix(_) => Ok(pattern),
    }
}

fn identity_fix(text: &str, error: SpiffeError) -> String {
    let lower = text.to_ascii_lowercase();
    match error {
        SpiffeError::Scheme if text.chars().all(|c| c == '*') => {
            "name the trust domain: `spiffe://mesh.local/*` is every workload in it".to_owned()
        }
        SpiffeError::Scheme => match IdentityPattern::parse(&format!("spiffe://{text}")) {
            Ok(pattern) => format!("write `{}`", quoted(&pattern.to_string())),
            Err(_) => {
                "write it as `spiffe://TRUST-DOMAIN/PATH`, such as `spiffe://mesh.local/ns/shop/sa/cart`".to_owned()
            }
        },
        // A prefix of nothing but the slash is every workload of the domain.
        SpiffeError::DomainCharacter | SpiffeError::PathCharacter if text.contains('*') => {
            "`*` stands only at the end, as a whole segment: `spiffe://mesh.local/ns/shop/*`".to_owned()
        }
        SpiffeError::DomainCharacter if lower != text && SpiffeId::parse(&lowered_domain(text)).is_ok() => {
            format!("write the trust domain in small letters: `{}`", quoted(&lowered_domain(text)))
        }
        SpiffeError::DomainCharacter => "leave out user, port and escapes: `spiffe://mesh.local/…`".to_owned(),
        SpiffeError::DomainLength => "name the trust domain: `spiffe://mesh.local/…`".to_owned(),
        SpiffeError::EmptySegment => match text.trim_end_matches('/') {
            short if IdentityPattern::parse(short).is_ok() => {
                format!("write `{0}` for this one, or `{0}/*` for all below it", quoted(short))
            }
            _ => "write one slash between two segments".to_owned(),
        },
        SpiffeError::DotSegment => "write the path without `.` and `..`".to_owned(),
        SpiffeError::PathCharacter => "leave out query, fragment, escapes and blanks".to_owned(),
        SpiffeError::TooLong => "no SPIFFE ID is that long: write a shorter one".to_owned(),
    }
}

/// The ID with its trust domain in small letters; paths are case-sensitive.
fn lowered_domain(text: &str) -> String {
    let rest = text.strip_prefix("spiffe://").unwrap_or(text);
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("spiffe://{}{path}", domain.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_identity_is_answered_with_the_right_one() {
        for (text, fix) in [
            ("cluster.local/ns/shop/sa/cart", "write `spiffe://cluster.local/ns/shop/sa/cart`"),
            ("*", "`spiffe://mesh.local/*`"),
            ("spiffe://Mesh.local/ns/Shop", "`spiffe://mesh.local/ns/Shop`"),
            ("spiffe://mesh.local/ns/*/sa/x", "only at the end"),
            ("spiffe://*/ns/shop", "only at the end"),
            ("spiffe://mesh.local/ns/shop/", "write `spiffe://mesh.local/ns/shop` for this one"),
            ("spiffe://mesh.local:8443/a", "port"),
            ("https://a/b", "spiffe://TRUST-DOMAIN/PATH"),
            ("spiffe://a/b?c", "query"),
            ("spiffe://mesh.local", "write `spiffe://mesh.local/*`"),
        ] {
            let wrong = identity_pattern(text).expect_err(text);
            assert!(wrong.fix.contains(fix), "{text}: {}", wrong.fix);
        }
    }

    #[test]
    fn a_trust_domain_is_a_name_alone() {
        assert!(trust_domain("mesh.local").is_ok());
        for text in ["spiffe://mesh.local", "Mesh.Local", "mesh.local/"] {
            assert_eq!(trust_domain(text).expect_err(text).fix, "write `mesh.local`");
        }
        assert!(trust_domain("").expect_err("empty").fix.contains("such as"));
    }

    #[test]
    fn a_file_is_named_and_not_written_out() {
        assert!(file("/certs/a.pem").is_ok() && file("a.pem").is_ok());
        for bad in ["", "/certs/", "a\0b", "-----BEGIN PRIVATE KEY-----\nMIGH"] {
            let wrong = file(bad).expect_err(bad);
            assert!(!wrong.message.contains("MIGH") && !wrong.fix.contains("MIGH"));
        }
    }
}
