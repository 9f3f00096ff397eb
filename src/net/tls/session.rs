//! What successive configurations of one listener or cluster share, and the second look at peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use outrigger_config::model::{ClientCertificate, TlsVersion};
use outrigger_config::spiffe::SpiffeId;
use rustls::pki_types::ServerName;
use rustls::time_provider::TimeProvider;
use rustls::{CommonState, Connection, HandshakeKind, ProtocolVersion};

use super::gate;
use super::peer::{AlpnProtocol, Peer, TlsInfo};
use super::refusal::{Refusal, RefusalReason};
use super::stream::TlsStream;
use super::verify::{Expect, Presented, Verifier};

/// Lives as long as a listener or a cluster does, over all its configurations.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Who is believed today. A handshake may have begun under an older configuration, and a session that is
    /// resumed was verified under one.
    today: ArcSwapOption<Verifier>,
    /// Handshakes under way.
    handshakes: AtomicU32,
}

impl Line {
    pub(super) fn activate(&self, verifier: Option<&Arc<Verifier>>) {
        self.today.store(verifier.cloned());
    }

    /// A place among the handshakes, if there is one.
    pub(super) fn enter(self: &Arc<Self>, limit: u32) -> Option<UnderWay> {
        let before = self.handshakes.fetch_add(1, Ordering::AcqRel);
        let place = UnderWay(Arc::clone(self));
        (before < limit).then_some(place)
    }

    /// Handshakes under way.
    pub(super) fn handshakes(&self) -> u32 {
        self.handshakes.load(Ordering::Acquire)
    }
}

/// A place among the handshakes under way; dropping it frees it.
#[derive(Debug)]
pub(in crate::net) struct UnderWay(Arc<Line>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a finished handshake is looked at with.
#[derive(Debug)]
pub(super) struct Review<'a> {
    pub(super) line: &'a Line,
    /// The verifier of the configuration that the handshake ran under.
    pub(super) verifier: Option<&'a Arc<Verifier>>,
    pub(super) rehearsal: Option<&'a Arc<Verifier>>,
    pub(super) clock: &'a dyn TimeProvider,
    /// The name that a client connected to.
    pub(super) name: Option<&'a ServerName<'a>>,
    pub(super) local_identity: Option<&'a SpiffeId>,
}

impl Review<'_> {
    /// As [`Review::run`], in the handshake's turn where there is work to do.
    pub(super) async fn run_in_turn(&self, stream: &TlsStream, verified: Option<Peer>) -> Result<TlsInfo, Refusal> {
        let session = stream.session();
        let sni = match session {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        };
        if verified.is_some() && self.rehearsal.is_none() {
            return self.run(session, sni, verified);
        }
        gate::step(|| self.run(session, sni, verified)).await
    }

    /// Verifies what the handshake itself could not: a resumed session's peer under the trust of now, and any
    /// peer under a trust that became today's while the handshake ran. `sni` is what the client asked for.
    pub(super) fn run(
        &self,
        session: &CommonState,
        sni: Option<&str>,
        verified: Option<Peer>,
    ) -> Result<TlsInfo, Refusal> {
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let mut peer = verified;
        if resumed && let Some(verifier) = self.verifier {
            peer = self.verify(verifier, session)?;
        }
        if let Some(today) = &*self.line.today.load()
            && !self.verifier.is_some_and(|verifier| Arc::ptr_eq(verifier, today))
        {
            peer = self.verify(today, session)?;
        }
        let rehearsal = match (self.rehearsal, &peer) {
            (Some(rehearsal), Some(_)) => Some(self.verify(rehearsal, session).map(drop)),
            _ => None,
        };
        Ok(TlsInfo {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => TlsVersion::V1_2,
                _ => TlsVersion::V1_3,
            },
            cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("?"),
            group: session.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            alpn: session.alpn_protocol().and_then(AlpnProtocol::from_wire),
            sni: sni.map(Arc::from),
            resumed,
            peer: peer.map(Arc::new),
            local_identity: self.local_identity.cloned(),
            rehearsal,
        })
    }

    fn verify(&self, verifier: &Verifier, session: &CommonState) -> Result<Option<Peer>, Refusal> {
        let Some((leaf, intermediates)) = session.peer_certificates().and_then(<[_]>::split_first) else {
            return match verifier.expect {
                Expect::Clients(ClientCertificate::None | ClientCertificate::Optional) => Ok(None),
                _ => Err(Refusal::new(
                    RefusalReason::NoCertificate,
                    "a certificate is required and the session has none",
                )),
            };
        };
        let now = self.clock.current_time();
        let now = now.ok_or_else(|| Refusal::new(RefusalReason::Unverifiable, "the time is not known"))?;
        verifier.verify(&Presented { leaf, intermediates, now, name: self.name }).map(Some)
    }
}
