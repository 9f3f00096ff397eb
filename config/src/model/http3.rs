//! HTTP/3 on a listener.

use std::time::Duration;

/// HTTP/3 beside what a listener speaks over TCP: UDP on the same address, the same TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http3 {
    /// The port that `Alt-Svc` tells callers; `None`: the one that the listener has.
    pub advertise: Option<u16>,
    /// How long callers may remember it (default 24 h); zero: it is not advertised.
    pub max_age: Duration,
    /// Requests that come before the handshake is over.
    pub early_data: EarlyData,
}

/// What is done with requests that come before the handshake is over, which somebody may have recorded and sent again
/// (RFC 8470).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EarlyData {
    /// Callers are not given the means to send any (default).
    #[default]
    Off,
    /// GET, HEAD and OPTIONS without a body are handled, others wait for the handshake.
    SafeMethods,
}

impl Default for Http3 {
    fn default() -> Self {
        Self { advertise: None, max_age: Duration::from_secs(24 * 3600), early_data: EarlyData::Off }
    }
}
