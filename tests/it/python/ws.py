"""WebSocket over HTTP/1.1, HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220), with libraries that are not ours: `websockets` for handshakes and
frames, `h2` and `aioquic` below them. A tunnel is the same whatever carries it."""

import asyncio
import collections
import contextlib
import resource
import socket
import struct

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, Protocol, Side
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

import h3

PATIENCE = 15
SUBPROTOCOLS = ["chat.v2", "chat.v1"]

# A thousand tunnels are at least a thousand files.
_, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_most, _most))


class Lost(Exception):
    """The tunnel broke off."""


class Refused(Exception):
    """The handshake was answered with another status."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


class Tunnel:
    """Frames over a pipe."""

    def __init__(self, pipe, protocol, facts=None, subprotocol=None):
        self.pipe, self.protocol, self.facts, self.subprotocol = pipe, protocol, facts, subprotocol
        self.frames = collections.deque()

    async def flush(self):
        for data in self.protocol.data_to_send():
            if data:
                await self.pipe.write(data)
            else:
                await self.pipe.end()

    async def frame(self):
        """The next frame, or `None` when the other side sends nothing more."""
        while True:
            self.frames.extend(self.protocol.events_received())
            if self.frames:
                return self.frames.popleft()
            data = await asyncio.wait_for(self.pipe.read(), PATIENCE)
            if not data:
                return None
            self.protocol.receive_data(data)
            await self.flush()

    async def message(self):
        """The next message, put together; control frames are passed over."""
        parts = []
        while True:
            frame = await self.frame()
            if frame is None or frame.opcode is Opcode.CLOSE:
                raise Lost(f"the end instead of a message: {frame}")
            if frame.opcode in (Opcode.PING, Opcode.PONG):
                continue
            parts.append(frame.data)
            if frame.fin:
                return b"".join(parts)

    async def send(self, data, opcode=Opcode.BINARY, fin=True):
        send = {Opcode.TEXT: self.protocol.send_text, Opcode.BINARY: self.protocol.send_binary, Opcode.CONT: self.protocol.send_continuation}
        send[opcode](data, fin)
        await self.flush()

    async def say(self, text):
        await self.send(text.encode(), Opcode.TEXT)

    async def ping(self, data):
        self.protocol.send_ping(data)
        await self.flush()

    async def close(self, code=1000, reason=""):
        """Closes; the answer to it and the end of the tunnel have to come."""
        self.protocol.send_close(code, reason)
        await self.flush()
        while (frame := await self.frame()) is not None:
            pass
        assert self.protocol.close_rcvd is not None, "an end without a close frame"
        await self.pipe.end()

    def abort(self):
        self.pipe.abort()


# ---- HTTP/1.1 ------------------------------------------------------------------------------------------------------------


class H1Pipe:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def read(self):
        try:
            return await self.reader.read(65536)
        except ConnectionError as error:
            raise Lost(str(error)) from error

    async def write(self, data):
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError as error:
            raise Lost(str(error)) from error

    async def end(self):
        with contextlib.suppress(OSError):
            if self.writer.can_write_eof() and not self.writer.transport.is_closing():
                self.writer.write_eof()

    def abort(self):
        """RST and not FIN."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self):
        self.writer.close()


class H1Client:
    """Opens a connection for each tunnel."""

    def __init__(self, port):
        self.port = port

    async def open(self, path):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        pipe = H1Pipe(reader, writer)
        protocol = ClientProtocol(parse_uri(f"ws://a.example{path}"), subprotocols=SUBPROTOCOLS, origin="http://a.example", max_size=None)
        protocol.send_request(protocol.connect())
        tunnel = Tunnel(pipe, protocol)
        await tunnel.flush()
        while True:
            data = await asyncio.wait_for(pipe.read(), PATIENCE)
            protocol.receive_data(data) if data else protocol.receive_eof()
            events = protocol.events_received()
            if events:
                break
        answer, *frames = events
        assert isinstance(answer, Response)
        if answer.status_code != 101:
            writer.close()
            raise Refused(answer.status_code)
        # The library has judged Sec-WebSocket-Accept and the rest.
        if protocol.handshake_exc:
            raise protocol.handshake_exc
        tunnel.frames.extend(frames)
        tunnel.subprotocol = protocol.subprotocol
        # What came with the answer may want one, as a ping does.
        await tunnel.flush()
        return tunnel

    async def close(self):
        pass


