"""HTTP/3 with aioquic, for the scripts beside this one: a client and a server whose streams are awaited, and a peer that sends
whatever bytes it is told to."""

import asyncio
import contextlib
import ssl

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.h3.connection import FrameType, H3Connection, Setting
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset

PATIENCE = 15


class Reset(Exception):
    """The peer gave up a stream."""

    def __init__(self, code):
        super().__init__(f"reset with {code:#x}")
        self.code = code


class Closed(Exception):
    """The connection is gone."""

    def __init__(self, code, reason=""):
        super().__init__(f"closed with {code:#x} {reason}")
        self.code = code


class Stream:
    """One exchange. What the peer sends is awaited; what it refuses to read is in `stopped`."""

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.arrived = asyncio.Queue()
        self.rest = b""
        self.ended = False
        self.failed = None
        self.stopped = asyncio.get_running_loop().create_future()

    def headers(self, fields, end=False):
        self.connection.http.send_headers(self.number, fields, end)
        self.connection.transmit()

    def data(self, data, end=False):
        self.connection.http.send_data(self.number, data, end)
        self.connection.transmit()

    async def flushed(self):
        """Waits until little of what was sent is still held back here."""
        stream = self.connection._quic._streams.get(self.number)
        while stream is not None and len(stream.sender._buffer) > 256 * 1024:
            if self.failed or self.stopped.done():
                raise self.failed or Reset(self.stopped.result())
            await asyncio.sleep(0.001)

    def reset(self, code):
        self.connection._quic.reset_stream(self.number, code)
        self.connection.transmit()

    def stop(self, code):
        self.connection._quic.stop_stream(self.number, code)
        self.connection.transmit()

    async def next(self):
        """The next thing: a list of fields, bytes, or `None` at the end."""
        if self.ended:
            return None
        if self.failed:
            raise self.failed
        thing = await asyncio.wait_for(self.arrived.get(), PATIENCE)
        if isinstance(thing, Exception):
            self.failed = thing
            raise thing
        if thing is None:
            self.ended = True
        return thing

    async def fields(self):
        thing = await self.next()
        assert isinstance(thing, list), f"a head, not {thing!r}"
        return thing

    async def some(self):
        """Bytes of the body, or `None` at its end; trailers are kept in `trailers`."""
        while True:
            thing = await self.next()
            if isinstance(thing, list):
                self.trailers = thing
                continue
            if thing is None or thing:
                return thing

    async def body(self):
        parts = []
        while (data := await self.some()) is not None:
            parts.append(data)
        return b"".join(parts)


