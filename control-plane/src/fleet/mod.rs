//! The fleet: which proxies are connected, what each was sent, took and refused.
//!
//! [`Source`] says what a proxy gets, [`Recorder`] keeps what it answered, [`Fleet`] knows who is there now and who was
//! lately. The streams themselves are `xds/`'s: they enter here, and leave by dropping what they were given.

mod record;
mod registry;
mod source;
mod status;

pub use outrigger_xds::encode::Form;
pub use record::{Answer, Denial, DenialCause, Lost, NoRecorder, Recorder, Refused};
pub use registry::{Fleet, Synced};
pub use source::{Change, Client, ResourceSet, Resources, Source};
pub use status::{KindStatus, Protocol, ProxyState, ProxyStatus};

pub(crate) use registry::{Connection, Node};
pub(crate) use source::version_of;
pub(crate) use status::{KindReport, Live, Report};
