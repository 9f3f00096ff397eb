"""Malformed HTTP/3, byte for byte, and the error code that RFC 9114 and RFC 9204 name for it.

    h3_malformed.py --port PORT [--certificate FILE --key FILE]

Prints `ok NAME` or `FAILED NAME: what came instead` for each case."""

import argparse
import asyncio

import h3
from aioquic.buffer import encode_uint_var as varint

GET = [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/small")]
POST = [(":method", "POST"), (":scheme", "https"), (":authority", "a.example"), (":path", "/digest")]

NO_ERROR, STREAM_CREATION, CLOSED_CRITICAL, FRAME_UNEXPECTED = 0x100, 0x103, 0x104, 0x105
FRAME, ID, SETTINGS, MISSING_SETTINGS = 0x106, 0x108, 0x109, 0x10A
INCOMPLETE, MESSAGE = 0x10D, 0x10E
DECOMPRESSION, ENCODER_STREAM, DECODER_STREAM = 0x200, 0x201, 0x202

CONTROL, PUSH, ENCODER, DECODER = b"\0", b"\1", b"\2", b"\3"


class Peer:
    """A client's connection on which nothing is sent but what is said."""

    def __init__(self, conn):
        self.conn, self.quic = conn, conn._quic

    def uni(self, data, end=False):
        number = self.quic.get_next_available_stream_id(is_unidirectional=True)
        self.quic.send_stream_data(number, data, end)
        self.conn.transmit()
        return number

    def bidi(self, data, end=False):
        number = self.quic.get_next_available_stream_id()
        self.quic.send_stream_data(number, data, end)
        self.conn.transmit()
        return number

    def more(self, number, data, end=False):
        self.quic.send_stream_data(number, data, end)
        self.conn.transmit()

    def begin(self, settings=b""):
        """The three streams of an ordinary client; gives that of control, of the encoder and of the decoder."""
        return self.uni(CONTROL + (settings or h3.settings())), self.uni(ENCODER), self.uni(DECODER)


# ---- Faults of the connection --------------------------------------------------------------------------------------------

CONNECTION = {}
STREAM = {}
SERVED = {}


def connection(code):
    def keep(function):
        CONNECTION[function.__name__] = (function, code)
        return function

    return keep


@connection(MISSING_SETTINGS)
def control_begins_with_another_frame(peer):
    peer.uni(CONTROL + h3.frame(0xD, varint(1)))


@connection(MISSING_SETTINGS)
def control_begins_with_an_unknown_frame(peer):
    peer.uni(CONTROL + h3.frame(0x21, b"x") + h3.settings())


@connection(FRAME_UNEXPECTED)
def settings_twice(peer):
    peer.uni(CONTROL + h3.settings() + h3.settings())


@connection(SETTINGS)
def a_setting_twice(peer):
    peer.uni(CONTROL + h3.settings([(6, 1000), (6, 1000)]))


@connection(SETTINGS)
def a_setting_of_http2(peer):
    peer.uni(CONTROL + h3.settings([(4, 65535)]))


@connection(FRAME)
def settings_cut_off(peer):
    peer.uni(CONTROL + varint(4) + varint(1) + b"\x40")


@connection(STREAM_CREATION)
def two_control_streams(peer):
    peer.begin()
    peer.uni(CONTROL + h3.settings())


@connection(STREAM_CREATION)
def two_encoder_streams(peer):
    peer.begin()
    peer.uni(ENCODER)


@connection(STREAM_CREATION)
def two_decoder_streams(peer):
    peer.begin()
    peer.uni(DECODER)


@connection(STREAM_CREATION)
def a_push_stream_from_a_client(peer):
    peer.begin()
    peer.uni(PUSH + varint(0))


@connection(CLOSED_CRITICAL)
def control_ends(peer):
    control, _, _ = peer.begin()
    peer.more(control, b"", end=True)


@connection(CLOSED_CRITICAL)
async def control_is_reset(peer):
    control, _, _ = peer.begin()
    # A reset takes back what has not arrived: before it nobody knows what the stream is.
    assert await is_served(peer, h3.headers(GET)) is None
    peer.quic.reset_stream(control, NO_ERROR)
    peer.conn.transmit()


@connection(CLOSED_CRITICAL)
def encoder_ends(peer):
    _, encoder, _ = peer.begin()
    peer.more(encoder, b"", end=True)


@connection(CLOSED_CRITICAL)
def decoder_ends(peer):
    _, _, decoder = peer.begin()
    peer.more(decoder, b"", end=True)


@connection(FRAME_UNEXPECTED)
def data_on_control(peer):
    peer.uni(CONTROL + h3.settings() + h3.frame(0, b"x"))


@connection(FRAME_UNEXPECTED)
def headers_on_control(peer):
    peer.uni(CONTROL + h3.settings() + h3.headers(GET))


@connection(FRAME_UNEXPECTED)
def push_promise_on_control(peer):
    peer.uni(CONTROL + h3.settings() + h3.frame(5, varint(0)))


@connection(FRAME_UNEXPECTED)
def a_frame_of_http2_on_control(peer):
    peer.uni(CONTROL + h3.settings() + h3.frame(6, b"12345678"))


@connection(ID)
def max_push_id_goes_down(peer):
    peer.uni(CONTROL + h3.settings() + h3.frame(0xD, varint(8)) + h3.frame(0xD, varint(4)))


@connection(FRAME)
def max_push_id_with_more_behind_it(peer):
    peer.uni(CONTROL + h3.settings() + h3.frame(0xD, varint(8) + b"x"))


@connection(ID)
def goaway_goes_up(peer):
    peer.uni(CONTROL + h3.settings() + h3.frame(7, varint(4)) + h3.frame(7, varint(8)))


@connection(ID)
def cancel_push_of_nothing(peer):
    peer.uni(CONTROL + h3.settings() + h3.frame(3, varint(0)))


@connection(FRAME_UNEXPECTED)
def data_before_headers(peer):
    peer.begin()
    peer.bidi(h3.frame(0, b"x") + h3.headers(GET), end=True)


@connection(FRAME_UNEXPECTED)
def data_after_trailers(peer):
    peer.begin()
    peer.bidi(h3.headers(POST) + h3.headers([("x-sum", "1")]) + h3.frame(0, b"x"), end=True)


@connection(FRAME_UNEXPECTED)
def trailers_twice(peer):
    peer.begin()
    peer.bidi(h3.headers(POST) + h3.headers([("x-sum", "1")]) + h3.headers([("x-sum", "1")]), end=True)


@connection(FRAME_UNEXPECTED)
def settings_on_a_request(peer):
    peer.begin()
    peer.bidi(h3.settings(), end=True)


@connection(FRAME_UNEXPECTED)
def goaway_on_a_request(peer):
    peer.begin()
    peer.bidi(h3.headers(POST) + h3.frame(7, varint(0)))


@connection(FRAME_UNEXPECTED)
def push_promise_on_a_request(peer):
    peer.begin()
    peer.bidi(h3.headers(POST) + h3.frame(5, varint(0) + h3.section(GET)))


@connection(FRAME_UNEXPECTED)
def a_frame_of_http2_on_a_request(peer):
    peer.begin()
    peer.bidi(h3.headers(POST) + h3.frame(8, b"1234"))


@connection(FRAME)
def headers_cut_off_by_the_end(peer):
    peer.begin()
    peer.bidi(h3.headers(GET)[:-5], end=True)


@connection(FRAME)
def data_cut_off_by_the_end(peer):
    peer.begin()
    peer.bidi(h3.headers(POST) + varint(0) + varint(10) + b"12345", end=True)


@connection(FRAME)
def a_frame_head_cut_off_by_the_end(peer):
    peer.begin()
    peer.bidi(h3.headers(POST) + b"\x40", end=True)


@connection(DECOMPRESSION)
def a_section_of_rubbish(peer):
    peer.begin()
    peer.bidi(h3.frame(1, b"\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), end=True)


@connection(DECOMPRESSION)
def a_static_index_that_is_not_there(peer):
    peer.begin()
    peer.bidi(h3.frame(1, b"\0\0" + h3._integer(99, 6, 0xC0)), end=True)


@connection(DECOMPRESSION)
def a_dynamic_index_without_a_table(peer):
    peer.begin()
    peer.bidi(h3.frame(1, b"\0\0" + h3._integer(0, 6, 0x80)), end=True)


@connection(DECOMPRESSION)
def a_bad_huffman_code(peer):
    peer.begin()
    # A value of one octet of padding: longer than seven bits.
    peer.bidi(h3.frame(1, h3.section(GET) + b"\x21x" + b"\x81\xff"), end=True)


@connection(ENCODER_STREAM)
def a_table_larger_than_allowed(peer):
    peer.uni(CONTROL + h3.settings())
    peer.uni(ENCODER + h3._integer(1 << 24, 5, 0x20))


@connection(ENCODER_STREAM)
def an_entry_copied_that_is_not_there(peer):
    peer.uni(CONTROL + h3.settings())
    peer.uni(ENCODER + h3._integer(5, 5, 0))


@connection(DECODER_STREAM)
def an_increment_of_nothing(peer):
    peer.uni(CONTROL + h3.settings())
    peer.uni(DECODER + b"\0")


@connection(DECODER_STREAM)
def an_increment_beyond_what_was_sent(peer):
    peer.uni(CONTROL + h3.settings([(1, 4096), (7, 16)]))
    peer.uni(DECODER + h3._integer(40, 6, 0))


@connection(DECODER_STREAM)
def an_acknowledgement_of_nothing(peer):
    peer.uni(CONTROL + h3.settings())
    peer.uni(DECODER + h3._integer(400, 7, 0x80))


# ---- Faults of a message -------------------------------------------------------------------------------------------------


def without(fields, name):
    return [field for field in fields if field[0] != name]


def instead(fields, name, value):
    return [(n, value if n == name else v) for n, v in fields]


def message(name, sent, code=MESSAGE, answered=False):
    """`answered`: an answer that says what is wrong may come instead of the reset (RFC 9114, section 4.1.2): the fault is behind
    the head, which has been handed on."""
    STREAM[name] = (sent, code, answered)


for missing in (":method", ":scheme", ":path"):
    message(f"without {missing}", h3.headers(without(GET, missing)))
message("without an authority", h3.headers(without(GET, ":authority")))
for twice in GET:
    message(f"{twice[0]} twice", h3.headers(GET + [twice]))
message("a pseudo-field behind a field", h3.headers(GET[:3] + [("x-a", "b")] + GET[3:]))
message("an unknown pseudo-field", h3.headers(GET + [(":colour", "red")]))
message("a pseudo-field of an answer", h3.headers(GET + [(":status", "200")]))
message(":protocol without CONNECT", h3.headers(GET + [(":protocol", "websocket")]))
message("an empty path", h3.headers(instead(GET, ":path", "")))
message("a path that is none", h3.headers(instead(GET, ":path", "small")))
message("an empty method", h3.headers(instead(GET, ":method", "")))
message("a method that is no token", h3.headers(instead(GET, ":method", "GE T")))
message("an empty authority", h3.headers(instead(GET, ":authority", "")))
message("a user in the authority", h3.headers(instead(GET, ":authority", "me@a.example")))
message("another host than the authority", h3.headers(GET + [("host", "b.example")]))
message("capitals in a name", h3.headers(GET + [("X-A", "b")]))
message("a blank in a name", h3.headers(GET + [("x a", "b")]))
message("an empty name", h3.headers(GET + [("", "b")]))
message("a line break in a value", h3.headers(GET + [("x-a", "b\r\nx-c: d")]))
message("a zero in a value", h3.headers(GET + [("x-a", "b\0")]))
message("a line break in the path", h3.headers(instead(GET, ":path", "/\r\n")))
for hop in ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"):
    message(f"the field {hop}", h3.headers(GET + [(hop, "x")]))
message("te that is not trailers", h3.headers(GET + [("te", "gzip")]))
message("a pseudo-field in trailers", h3.headers(POST) + h3.headers([(":path", "/")]), answered=True)
message("capitals in trailers", h3.headers(POST) + h3.headers([("X-Sum", "1")]), answered=True)
message("more than the declared length", h3.headers(POST + [("content-length", "3")]) + h3.frame(0, b"1234"), answered=True)
message("less than the declared length", h3.headers(POST + [("content-length", "5")]) + h3.frame(0, b"1234"), answered=True)
message("two lengths", h3.headers(POST + [("content-length", "4"), ("content-length", "5")]) + h3.frame(0, b"1234"))
message("a length that is no number", h3.headers(POST + [("content-length", "+4")]) + h3.frame(0, b"1234"))
message("CONNECT with a path", h3.headers([(":method", "CONNECT"), (":authority", "a.example:1"), (":path", "/")]))
message("CONNECT without an authority", h3.headers([(":method", "CONNECT")]))
message("extended CONNECT without a path", h3.headers(
    [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":authority", "a.example")]))
message("nothing at all", b"", INCOMPLETE)
message("only an unknown frame", h3.frame(0x21, b"x"), INCOMPLETE)


# ---- What is to be served all the same -----------------------------------------------------------------------------------


def served(name, sent, before=lambda peer: peer.begin()):
    SERVED[name] = (sent, before)


served("an ordinary request", h3.headers(GET))
served("unknown frames around it", h3.frame(0x21, b"x") + h3.headers(GET) + h3.frame(0x40, b"y") + h3.frame(0x21))
served("an unknown frame on control", h3.headers(GET), lambda peer: peer.uni(CONTROL + h3.settings() + h3.frame(0x21, b"x" * 500)))
served("unknown settings", h3.headers(GET), lambda peer: peer.begin(h3.settings([(0x21, 7), (0x1F21, 1 << 40)])))
served("an unknown stream", h3.headers(GET), lambda peer: (peer.begin(), peer.uni(varint(0x21) + b"whatever")))
served("an unknown stream that ends", h3.headers(GET), lambda peer: (peer.begin(), peer.uni(varint(0x21), end=True)))
served("a stream that ends before its type", h3.headers(GET), lambda peer: (peer.begin(), peer.uni(b"", end=True)))
served("no encoder and decoder", h3.headers(GET), lambda peer: peer.uni(CONTROL + h3.settings()))
served("te: trailers", h3.headers(GET + [("te", "trailers")]))
served("a host beside the same authority", h3.headers(GET + [("host", "a.example")]))
served("a host instead of an authority", h3.headers(without(GET, ":authority") + [("host", "a.example")]))
served("an empty DATA frame", h3.headers(POST) + h3.frame(0) + h3.frame(0, b"x") + h3.frame(0))
served("cookies in pieces", h3.headers(GET + [("cookie", "a=1"), ("cookie", "b=2")]))


async def case_connection(args, cause, code):
    async with args.connect() as conn:
        caused = cause(Peer(conn))
        if caused is not None:
            await caused
        gone = await asyncio.wait_for(conn.over, h3.PATIENCE)
        return None if gone.code == code else f"{gone}, not {code:#x}"


async def case_stream(args, sent, code, answered):
    async with args.connect() as conn:
        peer = Peer(conn)
        peer.begin()
        number = peer.bidi(sent, end=True)
        await conn.until(lambda: number in conn.resets or conn.over.done() or ended(conn, number))
        if conn.over.done():
            return f"the connection {conn.over.result()}"
        if answered and number not in conn.resets:
            # 400 is the 67th of the static table.
            return None if b"\xff\x04" in conn.received.get(number, b"")[:8] else "neither a reset nor 400"
        if number not in conn.resets:
            return f"no reset but an answer: {conn.received.get(number, b'')[:80]!r}"
        if conn.resets[number] != code:
            return f"a reset with {conn.resets[number]:#x}, not {code:#x}"
        # Others are not disturbed.
        return await is_served(peer, h3.headers(GET))


async def case_served(args, sent, before):
    async with args.connect() as conn:
        peer = Peer(conn)
        before(peer)
        return await is_served(peer, sent)


async def is_served(peer, sent):
    conn, number = peer.conn, peer.bidi(sent, end=True)
    await conn.until(lambda: number in conn.resets or conn.over.done() or ended(conn, number))
    if conn.over.done():
        return f"the connection {conn.over.result()}"
    if number in conn.resets:
        return f"a reset with {conn.resets[number]:#x}"
    data = conn.received[number]
    # The head begins with its frame's type; 25 is `:status: 200` in the static table.
    return None if data[:1] == b"\1" and b"\xd9" in data[:8] else f"an answer {data[:80]!r}"


def ended(conn, number):
    stream = conn._quic._streams.get(number)
    return stream is None or stream.receiver.is_finished


async def main(args):
    failed = 0
    for kind, cases in ((case_connection, CONNECTION), (case_stream, STREAM), (case_served, SERVED)):
        for name, case in cases.items():
            try:
                fault = await kind(args, *case)
            except Exception as error:
                fault = repr(error)
            failed += fault is not None
            print(f"FAILED {name}: {fault}" if fault else f"ok {name}", flush=True)
    print(f"done {len(CONNECTION) + len(STREAM) + len(SERVED)}", flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--certificate")
parser.add_argument("--key")
arguments = parser.parse_args()
arguments.connect = lambda: h3.connect(
    "127.0.0.1", arguments.port, h3.configuration(arguments.certificate, arguments.key), raw=True)
asyncio.run(main(arguments))
