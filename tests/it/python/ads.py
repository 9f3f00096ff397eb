"""A control plane that knows nothing of Outrigger: Envoy's resources over ADS, delta and state of the world.

    ads.py '{"port": 0, "protocols": ["delta", "whole"], "tls": {"certificate": "…", "key": "…", "roots": "…"}}'

Prints its port, then one JSON object a line for each thing that happens: `open`, `request`, `response`, `close`. Takes one
JSON object a line: `{"set": [RESOURCE, …], "remove": [[KIND, NAME], …]}` is one change, `{"hang_up": true}` ends every
stream. A resource is in protobuf's JSON form, with `@type`; `{"raw": [KIND, NAME, BASE64]}` is one with these bytes.
Ends with its standard input.
"""

import base64
import hashlib
import importlib
import json
import queue
import sys
import threading
from concurrent import futures

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format

# Whose messages may be in resources; imported so that their JSON form is known.
for module in """
envoy.config.cluster.v3.cluster envoy.config.endpoint.v3.endpoint envoy.config.listener.v3.listener envoy.config.route.v3.route
envoy.extensions.transport_sockets.tls.v3.tls envoy.extensions.transport_sockets.tls.v3.secret
envoy.extensions.transport_sockets.quic.v3.quic_transport envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer
envoy.extensions.upstreams.http.v3.http_protocol_options
envoy.extensions.filters.listener.original_dst.v3.original_dst envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector
envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager
envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy envoy.extensions.filters.network.redis_proxy.v3.redis_proxy
envoy.extensions.filters.http.cors.v3.cors envoy.extensions.filters.http.fault.v3.fault envoy.extensions.filters.http.lua.v3.lua
envoy.extensions.filters.http.jwt_authn.v3.config envoy.extensions.filters.http.rbac.v3.rbac
envoy.extensions.filters.http.router.v3.router envoy.extensions.filters.http.ext_authz.v3.ext_authz
xds.type.v3.typed_struct
""".split():
    importlib.import_module(module + "_pb2")

# In the order in which they are sent: what is referred to comes before what refers to it.
KINDS = {
    "Secret": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    "Cluster": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "ClusterLoadAssignment": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "Listener": "type.googleapis.com/envoy.config.listener.v3.Listener",
    "RouteConfiguration": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}
KIND_OF = {url: kind for kind, url in KINDS.items()}
WHOLE = ("Cluster", "Listener")

lock = threading.RLock()
streams = []
resources = {kind: {} for kind in KINDS}
counter = 0
printing = threading.Lock()


def tell(**event):
    """Prints an event."""
    with printing:
        print(json.dumps(event), flush=True)


def number():
    """A number that was not used before."""
    global counter
    with lock:
        counter += 1
        return str(counter)


class Resource:
    """Encoded, with its content as its version."""

    def __init__(self, given):
        self.any = any_pb2.Any()
        if "raw" in given:
            self.kind, self.name, data = given["raw"]
            self.any.type_url, self.any.value = KINDS[self.kind], base64.b64decode(data)
        else:
            json_format.ParseDict(given, self.any)
            self.kind = KIND_OF[self.any.type_url]
            self.name = given["cluster_name" if self.kind == "ClusterLoadAssignment" else "name"]
        self.version = hashlib.sha256(self.any.value).hexdigest()[:12]


class Subscription:
    """What a stream wants of a kind, and what it has."""

    def __init__(self):
        self.every = False
        self.names = set()
        self.sent = {}
        self.nonce = ""

    def wants(self, name):
        return self.every or name in self.names


