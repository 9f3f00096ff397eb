//! Field sections (RFC 9204): the static table and literals, in both directions. Neither side of ours has a dynamic table, so
//! no section ever waits for another stream, and no memory is held for one.

mod decode;
mod encode;
mod huffman;
mod integer;
mod streams;
mod table;

pub use decode::{DecodeError, Pseudo, Section, decode};
pub use encode::Encoder;
pub(super) use streams::{DECODER_STREAM, ENCODER_STREAM};
pub use streams::{DecoderStream, EncoderStream};

#[cfg(test)]
mod tests;
