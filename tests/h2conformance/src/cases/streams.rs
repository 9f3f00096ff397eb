//! Section 5: the states of a stream, identifiers, concurrency, and dependencies.

use super::List;
use crate::frame::{self, code, flag, kind, setting};
use crate::script::{Expect, Requests, opened, opened_with};

pub(super) fn add(list: &mut List, requests: &Requests) {
    list.section("5.1");
    idle(list, requests);
    half_closed(list, requests);
    reset_by_the_client(list, requests);
    ended(list, requests);
    identifiers(list, requests);
    dependencies(list, requests);
}

fn idle(list: &mut List, requests: &Requests) {
    for (rule, frame) in [
        ("idle: DATA is a connection error", frame::data(1, flag::END_STREAM, b"x")),
        ("idle: RST_STREAM is a connection error", frame::reset(1, code::CANCEL)),
        ("idle: WINDOW_UPDATE is a connection error", frame::window_update(1, 100)),
        ("idle: CONTINUATION is a connection error", {
            frame::continuation(1, flag::END_HEADERS, &requests.block("GET", &[]))
        }),
    ] {
        list.case(rule, opened().send(frame).connection_error(&[code::PROTOCOL_ERROR]));
    }
    list.case("idle: PRIORITY is accepted", opened().send(frame::priority(1, 0, false, 15)).alive(1));
}

fn half_closed(list: &mut List, requests: &Requests) {
    list.case(
        "half-closed (remote): DATA is a stream error",
        opened()
            .send(requests.get(1))
            .send(frame::data(1, flag::END_STREAM, b"x"))
            .stream_error(1, &[code::STREAM_CLOSED]),
    );
    list.case(
        "half-closed (remote): HEADERS is a stream error",
        opened().send(requests.get(1)).send(requests.get(1)).stream_error(1, &[code::STREAM_CLOSED]),
    );
    list.case(
        "half-closed (remote): CONTINUATION is a connection error",
        opened()
            .send(requests.get(1))
            .send(frame::continuation(1, flag::END_HEADERS, &requests.block("GET", &[])))
            .connection_error(&[code::PROTOCOL_ERROR, code::STREAM_CLOSED]),
    );
    // With no window, the stream stays half-closed for as long as needed.
    let waiting = || opened_with(&[(setting::INITIAL_WINDOW_SIZE, 0)]).send(requests.get(1)).await_head(1);
    list.case(
        "half-closed (remote): WINDOW_UPDATE is accepted",
        waiting().send(frame::window_update(1, 1)).await_exactly(1, 1),
    );
    let reopen = frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)]);
    list.case(
        "half-closed (remote): PRIORITY is accepted",
        waiting().send(frame::priority(1, 0, false, 15)).send(&reopen).answer(1),
    );
    list.case(
        "half-closed (remote): RST_STREAM is accepted",
        waiting().send(frame::reset(1, code::CANCEL)).send(&reopen).alive(3),
    );
}

fn reset_by_the_client(list: &mut List, requests: &Requests) {
    let reset = || opened().send(requests.post(1)).send(frame::reset(1, code::CANCEL));
    list.case(
        "closed by RST_STREAM: DATA is a stream error",
        reset().send(frame::data(1, flag::END_STREAM, b"x")).stream_error(1, &[code::STREAM_CLOSED]),
    );
    list.case(
        "closed by RST_STREAM: HEADERS is a stream error",
        reset().send(requests.get(1)).stream_error(1, &[code::STREAM_CLOSED]),
    );
    list.case(
        "closed by RST_STREAM: CONTINUATION is a connection error",
        reset()
            .send(frame::continuation(1, flag::END_HEADERS, &requests.block("GET", &[])))
            .connection_error(&[code::PROTOCOL_ERROR, code::STREAM_CLOSED]),
    );
    list.wider("closed by RST_STREAM: PRIORITY is accepted", reset().send(frame::priority(1, 0, false, 15)).alive(3));
    list.case(
        "An unknown error code in RST_STREAM has no special effect",
        opened().send(requests.post(1)).send(frame::reset(1, 0xfafa_fafa)).alive(3),
    );
}