class Connection(QuicConnectionProtocol):
    """One connection, of a client or a server."""

    def __init__(self, *arguments, on_stream=None, raw=False, **more):
        super().__init__(*arguments, **more)
        self.on_stream, self.raw = on_stream, raw
        self.http = None if raw else Http(self._quic, self)
        self.streams = {}
        self.received = {}  # of a raw connection: the bytes of each stream
        self.resets = {}
        self.stops = {}
        self.goaways = asyncio.Queue()
        self.over = asyncio.get_running_loop().create_future()
        self.settled = asyncio.Event()
        self.changed = asyncio.Event()

    def quic_event_received(self, event):
        self.changed.set()
        if isinstance(event, ConnectionTerminated):
            gone = Closed(event.error_code, event.reason_phrase)
            if not self.over.done():
                self.over.set_result(gone)
            for stream in self.streams.values():
                stream.arrived.put_nowait(gone)
            return
        if isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
            if event.stream_id in self.streams:
                self.streams[event.stream_id].arrived.put_nowait(Reset(event.error_code))
        if isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
            stream = self.streams.get(event.stream_id)
            if stream is not None and not stream.stopped.done():
                stream.stopped.set_result(event.error_code)
        if self.raw:
            if isinstance(event, StreamDataReceived):
                self.received[event.stream_id] = self.received.get(event.stream_id, b"") + event.data
            return
        for got in self.http.handle_event(event):
            if not isinstance(got, (HeadersReceived, DataReceived)):
                continue
            stream = self.streams.get(got.stream_id)
            if stream is None:
                stream = self.streams[got.stream_id] = Stream(self, got.stream_id)
                if self.on_stream:
                    asyncio.ensure_future(self.on_stream(stream))
            stream.arrived.put_nowait(got.headers if isinstance(got, HeadersReceived) else got.data)
            if got.stream_ended:
                stream.arrived.put_nowait(None)

    def open(self):
        """A new stream of a client."""
        number = self._quic.get_next_available_stream_id()
        # Taken at once, so that the next one gets another number.
        self._quic._get_or_create_stream_for_send(number)
        stream = self.streams[number] = Stream(self, number)
        return stream

    def request(self, method, path, fields=(), end=True, authority="a.example"):
        stream = self.open()
        pseudo = [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", authority.encode()), (b":path", path.encode())]
        stream.headers(pseudo + [(n.encode(), v.encode()) for n, v in fields], end)
        return stream

    async def until(self, condition):
        """Waits until something of this connection holds."""

        async def waiting():
            while not condition():
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(waiting(), PATIENCE)


class Http(H3Connection):
    """Says when the peer's settings came."""

    def __init__(self, quic, connection):
        self.connection = connection
        self.said = {}
        self.control = None
        super().__init__(quic)

    def _get_local_settings(self):
        settings = super()._get_local_settings()
        settings[Setting.ENABLE_CONNECT_PROTOCOL] = 1
        return settings

    def handle_event(self, event):
        events = super().handle_event(event)
        # A unidirectional stream of the server. This library throws GOAWAY away before anybody sees it.
        if isinstance(event, StreamDataReceived) and event.stream_id % 4 == 3:
            self.said[event.stream_id] = self.said.get(event.stream_id, b"") + event.data
            self.listen(event.stream_id)
        return events

    def listen(self, number):
        """Takes whole frames off what came on a control stream."""
        said = self.said[number]
        buf = Buffer(data=said)
        try:
            if number != self.control:
                if buf.pull_uint_var() != 0:
                    return
                self.control = number
                said = said[buf.tell():]
            while True:
                self.said[number] = said
                buf = Buffer(data=said)
                kind, length = buf.pull_uint_var(), buf.pull_uint_var()
                payload = buf.pull_bytes(length)
                said = said[buf.tell():]
                if kind == FrameType.GOAWAY:
                    self.connection.goaways.put_nowait(Buffer(data=payload).pull_uint_var())
        except BufferReadError:
            pass

    def _handle_control_frame(self, frame_type, frame_data):
        super()._handle_control_frame(frame_type, frame_data)
        self.connection.settled.set()


def configuration(certificate=None, key=None, trust=None, name=None, client=True):
    """Settings of a side. Without `trust` the peer's certificate is not judged."""
    config = QuicConfiguration(is_client=client, alpn_protocols=["h3"], server_name=name, max_datagram_size=1350)
    config.max_data = config.max_stream_data = 4 * 1024 * 1024
    if certificate:
        config.load_cert_chain(certificate, key)
    if trust:
        config.load_verify_locations(trust)
    elif client:
        config.verify_mode = ssl.CERT_NONE
    return config


@contextlib.asynccontextmanager
async def connect(host, port, config=None, raw=False, local_port=0, on_session=None, early=False):
    """A connection of a client, closed at the end. (aioquic's own function binds to `::`, which not every host has.) With
    `early` the end of the handshake is not waited for."""
    config = config or configuration()
    config.server_name = config.server_name or "a.example"
    loop = asyncio.get_running_loop()
    transport, connection = await loop.create_datagram_endpoint(
        lambda: Connection(QuicConnection(configuration=config, session_ticket_handler=on_session), raw=raw), local_addr=("0.0.0.0", local_port)
    )
    try:
        connection.connect((host, port))
        if not early:
            await asyncio.wait_for(connection.wait_connected(), PATIENCE)
        yield connection
    finally:
        connection.close()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(connection.wait_closed(), 2)
        transport.close()


async def listen(port, config, on_stream):
    """A server on loopback."""
    return await serve(
        "127.0.0.1", port, configuration=config, create_protocol=lambda *a, **m: Connection(*a, on_stream=on_stream, **m)
    )


# ---- Bytes ---------------------------------------------------------------------------------------------------------------


def frame(kind, payload=b""):
    return encode_uint_var(kind) + encode_uint_var(len(payload)) + payload


def settings(pairs=()):
    return frame(4, b"".join(encode_uint_var(k) + encode_uint_var(v) for k, v in pairs))


def _integer(value, bits, first):
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out, value = bytearray([first | limit]), value - limit
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes(out) + bytes([value])


def section(fields):
    """A field section of literals, which no rule of the sender's library forbids."""
    out = b"\0\0"
    for name, value in fields:
        name, value = (x.encode("latin-1") if isinstance(x, str) else x for x in (name, value))
        out += _integer(len(name), 3, 0x20) + name + _integer(len(value), 7, 0) + value
    return out


def headers(fields):
    return frame(1, section(fields))
