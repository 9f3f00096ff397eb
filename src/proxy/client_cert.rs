//! `x-forwarded-client-cert`, in Envoy's form: elements separated by commas, nearest caller last, each of pairs
//! `Key=value` separated by semicolons. `Hash` and `URI` are what is verified; `Subject` is what a certificate says.

use std::fmt::Write as _;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use outrigger_config::model::ClientCertHeader;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::codec::headers::remove_rare;

/// Who called with which certificate.
pub(super) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What an element says of a verified certificate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Certificate<'a> {
    /// The identity that this proxy showed.
    pub(super) by: Option<&'a str>,
    /// SHA-256 of the caller's certificate (DER).
    pub(super) sha256: &'a [u8],
    /// Its [`subject`].
    pub(super) subject: &'a str,
    /// The caller's identity.
    pub(super) uri: Option<&'a str>,
    /// Its DNS names.
    pub(super) dns: &'a [Box<str>],
}

/// The element about a certificate. Made once for a connection.
pub(super) fn element(certificate: &Certificate<'_>) -> Option<HeaderValue> {
    let Certificate { by, sha256, subject, uri, dns } = certificate;
    let mut text = String::new();
    if let Some(by) = by {
        pair(&mut text, "By", &value(by));
    }
    let hash: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    pair(&mut text, "Hash", &hash);
    // As in Envoy, these two are there even when they are empty.
    pair(&mut text, "Subject", &quoted(subject));
    pair(&mut text, "URI", &value(uri.unwrap_or_default()));
    for name in *dns {
        pair(&mut text, "DNS", &value(name));
    }
    HeaderValue::try_from(text).ok()
}

/// The subject of a certificate (DER) as OpenSSL, and so Envoy, writes it: the last name first, in the escapes of
/// RFC 2253. Empty when there is none.
pub(super) fn subject(certificate: &[u8]) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return String::new() };
    let names: Vec<_> = certificate.subject().iter_rdn().collect();
    let mut text = String::new();
    for name in names.into_iter().rev() {
        for (at, attribute) in name.iter().enumerate() {
            if at > 0 {
                text.push('+');
            } else if !text.is_empty() {
                text.push(',');
            }
            let oid = attribute.attr_type();
            match oid2abbrev(oid, oid_registry()) {
                Ok(short) => text.push_str(short),
                Err(_) => text.push_str(&oid.to_id_string()),
            }
            text.push('=');
            escape(attribute.as_slice(), &mut text);
        }
    }
    text
}

/// RFC 2253 section 2.4; what is not printable ASCII as two hexadecimal digits.
fn escape(value: &[u8], text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, &byte) in value.iter().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => text.extend(['\\', char::from(byte)]),
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "\\{byte:02X}")),
        }
    }
}

/// Applies a listener's mode. `own` is the element about the caller's verified certificate; without one nothing that
/// the caller says about certificates is believed.
pub(super) fn apply(mode: ClientCertHeader, own: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(own) = own else {
        remove_rare(headers, &CLIENT_CERT);
        return;
    };
    match mode {
        ClientCertHeader::Sanitize => drop(headers.remove(CLIENT_CERT)),
        ClientCertHeader::Forward => {}
        ClientCertHeader::Set => drop(headers.insert(CLIENT_CERT, own.clone())),
        ClientCertHeader::Append => {
            let mut lines =
                headers.get_all(CLIENT_CERT).iter().map(HeaderValue::as_bytes).filter(|line| !line.is_empty());
            let value = lines.next().map(|first| {
                let mut joined = first.to_vec();
                for line in lines.chain([own.as_bytes()]) {
                    joined.push(b',');
                    joined.extend_from_slice(line);
                }
                HeaderValue::from_bytes(&joined)
            });
            match value {
                None => drop(headers.insert(CLIENT_CERT, own.clone())),
                Some(Ok(joined)) => drop(headers.insert(CLIENT_CERT, joined)),
                // Joined from values that were valid, so this cannot be; and if it were, nothing unverified passes.
                Some(Err(_)) => drop(headers.remove(CLIENT_CERT)),
            }
        }
    }
}

fn pair(text: &mut String, key: &str, value: &str) {
    if !text.is_empty() {
        text.push(';');
    }
    text.push_str(key);
    text.push('=');
    text.push_str(value);
}

/// A value with a character that has a meaning in the header is quoted.
fn value(text: &str) -> String {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'=' | b'"' | b'\\'));
    if plain { text.to_owned() } else { quoted(text) }
}