class Stream:
    """A stream, of either variant."""

    def __init__(self, variant):
        self.variant = variant
        self.kinds = {}
        self.outbox = queue.Queue()

    def push(self):
        """Sends what changed: what is new first, in order; what is gone last, in the opposite order."""
        for kind in KINDS:
            self.send(kind, first=False)
        if self.variant == "delta":
            for kind in reversed(KINDS):
                self.send_removed(kind)

    def send(self, kind, first):
        """Sends what the subscription does not have. `first`: something is sent even if it is nothing."""
        subscription = self.kinds.get(kind)
        if subscription is None:
            return
        wanted = {name: one for name, one in resources[kind].items() if subscription.wants(name)}
        changed = {name: one for name, one in wanted.items() if subscription.sent.get(name) != one.version}
        nonce = number()
        if self.variant == "delta":
            if not changed and not first:
                return
            response = discovery_pb2.DeltaDiscoveryResponse(type_url=KINDS[kind], nonce=nonce)
            for name, one in sorted(changed.items()):
                response.resources.add(name=name, version=one.version, resource=one.any)
        else:
            gone = subscription.sent.keys() - wanted.keys()
            if not changed and not (gone and kind in WHOLE) and not first:
                return
            response = discovery_pb2.DiscoveryResponse(type_url=KINDS[kind], nonce=nonce, version_info=nonce)
            sent = wanted if kind in WHOLE else changed
            response.resources.extend(one.any for _, one in sorted(sent.items()))
            if kind in WHOLE:
                subscription.sent = {}
            changed = sent
        subscription.sent.update({name: one.version for name, one in changed.items()})
        subscription.nonce = nonce
        self.say(kind, nonce, sorted(changed), [], response)

    def send_removed(self, kind):
        """Says which resources are gone, or never were."""
        subscription = self.kinds.get(kind)
        if subscription is None:
            return
        asked = {name for name in subscription.names if subscription.sent.get(name, "") is not None}
        gone = sorted(name for name in {*subscription.sent, *asked} - resources[kind].keys()
                      if name not in subscription.sent or subscription.sent[name] is not None)
        if gone:
            nonce = number()
            response = discovery_pb2.DeltaDiscoveryResponse(type_url=KINDS[kind], nonce=nonce, removed_resources=gone)
            # Known to be missing, which is not said twice.
            subscription.sent.update({name: None for name in gone})
            self.say(kind, nonce, [], gone, response)

    def say(self, kind, nonce, names, removed, response):
        tell(event="response", protocol=self.variant, kind=kind, nonce=nonce, names=names, removed=removed)
        self.outbox.put(response)

    def hear_delta(self, kind, request):
        """Takes in a request that asks for changes only."""
        new = kind not in self.kinds
        subscription = self.kinds.setdefault(kind, Subscription())
        if new:
            subscription.sent = dict(request.initial_resource_versions)
            subscription.every = kind in WHOLE and not request.resource_names_subscribe
        for name in request.resource_names_subscribe:
            if name == "*":
                subscription.every = True
            else:
                # Asked for again: sent again.
                subscription.sent.pop(name, None) if not new else None
                subscription.names.add(name)
        for name in request.resource_names_unsubscribe:
            subscription.names.discard(name)
            subscription.sent.pop(name, None)
        self.send(kind, first=new and kind in WHOLE)
        self.send_removed(kind)

    def hear_whole(self, kind, request):
        """Takes in a request for the state of the world."""
        new = kind not in self.kinds
        subscription = self.kinds.setdefault(kind, Subscription())
        if not new and request.response_nonce != subscription.nonce:
            return
        subscription.every = kind in WHOLE and not request.resource_names
        subscription.names = set(request.resource_names)
        subscription.sent = {name: version for name, version in subscription.sent.items() if subscription.wants(name)}
        self.send(kind, first=new and kind in WHOLE)

    def hear(self, request):
        kind = KIND_OF.get(request.type_url, request.type_url)
        event = {"event": "request", "protocol": self.variant, "kind": kind, "nonce": request.response_nonce}
        if request.HasField("node"):
            event["node"] = request.node.id
            event["agent"] = request.node.user_agent_name
        if self.variant == "delta":
            event["subscribe"] = list(request.resource_names_subscribe)
            event["unsubscribe"] = list(request.resource_names_unsubscribe)
            event["known"] = dict(request.initial_resource_versions)
        else:
            event["subscribe"] = list(request.resource_names)
            event["version"] = request.version_info
        if request.HasField("error_detail"):
            detail = request.error_detail
            event["error"] = {
                "code": detail.code,
                "message": detail.message,
                "details": [[one.type_url, base64.b64encode(one.value).decode()] for one in detail.details],
            }
        tell(**event)
        if kind in KINDS:
            with lock:
                (self.hear_delta if self.variant == "delta" else self.hear_whole)(kind, request)


class Discovery(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Both variants of the service."""

    def __init__(self, protocols):
        self.protocols = protocols

    def DeltaAggregatedResources(self, request_iterator, context):  # noqa: N802, the name is the method's
        return self.serve("delta", request_iterator, context)

    def StreamAggregatedResources(self, request_iterator, context):  # noqa: N802
        return self.serve("whole", request_iterator, context)

    def serve(self, variant, requests, context):
        if variant not in self.protocols:
            tell(event="unimplemented", protocol=variant)
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server speaks the other one")
        stream = Stream(variant)
        names = context.auth_context().get("x509_subject_alternative_name", [])
        tell(event="open", protocol=variant, peer=[name.decode() for name in names])
        with lock:
            streams.append(stream)

        def hear():
            try:
                for request in requests:
                    stream.hear(request)
            except Exception as error:  # noqa: BLE001, whatever ends the stream
                if not isinstance(error, grpc.RpcError) and str(error):
                    print(repr(error), file=sys.stderr, flush=True)
            stream.outbox.put(None)

        threading.Thread(target=hear, daemon=True).start()
        try:
            while (response := stream.outbox.get()) is not None:
                yield response
        finally:
            with lock:
                if stream in streams:
                    streams.remove(stream)
            tell(event="close", protocol=variant)


def change(command):
    """Carries a command out."""
    with lock:
        for one in map(Resource, command.get("set", [])):
            resources[one.kind][one.name] = one
        for kind, name in command.get("remove", []):
            resources[kind].pop(name, None)
        for stream in list(streams):
            if command.get("hang_up"):
                stream.outbox.put(None)
            else:
                stream.push()


def main():
    """Serves until standard input ends."""
    options = json.loads(sys.argv[1])
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    service = Discovery(options.get("protocols", ["delta", "whole"]))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{options.get('port', 0)}"
    if tls := options.get("tls"):
        read = {key: open(path, "rb").read() for key, path in tls.items()}
        credentials = grpc.ssl_server_credentials([(read["key"], read["certificate"])], read["roots"], True)
        port = server.add_secure_port(address, credentials)
    else:
        port = server.add_insecure_port(address)
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        try:
            change(json.loads(line))
            tell(event="changed")
        except Exception as error:  # noqa: BLE001, the test is told
            tell(event="wrong", why=repr(error))
    server.stop(0)


if __name__ == "__main__":
    main()