async def serve_h1(port, handler):
    async def connected(reader, writer):
        pipe, protocol = H1Pipe(reader, writer), ServerProtocol(subprotocols=SUBPROTOCOLS, max_size=None)
        tunnel = Tunnel(pipe, protocol)
        try:
            while not (events := protocol.events_received()):
                data = await pipe.read()
                if not data:
                    return
                protocol.receive_data(data)
            request = events[0]
            assert isinstance(request, Request)
            if request.path.startswith("/refuse"):
                protocol.send_response(protocol.reject(403, "no\n"))
                await tunnel.flush()
                return
            protocol.send_response(protocol.accept(request))
            await tunnel.flush()
            if protocol.handshake_exc:
                return
            tunnel.frames.extend(events[1:])
            tunnel.facts = facts("h1", request.path, [(n.lower(), v) for n, v in request.headers.raw_items()])
            await handler(tunnel)
        except (Lost, ConnectionError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", port, backlog=2048)


# ---- HTTP/2 --------------------------------------------------------------------------------------------------------------

CONNECT_PROTOCOL = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL


class H2Connection(asyncio.Protocol):
    """One connection of either side."""

    def __init__(self, client, handler=None):
        self.client, self.handler = client, handler
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding="utf-8"))
        self.pipes = {}
        self.settled = asyncio.Event()
        self.room = asyncio.Event()
        self.gone = False

    def connection_made(self, transport):
        self.transport = transport
        values = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20, h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2000}
        if not self.client:
            values[CONNECT_PROTOCOL] = 1
        self.h2.local_settings = h2.settings.Settings(client=self.client, initial_values=values)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(16 << 20)
        self.push()

    def push(self):
        if data := self.h2.data_to_send():
            self.transport.write(data)

    def connection_lost(self, error):
        self.gone = True
        self.room.set()
        for pipe in self.pipes.values():
            pipe.arrived.put_nowait(Lost("the connection"))

    def data_received(self, data):
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.push()
            self.transport.close()
            return
        for event in events:
            number = getattr(event, "stream_id", None)
            pipe = self.pipes.get(number)
            if isinstance(event, h2.events.RemoteSettingsChanged):
                self.settled.set()
            elif isinstance(event, h2.events.RequestReceived):
                pipe = self.pipes[number] = H2Pipe(self, number)
                asyncio.ensure_future(self.accept(pipe, event.headers))
            elif isinstance(event, h2.events.ResponseReceived):
                pipe.answer.set_result(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                if pipe is not None:
                    pipe.owed += event.flow_controlled_length
                    pipe.arrived.put_nowait(event.data)
            elif isinstance(event, h2.events.StreamEnded):
                if pipe is not None:
                    pipe.arrived.put_nowait(b"")
            elif isinstance(event, h2.events.StreamReset):
                if pipe is not None:
                    lost = Lost(f"reset {event.error_code}")
                    pipe.reset = lost
                    pipe.arrived.put_nowait(lost)
                    if self.client and not pipe.answer.done():
                        pipe.answer.set_exception(lost)
            elif isinstance(event, (h2.events.WindowUpdated, h2.events.ConnectionTerminated)):
                pass
        self.room.set()
        self.push()

    async def accept(self, pipe, headers):
        fields = dict(headers)
        try:
            await answer_connect("h2", fields, headers, pipe, lambda head, end: self.respond(pipe.number, head, end), self.handler)
        except Lost:
            pass

    def respond(self, number, head, end):
        self.h2.send_headers(number, head, end_stream=end)
        self.push()


class H2Pipe:
    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.arrived = asyncio.Queue()
        self.answer = asyncio.get_running_loop().create_future()
        self.owed = 0
        self.reset = None

    async def read(self):
        if self.arrived.empty() and self.owed and not self.connection.gone:
            with contextlib.suppress(h2.exceptions.ProtocolError, KeyError):
                self.connection.h2.acknowledge_received_data(self.owed, self.number)
            self.owed = 0
            self.connection.push()
        data = await self.arrived.get()
        if isinstance(data, Exception):
            raise data
        return data

    async def write(self, data):
        view, conn = memoryview(data), self.connection
        while view:
            if self.reset or conn.gone:
                raise self.reset or Lost("the connection")
            try:
                window = min(conn.h2.local_flow_control_window(self.number), conn.h2.max_outbound_frame_size, len(view))
                if window > 0:
                    conn.h2.send_data(self.number, bytes(view[:window]))
                    view = view[window:]
                    conn.push()
                    continue
            except h2.exceptions.ProtocolError as error:
                raise Lost(str(error)) from error
            conn.room.clear()
            await asyncio.wait_for(conn.room.wait(), PATIENCE)

    async def end(self):
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.h2.end_stream(self.number)
            self.connection.push()

    def abort(self):
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.h2.reset_stream(self.number, 8)
            self.connection.push()

    def close(self):
        pass


class H2Client:
    """Many tunnels on one connection."""

    def __init__(self, port):
        self.port, self.connection = port, None

    async def open(self, path):
        if self.connection is None:
            _, self.connection = await asyncio.get_running_loop().create_connection(lambda: H2Connection(True), "127.0.0.1", self.port)
            await asyncio.wait_for(self.connection.settled.wait(), PATIENCE)
        conn = self.connection
        assert conn.h2.remote_settings.get(CONNECT_PROTOCOL) == 1, "extended CONNECT is not offered"
        number = conn.h2.get_next_available_stream_id()
        pipe = conn.pipes[number] = H2Pipe(conn, number)
        conn.h2.send_headers(number, connect_fields("http", path))
        conn.push()
        return opened(pipe, await asyncio.wait_for(pipe.answer, PATIENCE))

    async def close(self):
        if self.connection:
            self.connection.transport.close()


async def serve_h2(port, handler):
    return await asyncio.get_running_loop().create_server(lambda: H2Connection(False, handler), "127.0.0.1", port)


# ---- HTTP/3 --------------------------------------------------------------------------------------------------------------


class H3Pipe:
    def __init__(self, stream):
        self.stream = stream

    async def read(self):
        try:
            return await self.stream.some() or b""
        except (h3.Reset, h3.Closed) as error:
            raise Lost(str(error)) from error

    async def write(self, data):
        try:
            for at in range(0, len(data), 1 << 16):
                self.stream.data(data[at : at + (1 << 16)])
                await self.stream.flushed()
        except (h3.Reset, h3.Closed) as error:
            raise Lost(str(error)) from error

    async def end(self):
        with contextlib.suppress(Exception):
            self.stream.data(b"", end=True)

    def abort(self):
        self.stream.reset(0x10C)
        self.stream.stop(0x10C)

    def close(self):
        pass


class H3Client:
    """Many tunnels on one connection."""

    def __init__(self, port):
        self.port, self.connection = port, None

    async def open(self, path):
        if self.connection is None:
            self.context = h3.connect("127.0.0.1", self.port)
            self.connection = await self.context.__aenter__()
            await asyncio.wait_for(self.connection.settled.wait(), PATIENCE)
            offered = self.connection.http.received_settings.get(8)
            assert offered == 1, "extended CONNECT is not offered"
        stream = self.connection.open()
        stream.headers([(n.encode(), v.encode()) for n, v in connect_fields("https", path)])
        answer = [(n.decode(), v.decode()) for n, v in await stream.fields()]
        return opened(H3Pipe(stream), answer)

    async def close(self):
        if self.connection:
            await self.context.__aexit__(None, None, None)


async def serve_h3(port, handler, certificate, key):
    async def on_stream(stream):
        headers = [(n.decode(), v.decode()) for n, v in await stream.fields()]
        pipe = H3Pipe(stream)
        respond = lambda head, end: stream.headers([(n.encode(), v.encode()) for n, v in head], end)
        with contextlib.suppress(Lost):
            await answer_connect("h3", dict(headers), headers, pipe, respond, handler)

    return await h3.listen(port, h3.configuration(certificate, key, client=False), on_stream)


# ---- Both of the newer versions ------------------------------------------------------------------------------------------


def connect_fields(scheme, path):
    return [
        (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", scheme), (":authority", "a.example"), (":path", path),
        ("sec-websocket-version", "13"), ("sec-websocket-protocol", ", ".join(SUBPROTOCOLS)), ("origin", "http://a.example"),
    ]


def opened(pipe, answer):
    fields = dict(answer)
    if fields[":status"] != "200":
        raise Refused(int(fields[":status"]))
    assert "sec-websocket-accept" not in fields and "upgrade" not in fields, fields
    return Tunnel(pipe, Protocol(Side.CLIENT, state=OPEN, max_size=None), subprotocol=fields.get("sec-websocket-protocol"))


async def answer_connect(version, fields, headers, pipe, respond, handler):
    if fields[":method"] != "CONNECT" or fields.get(":protocol") != "websocket":
        respond([(":status", "400")], True)
        return
    if fields[":path"].startswith("/refuse"):
        respond([(":status", "403")], True)
        return
    offered = [name.strip() for name in fields.get("sec-websocket-protocol", "").split(",")]
    chosen = [("sec-websocket-protocol", name) for name in SUBPROTOCOLS if name in offered][:1]
    respond([(":status", "200"), *chosen], False)
    await handler(Tunnel(pipe, Protocol(Side.SERVER, state=OPEN, max_size=None), facts(version, fields[":path"], headers)))


def facts(version, path, headers):
    return {"version": version, "path": path, "fields": headers}


CLIENTS = {"h1": H1Client, "h2": H2Client, "h3": H3Client}
