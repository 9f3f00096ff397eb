//! Sections 3 to 5: the opening, frames as such, field blocks on the wire, connection errors, extensions.

use super::List;
use crate::frame::{self, code, flag, kind};
use crate::hpack::{self, Form};
use crate::script::{Expect, Requests, bare, opened};

pub(super) fn add(list: &mut List, requests: &Requests) {
    preface(list, requests);
    frame_format(list, requests);
    frame_size(list, requests);
    field_blocks(list, requests);
    errors_and_extensions(list, requests);
}

fn preface(list: &mut List, requests: &Requests) {
    list.section("3.4");
    list.case(
        "The server's first frame is SETTINGS",
        bare().send(frame::PREFACE).send(frame::settings(&[])).expecting(Expect::Preface),
    );
    list.wider(
        "A request right behind the preface is answered",
        bare().send(frame::PREFACE).send(frame::settings(&[])).send(requests.get(1)).answer(1),
    );
    list.case(
        "Anything else than the preface ends the connection",
        bare().send(b"INVALID CONNECTION PREFACE\r\n\r\n").expecting(Expect::End),
    );
    list.wider(
        "A preface that goes wrong halfway ends the connection",
        bare().send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").send(frame::settings(&[])).expecting(Expect::End),
    );
    list.wider(
        "A first frame other than SETTINGS is a connection error",
        bare().send(frame::PREFACE).send(frame::ping(flag::NONE, [0; 8])).connection_error(&[code::PROTOCOL_ERROR]),
    );
}

fn frame_format(list: &mut List, requests: &Requests) {
    list.section("4.1");
    list.case(
        "A frame of unknown type is ignored",
        opened().send(frame::frame(kind::UNKNOWN, 0, 0, b"what?")).alive(1),
    );
    list.wider(
        "A frame of unknown type on an open stream is ignored",
        opened()
            .send(requests.post(1))
            .send(frame::frame(kind::UNKNOWN, 0xff, 1, b"what?"))
            .send(frame::data(1, flag::END_STREAM, b"body"))
            .answer(1),
    );
    list.case(
        "Undefined flags are ignored",
        opened().send(frame::ping(!flag::ACK, *b"8 bytes!")).expecting(Expect::Pong(*b"8 bytes!")),
    );
    list.case(
        "The reserved bit of a stream identifier is ignored",
        opened().send(frame::headers(0x8000_0001, flag::END_STREAM, &requests.block("GET", &[]))).answer(1),
    );
}

fn frame_size(list: &mut List, requests: &Requests) {
    list.section("4.2");
    list.case("A DATA frame of 16,384 bytes is accepted", {
        let post = requests.post(1);
        opened()
            .send_with(move |settings| {
                if settings.initial_window_size < 16_384 {
                    return Err("the stream's window is smaller than the frame".to_owned());
                }
                Ok([post.clone(), frame::data(1, flag::END_STREAM, &[b'x'; 16_384])].concat())
            })
            .answer(1)
    });
    list.case("A DATA frame above SETTINGS_MAX_FRAME_SIZE is an error of its stream", {
        let post = requests.post(1);
        opened()
            .send_with(move |settings| {
                let payload = oversized(settings.max_frame_size)?;
                Ok([post.clone(), frame::data(1, flag::END_STREAM, &payload)].concat())
            })
            .stream_error(1, &[code::FRAME_SIZE_ERROR])
    });
    list.case("A HEADERS frame above SETTINGS_MAX_FRAME_SIZE is a connection error", {
        let block = requests.block("GET", &[]);
        opened()
            .send_with(move |settings| {
                let filler = hpack::literal(Form::Plain, b"x-filler", &oversized(settings.max_frame_size)?);
                Ok(frame::headers(1, flag::END_STREAM, &[block.clone(), filler].concat()))
            })
            .connection_error(&[code::FRAME_SIZE_ERROR])
    });
    list.wider(
        "A SETTINGS frame above SETTINGS_MAX_FRAME_SIZE is a connection error",
        opened()
            .send_with(|settings| {
                let mut payload = oversized(settings.max_frame_size)?;
                payload.truncate(payload.len() / 6 * 6);
                payload.extend_from_slice(&[0xfa; 6]);
                Ok(frame::frame(kind::SETTINGS, flag::NONE, 0, &payload))
            })
            .connection_error(&[code::FRAME_SIZE_ERROR]),
    );
}

