//! Connections that are served before their handshake is over: the rest of it goes on beside that.

use std::net::SocketAddr;

use tokio::sync::watch;

use super::admission::say_failed;
use super::service::Service;
use crate::net::HandshakeEnd;
use crate::net::quic::Unfinished;
use crate::telemetry::metrics::Handshake;

/// The rest of a caller's handshake.
#[derive(Debug)]
pub(super) struct Rest {
    unfinished: Unfinished,
    counted: Handshake,
    tell: watch::Sender<bool>,
    end: HandshakeEnd,
}

impl Rest {
    pub(super) fn new(unfinished: Unfinished, counted: Handshake) -> Self {
        let (tell, end) = HandshakeEnd::to_come();
        Self { unfinished, counted, tell, end }
    }

    /// Its end, of which requests hear.
    pub(super) fn end(&self) -> HandshakeEnd {
        self.end.clone()
    }

    /// Goes on to the end, counts it and tells of it. Dropping the future tells of a bad end.
    pub(super) async fn finish(self, service: &Service, peer: SocketAddr) {
        let Self { unfinished, counted, tell, end: _ } = self;
        match unfinished.finish().await {
            Ok(()) => {
                // Only sessions that are resumed come with early data.
                counted.completed(true);
                tell.send_replace(true);
            }
            Err(error) => {
                counted.failed(error.code());
                say_failed(service, peer, &error);
            }
        }
    }
}
