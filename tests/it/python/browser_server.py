"""The application behind the proxies for `browser.rs`: a page, and what it talks to. Prints `ready` when it listens, then what the page
reports, a line of JSON each.

    browser_server.py PORT PAGE

    GET /            the page
    GET /events      server-sent events, numbered, one every 20 ms; goes on behind Last-Event-ID
    POST /stream     answers with numbered lines, one every 10 ms, until the caller leaves
    GET /ws          WebSocket: every message is kept, then acknowledged
    POST /report     what the page has to say"""

import asyncio
import base64
import contextlib
import hashlib
import json
import sys
from urllib.parse import parse_qs, urlsplit

from websockets.protocol import OPEN, Protocol, Side

kept = []  # the numbers of the messages that were received, as they came


class Exchange:
    def __init__(self, method, target, fields, reader, writer):
        self.method, self.fields, self.reader, self.writer = method, fields, reader, writer
        url = urlsplit(target)
        self.path, self.query = url.path, {key: values[0] for key, values in parse_qs(url.query).items()}

    async def answer(self, status, kind, body):
        self.writer.write(f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await self.writer.drain()

    async def begin(self, kind):
        self.writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        await self.writer.drain()

    async def piece(self, text):
        data = text.encode()
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()


async def events(exchange):
    await exchange.begin("text/event-stream")
    number = int(exchange.fields.get("last-event-id", "0"))
    await exchange.piece("retry: 50\n\n")
    while True:
        number += 1
        await exchange.piece(f"id: {number}\ndata: {number}\n\n")
        await asyncio.sleep(0.02)


async def stream(exchange):
    await exchange.begin("application/x-ndjson")
    number = int(exchange.query["after"])
    while True:
        number += 1
        await exchange.piece(f"{number}\n")
        await asyncio.sleep(0.01)


async def websocket(exchange):
    key = exchange.fields["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key).digest()).decode()
    exchange.writer.write(
        f"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n".encode())
    protocol = Protocol(Side.SERVER, state=OPEN)
    while data := await exchange.reader.read(65536):
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if frame.opcode.name == "TEXT":
                number = int(frame.data)
                kept.append(number)
                # Kept first, and only then acknowledged, unless the close has come with it.
                if protocol.state is OPEN:
                    protocol.send_text(b"%d" % number)
        for out in protocol.data_to_send():
            if out:
                exchange.writer.write(out)
            else:
                exchange.writer.write_eof()
        await exchange.writer.drain()


async def serve(reader, writer, page):
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            line = await reader.readline()
            if not line:
                break
            method, target, _ = line.decode().split()
            fields = {}
            while (line := (await reader.readline()).decode().strip()):
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
            exchange = Exchange(method, target, fields, reader, writer)
            if exchange.path == "/":
                await exchange.answer(200, "text/html", page)
            elif exchange.path == "/events":
                await events(exchange)
            elif exchange.path == "/stream":
                await reader.readexactly(int(fields.get("content-length", "0")))
                await stream(exchange)
            elif exchange.path == "/ws":
                await websocket(exchange)
                break
            elif exchange.path == "/report":
                report = json.loads(await reader.readexactly(int(fields["content-length"])))
                report["kept"] = kept if report.get("final") else len(kept)
                print(json.dumps(report), flush=True)
                await exchange.answer(200, "text/plain", b"")
            else:
                await exchange.answer(404, "text/plain", b"")
    writer.close()


async def main(port, page):
    with open(page, "rb") as file:
        page = file.read()
    await asyncio.start_server(lambda reader, writer: serve(reader, writer, page), "127.0.0.1", int(port))
    print("ready", flush=True)
    await asyncio.Future()


asyncio.run(main(*sys.argv[1:]))
