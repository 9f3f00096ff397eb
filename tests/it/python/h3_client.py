"""A foreign HTTP/3 client against a proxy in front of the backend of `h3_clients.rs`.

    h3_client.py CLAIM... --port PORT [--relay PORT] [--trust FILE] [--certificate FILE --key FILE] [--size MIB]

Prints `ok CLAIM` for each that held; the first that did not ends it with a traceback."""

import argparse
import asyncio
import hashlib
import sys

import h3

CANCELLED = 0x10C


def value(fields, name):
    return dict(fields).get(name.encode(), b"").decode()


async def get(args):
    async with args.connect() as conn:
        stream = conn.request("GET", "/small?a=b", [("x-asked", "yes")])
        head = await stream.fields()
        assert value(head, ":status") == "200", head
        assert value(head, "x-method") == "GET" and value(head, "x-target") == "/small?a=b", head
        assert value(head, "x-asked-seen") == "yes", head
        assert await stream.body() == b"small"
        # One head and one end.
        stream = conn.request("POST", "/echo", [("content-length", "5")], end=False)
        stream.data(b"he")
        stream.data(b"llo", end=True)
        assert value(await stream.fields(), ":status") == "200"
        assert await stream.body() == b"hello"


async def upload(args):
    """The digest of a large body comes back."""
    async with args.connect() as conn:
        piece, digest = bytes(range(256)) * 256, hashlib.sha256()
        stream = conn.request("POST", "/digest", end=False)
        for _ in range(args.size * 16):
            digest.update(piece)
            stream.data(piece)
            await stream.flushed()
        stream.data(b"", end=True)
        assert value(await stream.fields(), ":status") == "200"
        assert (await stream.body()).decode() == digest.hexdigest()


async def download(args):
    async with args.connect() as conn:
        stream = conn.request("GET", f"/large/{args.size << 20}")
        assert value(await stream.fields(), ":status") == "200"
        got = 0
        while (data := await stream.some()) is not None:
            assert data.count(b"x") == len(data)
            got += len(data)
        assert got == args.size << 20, got


async def concurrent(args):
    """A hundred exchanges on one connection, all open at once: none is answered before the last has come."""
    async with args.connect() as conn:
        streams = [conn.request("POST", "/gathered/100", end=False) for _ in range(100)]
        for number, stream in enumerate(streams):
            stream.data(b"%d" % number, end=True)
        for number, stream in enumerate(streams):
            assert value(await stream.fields(), ":status") == "200"
            assert await stream.body() == b"%d" % number


async def trailers(args):
    async with args.connect() as conn:
        stream = conn.request("POST", "/trailers", end=False)
        stream.data(b"body")
        stream.headers([(b"x-sum", b"42")], end=True)
        assert value(await stream.fields(), ":status") == "200"
        assert await stream.body() == b"body"
        assert value(stream.trailers, "x-sum-seen") == "42", stream.trailers


async def events(args):
    """Each piece arrives before the next is sent."""
    async with args.connect() as conn:
        stream = conn.request("POST", "/echo", end=False)
        stream.data(b"0")
        assert value(await stream.fields(), ":status") == "200"
        for number in range(20):
            assert await stream.some() == b"%d" % number
            stream.data(b"%d" % (number + 1))
        assert await stream.some() == b"20"
        stream.data(b"", end=True)
        assert await stream.some() is None


async def cancel(args):
    """The backend is told (the test looks there); the connection goes on."""
    async with args.connect() as conn:
        stream = conn.request("GET", "/endless")
        await stream.fields()
        await stream.some()
        stream.stop(CANCELLED)
        before = conn.request("GET", "/silent")
        await asyncio.sleep(0.1)
        before.stop(CANCELLED)
        upload = conn.request("POST", "/swallow", end=False)
        upload.data(b"x" * 1000)
        await asyncio.sleep(0.1)
        upload.reset(CANCELLED)
        await get_once(conn)


async def aborted(args):
    """A backend that breaks off is a reset and never a short success."""
    async with args.connect() as conn:
        stream = conn.request("POST", "/broken", end=False)
        assert value(await stream.fields(), ":status") == "200"
        assert await stream.some() == b"y"
        stream.data(b"break off")
        try:
            await stream.body()
        except h3.Reset as reset:
            assert reset.code in (0x102, CANCELLED), reset
        else:
            raise AssertionError("the body ended well")
        await get_once(conn)


