"""A rate limit service with Envoy's own messages. Prints its port, then every question as one line of JSON. What it
answers is told by the value of the descriptor's entry `ask`. Ends with its standard input."""

import json
import sys
import threading
from concurrent import futures

import grpc
from envoy.service.ratelimit.v3 import rls_pb2 as rls
from envoy.service.ratelimit.v3 import rls_pb2_grpc as rls_grpc
from google.protobuf import json_format

released = threading.Event()


def header(key, value):
    """A header to be added."""
    return {"key": key, "value": value}


def answer(ask):
    """The answer to a way of asking, as the JSON form of a `RateLimitResponse`."""
    if ask == "over":
        return {
            "overallCode": "OVER_LIMIT",
            "statuses": [
                {"code": "OK", "durationUntilReset": "90s"},
                {"code": "OVER_LIMIT", "limitRemaining": 0, "durationUntilReset": "6.5s"},
            ],
        }
    if ask == "over with a page":
        return {
            "overallCode": "OVER_LIMIT",
            "responseHeadersToAdd": [
                header("content-type", "application/json"),
                header("retry-after", "77"),
                header("x-ratelimit-limit", "5"),
                header("content-length", "1"),
            ],
            "rawBody": "eyJzbG93IjoiZG93biJ9",
        }
    if ask == "change":
        return {
            "overallCode": "OK",
            "responseHeadersToAdd": [header("x-ratelimit-remaining", "4")],
            "requestHeadersToAdd": [header("x-quota", "gold"), header("host", "evil.example")],
        }
    if ask == "unclear":
        return {}
    if ask == "split":
        return {"overallCode": "OK", "responseHeadersToAdd": [header("x-a", "1\r\nx-b: 2")]}
    return {"overallCode": "OK"}


class Service(rls_grpc.RateLimitServiceServicer):
    """Answers as it is asked to."""

    def ShouldRateLimit(self, request, context):  # noqa: N802, the name is the method's
        question = json_format.MessageToDict(request)
        print(json.dumps(question), flush=True)
        entries = [entry for descriptor in question["descriptors"] for entry in descriptor["entries"]]
        ask = next((entry.get("value", "") for entry in entries if entry["key"] == "ask"), "")
        if ask == "wait":
            released.wait()
        if ask == "abort":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        response = rls.RateLimitResponse()
        json_format.ParseDict(answer(ask), response)
        return response


def main():
    """Serves until standard input ends."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    rls_grpc.add_RateLimitServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    released.set()
    server.stop(0)


if __name__ == "__main__":
    main()