/// One byte more than a frame may carry.
fn oversized(max_frame_size: u32) -> Result<Vec<u8>, String> {
    match usize::try_from(max_frame_size) {
        Ok(limit) if limit <= 1 << 20 => Ok(vec![b'x'; limit + 1]),
        _ => Err(format!("SETTINGS_MAX_FRAME_SIZE is {max_frame_size}")),
    }
}

fn field_blocks(list: &mut List, requests: &Requests) {
    let block = requests.block("GET", &[]);
    let (first, rest) = block.split_at(block.len() / 2);
    list.section("4.3");
    list.case(
        "A field block that cannot be decoded is a connection error",
        opened()
            .send(frame::headers(1, flag::END_STREAM, &[block.clone(), hpack::indexed(0)].concat()))
            .connection_error(&[code::COMPRESSION_ERROR]),
    );
    list.wider(
        "A CONTINUATION that cannot be decoded is a connection error",
        opened()
            .send(frame::headers_begun(1, flag::END_STREAM, &block))
            .send(frame::continuation(1, flag::END_HEADERS, &hpack::indexed(0)))
            .connection_error(&[code::COMPRESSION_ERROR]),
    );
    let broken_by = |intruder: Vec<u8>| {
        opened()
            .send(frame::headers_begun(1, flag::END_STREAM, first))
            .send(intruder)
            .send(frame::continuation(1, flag::END_HEADERS, rest))
            .connection_error(&[code::PROTOCOL_ERROR])
    };
    list.case(
        "PRIORITY between HEADERS and CONTINUATION is a connection error",
        broken_by(frame::priority(1, 0, false, 15)),
    );
    list.case(
        "HEADERS of another stream between HEADERS and CONTINUATION is a connection error",
        broken_by(requests.get(3)),
    );
    list.wider(
        "DATA between HEADERS and CONTINUATION is a connection error",
        broken_by(frame::data(1, flag::NONE, b"x")),
    );
    list.wider(
        "PING between HEADERS and CONTINUATION is a connection error",
        broken_by(frame::ping(flag::NONE, [0; 8])),
    );
    list.wider(
        "The block of a stream that was reset still counts for the dynamic table",
        opened()
            .send(frame::headers(
                1,
                flag::NONE,
                &[requests.block("POST", &[]), hpack::literal(Form::Indexing, b"x-kept", b"1")].concat(),
            ))
            .send(frame::reset(1, code::CANCEL))
            .send(requests.get_encoded(3, &hpack::indexed(62)))
            .answer(3),
    );
}

fn errors_and_extensions(list: &mut List, requests: &Requests) {
    list.section("5.4");
    list.case(
        "After a connection error GOAWAY names the last stream, and the connection ends",
        opened()
            .send(requests.get(1))
            .await_end(1)
            .send(requests.get(3))
            .await_end(3)
            .send(frame::frame(kind::PING, flag::NONE, 1, &[0; 8]))
            .expecting(Expect::GoawayAndEnd(3)),
    );
    list.wider(
        "RST_STREAM is not answered with RST_STREAM",
        opened().send(requests.post(1)).send(frame::reset(1, code::CANCEL)).expecting(Expect::AliveWithoutReset(3, 1)),
    );
    list.wider(
        "A stream that the client resets leaves other streams alone",
        opened()
            .send(requests.post(1))
            .send(requests.post(3))
            .send(frame::reset(3, code::CANCEL))
            .send(frame::data(1, flag::END_STREAM, b"body"))
            .answer(1),
    );

    let block = requests.block("GET", &[]);
    let (first, rest) = block.split_at(block.len() / 2);
    list.section("5.5");
    list.case(
        "A frame of unknown type within a field block is a connection error",
        opened()
            .send(frame::headers_begun(1, flag::END_STREAM, first))
            .send(frame::frame(kind::UNKNOWN, 0, 0, b"what?"))
            .send(frame::continuation(1, flag::END_HEADERS, rest))
            .connection_error(&[code::PROTOCOL_ERROR]),
    );

    list.section("10.5");
    list.wider("A field block that goes on for 8 MiB is not taken in", {
        let piece = hpack::literal(Form::Plain, b"x-filler", &[b'x'; 8 * 1024]);
        let mut endless = frame::headers_begun(1, flag::END_STREAM, &block);
        for _ in 0..1024 {
            endless.extend_from_slice(&frame::continuation(1, flag::NONE, &piece));
        }
        opened().send(endless).refused(1)
    });
}
