//! SPIFFE identities (SPIFFE-ID document, sections 2.1 to 2.4): who a workload is.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A SPIFFE ID, checked. Two are equal when their texts are: the scheme and the trust domain are lower-case by
/// the rules, and paths are case-sensitive.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins: the length of `spiffe://` and the trust domain.
    path_at: usize,
}

/// A trust domain: 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A condition on a SPIFFE ID, as it is written: `spiffe://mesh.local/ns/shop/sa/cart`, or a prefix that ends in
/// `/*`: `spiffe://mesh.local/ns/shop/*`, `spiffe://mesh.local/*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IdentityPattern {
    /// This one.
    Exact(SpiffeId),
    /// Everything below. The text up to and with the last `/`.
    Prefix(Arc<str>),
}

/// What is wrong with a text that should be a SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpiffeError {
    /// Another scheme, or none.
    #[error("it does not begin with `spiffe://`")]
    Scheme,
    /// No trust domain, or a longer one than 255 bytes.
    #[error("its trust domain is empty or longer than 255 bytes")]
    DomainLength,
    /// A trust domain with a character that it must not have: user info and ports are refused by this too.
    #[error("its trust domain has a character other than a-z, 0-9, `.`, `-` and `_`")]
    DomainCharacter,
    /// `//`, or a slash at the end.
    #[error("its path has an empty segment or ends in `/`")]
    EmptySegment,
    /// `.` or `..`.
    #[error("its path has a segment `.` or `..`")]
    DotSegment,
    /// A path with a character that it must not have: query, fragment and escapes are refused by this too.
    #[error("its path has a character other than letters, digits, `.`, `-` and `_`")]
    PathCharacter,
    /// Longer than 2048 bytes.
    #[error("it is longer than 2048 bytes")]
    TooLong,
}

const SCHEME: &str = "spiffe://";
const MAX_BYTES: usize = 2048;

impl SpiffeId {
    /// Reads a SPIFFE ID. An ID without a path names the trust domain itself.
    ///
    /// # Errors
    /// See [`SpiffeError`].
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_BYTES {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_domain(domain)?;
        if let Some(path) = path.strip_prefix('/') {
            check_path(path)?;
        }
        Ok(Self { text: text.into(), path_at: SCHEME.len() + domain.len() })
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// Its path with the leading slash; empty for the trust domain's own ID.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// The namespace, where the path follows the Kubernetes convention `/ns/NAMESPACE/sa/ACCOUNT`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        let mut segments = self.path().strip_prefix("/ns/")?.split('/');
        let namespace = segments.next()?;
        (segments.next()? == "sa" && segments.next().is_some() && segments.next().is_none()).then_some(namespace)
    }
}

impl TrustDomain {
    /// Reads the name of a trust domain.
    ///
    /// # Errors
    /// See [`SpiffeError`].
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        check_domain(text)?;
        Ok(Self(text.into()))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl IdentityPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// See [`SpiffeError`].
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let Some(prefix) = text.strip_suffix("/*") else { return SpiffeId::parse(text).map(Self::Exact) };
        SpiffeId::parse(prefix)?;
        Ok(Self::Prefix(text[..=prefix.len()].into()))
    }

    /// The trust domain of all that it matches.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        match self {
            Self::Exact(id) => id.trust_domain(),
            Self::Prefix(text) => text.strip_prefix(SCHEME).unwrap_or(text).split('/').next().unwrap_or_default(),
        }
    }

    /// Whether an ID meets it.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            // The prefix ends in a slash, so it ends at the end of a segment.
            Self::Prefix(prefix) => id.text.len() > prefix.len() && id.text.starts_with(&**prefix),
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => f.write_str(id.as_str()),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_domain(domain: &str) -> Result<(), SpiffeError> {
    if domain.is_empty() || domain.len() > 255 {
        return Err(SpiffeError::DomainLength);
    }
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if domain.bytes().all(fits) { Ok(()) } else { Err(SpiffeError::DomainCharacter) }
}

