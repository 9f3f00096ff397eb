//! What a connection may cost, and when it counts as dead.

use std::time::Duration;

use quinn::{Connection, IdleTimeout, TransportConfig, VarInt};

use crate::base::limits;

/// Settings that both sides have in common. Segmentation offload, path MTU discovery and ECN are on, unreliable datagrams
/// are off.
pub(super) fn common(idle: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(idle_timeout(idle)));
    transport.max_concurrent_uni_streams(VarInt::from_u32(limits::QUIC_UNI_STREAMS));
    transport.send_window(limits::QUIC_SEND_WINDOW);
    transport.datagram_receive_buffer_size(None);
    transport
}

/// Has a peer show that it is there, and that we are. The library sends no PING on demand. Taking a byte of the receive
/// window, which is `window`, back and giving it again has it say how much may be sent, which has to be acknowledged like
/// a PING.
pub fn ask(connection: &Connection, window: u32) {
    connection.set_receive_window(VarInt::from_u32(window - 1));
    connection.set_receive_window(VarInt::from_u32(window));
}

/// More than QUIC can say is as good as for ever.
fn idle_timeout(idle: Duration) -> IdleTimeout {
    IdleTimeout::try_from(idle).unwrap_or(IdleTimeout::from(VarInt::MAX))
}
