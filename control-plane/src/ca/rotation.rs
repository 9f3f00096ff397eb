//! How one root takes over from another without anybody noticing.
//!
//! ```text
//! Stable ──introduce──▶ Introduced ──sign──▶ Signing ──retire──▶ Stable
//!    ▲                      │                 the new root signs, the old one is still believed
//!    └──────withdraw────────┘ both are believed, the old one still signs
//! ```
//!
//! A certificate must never reach somebody who does not believe its root. So a root is believed everywhere before it
//! signs, and it is believed as long as anything that it signed is valid. [`Phase`] knows which steps there are and
//! [`Phase::objections`] what speaks against one now; both are pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::peer::WorkloadKey;

/// Where a rotation stands. Signers are named by the SHA-256 of their certificates, moments are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Phase {
    /// One root, which signs.
    Stable {
        /// It.
        signer: String,
    },
    /// A new root is believed; the old one still signs.
    Introduced {
        /// What signs.
        signer: String,
        /// The new one.
        next: String,
        /// Since when it is told to proxies.
        since: u64,
    },
    /// The new root signs; the old one is still believed.
    Signing {
        /// What signs.
        signer: String,
        /// The old one.
        old: String,
        /// Since when the new one signs.
        since: u64,
        /// When the last certificate of the old one runs out.
        old_until: u64,
    },
}

/// A step from one phase to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// A new root is made, or read from the configured files, and told to everybody.
    Introduce,
    /// The new root signs from now on.
    Sign,
    /// The old root is not believed any more, and its key is removed.
    Retire,
    /// The new root, which has signed nothing, is given up.
    Withdraw,
}

/// Who has taken up which roots; what is known of connected proxies. Must not block.
pub trait Confirmations: Send + Sync {
    /// The connected proxies that have not said yet that they use the bundle of this version.
    fn unconfirmed(&self, bundle: &str) -> Vec<WorkloadKey>;

    /// Those of them that never will, because they do not ask for roots over xDS: they have them from files.
    fn silent(&self) -> Vec<WorkloadKey> {
        Vec::new()
    }
}

/// How things stand, for people and for the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// `stable`, `introduced` or `signing`.
    pub phase: &'static str,
    /// Since when, in seconds since 1970; a stable phase does not say.
    pub since: Option<u64>,
    /// What signs.
    pub signer: SignerStatus,
    /// The other root that is believed: in `introduced` the new one, in `signing` the old one.
    pub other: Option<SignerStatus>,
    /// The version of the bundle of roots.
    pub bundle: String,
    /// Connected proxies that have not confirmed that bundle.
    pub unconfirmed: Vec<String>,
    /// Those of them that cannot confirm, because they have their roots from files.
    pub silent: Vec<String>,
    /// What would come next.
    pub next: Step,
    /// What speaks against that now; with none it is safe.
    pub objections: Vec<String>,
}

/// A signer, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignerStatus {
    /// SHA-256 of the certificate that signs.
    pub fingerprint: String,
    /// SHA-256 of its root; the same where it is one.
    pub root: String,
    /// Until when both are valid, in seconds since 1970.
    pub not_after: u64,
}

/// A step that does not go from where things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongPhase;

impl Phase {
    /// What signs.
    #[must_use]
    pub fn signer(&self) -> &str {
        match self {
            Self::Stable { signer } | Self::Introduced { signer, .. } | Self::Signing { signer, .. } => signer,
        }
    }

    /// The other root that is believed.
    #[must_use]
    pub fn other(&self) -> Option<&str> {
        match self {
            Self::Stable { .. } => None,
            Self::Introduced { next, .. } => Some(next),
            Self::Signing { old, .. } => Some(old),
        }
    }

