//! `outrigger.control.v1.Identity` as gRPC.

use std::fmt;
use std::sync::Arc;

use outrigger_xds::control::identity_server::{Identity, IdentityServer};
use outrigger_xds::control::issue_request::Proof as WireProof;
use outrigger_xds::control::{IssueRequest, IssueResponse};
use prost_types::Duration;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

use super::issuing::{Denial, Issued, Issuing, Proof};
use super::limits;
use super::unread::{Reached, Recorded};
use crate::peer::Peer;

/// The service. Needs a [`Peer`] in the extensions of each request, which the TLS front puts there.
pub struct IdentityService {
    issuing: Arc<Issuing>,
    places: Arc<Semaphore>,
}

impl IdentityService {
    /// Over what decides.
    #[must_use]
    pub fn new(issuing: Arc<Issuing>) -> Self {
        Self { issuing, places: Arc::new(Semaphore::new(limits::ISSUING)) }
    }

    /// Ready to be served, with its limits, and with a record of what was too large or malformed to be read.
    #[must_use]
    pub fn into_server(self) -> Recorded {
        let issuing = Arc::clone(&self.issuing);
        Recorded::new(IdentityServer::new(self).max_decoding_message_size(limits::MESSAGE_BYTES), issuing)
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        if let Some(reached) = request.extensions().get::<Reached>() {
            reached.note();
        }
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::internal("the connection does not say who its peer is"));
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Status::resource_exhausted("too many certificates are being issued: try again"));
        };
        let issuing = Arc::clone(&self.issuing);
        // Signing is quick; the store of tokens waits for its disk.
        let task = tokio::task::spawn_blocking(move || {
            let _place = place;
            let IssueRequest { certificate_signing_request, proof, workload } = request.into_inner();
            let proof = match &proof {
                None => Proof::Connection,
                Some(WireProof::JoinToken(token)) => Proof::JoinToken(token),
                Some(WireProof::ServiceAccountToken(token)) => Proof::ServiceAccount(token),
            };
            issuing.issue(&peer, &certificate_signing_request, proof, &workload)
        });
        let issued = task.await.map_err(|_| Status::internal("the certificate could not be issued"))??;
        Ok(Response::new(issued.into()))
    }
}

impl From<Issued> for IssueResponse {
    fn from(issued: Issued) -> Self {
        Self {
            certificate_chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            trust_bundle: issued.bundle.certificates().map(|root| root.to_vec()).collect(),
            workload: issued.workload.to_string(),
            renew_after: Some(Duration {
                seconds: i64::try_from(issued.renew_after.as_secs()).unwrap_or(i64::MAX),
                nanos: 0,
            }),
        }
    }
}

impl From<Denial> for Status {
    fn from(denial: Denial) -> Self {
        let code = match denial {
            Denial::NoProof
            | Denial::NoWorkload
            | Denial::TokenMalformed
            | Denial::TokenUnknown
            | Denial::TokenSpent
            | Denial::TokenExpired
            | Denial::Account(_)
            | Denial::NoAccounts => Code::Unauthenticated,
            Denial::TokenWorkload | Denial::WrongAccount | Denial::Unregistered | Denial::Names(_) => {
                Code::PermissionDenied
            }
            Denial::NoWorkloadNamed | Denial::WorkloadMalformed | Denial::Request(_) => Code::InvalidArgument,
            Denial::NoIdentity => Code::FailedPrecondition,
            Denial::TooMany(_) => Code::ResourceExhausted,
            Denial::Store | Denial::Authority => Code::Unavailable,
        };
        Self::new(code, denial.to_string())
    }
}

impl fmt::Debug for IdentityService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityService").finish_non_exhaustive()
    }
}
