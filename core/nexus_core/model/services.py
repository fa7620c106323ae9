"""NexusService: what a service is, how it runs or where it is found, its contract, how it is exposed, its policy."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nexus_core.model.base import HOSTNAME_PATTERN, NAME_PATTERN, Model
from nexus_core.model.policies import PolicyFields
from nexus_core.model.rules import Rule
from nexus_core.model.workloads import Port, Process, Workload

Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
Hostname = Annotated[str, Field(min_length=1, max_length=253, pattern=HOSTNAME_PATTERN)]

BEGINS_WITH_SLASH = Rule(
    cel="self.startsWith('/')",
    what="The path does not begin with '/'.",
    fix="Put a '/' in front of it.",
    holds=lambda path: path.startswith("/"),
)
_ODD_PATH = r"//|[?#]|/\.\.?(/|$)|%2[fF]"
PLAIN_PATH = Rule(
    cel=f"!self.matches(r'{_ODD_PATH}')",
    what="The path holds '//', '/./', '/../', '%2f', '?' or '#'.",
    fix="Write it as a plain path, for example /orders.",
    holds=lambda path: re.search(_ODD_PATH, path) is None,
)
_URL_PATH = r"^([-A-Za-z0-9/._~!$&()*+,;=:@'?#]|%[0-9A-Fa-f]{2})*$"
"""RFC 3986 section 3.3, as in the Gateway API's HTTPPathMatch. (`?` and `#` are the rule above.)"""
URL_CHARACTERS = Rule(
    cel=f'self.matches(r"{_URL_PATH}")',
    what="The path holds a character that cannot stand in a URL.",
    fix="Percent-encode it: a space is %20.",
    holds=lambda path: re.search(_URL_PATH, path) is not None and not path.endswith("\n"),
)
UrlPath = Annotated[str, Field(min_length=1, max_length=1024), BEGINS_WITH_SLASH, PLAIN_PATH, URL_CHARACTERS]


class ConsulBackend(Model):
    """A service that registers itself in Consul."""

    service: str = Field(min_length=1, max_length=253, description="Name of the service in Consul.")
    tag: str = Field(default="", max_length=253, description="Only instances with this tag; empty for all.")


class KubernetesServiceBackend(Model):
    """A Kubernetes Service of the same namespace."""

    name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Name of the Service.")
    port: Port = Field(description="One of its ports.")


_ADDRESS = r"^([A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$"


def _is_address(text: str) -> bool:
    return re.fullmatch(_ADDRESS, text) is not None and 1 <= int(text.rpartition(":")[2]) <= 65535


ADDRESS = Rule(
    cel=rf"self.matches(r'{_ADDRESS}') && int(self.substring(self.lastIndexOf(':') + 1)) >= 1"
    r" && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535",
    what="The address is not host:port.",
    fix="Write it like 127.0.0.1:9000 or [::1]:9000, with a port of 1 to 65535.",
    holds=_is_address,
)


class Backend(Model):
    """Where a service is found that Nexus does not run."""

    addresses: tuple[Annotated[str, Field(min_length=3, max_length=261), ADDRESS], ...] | None = Field(
        default=None, min_length=1, max_length=256, description="Fixed host:port pairs."
    )
    consul: ConsulBackend | None = Field(default=None, description="A service that registers itself in Consul.")
    kubernetes_service: KubernetesServiceBackend | None = Field(
        default=None, description="A Kubernetes Service of the same namespace."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.addresses), has(self.consul), has(self.kubernetesService)].filter(x, x).size() == 1",
            what="A backend is found in one place.",
            fix="Set just one of addresses, consul, kubernetesService.",
            holds=lambda s: [s.addresses, s.consul, s.kubernetes_service].count(None) == 2,
        ),
    )


class Contract(Model):
    """What the service promises to its callers."""

    openapi: UrlPath | None = Field(
        default=None,
        description="Path on the service where its OpenAPI 3 document is served, for example /openapi.json.",
    )


class Expose(Model):
    """The short way to a route: requests below `path` go to this service."""

    hostnames: tuple[Hostname, ...] = Field(
        default=(), max_length=16, description="Host names it answers to, *.example.com allowed; empty for any."
    )
    path: UrlPath = Field(description="Requests to this path and below it go to the service, for example /orders.")
    rewrite_prefix: UrlPath | None = Field(
        default=None,
        description="Put in place of path before the request goes on: with / the service sees /7 for /orders/7.",
    )
    methods: tuple[Method, ...] | None = Field(
        default=None, min_length=1, max_length=9, description="Only these methods. Default: all."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.hostnames) || self.hostnames.all(h, self.hostnames.exists_one(o, o == h))",
            what="A host name is listed twice.",
            fix="Remove one of the two.",
            holds=lambda s: len(set(s.hostnames)) == len(s.hostnames),
            field=".hostnames",
        ),
        Rule(
            cel="!has(self.methods) || self.methods.all(m, self.methods.exists_one(o, o == m))",
            what="A method is listed twice.",
            fix="Remove one of the two.",
            holds=lambda s: s.methods is None or len(set(s.methods)) == len(s.methods),
            field=".methods",
        ),
    )


class Health(Model):
    """How a process or a fixed address is asked whether it takes requests."""

    path: UrlPath = Field(
        default="/readyz", description="A GET of this path has to answer 200. Of types that speak HTTP/1.1."
    )
    interval_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=5, description="Seconds between two checks."
    )


class NexusServiceSpec(Model):
    """What a service is, how it runs or where it is found, its contract, how it is exposed and protected."""

    type: Literal["http", "grpc", "graphql", "websocket", "events", "tcp", "udp"] = Field(
        default="http",
        description="What the service speaks. grpc is called by HTTP/2 alone; tcp and udp are reached by TLSRoutes, TCPRoutes, UDPRoutes.",
    )
    workload: Workload | None = Field(default=None, description="What Nexus runs on Kubernetes.")
    process: Process | None = Field(
        default=None, description="What nexus up runs on this machine; may stand beside workload."
    )
    backend: Backend | None = Field(default=None, description="Where a service is found that Nexus does not run.")
    contract: Contract | None = Field(default=None, description="What the service promises to its callers.")
    expose: Expose | None = Field(
        default=None, description="The short way to a route. Without it, only other services reach this one."
    )
    health: Health | None = Field(
        default=None,
        description="How its readiness is asked for. Default: GET /readyz every 5 s; of grpc and tcp, a connection to the port.",
    )
    policy: PolicyFields | None = Field(
        default=None, description="Balancing, protection and limits for this service alone."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.workload) || has(self.process) || has(self.backend)",
            what="Nothing says where the service runs.",
            fix="Set workload (Nexus runs it on Kubernetes), process (nexus up runs it) or backend (it runs elsewhere).",
            holds=lambda s: any((s.workload, s.process, s.backend)),
        ),
        Rule(
            cel="!has(self.backend) || !(has(self.workload) || has(self.process))",
            what="A service that Nexus runs has no backend.",
            fix="Remove backend, or remove workload and process.",
            holds=lambda s: s.backend is None or not (s.workload or s.process),
        ),
        Rule(
            cel="!has(self.expose) || !(self.type in ['tcp', 'udp'])",
            what="Only requests have paths, and this service takes none.",
            fix="Remove expose and write a TCPRoute, TLSRoute or UDPRoute, or correct the type.",
            holds=lambda s: s.expose is None or s.type not in ("tcp", "udp"),
            field=".expose",
        ),
    )
