//! Body framing, reading side (RFC 9112 sections 6 and 7). Pure: bytes in, frames out.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::base::limits;
use crate::codec::body::BodyError;
use crate::codec::headers::clean_trailers;

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// When the peer closes (responses only).
    UntilClose,
}

/// Where the reader of a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoder {
    /// So many bytes to come.
    Length(u64),
    /// In chunked coding.
    Chunked(Chunk),
    /// Until the peer closes.
    UntilClose,
    /// Complete.
    Done,
}

/// Where the reader of a chunked body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// At a chunk-size line.
    Size,
    /// In a chunk: so many bytes to come.
    Data(u64),
    /// At the CRLF behind a chunk's data.
    DataEnd,
    /// In the trailer section.
    Trailers,
}

/// What could be made of the bytes at hand.
#[derive(Debug)]
pub(super) enum Decoded {
    /// Body bytes.
    Data(Bytes),
    /// A trailer section that was not empty; the body is complete.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// More bytes are needed.
    More,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(n) => Self::Length(n),
            Framing::Chunked => Self::Chunked(Chunk::Size),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// How many bytes a read should ask for at most, so that a body's end is not read past needlessly.
    pub(super) fn wanted(&self) -> usize {
        match self {
            Self::Length(n) => usize::try_from(*n).unwrap_or(usize::MAX),
            Self::Chunked(_) | Self::UntilClose => usize::MAX,
            Self::Done => 0,
        }
    }

    /// Takes the next frame from the front of `buf`.
    ///
    /// # Errors
    /// [`BodyError::Malformed`] when the chunked coding is not exactly as RFC 9112 section 7.1 writes it.
    pub(super) fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        match self {
            Self::Done => Ok(Decoded::End),
            Self::UntilClose => {
                if buf.is_empty() {
                    Ok(Decoded::More)
                } else {
                    Ok(Decoded::Data(buf.split().freeze()))
                }
            }
            Self::Length(left) => {
                if buf.is_empty() {
                    return Ok(Decoded::More);
                }
                let n = buf.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                let data = buf.split_to(n).freeze();
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(data))
            }
            Self::Chunked(_) => self.decode_chunked(buf),
        }
    }

    fn decode_chunked(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            let Self::Chunked(state) = self else { return Ok(Decoded::End) };
            match *state {
                Chunk::Size => {
                    let Some(line) = take_line(buf, limits::H1_CHUNK_LINE, "chunk-size line")? else {
                        return Ok(Decoded::More);
                    };
                    let size = chunk_size(&line)?;
                    *state = if size == 0 { Chunk::Trailers } else { Chunk::Data(size) };
                }
                Chunk::Data(left) => {
                    if buf.is_empty() {
                        return Ok(Decoded::More);
                    }
                    let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let rest = left - n as u64;
                    *state = if rest == 0 { Chunk::DataEnd } else { Chunk::Data(rest) };
                    return Ok(Decoded::Data(buf.split_to(n).freeze()));
                }
                Chunk::DataEnd => {
                    if buf.len() < 2 {
                        return match buf.first() {
                            Some(b'\r') | None => Ok(Decoded::More),
                            Some(_) => Err(BodyError::Malformed("no CRLF behind a chunk")),
                        };
                    }
                    if &buf[..2] != b"\r\n" {
                        return Err(BodyError::Malformed("no CRLF behind a chunk"));
                    }
                    let _ = buf.split_to(2);
                    *state = Chunk::Size;
                }
                Chunk::Trailers => return self.decode_trailers(buf),
            }
        }
    }

    fn decode_trailers(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        if buf.starts_with(b"\r\n") {
            let _ = buf.split_to(2);
            *self = Self::Done;
            return Ok(Decoded::End);
        }
        let Some(end) = trailers_end(buf)? else { return Ok(Decoded::More) };
        let section = buf.split_to(end).freeze();
        *self = Self::Done;
        let mut trailers = parse_trailers(&section)?;
        clean_trailers(&mut trailers);
        if trailers.is_empty() { Ok(Decoded::End) } else { Ok(Decoded::Trailers(trailers)) }
    }
}

/// A line up to CRLF, without it. A bare LF or CR is an error: parsers differ there.
fn take_line(buf: &mut BytesMut, limit: usize, what: &'static str) -> Result<Option<Bytes>, BodyError> {
    let Some(newline) = memchr::memchr(b'\n', buf) else {
        if buf.len() > limit {
            return Err(BodyError::Malformed(what));
        }
        return Ok(None);
    };
    if newline > limit || newline == 0 || buf[newline - 1] != b'\r' {
        return Err(BodyError::Malformed(what));
    }
    let mut line = buf.split_to(newline + 1);
    line.truncate(newline - 1);
    if line.contains(&b'\r') {
        return Err(BodyError::Malformed(what));
    }
    Ok(Some(line.freeze()))
}

