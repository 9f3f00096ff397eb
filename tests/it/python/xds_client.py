"""A proxyless gRPC client: its configuration comes from the control plane that GRPC_XDS_BOOTSTRAP names.

    xds_client.py xds:///payments.shop

Takes one line `METHOD COUNT` at a time, makes that many calls one after another, and prints as JSON how many were answered
by whom (or with which status). Ends with its standard input.
"""

import json
import sys
from collections import Counter

import grpc


def main(target):
    """Calls until standard input ends."""
    channel = grpc.insecure_channel(target)
    for line in sys.stdin:
        method, count = line.split()
        call = channel.unary_unary(method)
        answers = Counter()
        for _ in range(int(count)):
            try:
                answers[json.loads(call(b"", timeout=10, wait_for_ready=True))["backend"]] += 1
            except grpc.RpcError as error:
                answers[f"{error.code().name}: {error.details()}"] += 1
        print(json.dumps(answers), flush=True)
    channel.close()


main(sys.argv[1])
