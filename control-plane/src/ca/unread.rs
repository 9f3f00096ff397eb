//! Requests that never reach who decides, because they are too large or no message: on the record all the same.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use outrigger_xds::control::identity_server::IdentityServer;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::issuing::Issuing;
use super::service::IdentityService;
use crate::peer::Peer;

/// The service `Identity`, ready to be added to a server.
#[derive(Debug, Clone)]
pub struct Recorded {
    inner: IdentityServer<IdentityService>,
    issuing: Arc<Issuing>,
}

/// Whether a request has reached who decides. In its extensions.
#[derive(Debug, Clone, Default)]
pub(super) struct Reached(Arc<AtomicBool>);

impl Reached {
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Recorded {
    pub(super) fn new(inner: IdentityServer<IdentityService>, issuing: Arc<Issuing>) -> Self {
        Self { inner, issuing }
    }
}

impl NamedService for Recorded {
    const NAME: &'static str = <IdentityServer<IdentityService> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for Recorded {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let reached = Reached::default();
        request.extensions_mut().insert(reached.clone());
        let peer = request.extensions().get::<Peer>().cloned();
        let issuing = Arc::clone(&self.issuing);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            if let (false, Some(peer)) = (reached.0.load(Ordering::Relaxed), peer) {
                // The record may wait for its disk. Without a runtime that runs, nobody is there to be told either.
                let _ = tokio::task::spawn_blocking(move || issuing.unread(&peer)).await;
            }
            Ok(response)
        })
    }
}
