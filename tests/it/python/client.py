"""A gRPC client that goes through every kind of call against `test.Echo`. Prints `ok NAME` for each
claim that held; the first that did not ends it with a traceback."""

import sys
import threading
import time

import grpc

LARGE = bytes(range(256)) * 32768  # 8 MiB


def claim(name):
    print("ok", name, flush=True)


def main(target):
    channel = grpc.insecure_channel(
        target,
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    unary = channel.unary_unary("/test.Echo/Unary")
    server_stream = channel.unary_stream("/test.Echo/ServerStream")
    client_stream = channel.stream_unary("/test.Echo/ClientStream")
    duplex = channel.stream_stream("/test.Echo/Duplex")

    assert unary(b"hello", timeout=10) == b"hello"
    assert unary(b"", timeout=10) == b""
    claim("unary")

    assert list(server_stream(b"x", timeout=10)) == [b"x/%d" % n for n in range(10)]
    claim("server streaming")

    assert client_stream(iter([b"a", b"b", b"c"]), timeout=10) == b"a,b,c"
    assert client_stream(iter([]), timeout=10) == b""
    claim("client streaming")

    # Each message is sent only after the answer to the one before: nothing may be held back.
    answered = threading.Semaphore(1)

    def asking():
        for number in range(20):
            answered.acquire()
            yield b"%d" % number

    got = []
    for reply in duplex(asking(), timeout=10):
        got.append(reply)
        answered.release()
    assert got == [b"re:%d" % n for n in range(20)], got
    claim("bidirectional streaming")

    response, call = unary.with_call(
        b"m", timeout=10, metadata=(("x-plain", "value, with comma"), ("x-raw-bin", b"\x00\xff\x10 raw"))
    )
    assert response == b"m"
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert initial["x-initial"] == "first" and initial["x-initial-bin"] == b"\x00\x01\xfe\xff", initial
    assert trailing["x-trailing"] == "last" and trailing["x-trailing-bin"] == b"\xff\x00\x80", trailing
    assert trailing["x-plain-seen"] == "value, with comma", trailing
    assert trailing["x-raw-seen-bin"] == b"\x00\xff\x10 raw", trailing
    claim("metadata")

    assert 0 < int(trailing["x-deadline-ms"]) <= 11000, trailing  # its encoding rounds up
    claim("the deadline reaches the server")

    assert unary(LARGE, timeout=60) == LARGE
    claim("a message of 8 MiB")

    try:
        channel.unary_unary("/test.Echo/Fail")(b"", timeout=10)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        assert error.details() == "no such thing: \u00e4 100% \n second line", repr(error.details())
        trailing = dict(error.trailing_metadata())
        assert trailing["grpc-status-details-bin"] == b"\x08\x05\x12\x04gone", trailing
        assert trailing["x-why"] == "because", trailing
    claim("an error with message and details")

    got = []
    try:
        for message in channel.unary_stream("/test.Echo/FailLate")(b"", timeout=10):
            got.append(message)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DATA_LOSS, error
    assert got == [b"one", b"two"], got
    claim("an error after messages")

    try:
        channel.unary_unary("/test.Echo/Nothing")(b"", timeout=10)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    claim("an unknown method")

    call = channel.unary_stream("/test.Echo/Wait")(b"")
    assert next(call) == b"waiting"
    call.cancel()
    assert channel.unary_unary("/test.Echo/WasCancelled")(b"", timeout=10) == b"yes"
    claim("a cancel reaches the server")

    start = time.monotonic()
    try:
        channel.unary_unary("/test.Echo/Slow")(b"", timeout=0.3)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert time.monotonic() - start < 5
    claim("a deadline")

    futures = [unary.future(b"%d" % n, timeout=30) for n in range(200)]
    assert [f.result() for f in futures] == [b"%d" % n for n in range(200)]
    claim("200 calls at once")

    channel.close()
    print("done", flush=True)


main(sys.argv[1])