    /// `stable`, `introduced` or `signing`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stable { .. } => "stable",
            Self::Introduced { .. } => "introduced",
            Self::Signing { .. } => "signing",
        }
    }

    /// Since when.
    #[must_use]
    pub const fn since(&self) -> Option<u64> {
        match self {
            Self::Stable { .. } => None,
            Self::Introduced { since, .. } | Self::Signing { since, .. } => Some(*since),
        }
    }

    /// The step that a rotation goes on with.
    #[must_use]
    pub const fn next_step(&self) -> Step {
        match self {
            Self::Stable { .. } => Step::Introduce,
            Self::Introduced { .. } => Step::Sign,
            Self::Signing { .. } => Step::Retire,
        }
    }

    /// What speaks against a step now: `settle` is how long a new root is known at least before it signs.
    ///
    /// Of proxies that are `silent` nobody knows whether they have read their files again, so that they count as those that
    /// have not confirmed, whatever certificate they show: somebody has to look.
    #[must_use]
    pub fn objections(
        &self,
        step: Step,
        now: SystemTime,
        settle: Duration,
        (unconfirmed, silent): (&[WorkloadKey], &[WorkloadKey]),
    ) -> Vec<String> {
        let now = seconds(now);
        match (self, step) {
            (Self::Introduced { since, .. }, Step::Sign) => {
                let mut objections = Vec::new();
                let ready = since.saturating_add(settle.as_secs());
                if now < ready {
                    objections.push(format!(
                        "the new root is known for less than {} s: wait another {} s",
                        settle.as_secs(),
                        ready - now
                    ));
                }
                let (cannot, late): (Vec<&WorkloadKey>, Vec<&WorkloadKey>) =
                    unconfirmed.iter().partition(|workload| silent.contains(workload));
                if !late.is_empty() {
                    objections.push(format!("these proxies have not confirmed the new root: {}", listed(&late)));
                }
                if !cannot.is_empty() {
                    objections.push(format!(
                        "these clients have their roots from files and cannot confirm: {}; see to it that their files \
                         hold both roots (`outrigger-control join` writes them) and were read, then take the step with \
                         --force",
                        listed(&cannot)
                    ));
                }
                objections
            }
            (Self::Signing { old_until, .. }, Step::Retire) if now <= *old_until => {
                vec![format!("certificates of the old root may be valid for another {} s", old_until - now + 1)]
            }
            _ => Vec::new(),
        }
    }

    /// Goes on with a step. `other` is the new signer where one is introduced; `longest` is the longest lifetime of
    /// what the present signer has issued.
    ///
    /// # Errors
    /// When the step does not go from here.
    pub(super) fn step(&self, step: Step, now: SystemTime, longest: Duration, other: &str) -> Result<Self, WrongPhase> {
        let now = seconds(now);
        match (self, step) {
            (Self::Stable { signer }, Step::Introduce) => {
                Ok(Self::Introduced { signer: signer.clone(), next: other.to_owned(), since: now })
            }
            (Self::Introduced { signer, next, .. }, Step::Sign) => Ok(Self::Signing {
                signer: next.clone(),
                old: signer.clone(),
                since: now,
                old_until: now.saturating_add(longest.as_secs()),
            }),
            (Self::Introduced { signer, .. }, Step::Withdraw) | (Self::Signing { signer, .. }, Step::Retire) => {
                Ok(Self::Stable { signer: signer.clone() })
            }
            (Self::Stable { .. }, Step::Sign | Step::Retire | Step::Withdraw)
            | (Self::Introduced { .. }, Step::Introduce | Step::Retire)
            | (Self::Signing { .. }, Step::Introduce | Step::Sign | Step::Withdraw) => Err(WrongPhase),
        }
    }
}

impl Step {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Introduce => "introduce",
            Self::Sign => "sign",
            Self::Retire => "retire",
            Self::Withdraw => "withdraw",
        }
    }

    /// What it is called in the record.
    pub(super) const fn action(self) -> &'static str {
        match self {
            Self::Introduce => "rotation.introduce",
            Self::Sign => "rotation.sign",
            Self::Retire => "rotation.retire",
            Self::Withdraw => "rotation.withdraw",
        }
    }
}

pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Names a few of many.
fn listed(workloads: &[&WorkloadKey]) -> String {
    const SHOWN: usize = 8;
    let mut text = workloads.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if workloads.len() > SHOWN {
        text += &format!(" and {} more", workloads.len() - SHOWN);
    }
    text
}
