//! How the control plane speaks TLS.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ServerConfig, version};

use super::verifier::Verifier;
use super::{Speaks, provider};
use crate::ca::{Clock, Serving};

pub(super) fn server(serving: Arc<Serving>, speaks: Speaks) -> Arc<ServerConfig> {
    let authority = Arc::clone(serving.authority());
    let clock = Time(Arc::clone(authority.clock()));
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock))
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider knows TLS 1.3")
        .with_client_cert_verifier(Arc::new(Verifier::new(authority)))
        .with_cert_resolver(serving);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![speaks.protocol().to_vec()];
    Arc::new(config)
}

/// The authority's clock for the TLS library.
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
