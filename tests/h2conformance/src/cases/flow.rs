//! Sections 6.5 and 6.9: SETTINGS, and flow control.

use super::List;
use crate::frame::{self, code, flag, kind, setting};
use crate::script::{Expect, Requests, opened, opened_with};

/// The largest window and the largest increment.
const MAX_WINDOW: u32 = 0x7fff_ffff;

pub(super) fn add(list: &mut List, requests: &Requests) {
    settings(list, requests);
    window_updates(list, requests);
    windows(list, requests);
    initial_window(list, requests);
}

fn settings(list: &mut List, requests: &Requests) {
    list.section("6.5");
    list.case(
        "An acknowledgement of SETTINGS with payload is a connection error",
        opened().send(frame::frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])).connection_error(&[code::FRAME_SIZE_ERROR]),
    );
    list.case(
        "SETTINGS on a stream is a connection error",
        opened().send(frame::frame(kind::SETTINGS, flag::NONE, 1, &[])).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "SETTINGS whose length is no multiple of 6 is a connection error",
        opened().send(frame::frame(kind::SETTINGS, flag::NONE, 0, &[0; 3])).connection_error(&[code::FRAME_SIZE_ERROR]),
    );

    list.section("6.5.2");
    for (rule, id, value, codes) in [
        ("SETTINGS_ENABLE_PUSH of 2 is a connection error", setting::ENABLE_PUSH, 2, &[code::PROTOCOL_ERROR]),
        (
            "SETTINGS_INITIAL_WINDOW_SIZE of 2^31 is a connection error",
            setting::INITIAL_WINDOW_SIZE,
            MAX_WINDOW + 1,
            &[code::FLOW_CONTROL_ERROR],
        ),
        (
            "SETTINGS_MAX_FRAME_SIZE of 16,383 is a connection error",
            setting::MAX_FRAME_SIZE,
            16_383,
            &[code::PROTOCOL_ERROR],
        ),
        (
            "SETTINGS_MAX_FRAME_SIZE of 2^24 is a connection error",
            setting::MAX_FRAME_SIZE,
            1 << 24,
            &[code::PROTOCOL_ERROR],
        ),
    ] {
        list.case(rule, opened().send(frame::settings(&[(id, value)])).connection_error(codes));
    }
    list.case("Unknown settings are ignored", opened().send(frame::settings(&[(setting::UNKNOWN, 1)])).alive(1));

    list.section("6.5.3");
    list.case(
        "Of several values the last one holds",
        opened_with(&[(setting::INITIAL_WINDOW_SIZE, 100), (setting::INITIAL_WINDOW_SIZE, 1)])
            .send(requests.get(1))
            .await_exactly(1, 1),
    );
    list.case(
        "Every SETTINGS is acknowledged",
        opened()
            .send(frame::settings(&[(setting::ENABLE_PUSH, 0)]))
            .send(frame::settings(&[]))
            .send(frame::settings(&[(setting::MAX_FRAME_SIZE, 20_000)]))
            .await_settings_acks(4),
    );
}

fn window_updates(list: &mut List, requests: &Requests) {
    list.section("6.9");
    list.case(
        "WINDOW_UPDATE of 0 on the connection is a connection error",
        opened().send(frame::window_update(0, 0)).connection_error(&[code::PROTOCOL_ERROR]),
    );
    list.case(
        "WINDOW_UPDATE of 0 on a stream is a stream error",
        opened().send(requests.post(1)).send(frame::window_update(1, 0)).stream_error(1, &[code::PROTOCOL_ERROR]),
    );
    list.case(
        "WINDOW_UPDATE of other than 4 bytes is a connection error",
        opened()
            .send(frame::frame(kind::WINDOW_UPDATE, flag::NONE, 0, &[0, 0, 1]))
            .connection_error(&[code::FRAME_SIZE_ERROR]),
    );
    list.wider(
        "The reserved bit of an increment is ignored",
        opened_with(&[(setting::INITIAL_WINDOW_SIZE, 0)])
            .send(requests.get(1))
            .await_exactly(1, 0)
            .send(frame::window_update(1, MAX_WINDOW + 1 + 3))
            .await_exactly(1, 3),
    );
}

fn windows(list: &mut List, requests: &Requests) {
    let narrow = || opened_with(&[(setting::INITIAL_WINDOW_SIZE, 1)]).send(requests.get(1));
    list.section("6.9.1");
    list.case("No more DATA is sent than the stream's window allows", narrow().await_exactly(1, 1));
    list.case(
        "WINDOW_UPDATE on a stream lets exactly so much more DATA pass",
        narrow().await_exactly(1, 1).send(frame::window_update(1, 2)).await_exactly(1, 3),
    );
    list.wider(
        "HEADERS are not held back by flow control",
        opened_with(&[(setting::INITIAL_WINDOW_SIZE, 0)]).send(requests.get(1)).await_head(1).await_exactly(1, 0),
    );
    list.wider(
        "A stream without window does not hold back another",
        opened_with(&[(setting::INITIAL_WINDOW_SIZE, 0)])
            .send(requests.get(1))
            .await_head(1)
            .send(requests.get(3))
            .send(frame::window_update(3, 65_535))
            .answer(3),
    );
    list.case(
        "A connection window above 2^31-1 is a connection error",
        opened().send(frame::window_update(0, MAX_WINDOW)).connection_error(&[code::FLOW_CONTROL_ERROR]),
    );
    list.case(
        "A stream window above 2^31-1 is a stream error",
        opened()
            .send(requests.post(1))
            .send(frame::window_update(1, MAX_WINDOW))
            .stream_error(1, &[code::FLOW_CONTROL_ERROR]),
    );
    list.wider(
        "A connection window of exactly 2^31-1 is accepted",
        opened().send(frame::window_update(0, MAX_WINDOW - 65_535)).alive(1),
    );
}

fn initial_window(list: &mut List, requests: &Requests) {
    let sized = |size| frame::settings(&[(setting::INITIAL_WINDOW_SIZE, size)]);
    list.section("6.9.2");
    list.case(
        "A new SETTINGS_INITIAL_WINDOW_SIZE changes the windows of open streams",
        opened_with(&[(setting::INITIAL_WINDOW_SIZE, 0)])
            .send(requests.get(1))
            .await_exactly(1, 0)
            .send(sized(1))
            .await_exactly(1, 1),
    );
    list.case(
        "A window made negative by SETTINGS is kept track of",
        opened_with(&[(setting::INITIAL_WINDOW_SIZE, 3)])
            .send(requests.get(1))
            .await_exactly(1, 3)
            .send(sized(2))
            .await_settings_acks(2)
            .send(frame::window_update(1, 1))
            .await_exactly(1, 3)
            .send(frame::window_update(1, 1))
            .await_exactly(1, 4),
    );
    list.wider(
        "SETTINGS that take a stream's window above 2^31-1 are a connection error",
        opened()
            .send(requests.post(1))
            .send(frame::window_update(1, MAX_WINDOW - 65_535))
            .send(sized(65_536))
            .connection_error(&[code::FLOW_CONTROL_ERROR]),
    );
    list.wider(
        "SETTINGS_INITIAL_WINDOW_SIZE does not change the connection's window",
        opened()
            .send(sized(0))
            .send(sized(MAX_WINDOW))
            .send(sized(65_535))
            .await_settings_acks(4)
            .expecting(Expect::Alive(1)),
    );
}
