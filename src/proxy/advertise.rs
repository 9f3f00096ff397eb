//! Callers over TCP are told that HTTP/3 is to be had (RFC 7838).
//!
//! An answer that has the field already keeps it: whoever is behind knows better, `clear` included. It would have been
//! taken out where it was meant for us.

use http::HeaderMap;
use http::header::ALT_SVC;

use super::origin::Origin;
use crate::base::drain::Watch;
use crate::net::tls::AlpnProtocol;
use crate::snapshot::{Listener, alt_svc};

/// Adds the field to an answer where it is true and of use.
pub(super) fn http3(listener: &Listener, origin: &Origin, headers: &mut HeaderMap) {
    let Some(http3) = listener.config.http3 else { return };
    let info = &origin.info;
    // Nobody should come to a place that is about to close, and a caller in plaintext could not check who is there.
    let is_news = info.tls.as_ref().is_some_and(|tls| tls.alpn != Some(AlpnProtocol::Http3));
    if !is_news || origin.drain.get().is_some_and(Watch::has_begun) || headers.contains_key(ALT_SVC) {
        return;
    }
    let value = listener.alt_svc.clone().or_else(|| alt_svc(http3, http3.advertise.unwrap_or(info.local.port())));
    if let Some(value) = value {
        headers.insert(ALT_SVC, value);
    }
}
