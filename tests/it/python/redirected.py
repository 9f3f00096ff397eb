"""Where connections arrive, and where they were going.

    redirected.py serve [--transparent] PORT...     answers every connection with `PORT DESTINATION SOURCE`
    redirected.py ask ADDRESS PORT...               prints what each port of an address answers, or `nobody`

DESTINATION is the original one of a redirected connection."""

import selectors
import socket
import struct
import sys

SO_ORIGINAL_DST = 80
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75


def listener(family, port, transparent):
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if transparent:
        if family == socket.AF_INET:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    sock.bind(("" if family == socket.AF_INET else "::", port))
    sock.listen(64)
    return sock


def destination(conn, transparent):
    if not transparent:
        try:
            if conn.family == socket.AF_INET:
                raw = conn.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
                return socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack(">H", raw[2:4])[0]
            raw = conn.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack(">H", raw[2:4])[0]
        except OSError:
            pass
    return conn.getsockname()[:2]


def serve(ports, transparent):
    selector = selectors.DefaultSelector()
    for port in ports:
        for family in (socket.AF_INET, socket.AF_INET6):
            selector.register(listener(family, port, transparent), selectors.EVENT_READ, port)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            conn, source = key.fileobj.accept()
            host, port = destination(conn, transparent)
            conn.sendall(f"{key.data} {host}:{port} {source[0]}\n".encode())
            conn.close()


def ask(address, ports):
    for port in ports:
        try:
            with socket.create_connection((address, port), timeout=5) as conn:
                print(conn.makefile().readline().strip())
        except OSError:
            print("nobody")


if sys.argv[1] == "serve":
    arguments = sys.argv[2:]
    serve([int(port) for port in arguments if port.isdigit()], "--transparent" in arguments)
else:
    ask(sys.argv[2], [int(port) for port in sys.argv[3:]])
