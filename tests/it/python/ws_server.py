"""A WebSocket server: `ws_server.py h1|h2|h3 PORT [CERTIFICATE KEY]`. Prints `ready` when it listens. What a tunnel does is in its path."""

import asyncio
import json
import sys
from urllib.parse import urlsplit

from websockets.frames import Opcode

import ws

ENDS = {}  # how watched tunnels ended


def end_of(name):
    return ENDS.setdefault(name, asyncio.get_running_loop().create_future())


async def handle(tunnel):
    _, kind, *rest = urlsplit(tunnel.facts["path"]).path.split("/")
    await KINDS[kind](tunnel, *rest)


async def echo(tunnel):
    """Frame by frame, as they were cut."""
    while (frame := await tunnel.frame()) is not None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            await tunnel.send(frame.data, frame.opcode, frame.fin)
    await tunnel.pipe.end()


async def facts(tunnel):
    await tunnel.say(json.dumps(tunnel.facts))
    await echo(tunnel)


async def ping(tunnel):
    """Says which pong came back."""
    await tunnel.ping(b"are you there")
    while (frame := await tunnel.frame()) is not None and frame.opcode is not Opcode.PONG:
        pass
    await tunnel.send(frame.data)
    await echo(tunnel)


async def close(tunnel, code):
    await tunnel.close(int(code), f"because {code}")


async def abort(tunnel):
    """Breaks off at the first message."""
    await tunnel.message()
    tunnel.abort()


async def watch(tunnel, name):
    """Remembers how the caller left: with a close frame and its code, at an end without one, or by breaking off."""
    try:
        while (frame := await tunnel.frame()) is not None:
            if frame.opcode is Opcode.CLOSE:
                received = tunnel.protocol.close_rcvd
                end_of(name).set_result(f"close {received.code} {received.reason}")
                break
            await tunnel.send(frame.data, frame.opcode)
        else:
            end_of(name).set_result("end")
    except ws.Lost:
        end_of(name).set_result("broken")
    await tunnel.pipe.end()


async def end(tunnel, name):
    await tunnel.say(await asyncio.wait_for(end_of(name), ws.PATIENCE))
    await echo(tunnel)


KINDS = {function.__name__: function for function in (echo, facts, ping, close, abort, watch, end)}


async def main(version, port, *files):
    servers = {"h1": ws.serve_h1, "h2": ws.serve_h2, "h3": ws.serve_h3}
    server = await servers[version](int(port), patient, *files)
    print("ready", flush=True)
    await asyncio.Future()
    del server


async def patient(tunnel):
    """Tunnels may be silent for longer than a client waits for an answer."""
    try:
        await handle(tunnel)
    except asyncio.TimeoutError:
        tunnel.abort()


asyncio.run(main(*sys.argv[1:]))
