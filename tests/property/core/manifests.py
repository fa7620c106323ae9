"""Manifests for property tests: sound worlds in which everything refers to something, and arbitrary ones."""

from __future__ import annotations

import base64
import copy
import sys
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "golden" / "core"))
import pem

NAMES = ("a", "b", "orders", "web")
NAMESPACES = ("shop", "infra", "default")
names = st.sampled_from(NAMES)
namespaces = st.sampled_from(NAMESPACES)
dates = st.sampled_from(("", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"))


def _object(group: str, kind: str, name: str, namespace: str, spec: Any, created: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} | ({"creationTimestamp": created} if created else {})
    return {"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec}


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A map with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


keys = one_of({"header": "X-A"}, {"cookie": "c"}, {"query": "q"}, {"claim": "sub"}, {"source": True})
switched = st.booleans()
breakers = {
    "failures": st.integers(0, 3),
    "resetSeconds": st.integers(1, 9),
    "errorPercent": st.integers(0, 100),
    "probes": st.integers(1, 3),
}
limits = st.builds(
    lambda requests, key: {"requests": requests, "key": key}, st.integers(1, 3), st.lists(keys, max_size=2)
)
replies = some(status=one_of(200, 503), body=one_of("", "x"))
policies = some(
    retry=some(attempts=st.integers(0, 3), when=st.lists(one_of("503", "reset"), max_size=2)),
    timeouts=some(requestSeconds=st.integers(0, 9), idleSeconds=st.integers(0, 9)),
    loadBalancing=some(
        algorithm=one_of("least-request", "round-robin", "random", "peak-ewma", "ring-hash", "maglev"),
        hashOn=st.lists(keys, min_size=1, max_size=3),
        subset=st.dictionaries(one_of("version", "tier"), one_of("a", "b"), max_size=2),
        zoneAware=st.booleans(),
        slowStartSeconds=st.integers(0, 9),
        panicPercent=st.integers(0, 100),
        sessionPersistence=one_of({}, {"cookie": "c"}, {"header": "H"}, {"absoluteSeconds": 5}),
    ),
    circuitBreaker=some(**breakers),
    serviceCircuitBreaker=some(enabled=switched, **breakers),
    outlierDetection=some(enabled=switched, failures=st.integers(1, 3), maxEjectedPercent=st.integers(0, 100)),
    healthCheck=st.builds(
        lambda way, rest: {**way, **rest},
        one_of({}, {"tcp": True}, {"http": {"path": "/x", "statuses": ["200-299", "404"]}}, {"grpc": {"service": "s"}}),
        some(enabled=switched, port=one_of(1, 2), unhealthy=st.integers(1, 3)),
    ),
    hedge=some(enabled=switched, percentile=one_of(50, 99.9), budgetPercent=st.integers(0, 100)),
    concurrency=some(
        maxRequests=st.integers(0, 3), adaptive=st.booleans(), minLimit=one_of(1, 2), maxLimit=one_of(2, 3)
    ),
    tls=some(serverName=one_of("a.example", "b.example"), verify=st.booleans()),
    rateLimit=st.lists(limits, max_size=2),
    cors=st.builds(lambda origins: {"origins": origins}, one_of(["*"], ["https://a.example"])),
    bodyLimits=some(requestBytes=st.integers(0, 3), responseBytes=st.integers(0, 3)),
    mirror=st.builds(lambda name, percent: {"service": name, "percent": percent}, names, st.integers(0, 100)),
    fault=some(delay=one_of({"seconds": 1}), abort=one_of({"status": 500, "percent": 1})),
    fallback=some(service=names, reply=replies),
    reply=replies,
)


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    spec: dict[str, Any] = draw(
        st.sampled_from(
            (
                {"workload": {"image": "x", "port": 8001}},
                {"process": {"command": ["x"]}},
                {"backend": {"addresses": ["10.0.0.1:80"]}},
                {"backend": {"consul": {"service": "x"}}},
                {"backend": {"kubernetesService": {"name": "a", "port": 80}}},
            )
        )
    )
    spec = copy.deepcopy(spec)
    if draw(st.booleans()):
        spec["expose"] = {"path": draw(st.sampled_from(("/", "/a", "/b/"))), "hostnames": draw(hostnames)}
    if draw(st.booleans()):
        spec["policy"] = draw(policies)
    return _object("nexus.dev/v1alpha1", "NexusService", draw(names), draw(namespaces), spec, draw(dates))


hostnames = st.lists(st.sampled_from(("a.example", "b.example", "*.example")), unique=True, max_size=2)
targets = st.fixed_dictionaries({"kind": one_of("NexusService", "HTTPRoute", "GRPCRoute", "Gateway"), "name": names})


matches = some(
    path=one_of({"value": "/x"}, {"type": "Exact", "value": "/x"}, {"type": "RegularExpression", "value": "/x/[0-9]+"}),
    headers=one_of([{"name": "a", "value": "b"}], [{"name": "A", "value": "b|c", "type": "RegularExpression"}]),
    queryParams=one_of([{"name": "a", "value": "b"}], [{"name": "a", "value": "[bc]", "type": "RegularExpression"}]),
    method=one_of("GET", "POST"),
)
filters = st.one_of(
    st.builds(
        lambda name, share: {
            "type": "RequestMirror",
            "requestMirror": {"backendRef": {"group": "nexus.dev", "kind": "NexusService", "name": name}, **share},
        },
        names,
        one_of({}, {"percent": 5}, {"fraction": {"numerator": 1, "denominator": 3}}),
    ),
    st.just({"type": "CORS", "cors": {"allowOrigins": ["https://b.example"], "allowCredentials": True}}),
    st.just({"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["a"]}}),
)


backends = st.one_of(
    st.builds(lambda n: {"group": "nexus.dev", "kind": "NexusService", "name": n}, names),
    st.builds(
        lambda n, p, ns: {"name": n, "port": p, **ns}, names, one_of(80, 81, 53), one_of({}, {}, {"namespace": "shop"})
    ),
)
sessions = some(sessionName=one_of("s", "t"), type=one_of("Cookie", "Header"), absoluteTimeout=one_of("1h", "0s"))
calls = some(
    method=one_of(
        {"service": "a.B", "method": "C"},
        {"service": "a.B"},
        {"method": "C"},
        {"type": "RegularExpression", "service": "a\\.[BC]", "method": "C.*"},
    ),
    headers=one_of([{"name": "a", "value": "b"}], [{"name": "A", "value": "b|c", "type": "RegularExpression"}]),
)


@st.composite
def parents(draw: st.DrawFn) -> list[dict[str, Any]]:
    section = draw(one_of({}, {}, {"port": 80}, {"sectionName": "http"}))
    return [{"name": draw(names), "namespace": draw(namespaces), **section}]


@st.composite
def routes(draw: st.DrawFn) -> dict[str, Any]:
    """HTTPRoutes and GRPCRoutes."""
    kind = draw(one_of("HTTPRoute", "HTTPRoute", "GRPCRoute"))
    optional = {
        "matches": st.lists(matches if kind == "HTTPRoute" else calls, max_size=2),
        "filters": st.lists(filters, unique_by=lambda f: f["type"], max_size=3),
        "sessionPersistence": sessions,
    }
    if kind == "HTTPRoute":
        optional |= {
            "timeouts": st.just({"request": "5s"}),
            "retry": some(attempts=st.integers(1, 3), codes=st.lists(one_of(502, 503), unique=True)),
        }
    rules = st.fixed_dictionaries({"backendRefs": st.lists(backends, max_size=2)}, optional=optional)
    spec = {
        "parentRefs": draw(parents()),
        "hostnames": draw(hostnames),
        "rules": draw(st.lists(rules, min_size=1, max_size=2)),
    }
    group = "gateway.networking.k8s.io/v1"
    return _object(group, kind, draw(names), draw(namespaces), spec, draw(dates))


@st.composite
def streams(draw: st.DrawFn) -> dict[str, Any]:
    """TLSRoutes, TCPRoutes and UDPRoutes."""
    kind = draw(one_of("TLSRoute", "TCPRoute", "UDPRoute"))
    spec = {"parentRefs": draw(parents()), "rules": [{"backendRefs": draw(st.lists(backends, min_size=1, max_size=2))}]}
    if kind == "TLSRoute":
        spec["hostnames"] = draw(hostnames)
    return _object("gateway.networking.k8s.io/v1", kind, draw(names), draw(namespaces), spec, draw(dates))


@st.composite
def backend_tls(draw: st.DrawFn) -> dict[str, Any]:
    section = draw(one_of({}, {"sectionName": "one"}, {"sectionName": "none"}))
    trusted = draw(
        one_of(
            {"wellKnownCACertificates": "System"},
            {"wellKnownCACertificates": "Mine"},
            {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "missing"}]},
        )
    )
    spec = {
        "targetRefs": [{"group": "", "kind": "Service", "name": draw(names), **section}],
        "validation": {"hostname": draw(one_of("a.example", "b.example")), **trusted},
    }
    return _object("gateway.networking.k8s.io/v1", "BackendTLSPolicy", draw(names), draw(namespaces), spec, draw(dates))


protocols = one_of("HTTP", "HTTP", "HTTP", "HTTPS", "HTTPS", "TLS", "TCP", "UDP", "QUIC")
certificate_refs = st.lists(
    st.builds(lambda ref, more: {**ref, **more}, st.fixed_dictionaries({"name": names}), some(namespace=namespaces)),
    max_size=2,
)
listener_tls = st.one_of(
    st.builds(lambda refs: {"mode": "Terminate", "certificateRefs": refs}, certificate_refs),
    st.just({"mode": "Passthrough"}),
    st.just({"certificateRefs": [{"name": "a"}], "options": {"nexus.dev/minimum-version": "1.3", "x.example/y": "z"}}),
)


@st.composite
def listeners(draw: st.DrawFn) -> dict[str, Any]:
    protocol = draw(protocols)
    found = {
        "name": draw(st.sampled_from(("http", "alt", "more"))),
        "port": draw(st.sampled_from((80, 8080))),
        "protocol": protocol,
        "allowedRoutes": {"namespaces": {"from": draw(one_of("All", "All", "Same"))}},
    }
    if protocol in ("HTTPS", "TLS") or draw(st.integers(0, 9)) == 0:
        found["tls"] = draw(listener_tls)
    return found | draw(some(hostname=one_of("*.example", "a.example", "A.example")))


references = st.builds(
    lambda kind, ref: {"group": "", "kind": kind, **ref},
    one_of("ConfigMap", "ConfigMap", "Secret", "Service"),
    st.builds(lambda ref, more: {**ref, **more}, st.fixed_dictionaries({"name": names}), some(namespace=namespaces)),
)
validations = st.fixed_dictionaries(
    {"caCertificateRefs": st.lists(references, max_size=2)}, optional={"mode": st.just("AllowInsecureFallback")}
)
gateway_tls = some(
    frontend=st.fixed_dictionaries(
        {"default": some(validation=validations)},
        optional={"perPort": st.builds(lambda v: [{"port": 80, "tls": {"validation": v}}], validations)},
    ),
    backend=st.builds(lambda name: {"clientCertificateRef": {"name": name}}, names),
)


@st.composite
def gateways(draw: st.DrawFn) -> dict[str, Any]:
    spec = {
        "gatewayClassName": draw(st.sampled_from(("nexus", "nexus", "other"))),
        "listeners": draw(st.lists(listeners(), min_size=1, max_size=3)),
    }
    spec |= draw(
        some(
            tls=gateway_tls,
            allowedListeners=st.builds(lambda f: {"namespaces": {"from": f}}, one_of("All", "Same", "None")),
            addresses=st.lists(one_of({"value": "192.0.2.1"}, {"type": "Hostname"}, {"type": "x/y"}), max_size=1),
            infrastructure=some(
                labels=st.just({"a": "b"}),
                parametersRef=st.builds(
                    lambda n: {"group": "nexus.dev", "kind": "NexusGatewayParameters", "name": n}, names
                ),
            ),
        )
    )
    return _object("gateway.networking.k8s.io/v1", "Gateway", draw(names), draw(namespaces), spec, draw(dates))


@st.composite
def listener_sets(draw: st.DrawFn) -> dict[str, Any]:
    parent = {"name": draw(names)} | draw(some(namespace=namespaces))
    spec = {"parentRef": parent, "listeners": draw(st.lists(listeners(), min_size=1, max_size=2))}
    return _object("gateway.networking.k8s.io/v1", "ListenerSet", draw(names), draw(namespaces), spec, draw(dates))


def _holding(kind: str, name: str, namespace: str, data: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data}


SECRETS = (
    *({"tls.crt": pem.content(f"{n}.crt"), "tls.key": pem.content(f"{n}.key")} for n in ("shop", "other")),
    {"tls.crt": pem.content("shop.crt"), "tls.key": pem.content("other.key"), "ca.crt": pem.content("shop.crt")},
    {"tls.crt": pem.content("words.crt")},
)
secrets = st.builds(_holding, st.just("Secret"), names, namespaces, one_of(*SECRETS))
AUTHORITIES = ({"ca.crt": base64.b64decode(pem.content("shop.crt")).decode()}, {"ca.crt": "none"}, {})
config_maps = st.builds(_holding, st.just("ConfigMap"), names, namespaces, one_of(*AUTHORITIES))
grants = st.builds(
    lambda name, namespace, kind, source, to: _object(
        "gateway.networking.k8s.io/v1",
        "ReferenceGrant",
        name,
        namespace,
        {
            "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": source}],
            "to": [{"group": "", "kind": to}],
        },
    ),
    names,
    namespaces,
    one_of("Gateway", "ListenerSet", "HTTPRoute"),
    namespaces,
    one_of("Secret", "ConfigMap", "Service"),
)
gateway_parameters = st.builds(
    lambda name, namespace, spec: _object("nexus.dev/v1alpha1", "NexusGatewayParameters", name, namespace, spec),
    names,
    namespaces,
    one_of({}, {"replicas": 2}, {"service": {"type": "ClusterIP"}}),
)


@st.composite
def nexus_policies(draw: st.DrawFn) -> dict[str, Any]:
    spec = {"targetRefs": draw(st.lists(targets, min_size=1, max_size=2)), "retry": {"attempts": 1}, **draw(policies)}
    return _object("nexus.dev/v1alpha1", "NexusPolicy", draw(names), draw(namespaces), spec, draw(dates))


@st.composite
def nexus_plugins(draw: st.DrawFn) -> dict[str, Any]:
    spec = {
        "plugin": "demo",
        "enabled": draw(st.booleans()),
        "order": draw(st.integers(-1, 1)),
        "targetRefs": draw(st.lists(targets, max_size=2)),
    }
    return _object("nexus.dev/v1alpha1", "NexusPlugin", draw(names), draw(namespaces), spec)


ports = st.lists(
    one_of(
        {"name": "one", "port": 80},
        {"name": "two", "port": 81, "appProtocol": "kubernetes.io/h2c"},
        {"name": "names", "port": 53, "protocol": "UDP"},
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda port: port["port"],
)
kubernetes_services = st.builds(
    lambda n, ns, found: _object("v1", "Service", n, ns, {"ports": found}), names, namespaces, ports
)
marketplace = _object(
    "nexus.dev/v1alpha1",
    "NexusMarketplace",
    "official",
    "",
    {"source": {"bundled": True}, "publishers": [{"name": "nexus", "publicKey": "A" * 43 + "="}]},
)

sound = st.one_of(
    services(),
    routes(),
    streams(),
    gateways(),
    listener_sets(),
    secrets,
    config_maps,
    grants,
    gateway_parameters,
    nexus_policies(),
    nexus_plugins(),
    backend_tls(),
    kubernetes_services,
)


def _key(manifest: dict[str, Any]) -> tuple[str, str, str]:
    return manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]


worlds = st.lists(sound, max_size=12, unique_by=_key).map(lambda found: [*found, marketplace])
"""Sound manifests, each object once."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A sound manifest with some part of it replaced by anything."""
    manifest = copy.deepcopy(draw(sound))
    here: Any = manifest
    while True:
        if isinstance(here, dict) and here:
            step: Any = draw(st.sampled_from(sorted(here)))
        elif isinstance(here, list) and here:
            step = draw(st.integers(0, len(here) - 1))
        else:
            return manifest
        if not isinstance(here[step], (dict, list)) or draw(st.integers(0, 2)) == 0:
            here[step] = draw(json_values | st.dates() | st.binary(max_size=3))
            return manifest
        here = here[step]
