//! Error codes (RFC 9114 section 8.1, RFC 9204 section 6).

use std::fmt;

use quinn::VarInt;

/// Why a stream or a connection is given up, as it goes over the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(u64);

/// Every code that has a name.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Nothing is wrong.
    NO_ERROR = 0x0100, "H3_NO_ERROR";
    /// A rule without a code of its own was broken.
    GENERAL_PROTOCOL_ERROR = 0x0101, "H3_GENERAL_PROTOCOL_ERROR";
    /// We failed.
    INTERNAL_ERROR = 0x0102, "H3_INTERNAL_ERROR";
    /// A stream that the peer may not open.
    STREAM_CREATION_ERROR = 0x0103, "H3_STREAM_CREATION_ERROR";
    /// A stream without which there is no connection was closed.
    CLOSED_CRITICAL_STREAM = 0x0104, "H3_CLOSED_CRITICAL_STREAM";
    /// A frame where it may not be.
    FRAME_UNEXPECTED = 0x0105, "H3_FRAME_UNEXPECTED";
    /// A frame of invalid layout or size.
    FRAME_ERROR = 0x0106, "H3_FRAME_ERROR";
    /// The peer makes more work than is plausible.
    EXCESSIVE_LOAD = 0x0107, "H3_EXCESSIVE_LOAD";
    /// An identifier that cannot be.
    ID_ERROR = 0x0108, "H3_ID_ERROR";
    /// An error in the SETTINGS frame.
    SETTINGS_ERROR = 0x0109, "H3_SETTINGS_ERROR";
    /// The control stream did not begin with SETTINGS.
    MISSING_SETTINGS = 0x010a, "H3_MISSING_SETTINGS";
    /// The server has not looked at the request.
    REQUEST_REJECTED = 0x010b, "H3_REQUEST_REJECTED";
    /// The request, or its answer, is no longer wanted.
    REQUEST_CANCELLED = 0x010c, "H3_REQUEST_CANCELLED";
    /// The request ended before its end.
    REQUEST_INCOMPLETE = 0x010d, "H3_REQUEST_INCOMPLETE";
    /// A malformed message.
    MESSAGE_ERROR = 0x010e, "H3_MESSAGE_ERROR";
    /// The connection behind a tunnel failed.
    CONNECT_ERROR = 0x010f, "H3_CONNECT_ERROR";
    /// The request must go over HTTP/1.1.
    VERSION_FALLBACK = 0x0110, "H3_VERSION_FALLBACK";
    /// A field section that cannot be decoded.
    QPACK_DECOMPRESSION_FAILED = 0x0200, "QPACK_DECOMPRESSION_FAILED";
    /// An encoder instruction that cannot be followed.
    QPACK_ENCODER_STREAM_ERROR = 0x0201, "QPACK_ENCODER_STREAM_ERROR";
    /// A decoder instruction that cannot be followed.
    QPACK_DECODER_STREAM_ERROR = 0x0202, "QPACK_DECODER_STREAM_ERROR";
}

impl Code {
    /// As quinn has it.
    pub(super) fn var(self) -> VarInt {
        // Codes come from constants and from the wire, where they are variable-length integers.
        VarInt::from_u64(self.0).unwrap_or(VarInt::MAX)
    }
}

impl From<VarInt> for Code {
    fn from(code: VarInt) -> Self {
        Self(code.into_inner())
    }
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        code.var()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
