//! The encoder and decoder streams (RFC 9204 section 4.2) of a peer that was granted no dynamic table, and was sent nothing
//! that uses one. Nearly everything that it could say is an error.

use crate::codec::h3::code::Code;
use crate::codec::h3::frames::Broken;

/// The type of a stream with encoder instructions.
pub(in crate::codec::h3) const ENCODER_STREAM: u64 = 0x2;
/// The type of a stream with decoder instructions.
pub(in crate::codec::h3) const DECODER_STREAM: u64 = 0x3;

/// Instructions of the peer's encoder.
#[derive(Debug, Default)]
pub struct EncoderStream(());

impl EncoderStream {
    /// Looks at what has arrived.
    ///
    /// # Errors
    /// An insertion, or a capacity above the 0 that was granted.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), Broken> {
        // A capacity of 0 is one byte; a longer encoding of it does not exist.
        if input.iter().all(|byte| *byte == 0b0010_0000) {
            return Ok(());
        }
        Err(Broken::new(
            Code::QPACK_ENCODER_STREAM_ERROR,
            "an instruction for the dynamic table, which has no capacity",
        ))
    }
}

/// Instructions of the peer's decoder.
#[derive(Debug, Default)]
pub struct DecoderStream {
    /// In the middle of the number of a stream: bytes of it so far.
    number: Option<u8>,
}

impl DecoderStream {
    /// Looks at what has arrived.
    ///
    /// # Errors
    /// An acknowledgement of what was never sent, or a number that is too large. The cancellation of a stream is no error.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), Broken> {
        let broken = |detail| Err(Broken::new(Code::QPACK_DECODER_STREAM_ERROR, detail));
        for byte in input {
            self.number = match (self.number, byte) {
                (None, 0x40..0x7f) => None,
                (None, 0x7f) => Some(0),
                (None, _) => return broken("an acknowledgement of what was not sent"),
                (Some(_), ..0x80) => None,
                (Some(9..), _) => return broken("a number that is too large"),
                (Some(taken), _) => Some(taken + 1),
            };
        }
        Ok(())
    }
}