async def drain(args):
    """Says `open`, and once told to go on the proxy drains: GOAWAY comes, what is open is finished, what is new is not taken."""
    async with args.connect() as conn:
        stream = conn.request("POST", "/echo", end=False)
        stream.data(b"before")
        assert value(await stream.fields(), ":status") == "200"
        assert await stream.some() == b"before"
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        last = await asyncio.wait_for(conn.goaways.get(), h3.PATIENCE)
        # The first may say only that more will come.
        while last > 1 << 32:
            await get_once(conn)
            last = await asyncio.wait_for(conn.goaways.get(), h3.PATIENCE)
        assert last > stream.number, (last, stream.number)
        stream.data(b"after")
        assert await stream.some() == b"after"
        late = conn.request("GET", "/small")
        assert late.number >= last
        try:
            await late.next()
        except h3.Reset as reset:
            assert reset.code == 0x10B, f"H3_REQUEST_REJECTED, not {reset}"
        except h3.Closed:
            pass
        else:
            raise AssertionError("a request behind the last one was answered")
        stream.data(b"", end=True)
        assert await stream.some() is None
        gone = await asyncio.wait_for(conn.over, h3.PATIENCE)
        assert gone.code == 0x100, f"H3_NO_ERROR, not {gone}"


async def refused(args):
    """No certificate, no service."""
    try:
        async with args.connect() as conn:
            # The client may believe itself connected before the server has judged it.
            gone = await asyncio.wait_for(conn.over, h3.PATIENCE)
            raise gone
    except (h3.Closed, ConnectionError) as error:
        assert not isinstance(error, h3.Closed) or 0x100 <= error.code < 0x200, f"a TLS alert, not {error}"


async def rebind(args):
    """The client's port changes in the middle of a download, which goes on to its end."""
    async with args.connect() as conn:
        stream = conn.request("GET", f"/large/{args.size << 20}")
        assert value(await stream.fields(), ":status") == "200"
        got, moved = 0, 0
        while (data := await stream.some()) is not None:
            got += len(data)
            if moved < 3 and got > (moved + 1) * (args.size << 20) // 4:
                moved += 1
                await move(conn, moved)
        assert got == args.size << 20 and moved == 3, (got, moved)


async def move(conn, number):
    """To another port, the second time also to another connection ID."""
    loop = asyncio.get_running_loop()
    old = conn._transport
    transport, _ = await loop.create_datagram_endpoint(lambda: Forward(conn), local_addr=("0.0.0.0", 0))
    assert transport.get_extra_info("sockname") != old.get_extra_info("sockname")
    conn._transport = transport
    old.close()
    if number == 2:
        conn.change_connection_id()
    # Without a packet from the new port the server would not know.
    conn._quic.send_ping(number)
    conn.transmit()


class Forward(asyncio.DatagramProtocol):
    """Hands what arrives at a new socket to a connection that was made on another."""

    def __init__(self, conn):
        self.conn = conn

    def datagram_received(self, data, addr):
        self.conn.datagram_received(data, addr)


async def early(args):
    """A caller that comes back sends a request with its first packets; nothing comes back before they were handled."""
    sessions = asyncio.Queue()
    async with args.connect(on_session=sessions.put_nowait) as conn:
        await get_once(conn)
        session = await asyncio.wait_for(sessions.get(), h3.PATIENCE)
    config = args.configuration()
    config.session_ticket = session
    async with h3.connect("127.0.0.1", args.relay, config, early=True) as conn:
        stream = conn.request("GET", "/small")
        assert not conn._quic.tls.session_resumed, "nothing has come back yet"
        assert value(await stream.fields(), ":status") == "200"
        assert await stream.body() == b"small"
        await conn.until(lambda: conn._quic._handshake_complete)
        assert conn._quic.tls.session_resumed and conn._quic.tls.early_data_accepted
        await get_once(conn)


async def get_once(conn):
    stream = conn.request("GET", "/small")
    assert value(await stream.fields(), ":status") == "200"
    assert await stream.body() == b"small"


CLAIMS = [get, upload, download, concurrent, trailers, events, cancel, aborted, drain, refused, rebind, early]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("claims", nargs="+")
    parser.add_argument("--port", type=int)
    parser.add_argument("--relay", type=int)
    parser.add_argument("--trust")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--size", type=int, default=8)
    args = parser.parse_args()
    args.configuration = lambda: h3.configuration(args.certificate, args.key, args.trust)
    args.connect = lambda **more: h3.connect("127.0.0.1", args.port, args.configuration(), **more)
    claims = {claim.__name__: claim for claim in CLAIMS}
    for name in args.claims:
        asyncio.run(claims[name](args))
        print("ok", name, flush=True)


main()
