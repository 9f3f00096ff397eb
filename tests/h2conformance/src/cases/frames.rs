//! Section 6: each type of frame, except SETTINGS and WINDOW_UPDATE.

use super::List;
use crate::frame::{self, code, flag, kind};
use crate::script::{Requests, opened};

pub(super) fn add(list: &mut List, requests: &Requests) {
    data(list, requests);
    headers(list, requests);
    priority_and_reset(list, requests);
    push_ping_goaway(list, requests);
    continuation(list, requests);
}

fn data(list: &mut List, requests: &Requests) {
    let posted = || opened().send(requests.post(1));
    list.section("6.1");
    list.case("One DATA frame is a body", posted().send(frame::data(1, flag::END_STREAM, b"body")).answer(1));
    list.case(
        "Several DATA frames are one body",
        posted().send(frame::data(1, flag::NONE, b"one")).send(frame::data(1, flag::END_STREAM, b"two")).answer(1),
    );
    list.wider("An empty DATA frame ends a body", posted().send(frame::data(1, flag::END_STREAM, b"")).answer(1));
    list.case(
        "Padding is taken off",
        posted().send(frame::data(1, flag::END_STREAM | flag::PADDED, b"\x05body\0\0\0\0\0")).answer(1),
    );
    list.case(
        "DATA on stream 0 is a connection error",
        opened().send(frame::data(0, flag::END_STREAM, b"x")).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "DATA with more padding than payload is a connection error",
        posted()
            .send(frame::data(1, flag::END_STREAM | flag::PADDED, b"\x06body\0"))
            .connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.wider(
        "Padded DATA without a padding length is a connection error",
        posted()
            .send(frame::data(1, flag::END_STREAM | flag::PADDED, b""))
            .connection_error(&[code::FRAME_SIZE_ERROR, code::PROTOCOL_ERROR]),
    );
}

fn headers(list: &mut List, requests: &Requests) {
    let block = requests.block("GET", &[]);
    let padding = [0; 5];
    list.section("6.2");
    list.case("One HEADERS frame is a request", opened().send(requests.get(1)).answer(1));
    list.case(
        "HEADERS with padding are a request",
        opened()
            .send(frame::headers(1, flag::END_STREAM | flag::PADDED, &[&[5][..], &block, &padding].concat()))
            .answer(1),
    );
    list.case("HEADERS with padding and priority are a request", {
        let payload = [&[5][..], &frame::priority_fields(0, false, 15), &block, &padding].concat();
        opened().send(frame::headers(1, flag::END_STREAM | flag::PADDED | flag::PRIORITY, &payload)).answer(1)
    });
    list.case(
        "HEADERS on stream 0 are a connection error",
        opened().send(requests.get(0)).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case("HEADERS with more padding than payload are a connection error", {
        let payload = [&[200][..], &block[..20]].concat();
        opened()
            .send(frame::headers(1, flag::END_STREAM | flag::PADDED, &payload))
            .connection_error(&[code::PROTOCOL_ERROR])
    });
    list.wider(
        "HEADERS too short for their priority fields are a connection error",
        opened()
            .send(frame::headers(1, flag::END_STREAM | flag::PRIORITY, &[0; 4]))
            .connection_error(&[code::FRAME_SIZE_ERROR, code::PROTOCOL_ERROR]),
    );
}

fn priority_and_reset(list: &mut List, requests: &Requests) {
    list.section("6.3");
    list.case(
        "PRIORITY on stream 0 is a connection error",
        opened().send(frame::priority(0, 1, false, 15)).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "PRIORITY of other than 5 bytes is a stream error",
        opened()
            .send(requests.post(1))
            .send(frame::frame(kind::PRIORITY, flag::NONE, 1, &[0x80, 0, 0, 1]))
            .stream_error(1, &[code::FRAME_SIZE_ERROR]),
    );

    list.section("6.4");
    list.case(
        "RST_STREAM on stream 0 is a connection error",
        opened().send(frame::reset(0, code::CANCEL)).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "RST_STREAM of other than 4 bytes is a connection error",
        opened()
            .send(requests.post(1))
            .send(frame::frame(kind::RST_STREAM, flag::NONE, 1, &[0; 3]))
            .connection_error(&[code::FRAME_SIZE_ERROR]),
    );
}

fn push_ping_goaway(list: &mut List, requests: &Requests) {
    list.section("6.6");
    list.case("PUSH_PROMISE from a client is a connection error", {
        let payload = [&2_u32.to_be_bytes()[..], &requests.block("GET", &[])].concat();
        opened()
            .send(requests.post(1))
            .send(frame::frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &payload))
            .connection_error(&[code::PROTOCOL_ERROR])
    });

    list.section("6.7");
    list.case("PING is acknowledged with its payload", opened().alive(1));
    list.case(
        "An acknowledged PING is not acknowledged again",
        opened().send(frame::ping(flag::ACK, *b"too late")).alive(1),
    );
    list.case(
        "PING on a stream is a connection error",
        opened().send(frame::frame(kind::PING, flag::NONE, 1, &[0; 8])).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "PING of other than 8 bytes is a connection error",
        opened().send(frame::frame(kind::PING, flag::NONE, 0, &[0; 6])).connection_error(&[code::FRAME_SIZE_ERROR]),
    );

    list.section("6.8");
    list.wider(
        "A client's GOAWAY lets its open streams finish",
        opened()
            .send(requests.post(1))
            .send(frame::goaway(0, code::NO_ERROR))
            .send(frame::data(1, flag::END_STREAM, b"body"))
            .answer(1),
    );
    list.case(
        "GOAWAY on a stream is a connection error",
        opened().send(frame::frame(kind::GOAWAY, flag::NONE, 1, &[0; 8])).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.wider(
        "GOAWAY of less than 8 bytes is a connection error",
        opened().send(frame::frame(kind::GOAWAY, flag::NONE, 0, &[0; 7])).connection_error(&[code::FRAME_SIZE_ERROR]),
    );
}

fn continuation(list: &mut List, requests: &Requests) {
    let block = requests.block("GET", &[]);
    let (first, rest) = block.split_at(block.len() / 2);
    let begun = || opened().send(frame::headers_begun(1, flag::END_STREAM, first));
    list.section("6.10");
    list.case(
        "One CONTINUATION completes a request",
        begun().send(frame::continuation(1, flag::END_HEADERS, rest)).answer(1),
    );
    list.case(
        "Several CONTINUATION frames, one of them empty, complete a request",
        begun()
            .send(frame::continuation(1, flag::NONE, &rest[..7]))
            .send(frame::continuation(1, flag::NONE, b""))
            .send(frame::continuation(1, flag::END_HEADERS, &rest[7..]))
            .answer(1),
    );
    list.wider(
        "HEADERS without END_HEADERS may be empty",
        opened()
            .send(frame::headers_begun(1, flag::END_STREAM, b""))
            .send(frame::continuation(1, flag::END_HEADERS, &block))
            .answer(1),
    );
    list.wider(
        "CONTINUATION of another stream is a connection error",
        begun().send(frame::continuation(3, flag::END_HEADERS, rest)).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "CONTINUATION on stream 0 is a connection error",
        begun().send(frame::continuation(0, flag::END_HEADERS, rest)).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "A frame between two CONTINUATION frames is a connection error",
        begun()
            .send(frame::continuation(1, flag::NONE, &rest[..7]))
            .send(frame::window_update(0, 1))
            .send(frame::continuation(1, flag::END_HEADERS, &rest[7..]))
            .connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "CONTINUATION after a block that was complete is a connection error",
        opened()
            .send(requests.post(1))
            .send(frame::continuation(1, flag::END_HEADERS, b""))
            .connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "CONTINUATION after the last CONTINUATION is a connection error",
        opened()
            .send(frame::headers_begun(1, flag::NONE, first))
            .send(frame::continuation(1, flag::END_HEADERS, rest))
            .send(frame::continuation(1, flag::END_HEADERS, b""))
            .connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "CONTINUATION after DATA is a connection error",
        opened()
            .send(requests.post(1))
            .send(frame::data(1, flag::NONE, b"x"))
            .send(frame::continuation(1, flag::END_HEADERS, b""))
            .connection_error(&[code::PROTOCOL_ERROR]),
    );
}