fn check_path(path: &str) -> Result<(), SpiffeError> {
    for segment in path.split('/') {
        match segment {
            "" => return Err(SpiffeError::EmptySegment),
            "." | ".." => return Err(SpiffeError::DotSegment),
            _ => {}
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !segment.bytes().all(fits) {
            return Err(SpiffeError::PathCharacter);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_apart() {
        let id = SpiffeId::parse("spiffe://mesh.local/ns/shop/sa/cart").expect("valid");
        assert_eq!((id.trust_domain(), id.path()), ("mesh.local", "/ns/shop/sa/cart"));
        assert_eq!(id.namespace(), Some("shop"));
        let domain = SpiffeId::parse("spiffe://mesh.local").expect("valid");
        assert_eq!((domain.trust_domain(), domain.path(), domain.namespace()), ("mesh.local", "", None));
        for path in ["/ns/shop", "/ns/shop/sa", "/ns/shop/sa/cart/x", "/x/ns/shop/sa/cart"] {
            let id = SpiffeId::parse(&format!("spiffe://mesh.local{path}")).expect("valid");
            assert_eq!(id.namespace(), None, "{path}");
        }
    }

    #[test]
    fn what_the_document_forbids_is_refused() {
        use SpiffeError::{DomainCharacter, DomainLength, DotSegment, EmptySegment, PathCharacter, Scheme, TooLong};
        let long = format!("spiffe://a/{}", "x".repeat(2048));
        let domain = format!("spiffe://{}", "x".repeat(256));
        for (text, error) in [
            ("", Scheme),
            ("https://a/b", Scheme),
            ("SPIFFE://a/b", Scheme),
            ("spiffe:/a/b", Scheme),
            ("spiffe://", DomainLength),
            ("spiffe:///b", DomainLength),
            (domain.as_str(), DomainLength),
            ("spiffe://A/b", DomainCharacter),
            ("spiffe://a:80/b", DomainCharacter),
            ("spiffe://user@a/b", DomainCharacter),
            ("spiffe://a%62/b", DomainCharacter),
            ("spiffe://a?b", DomainCharacter),
            ("spiffe://a/", EmptySegment),
            ("spiffe://a//b", EmptySegment),
            ("spiffe://a/b/", EmptySegment),
            ("spiffe://a/./b", DotSegment),
            ("spiffe://a/b/..", DotSegment),
            ("spiffe://a/b?c", PathCharacter),
            ("spiffe://a/b#c", PathCharacter),
            ("spiffe://a/%62", PathCharacter),
            ("spiffe://a/b c", PathCharacter),
            ("spiffe://a/\u{e9}", PathCharacter),
            ("spiffe://a/b\0", PathCharacter),
            (long.as_str(), TooLong),
        ] {
            assert_eq!(SpiffeId::parse(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let id = |text: &str| SpiffeId::parse(text).expect("valid");
        let shop = IdentityPattern::parse("spiffe://mesh.local/ns/shop/*").expect("valid");
        assert!(shop.matches(&id("spiffe://mesh.local/ns/shop/sa/cart")));
        assert!(!shop.matches(&id("spiffe://mesh.local/ns/shopping/sa/cart")));
        assert!(!shop.matches(&id("spiffe://mesh.local/ns/shop")));
        let all = IdentityPattern::parse("spiffe://mesh.local/*").expect("valid");
        assert!(all.matches(&id("spiffe://mesh.local/x")) && !all.matches(&id("spiffe://mesh.local.evil/x")));
        assert_eq!(shop.to_string(), "spiffe://mesh.local/ns/shop/*");
        for text in
            ["*", "spiffe://*", "spiffe://mesh.local*", "spiffe://mesh.local/ns/*/sa/x", "spiffe://mesh.local//*"]
        {
            assert!(IdentityPattern::parse(text).is_err(), "{text}");
        }
    }
}