/// `1*HEXDIG [ chunk-ext ]`. Extensions are checked for control characters and dropped.
fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits == 0 || digits > 15 {
        return Err(BodyError::Malformed("chunk size"));
    }
    let size = line[..digits].iter().fold(0u64, |n, b| {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            _ => b - b'A' + 10,
        };
        n << 4 | u64::from(digit)
    });
    // RFC 9112 section 7.1.1 allows blanks before the semicolon of an extension, and nowhere else.
    let rest = &line[digits..];
    let extension = rest.trim_ascii_start();
    let valid = rest.is_empty()
        || (extension.first() == Some(&b';') && !extension.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f));
    if !valid {
        return Err(BodyError::Malformed("chunk size"));
    }
    Ok(size)
}

/// The length of a trailer section with its empty line.
fn trailers_end(buf: &[u8]) -> Result<Option<usize>, BodyError> {
    let mut start = 0;
    while let Some(offset) = memchr::memchr(b'\n', &buf[start..]) {
        let newline = start + offset;
        if newline == 0 || buf[newline - 1] != b'\r' {
            return Err(BodyError::Malformed("trailer section"));
        }
        if newline > limits::TRAILER_BYTES {
            break;
        }
        if newline - 1 == start {
            return Ok(Some(newline + 1));
        }
        start = newline + 1;
    }
    if buf.len() > limits::TRAILER_BYTES {
        return Err(BodyError::Malformed("trailer section too long"));
    }
    Ok(None)
}

fn parse_trailers(section: &Bytes) -> Result<HeaderMap, BodyError> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields) else {
        return Err(BodyError::Malformed("trailer section"));
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BodyError::Malformed("trailer name"))?;
        let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value))
            .map_err(|_| BodyError::Malformed("trailer value"))?;
        trailers.append(name, value);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Data, trailers, and what follows.
    type Whole = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    fn run(input: &[u8]) -> Result<Whole, BodyError> {
        let mut buf = BytesMut::from(input);
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut data = Vec::new();
        loop {
            match decoder.decode(&mut buf)? {
                Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                Decoded::Trailers(trailers) => return Ok((data, Some(trailers), buf.to_vec())),
                Decoded::End => return Ok((data, None, buf.to_vec())),
                Decoded::More => return Err(BodyError::Incomplete),
            }
        }
    }

    #[test]
    fn chunks_are_joined_and_what_follows_is_left() {
        let (data, trailers, rest) = run(b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\nGET").expect("valid");
        assert_eq!(data, b"hello world");
        assert!(trailers.is_none());
        assert_eq!(rest, b"GET");
    }

    #[test]
    fn trailers_come_through_and_framing_fields_in_them_do_not() {
        let (_, trailers, _) = run(b"0\r\nx-sum: 1\r\ncontent-length: 5\r\n\r\n").expect("valid");
        let trailers = trailers.expect("some");
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["x-sum"], "1");
    }

    #[test]
    fn whatever_parsers_read_differently_is_refused() {
        for bad in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
            b"5;ext=\n\r\nhello\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            b"0\r\nbad name: 1\r\n\r\n",
            b"0\r\nx: 1\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
        ] {
            assert!(matches!(run(bad), Err(BodyError::Malformed(_))), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn any_split_of_the_input_decodes_to_the_same(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8),
            cuts in proptest::collection::vec(1usize..20, 1..20),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut decoder = Decoder::new(Framing::Chunked);
            let mut buf = BytesMut::new();
            let mut got = Vec::new();
            let mut fed = 0;
            let mut cuts = cuts.into_iter().cycle();
            loop {
                match decoder.decode(&mut buf).expect("valid") {
                    Decoded::Data(bytes) => got.extend_from_slice(&bytes),
                    Decoded::End => break,
                    Decoded::Trailers(_) => unreachable!("none were sent"),
                    Decoded::More => {
                        prop_assert!(fed < wire.len(), "asked past the end");
                        let n = cuts.next().unwrap_or(1).min(wire.len() - fed);
                        buf.extend_from_slice(&wire[fed..fed + n]);
                        fed += n;
                    }
                }
            }
            prop_assert_eq!(got, chunks.concat());
            prop_assert_eq!(fed, wire.len());
        }

        #[test]
        fn garbage_never_panics(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = run(&input);
        }
    }
}
