//! Field sections and the streams of QPACK.

use bytes::BytesMut;
use outrigger::codec::h3::qpack::{DecodeError, DecoderStream, Encoder, EncoderStream, Pseudo, Section, decode};

/// The largest section that is tried.
const MAX_SIZE: usize = 16 * 1024;

/// The input is a field section, and instructions of an encoder and of a decoder.
pub fn check(input: &[u8]) {
    check_section(input);
    check_section(&[&[0, 0], input].concat());
    check_instructions(input);
}

fn check_section(wire: &[u8]) {
    let section = match decode(wire, MAX_SIZE) {
        Ok(section) => section,
        // With more room it is not right either, unless room was all it lacked.
        Err(error) => {
            let roomy = decode(wire, usize::MAX).map(|_| ());
            assert!(error == DecodeError::TooLarge || roomy == Err(error), "{error:?} {roomy:?}");
            return;
        }
    };
    let size: usize = section.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(size <= MAX_SIZE);
    for (name, value) in &section.headers {
        assert!(!name.as_str().bytes().any(|byte| byte.is_ascii_uppercase() || byte == b':'), "{name}");
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n')), "{value:?}");
    }
    // What was understood, said again, is understood in the same way.
    let again = encode(section);
    let (mut one, mut other) = (decode(wire, MAX_SIZE).expect("as before"), decode(&again, MAX_SIZE).expect("ours"));
    assert_eq!(one.headers, other.headers);
    for pseudo in [Pseudo::Authority, Pseudo::Path, Pseudo::Protocol] {
        let text = one.take(pseudo).filter(|text| std::str::from_utf8(text).is_ok());
        assert_eq!(text, other.take(pseudo));
    }
}

fn encode(mut section: Section) -> BytesMut {
    let mut buffer = BytesMut::new();
    let mut encoder = Encoder::new(&mut buffer);
    let mut text = |pseudo| section.take(pseudo).map(|value| String::from_utf8(value.to_vec()));
    // Those that are no text are not sent by anyone.
    if let Some(Ok(authority)) = text(Pseudo::Authority) {
        encoder.authority(&authority);
    }
    if let Some(Ok(path)) = text(Pseudo::Path) {
        encoder.path(&path);
    }
    if let Some(Ok(protocol)) = text(Pseudo::Protocol) {
        encoder.protocol(&protocol);
    }
    encoder.fields(&section.headers);
    buffer
}

fn check_instructions(input: &[u8]) {
    let mut bytewise = DecoderStream::default();
    let pieces = input.chunks(1).try_for_each(|byte| bytewise.feed(byte));
    assert_eq!(DecoderStream::default().feed(input), pieces);
    let mut bytewise = EncoderStream::default();
    let pieces = input.chunks(1).try_for_each(|byte| bytewise.feed(byte));
    assert_eq!(EncoderStream::default().feed(input), pieces);
}
