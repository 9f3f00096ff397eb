//! JSON Web Tokens (RFC 7519, RFC 8725): read strictly, verified against the keys that a provider has now.
//!
//! [`parse`] takes a token apart and believes nothing. [`KeySet`] is what a provider publishes, with whatever must
//! not be used left out. [`Verifier`] puts both together: the algorithm comes from the configuration and the key,
//! never from the token alone, and no key that a token brings along is ever looked at. No clock and no file: the time
//! is an argument, and so is what a provider publishes.
//!
//! Nothing here has a `Debug` form or an error text that shows a token or a part of one.

mod claims;
mod json;
mod keys;
pub mod limits;
mod token;
mod verify;

pub use claims::{Claims, Value};
pub use keys::{KeySet, KeySetError, Skipped};
pub use token::{Token, parse};
pub use verify::{Verified, Verifier};

/// Why a request is refused for its token, or for having none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There is none, and one is required.
    Missing,
    /// It is not a JWT in compact form, or a part of it is not what it must be.
    Malformed,
    /// No provider of the listener has this issuer, or none that takes tokens from where this one was.
    UnknownIssuer,
    /// The provider has no key of that name, or none for this algorithm.
    UnknownKey,
    /// The signature is wrong.
    BadSignature,
    /// An algorithm that is not believed: `none`, a symmetric one, one that the provider or the key does not allow.
    Algorithm,
    /// It is meant for somebody else.
    Audience,
    /// Its time is over.
    Expired,
    /// Its time has not come, or it claims to have been issued in the future.
    NotYetValid,
    /// The keys of its provider are not there: none could be had so far. Says nothing about the token.
    NoKeys,
}

impl Refusal {
    /// One stable word for logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::UnknownIssuer => "unknown-issuer",
            Self::UnknownKey => "unknown-key",
            Self::BadSignature => "bad-signature",
            Self::Algorithm => "algorithm",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::NoKeys => "no-keys",
        }
    }

    /// One plain sentence for the caller. It says what is wrong, never what was expected.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Missing => "The request carries no token.",
            Self::Malformed => "The token is malformed.",
            Self::UnknownIssuer => "The token is from an issuer that is not believed.",
            Self::UnknownKey => "The token is signed with a key that its issuer does not publish.",
            Self::BadSignature => "The signature of the token is not valid.",
            Self::Algorithm => "The token is signed with an algorithm that is not believed.",
            Self::Audience => "The token is meant for another audience.",
            Self::Expired => "The token has expired.",
            Self::NotYetValid => "The token is not valid yet.",
            Self::NoKeys => "The token cannot be verified now: the keys of its issuer are not there.",
        }
    }
}

#[cfg(test)]
mod tests;
