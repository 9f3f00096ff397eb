"""A WebSocket client: `ws_client.py h1|h2|h3 PORT CLAIM... [--many N]`, against `ws_server.py`, perhaps with proxies between.

Prints `ok CLAIM` for each that held; the first that did not ends it with a traceback."""

import argparse
import asyncio
import json
import os
import time

from websockets.frames import Opcode

import ws


async def text(client, args):
    tunnel = await client.open("/facts?a=b%20c")
    assert tunnel.subprotocol == "chat.v2", tunnel.subprotocol
    facts = json.loads(await tunnel.message())
    fields = dict(facts["fields"])
    assert facts["path"] == "/facts?a=b%20c", facts
    assert fields["sec-websocket-version"] == "13" and fields["origin"] == "http://a.example", facts
    assert fields["sec-websocket-protocol"].replace(" ", "") == "chat.v2,chat.v1", facts
    if facts["version"] == "h1":
        assert fields["upgrade"] == "websocket" and "upgrade" in fields["connection"].lower(), facts
        assert len(fields["sec-websocket-key"]) == 24 and fields["host"] == "a.example", facts
    else:
        assert not {"sec-websocket-key", "upgrade", "connection"} & set(fields), facts
        assert fields[":authority"] == "a.example", facts
    for message in ("hello", "", "h\u00e9llo \U0001f6f6", "x" * 70000):
        await tunnel.say(message)
        assert (await tunnel.message()).decode() == message
    await tunnel.close()


async def binary(client, args):
    tunnel = await client.open("/echo")
    for message in (bytes(range(256)), b"\0" * 125, b"\xff" * 126, os.urandom(65535), os.urandom(65536)):
        await tunnel.send(message)
        assert await tunnel.message() == message
    await tunnel.close()


async def fragments(client, args):
    """A message of 16 MiB in pieces of many sizes, a ping amid them: the pieces come back as they were cut."""
    tunnel = await client.open("/echo")
    sizes = [0, 1, 125, 126, 65535, 65536, 100_000]
    while sum(sizes) < 16 << 20:
        sizes.append(min((16 << 20) - sum(sizes), 300_000))
    piece = os.urandom(300_000)

    async def sending():
        for number, size in enumerate(sizes):
            opcode = Opcode.BINARY if number == 0 else Opcode.CONT
            await tunnel.send(piece[:size], opcode, number + 1 == len(sizes))
            if number == 20:
                await tunnel.ping(b"amid")

    sender = asyncio.ensure_future(sending())
    ponged = False
    for number, size in enumerate(sizes):
        frame = await tunnel.frame()
        if frame.opcode is Opcode.PONG:
            ponged = frame.data == b"amid"
            frame = await tunnel.frame()
        assert frame.opcode is (Opcode.BINARY if number == 0 else Opcode.CONT), (number, frame.opcode)
        assert len(frame.data) == size and frame.data == piece[:size], (number, size, len(frame.data))
        assert frame.fin == (number + 1 == len(sizes)), number
    await sender
    if not ponged:
        frame = await tunnel.frame()
        assert frame.opcode is Opcode.PONG and frame.data == b"amid", frame
    await tunnel.close()


async def pings(client, args):
    tunnel = await client.open("/ping")
    assert await tunnel.message() == b"are you there"
    for data in (b"", b"x" * 125):
        await tunnel.ping(data)
        frame = await tunnel.frame()
        assert frame.opcode is Opcode.PONG and frame.data == data, frame
    await tunnel.close()


async def closes(client, args):
    """Codes and reasons arrive in both directions, and the end of the carrier behind them."""
    for code in (1000, 1001, 1008, 1011, 3000, 4999):
        name = f"c{code}{time.time_ns()}"
        tunnel = await client.open(f"/watch/{name}")
        await tunnel.say("here")
        await tunnel.message()
        await tunnel.close(code, f"because {code}")
        assert tunnel.protocol.close_rcvd.code == code, tunnel.protocol.close_rcvd
        assert await end_of(client, name) == f"close {code} because {code}"
        tunnel = await client.open(f"/close/{code}")
        while await tunnel.frame() is not None:
            pass
        received = tunnel.protocol.close_rcvd
        assert received and (received.code, received.reason) == (code, f"because {code}"), received


async def caller_lost(client, args):
    """A caller that breaks off is gone at the server as well, and nobody else."""
    other = await client.open("/echo")
    name = f"l{time.time_ns()}"
    tunnel = await client.open(f"/watch/{name}")
    await tunnel.say("here")
    await tunnel.message()
    tunnel.abort()
    assert await end_of(client, name) in ("broken", "end")
    await other.say("still here")
    assert await other.message() == b"still here"
    await other.close()


async def server_lost(client, args):
    other = await client.open("/echo")
    tunnel = await client.open("/abort")
    await tunnel.say("go")
    try:
        frame = await tunnel.frame()
        assert frame is None, f"{frame} behind a server that broke off"
    except ws.Lost:
        pass
    await other.say("still here")
    assert await other.message() == b"still here"
    await other.close()


async def refusal(client, args):
    try:
        await client.open("/refuse")
    except ws.Refused as refused:
        assert refused.status == 403, refused
    else:
        raise AssertionError("a tunnel")
    tunnel = await client.open("/echo")
    await tunnel.close()


async def many(client, args):
    """All open at once, every one answers."""
    clients = [client] if args.version == "h1" else [ws.CLIENTS[args.version](args.port) for _ in range((args.many + 99) // 100)]
    room = asyncio.Semaphore(64)

    async def one(number):
        async with room:
            tunnel = await clients[number % len(clients)].open("/echo")
        await tunnel.say(str(number))
        assert await tunnel.message() == str(number).encode()
        return tunnel

    for each in clients:
        # The first of a connection makes it.
        await (await each.open("/echo")).close()
    tunnels = await asyncio.gather(*(one(number) for number in range(args.many)))
    print("open", len(tunnels), flush=True)

    async def again(number, tunnel):
        async with room:
            await tunnel.say(f"again {number}")
            assert await tunnel.message() == f"again {number}".encode()
            await tunnel.close()

    await asyncio.gather(*(again(number, tunnel) for number, tunnel in enumerate(tunnels)))
    if clients != [client]:
        await asyncio.gather(*(each.close() for each in clients))


async def end_of(client, name):
    tunnel = await client.open(f"/end/{name}")
    how = (await tunnel.message()).decode()
    await tunnel.close()
    return how


CLAIMS = [text, binary, fragments, pings, closes, caller_lost, server_lost, refusal, many]


async def main(args):
    claims = {claim.__name__: claim for claim in CLAIMS}
    for name in args.claims:
        began, client = time.monotonic(), ws.CLIENTS[args.version](args.port)
        try:
            await claims[name](client, args)
        finally:
            await client.close()
        print("ok", name, flush=True)
        if args.times:
            print(f"{time.monotonic() - began:.2f} s", flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("version")
parser.add_argument("port", type=int)
parser.add_argument("claims", nargs="+")
parser.add_argument("--many", type=int, default=100)
parser.add_argument("--times", action="store_true")
asyncio.run(main(parser.parse_args()))