fn ended(list: &mut List, requests: &Requests) {
    let ended = || opened().send(requests.get(1)).await_end(1);
    list.case(
        "closed by END_STREAM: DATA is an error",
        ended().send(frame::data(1, flag::END_STREAM, b"x")).stream_error(1, &[code::STREAM_CLOSED]),
    );
    // Section 5.1 names STREAM_CLOSED; section 5.1.1 names PROTOCOL_ERROR for an identifier used before.
    list.case(
        "closed by END_STREAM: HEADERS is a connection error",
        ended().send(requests.get(1)).connection_error(&[code::STREAM_CLOSED, code::PROTOCOL_ERROR]),
    );
    list.case(
        "closed by END_STREAM: CONTINUATION is a connection error",
        ended()
            .send(frame::continuation(1, flag::END_HEADERS, &requests.block("GET", &[])))
            .connection_error(&[code::STREAM_CLOSED, code::PROTOCOL_ERROR]),
    );
    list.case("closed by END_STREAM: PRIORITY is accepted", ended().send(frame::priority(1, 0, false, 15)).alive(3));
    list.wider("closed by END_STREAM: WINDOW_UPDATE is ignored", ended().send(frame::window_update(1, 100)).alive(3));
    list.wider("closed by END_STREAM: RST_STREAM is ignored", ended().send(frame::reset(1, code::CANCEL)).alive(3));
}

fn identifiers(list: &mut List, requests: &Requests) {
    list.section("5.1.1");
    list.case(
        "A client's stream with an even identifier is a connection error",
        opened().send(requests.get(2)).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "An identifier below one used before is a connection error",
        opened()
            .send(requests.get(5))
            .send(requests.get(3))
            .connection_error(&[code::PROTOCOL_ERROR, code::STREAM_CLOSED]),
    );
    list.wider(
        "Identifiers may be left out",
        opened().send(requests.get(1)).await_end(1).send(requests.get(101)).answer(101),
    );
    list.wider("The largest identifier is accepted", opened().send(requests.get(0x7fff_ffff)).answer(0x7fff_ffff));

    list.section("5.1.2");
    list.case("A stream above SETTINGS_MAX_CONCURRENT_STREAMS is refused", {
        let requests = requests.clone();
        opened()
            .send_with(move |settings| match settings.max_concurrent_streams {
                None => Err("there is no limit".to_owned()),
                Some(limit) if limit > 10_000 => Err(format!("the limit is {limit}")),
                Some(limit) => Ok((0..=limit).flat_map(|at| requests.post(2 * at + 1)).collect()),
            })
            .expecting(Expect::AnyStreamError(&[code::PROTOCOL_ERROR, code::REFUSED_STREAM]))
    });
}

/// RFC 9113 dropped priorities and with them this rule of RFC 7540; h2spec still checks it.
fn dependencies(list: &mut List, requests: &Requests) {
    list.section("5.3");
    list.case("HEADERS that make a stream depend on itself are a stream error (RFC 7540, 5.3.1)", {
        let fields = [&frame::priority_fields(1, false, 15)[..], &requests.block("GET", &[])].concat();
        opened()
            .send(frame::headers(1, flag::END_STREAM | flag::PRIORITY, &fields))
            .stream_error(1, &[code::PROTOCOL_ERROR])
    });
    list.case(
        "PRIORITY that makes a stream depend on itself is a stream error (RFC 7540, 5.3.1)",
        opened().send(requests.post(1)).send(frame::priority(1, 1, false, 15)).stream_error(1, &[code::PROTOCOL_ERROR]),
    );
    for (rule, fields) in [
        ("Priority of weight 1 is accepted", frame::priority_fields(0, false, 0)),
        ("Priority of weight 256 is accepted", frame::priority_fields(0, false, 255)),
        ("A dependency on an idle stream is accepted", frame::priority_fields(7, false, 15)),
        ("An exclusive dependency is accepted", frame::priority_fields(0, true, 15)),
    ] {
        list.case(
            rule,
            opened()
                .send(frame::frame(kind::PRIORITY, flag::NONE, 1, &fields))
                .send(frame::headers(
                    1,
                    flag::END_STREAM | flag::PRIORITY,
                    &[&fields[..], &requests.block("GET", &[])].concat(),
                ))
                .answer(1),
        );
    }
}