/// In quotes. A quote inside is escaped, and so is a backslash that does not escape already, as those of RFC 2253 do:
/// otherwise one at the end would take the closing quote. What no header may hold becomes a question mark.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => match characters.next_if(|next| !next.is_control()) {
                Some(escaped) => out.extend(['\\', escaped]),
                None => out.push_str("\\\\"),
            },
            control if control.is_control() => out.push('?'),
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CART: Certificate<'_> = Certificate {
        by: Some("spiffe://mesh.local/ns/shop/sa/payments"),
        sha256: &[0x0a, 0xff],
        subject: "",
        uri: Some("spiffe://mesh.local/ns/shop/sa/cart"),
        dns: &[],
    };

    fn text(certificate: &Certificate<'_>) -> String {
        element(certificate).expect("an element").to_str().expect("text").to_owned()
    }

    #[test]
    fn an_element_is_written_as_envoy_writes_it() {
        assert_eq!(
            text(&CART),
            "By=spiffe://mesh.local/ns/shop/sa/payments;Hash=0aff;Subject=\"\";URI=spiffe://mesh.local/ns/shop/sa/cart"
        );
        let dns = ["a.example".into(), "b.example".into()];
        let edge = Certificate { by: None, subject: "CN=cart,O=Shop", uri: None, dns: &dns, ..CART };
        assert_eq!(text(&edge), "Hash=0aff;Subject=\"CN=cart,O=Shop\";URI=;DNS=a.example;DNS=b.example");
    }

    #[test]
    fn nothing_that_a_certificate_says_gets_out_of_its_quotes() {
        for (subject, written) in [
            ("CN=x\";URI=spiffe://evil", r#"Subject="CN=x\";URI=spiffe://evil";"#),
            (r#"CN=a \"b\""#, r#"Subject="CN=a \"b\"";"#),
            ("CN=x\\", r#"Subject="CN=x\\";"#),
            ("CN=x\\\\\"y", r#"Subject="CN=x\\\"y";"#),
            ("CN=a\r\nx-evil: 1", r#"Subject="CN=a??x-evil: 1";"#),
        ] {
            let element = text(&Certificate { subject, ..CART });
            assert!(element.contains(written), "{element}");
        }
        let dns = ["a\";URI=spiffe://evil".into()];
        assert!(text(&Certificate { dns: &dns, ..CART }).ends_with(r#";DNS="a\";URI=spiffe://evil""#));
    }

    #[test]
    fn a_subject_is_written_in_the_escapes_of_rfc_2253_last_name_first() {
        use rcgen::DnType;
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "NL");
        params.distinguished_name.push(DnType::OrganizationName, "Shop, \"Inc\" ");
        params.distinguished_name.push(DnType::CommonName, "#caf\u{e9}");
        let certificate = params.self_signed(&key).expect("a certificate");
        assert_eq!(subject(certificate.der()), r#"CN=\#caf\C3\A9,O=Shop\, \"Inc\"\ ,C=NL"#);
        assert_eq!(subject(b"no certificate"), "");
    }

    #[test]
    fn modes_do_what_they_say() {
        use ClientCertHeader::{Append, Forward, Sanitize, Set};
        let own = HeaderValue::from_static("Hash=1");
        for (mode, sent, verified, unverified) in [
            (Sanitize, &["Hash=0"][..], None, None),
            (Forward, &["Hash=0"], Some("Hash=0"), None),
            (Forward, &[], None, None),
            (Append, &["Hash=0"], Some("Hash=0,Hash=1"), None),
            (Append, &["Hash=8", "", "Hash=9"], Some("Hash=8,Hash=9,Hash=1"), None),
            (Append, &[], Some("Hash=1"), None),
            (Set, &["Hash=0", "Hash=9"], Some("Hash=1"), None),
            (Set, &[], Some("Hash=1"), None),
        ] {
            for (own, expected) in [(Some(&own), verified), (None, unverified)] {
                let mut headers: HeaderMap =
                    sent.iter().map(|value| (CLIENT_CERT, HeaderValue::from_static(value))).collect();
                apply(mode, own, &mut headers);
                let lines: Vec<_> = headers.get_all(CLIENT_CERT).iter().collect();
                assert_eq!(lines, expected.as_slice(), "{mode:?} {sent:?} {own:?}");
            }
        }
    }
}
