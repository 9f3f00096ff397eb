//! The control plane's own certificate: issued by its own authority, and renewed in place.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use outrigger_config::spiffe::SpiffeId;
use parking_lot::Mutex;
use rcgen::KeyPair;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::authority::{Authority, AuthorityError};
use super::svid::ServingNames;
use crate::manifest::CONTROL_PLANE;
use crate::tls::provider;

/// Serves the certificate `spiffe://DOMAIN/ns/outrigger/sa/control`, with a key that is never on disk.
///
/// Whether it is due for renewal is looked at by each handshake: half of its time is over, or the root that should be
/// behind it has changed. A renewal that fails leaves the one that is there.
pub struct Serving {
    authority: Arc<Authority>,
    id: SpiffeId,
    names: ServingNames,
    current: ArcSwap<Held>,
    /// Held by whoever renews; the others go on with what is there.
    renewing: Mutex<()>,
}

struct Held {
    certified: Arc<CertifiedKey>,
    signer: String,
    renew_at: SystemTime,
}

impl Serving {
    /// With further names, by which clients that know nothing of SPIFFE reach the control plane.
    ///
    /// # Errors
    /// See [`AuthorityError`]; also for a DNS name that is none.
    pub fn new(authority: Arc<Authority>, names: ServingNames) -> Result<Self, AuthorityError> {
        let (namespace, account) = CONTROL_PLANE;
        let id = authority.identity(namespace, account).expect("a trust domain was checked");
        let first = make(&authority, &id, &names)?;
        Ok(Self { authority, id, names, current: ArcSwap::from_pointee(first), renewing: Mutex::new(()) })
    }

    /// The control plane's identity.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// What is to be served now.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        let held = self.current.load();
        if !self.is_due(&held) {
            return Arc::clone(&held.certified);
        }
        if let Some(_renewing) = self.renewing.try_lock()
            && self.is_due(&self.current.load())
        {
            match make(&self.authority, &self.id, &self.names) {
                Ok(fresh) => self.current.store(Arc::new(fresh)),
                Err(error) => tracing::warn!(%error, "the control plane's own certificate could not be renewed"),
            }
        }
        Arc::clone(&self.current.load().certified)
    }

    fn is_due(&self, held: &Held) -> bool {
        held.renew_at <= self.authority.clock().now() || held.signer != self.authority.serving_signer()
    }
}

fn make(authority: &Authority, id: &SpiffeId, names: &ServingNames) -> Result<Held, AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let signed = authority.sign_serving(&key, id.clone(), names.clone())?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let certified = CertifiedKey::from_der(signed.chain, der, &provider())
        .expect("a certificate is issued for the key that was made for it");
    let renew_at = authority.clock().now() + signed.renew_after;
    Ok(Held { certified: Arc::new(certified), signer: signed.signer, renew_at })
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("id", &self.id).field("names", &self.names).finish_non_exhaustive()
    }
}
