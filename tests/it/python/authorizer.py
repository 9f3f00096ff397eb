"""An external authorizer with Envoy's own messages. Prints its port, then every question as one line of JSON. What it
answers is told by the header `x-ask` of the request in question. Ends with its standard input."""

import json
import sys
import threading
from concurrent import futures

import grpc
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc as auth_grpc
from google.protobuf import json_format

DENIED = 7
UNAUTHENTICATED = 16
released = threading.Event()


def header(key, value, **how):
    """A header with a way to set it."""
    return {"header": {"key": key, "value": value}, **how}


def answer(ask):
    """The answer to a way of asking, as the JSON form of a `CheckResponse`."""
    if ask == "change":
        return {
            "status": {"code": 0},
            "okResponse": {
                "headers": [
                    header("x-user", "ann"),
                    header("x-added", "two", append=True),
                    header("x-absent", "set", appendAction="ADD_IF_ABSENT"),
                    header("x-kept", "new", appendAction="ADD_IF_ABSENT"),
                    header("x-over", "new", appendAction="OVERWRITE_IF_EXISTS_OR_ADD"),
                    header("x-missing", "new", appendAction="OVERWRITE_IF_EXISTS"),
                    header("host", "evil.example"),
                    header(":path", "/evil"),
                    header("content-length", "0"),
                    header("transfer-encoding", "chunked"),
                    header("x-outrigger-via", "forged"),
                ],
                "headersToRemove": ["x-secret", "host", "content-length"],
                "responseHeadersToAdd": [header("set-cookie", "a=1"), header("set-cookie", "b=2")],
                "queryParametersToSet": [{"key": "user", "value": "ann & co"}],
                "queryParametersToRemove": ["secret"],
            },
        }
    if ask == "deny":
        return {"status": {"code": DENIED}}
    if ask == "deny with a page":
        return {
            "status": {"code": UNAUTHENTICATED},
            "deniedResponse": {
                "status": {"code": "Unauthorized"},
                "headers": [
                    header("content-type", "text/html"),
                    header("www-authenticate", "Custom"),
                    header("set-cookie", "a=1"),
                    header("set-cookie", "b=2"),
                    header("content-length", "3"),
                    header("connection", "close"),
                ],
                "body": "<p>Who are you?</p>",
            },
        }
    if ask == "redirect":
        return {
            "status": {"code": DENIED},
            "deniedResponse": {"status": {"code": "Found"}, "headers": [header("location", "https://login.example/")]},
        }
    if ask == "error response":
        return {"status": {"code": 13}, "errorResponse": {"status": {"code": "BadGateway"}}}
    if ask == "split":
        return {"status": {"code": 0}, "okResponse": {"headers": [header("x-user", "ann\r\nx-admin: 1")]}}
    if ask == "large":
        return {"status": {"code": DENIED}, "deniedResponse": {"status": {"code": "Forbidden"}, "body": "x" * 300_000}}
    return {"status": {"code": 0}}


class Authorizer(auth_grpc.AuthorizationServicer):
    """Answers as it is asked to."""

    def Check(self, request, context):  # noqa: N802, the name is the method's
        question = json_format.MessageToDict(request)
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        print(json.dumps({"question": question, "metadata": metadata}), flush=True)
        ask = question["attributes"]["request"]["http"]["headers"].get("x-ask", "")
        if ask == "wait":
            released.wait()
        if ask == "abort":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        response = auth.CheckResponse()
        json_format.ParseDict(answer(ask), response)
        return response


def main():
    """Serves until standard input ends."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    auth_grpc.add_AuthorizationServicer_to_server(Authorizer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    released.set()
    server.stop(0)


if __name__ == "__main__":
    main()
