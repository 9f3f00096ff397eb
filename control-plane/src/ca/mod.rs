//! The certificate authority of one trust domain.
//!
//! [`Authority`] holds the roots and signs; [`rotation`] is the state machine by which one root takes over from another;
//! [`JoinTokens`] and [`ServiceAccounts`] are how a proxy proves who it is the first time; [`Issuing`] decides whether
//! it gets a certificate, and [`IdentityService`] is that as gRPC. [`Serving`] is the control plane's own certificate.
//!
//! The key of a workload is made by its proxy and never seen here. Whatever a signing request says besides its key must
//! agree with what the caller proves, or it is refused. Every refusal is audited with its reason; no token and no key
//! is ever in a message, a log or a `Debug` form.
//!
//! What the authority needs to know of the rest of the control plane it asks through four small traits:
//! [`Registrations`], [`TokenStore`], [`Audit`] and [`Confirmations`].

mod accounts;
mod audit;
mod authority;
mod bundle;
mod clock;
mod disk;
mod issuing;
mod limiter;
pub mod limits;
mod material;
mod memory;
mod registrations;
mod request;
pub mod rotation;
mod service;
mod serving;
mod state;
mod svid;
mod tokens;
mod unread;

pub use accounts::{AccountsError, ServiceAccounts};
pub use audit::{Audit, Event, Outcome};
pub use authority::{Authority, AuthorityError, Force, Settings};
pub use bundle::Bundle;
pub use clock::{Clock, ManualClock, SystemClock};
pub use issuing::{Denial, Issued, Issuing, Proof, RequestMismatch, RequestProblem};
pub use material::MaterialFiles;
pub use memory::{MemoryAudit, MemoryRegistrations, MemoryTokens};
pub use registrations::{Registered, Registrations};
pub use rotation::{Confirmations, RotationStatus, SignerStatus, Step};
pub use service::IdentityService;
pub use serving::Serving;
pub use svid::ServingNames;
pub use tokens::{JoinToken, JoinTokens, StoreError, Take, TokenDigest, TokenError, TokenRecord, TokenStore};
pub use unread::Recorded;

#[cfg(test)]
mod tests;
