//! SPIFFE ids, in texts and in certificates.

use outrigger::net::tls::{RefusalReason, spiffe_id};
use outrigger_config::spiffe::{IdentityPattern, SpiffeId, TrustDomain};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// The input is a certificate, or an id, a newline and a pattern; without a newline it is both.
pub fn check(input: &[u8]) {
    check_certificate(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (id, pattern) = text.split_once('\n').unwrap_or((text, text));
    let id = check_id(id);
    if let Ok(pattern) = IdentityPattern::parse(pattern) {
        check_pattern(&pattern, id.as_ref());
    }
}

/// Beside another parser. It sees less in some broken certificates and more in others; where both see one, they must agree.
fn check_certificate(der: &[u8]) {
    let found = spiffe_id(&der.into());
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return };
    let mut uris = Vec::new();
    // URIs that are no text: the other parser does not call them URIs.
    let mut garbled = 0;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => uris.push(*uri),
                        GeneralName::Invalid(tag, _) if tag.0 == 6 => garbled += 1,
                        _ => {}
                    }
                }
            }
            ParsedExtension::ParseError { .. } => return,
            _ => {}
        }
    }
    match found {
        Ok(id) => {
            assert_eq!((&*uris, garbled), (&[id.as_str()][..], 0));
            assert!(!id.path().is_empty(), "{id} is a trust domain and no workload");
        }
        Err(refusal) => match refusal.reason {
            RefusalReason::NoIdentity => assert!(uris.is_empty() && garbled == 0, "{refusal} {uris:?}"),
            RefusalReason::SeveralIdentities => assert!(uris.len() + garbled > 1, "{refusal} {uris:?}"),
            RefusalReason::InvalidIdentity => {
                let is_workload = |uri: &&str| SpiffeId::parse(uri).is_ok_and(|id| !id.path().is_empty());
                assert!(!uris.iter().any(is_workload), "{refusal} {uris:?}");
            }
            _ => {}
        },
    }
}

fn check_id(text: &str) -> Option<SpiffeId> {
    let parsed = SpiffeId::parse(text).ok();
    assert_eq!(parsed.is_some(), is_spiffe_id(text), "{text:?}");
    let id = parsed?;
    // Nothing is changed on the way, and the parts are the whole.
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    assert!(TrustDomain::parse(id.trust_domain()).is_ok());
    let convention = match id.path().split('/').collect::<Vec<_>>().as_slice() {
        ["", "ns", namespace, "sa", _] => Some(*namespace),
        _ => None,
    };
    assert_eq!(id.namespace(), convention, "{text:?}");
    Some(id)
}

fn check_pattern(pattern: &IdentityPattern, id: Option<&SpiffeId>) {
    let text = pattern.to_string();
    assert_eq!(IdentityPattern::parse(&text).as_ref(), Ok(pattern));
    let Some(id) = id else { return };
    // The slow way: segment by segment.
    let expected = match text.strip_suffix("/*") {
        None => text == id.as_str(),
        Some(above) => {
            let (above, below): (Vec<_>, Vec<_>) = (above.split('/').collect(), id.as_str().split('/').collect());
            below.len() > above.len() && below[..above.len()] == above
        }
    };
    assert_eq!(pattern.matches(id), expected, "{text} {id}");
}

/// The SPIFFE-ID document, sections 2.1 to 2.4, said a second time.
fn is_spiffe_id(text: &str) -> bool {
    let mut parts = text.split('/');
    let (Some("spiffe:"), Some(""), Some(domain)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let letters = |word: &str, allowed: &str| word.chars().all(|c| allowed.contains(c));
    text.len() <= 2048
        && (1..=255).contains(&domain.len())
        && letters(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_")
        && parts.all(|segment| {
            !matches!(segment, "" | "." | "..")
                && letters(segment, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_")
        })
}
