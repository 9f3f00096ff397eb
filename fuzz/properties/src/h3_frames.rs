//! Frames of HTTP/3: those of requests and those of control streams.

use bytes::Bytes;
use outrigger::codec::h3::control::{self, Control};
use outrigger::codec::h3::frames::{Broken, Event, Frames, Side};

/// The largest field section that is kept.
const MAX_SECTION: usize = 256;

/// The input is cut as its first byte says, and read as either stream by either side.
pub fn check(input: &[u8]) {
    let Some((cut, wire)) = input.split_first() else { return };
    let cut = usize::from(*cut).max(1);
    for side in [Side::Server, Side::Client] {
        let whole = requests(side, [wire]);
        assert_eq!(whole, requests(side, wire.chunks(cut)), "{side:?} in pieces of {cut}");
        assert_eq!(whole, requests(side, wire.chunks(1)), "{side:?} byte by byte");
        check_order(&whole.0);
        let whole = said(side, [wire]);
        assert_eq!(whole, said(side, wire.chunks(cut)), "{side:?} in pieces of {cut}");
        assert_eq!(whole, said(side, wire.chunks(1)), "{side:?} byte by byte");
        if let Some(first) = whole.0.first() {
            assert!(matches!(first, control::Event::Settings(_)), "{first:?}");
        }
    }
}

/// A head, a body, trailers.
fn check_order(events: &[Event]) {
    let is_section = |event: &Event| matches!(event, Event::Headers(_) | Event::TooLarge);
    assert!(events.first().is_none_or(is_section));
    assert!(events.iter().filter(|event| is_section(event)).count() <= 2);
    for event in events {
        match event {
            Event::Headers(section) => assert!(section.len() <= MAX_SECTION),
            Event::Data(data) => assert!(!data.is_empty()),
            Event::TooLarge => {}
        }
    }
}

/// What a stream brings, with neighbouring pieces of a body joined, and how it ends.
fn requests<'a>(side: Side, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Result<(), Broken>) {
    let mut frames = Frames::new(side, MAX_SECTION);
    let mut events = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match frames.next(&mut input) {
                Ok(Some(Event::Data(data))) => match events.last_mut() {
                    Some(Event::Data(before)) => *before = [&before[..], &data[..]].concat().into(),
                    _ => events.push(Event::Data(data)),
                },
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(broken) => return (events, Err(broken)),
            }
        }
        assert!(input.is_empty());
    }
    (events, frames.finish())
}

fn said<'a>(side: Side, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<control::Event>, Option<Broken>) {
    let mut control = Control::new(side);
    let mut events = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match control.next(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(broken) => return (events, Some(broken)),
            }
        }
        assert!(input.is_empty());
    }
    (events, None)
}
