"""A gRPC server with bytes for messages (no generated code). Prints its port, then serves until its
standard input ends."""

import sys
import threading
import time
from concurrent import futures

import grpc


def unary(request, context):
    """Sends the request back, and its metadata as metadata."""
    seen = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", "first"), ("x-initial-bin", b"\x00\x01\xfe\xff")))
    trailing = [("x-trailing", "last"), ("x-trailing-bin", b"\xff\x00\x80")]
    if "x-plain" in seen:
        trailing.append(("x-plain-seen", seen["x-plain"]))
    if "x-raw-bin" in seen:
        trailing.append(("x-raw-seen-bin", seen["x-raw-bin"]))
    trailing.append(("x-deadline-ms", str(int((context.time_remaining() or 0) * 1000))))
    context.set_trailing_metadata(tuple(trailing))
    return request


def server_stream(request, context):
    """Sends the request back ten times, numbered."""
    for number in range(10):
        yield request + b"/%d" % number


def client_stream(requests, context):
    """Joins what comes."""
    return b",".join(requests)


def duplex(requests, context):
    """Answers each message before the next one comes."""
    for request in requests:
        yield b"re:" + request


def fail(request, context):
    """An error status with a message that needs escaping, and details."""
    context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05\x12\x04gone"), ("x-why", "because")))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: \u00e4 100% \n second line")


def fail_late(request, context):
    """Some messages, then an error."""
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "broke off")


cancelled = threading.Event()


def wait(request, context):
    """Waits for the caller to leave and remembers that it did."""
    cancelled.clear()
    context.add_callback(cancelled.set)
    yield b"waiting"
    cancelled.wait(20)


def was_cancelled(request, context):
    """Whether the caller of `wait` was seen to leave, within a second."""
    return b"yes" if cancelled.wait(1) else b"no"


def slow(request, context):
    """Takes longer than any deadline in the tests; ends early when the caller has left."""
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(20)
    return b"late"


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Duplex": grpc.stream_stream_rpc_method_handler(duplex),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Wait": grpc.unary_stream_rpc_method_handler(wait),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
}


def main():
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", METHODS),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


main()
