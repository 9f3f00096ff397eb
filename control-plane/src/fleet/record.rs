//! What is handed on to be kept: what proxies answered, and who was turned away.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use outrigger_xds::Kind;

use super::Form;
use crate::peer::{Peer, WorkloadKey};

/// Takes what is to be kept. Both are called from async code: they must queue, and not wait for a disk.
pub trait Recorder: Send + Sync + 'static {
    /// A proxy took or refused a response.
    fn answered(&self, answer: Answer);

    /// A stream was refused, or closed for what was sent on it: for the audit.
    fn denied(&self, denial: Denial);
}

/// How much could not be kept.
#[derive(Debug, Default)]
pub struct Lost {
    /// Answers of proxies that came faster than they could be written.
    pub answers: AtomicU64,
    /// Streams that were denied faster than is put down.
    pub denials: AtomicU64,
}

/// A recorder that keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    fn answered(&self, _: Answer) {}
    fn denied(&self, _: Denial) {}
}

/// The answer of a proxy to one response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whose proxy.
    pub workload: WorkloadKey,
    /// What it calls itself.
    pub node: String,
    /// What it reads.
    pub form: Form,
    /// The kind of resources.
    pub kind: Kind,
    /// The generation of the response.
    pub generation: u64,
    /// The version of the response.
    pub version: String,
    /// What was refused. Empty: all of it was taken.
    pub refusals: Vec<Refused>,
    /// When.
    pub at: SystemTime,
}

/// A resource that a proxy did not take.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Refused {
    /// Its name. Empty when the proxy did not say which.
    pub resource: String,
    /// The field, in the words of Envoy's API. Empty when the proxy did not say which.
    pub field: String,
    /// Why, in the words of the proxy.
    pub reason: String,
}

/// A stream that was refused or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Who it was.
    pub peer: Option<Peer>,
    /// Why.
    pub cause: DenialCause,
    /// The same in a sentence, as the peer was told.
    pub message: String,
    /// When.
    pub at: SystemTime,
}

/// Why a stream was refused or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenialCause {
    /// No certificate, or one that names no workload, or that has ended.
    NotAuthorized,
    /// The workload is not registered, or not with this identity, or not any more.
    NotRegistered,
    /// A message that cannot be read, or that breaks the protocol.
    Malformed,
    /// A message larger than is taken.
    TooLarge,
    /// More streams, subscriptions or names than are taken.
    TooMany,
    /// It takes nothing, or answers nothing.
    Stalled,
}
