//! What can be wrong with a certificate, a key, a bundle or a list.

use std::path::PathBuf;

use outrigger_config::model::Place;
use thiserror::Error as ThisError;

/// Something wrong with a certificate, a key, a bundle or a list.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("{}:{}:{}: `{}`: {problem}: {fix}", place.file, place.line, place.column, file.display())]
pub struct MaterialError {
    /// Where the configuration names the file.
    pub place: Place,
    /// The file.
    pub file: PathBuf,
    /// Which kind of problem it is.
    pub reason: MaterialReason,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

/// Kinds of problems of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MaterialReason {
    /// It cannot be read.
    Unreadable,
    /// It does not hold what it should, or that is damaged.
    Malformed,
    /// A kind of key that cannot be used.
    UnusableKey,
    /// The key is another certificate's.
    KeyMismatch,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// A key is too short, or of an unknown kind.
    WeakKey,
    /// It is not a SPIFFE X.509-SVID.
    NoIdentity,
    /// An authority's certificate where one of a service is needed, or the other way round.
    WrongKind,
    /// Our own bundle does not verify our own certificate.
    Untrusted,
    /// It contradicts another setting.
    Contradiction,
    /// A revocation list that its issuer did not sign.
    NotSigned,
    /// The library does not take it.
    Unusable,
}

/// A problem whose file and place are known to the caller.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) reason: MaterialReason,
    pub(super) text: String,
    pub(super) fix: String,
}

impl MaterialReason {
    /// A stable label for metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
            Self::UnusableKey => "unusable-key",
            Self::KeyMismatch => "key-mismatch",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::WeakKey => "weak-key",
            Self::NoIdentity => "no-identity",
            Self::WrongKind => "wrong-kind",
            Self::Untrusted => "untrusted",
            Self::Contradiction => "contradiction",
            Self::NotSigned => "not-signed",
            Self::Unusable => "unusable",
        }
    }

    /// A problem of this kind: what is wrong, and what to do about it.
    pub(super) fn problem(self, text: impl Into<String>, fix: impl Into<String>) -> Problem {
        Problem { reason: self, text: text.into(), fix: fix.into() }
    }
}
