"""What the operator is told by its environment. Wrong values end the start with one clear line each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

from nexus_core.certificates.sealing import SealError, parse_key

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
DEFAULT_IMAGE = "ghcr.io/nexus/nexus:latest"
WorkloadSecurity = Literal["compatible", "restricted", "none"]


def _state_dir() -> str:
    return f"{tempfile.gettempdir()}/nexus-operator-{os.getuid()}"


class SettingsInvalid(Exception):
    """The environment cannot be used; the message holds one line per fault: what, where, how to fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one operator replica."""

    consul_url: str
    """Address of Consul's HTTP API, `http://host:port`. Required: it carries the configuration to the gateways."""
    consul_token: str = field(default="", repr=False)
    """ACL token for Consul; empty for none."""
    gateway_consul_token: str = field(default="", repr=False)
    """ACL token that the gateways are given, which need not write the configuration. Empty: the operator's own."""
    prefix: str = "nexus"
    """First segment of every key in Consul, so that several installations can share one Consul."""
    consul_node: str = "nexus-k8s"
    """Name of the virtual catalog node that carries mirrored endpoints. One installation owns one node: what it did not register there,
    it removes. Default from the environment: the prefix and `-k8s`, so that installations with prefixes of their own do not meet."""
    namespace: str = "default"
    """Namespace the operator runs in: its Lease lives there."""
    class_name: str = "nexus"
    """GatewayClass whose Gateways are served."""
    gateway_url: str = ""
    """Base of the URLs shown in status, such as `https://shop.example`. Empty: taken from the Gateway's address."""
    gateway_image: str = DEFAULT_IMAGE
    """Image of the gateways that run for each Gateway. The chart gives the operator's own."""
    gateway_pull_policy: PullPolicy = "IfNotPresent"
    """When that image is pulled."""
    gateway_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets for its registry, comma-separated; each namespace with a Gateway needs them."""
    gateway_parameters: str = ""
    """`namespace/name` of the NexusGatewayParameters for the gateways that run while there is no Gateway. Empty: none."""
    seal_key: bytes = field(default=b"", repr=False)
    """Key that private keys are sealed with, base64 of 32 random bytes. Empty: the one in `seal_secret`."""
    seal_secret: str = "nexus-seal-key"
    """Secret in `namespace` that holds the key under `key`; it is made when it is not there."""
    docs_url: str = "docs/errors/"
    """What error page names are appended to in condition messages; ends with a slash."""
    listen: tuple[str, int] = ("0.0.0.0", 8082)
    """Where /healthz, /readyz and /metrics are served. All interfaces: the kubelet asks from outside the pod."""
    leader_election: bool = True
    """Elect one writer among the replicas by a Lease. Off only where a single replica is certain."""
    lease_name: str = "nexus-operator"
    """Name of the Lease."""
    lease_s: float = 15.0
    """A leader that has not renewed for so long is replaced. Default 15 s, as in kube-controller-manager."""
    identity: str = ""
    """First part of this replica's name in the Lease, to which a random part is added. Empty: the host name."""
    resync_s: float = 15.0
    """Seconds between comparisons of Consul's content with what it should be. Default 15 s: bounds how long a wiped Consul stays so."""
    relist_s: float = 120.0
    """Seconds between full lists of every watched kind, which catch deletions a broken watch did not report."""
    debounce_s: float = 0.05
    """How long changes are collected before one reconciliation. Default 50 ms: one `kubectl apply -f dir` is one publication."""
    index_ttl_s: float = 300.0
    """Seconds after which a marketplace is looked at again. Another value of its annotation `nexus.dev/refresh` has it done at once."""
    state_dir: str = field(default_factory=_state_dir)
    """Directory for the marketplaces' signed metadata that was trusted, and for artefacts. It may be lost: what must not be is in the
    statuses. Default: one below the directory for temporary files."""
    workload_security: WorkloadSecurity = "compatible"
    """securityContext of rendered pods. `compatible`: no privilege escalation, no capabilities, RuntimeDefault seccomp;
    works with images that run as root. `restricted`: also runAsNonRoot, as the restricted Pod Security Standard asks.
    `none`: nothing is set."""
    workload_consul_url: str = ""
    """NEXUS_CONSUL_URL given to rendered workloads. Empty: the operator's own."""
    otlp_endpoint: str = ""
    """OTEL_EXPORTER_OTLP_ENDPOINT given to rendered workloads. Empty: not set."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @property
    def docs_base(self) -> str:
        """`docs_url` with exactly one slash at its end."""
        return self.docs_url.rstrip("/") + "/"

    @property
    def gateway_parameters_key(self) -> tuple[str, str] | None:
        """(namespace, name) of `gateway_parameters`, or None."""
        namespace, slash, name = self.gateway_parameters.partition("/")
        return (namespace, name) if slash else None


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Return the settings in `environ`. Raises SettingsInvalid with every fault at once."""
    faults: list[str] = []

    def text(name: str, default: str = "") -> str:
        return environ.get(name, "").strip() or default

    def seconds(name: str, default: float) -> float:
        raw = text(name)
        try:
            value = float(raw) if raw else default
        except ValueError:
            value = -1.0
        if not 0 < value < 86_400:
            faults.append(f"{name}={raw!r} is not a number of seconds above 0. Set it to, say, {default:g}.")
            return default
        return value

    def url(name: str, *, required: bool = False) -> str:
        raw = text(name)
        if not raw:
            if required:
                faults.append(
                    f"{name} is not set. Set it to the address of Consul's HTTP API, such as http://consul.consul:8500."
                )
            return ""
        try:
            parts = urlsplit(raw)
            sound = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            sound = False
        if not sound:
            faults.append(f"{name}={raw!r} is not an http:// or https:// address. Write it as http://host:port.")
            return ""
        return raw.rstrip("/")

    def choice(name: str, default: str, values: tuple[str, ...]) -> str:
        raw = text(name, default)
        found = {value.lower(): value for value in values}.get(raw.lower())
        if found is None:
            faults.append(f"{name}={raw.lower()!r} is not one of {', '.join(values)}.")
            return default
        return found

    listen_text = text("NEXUS_OPERATOR_LISTEN", "0.0.0.0:8082")
    host, _, port_text = listen_text.rpartition(":")
    port = int(port_text) if port_text.isdecimal() else -1
    if not host or not 0 <= port <= 65535:
        faults.append(f"NEXUS_OPERATOR_LISTEN={listen_text!r} is not host:port. Write it as 0.0.0.0:8082.")
    gateway_parameters = text("NEXUS_GATEWAY_PARAMETERS")
    if gateway_parameters and gateway_parameters.count("/") != 1:
        faults.append(
            f"NEXUS_GATEWAY_PARAMETERS={gateway_parameters!r} is not namespace/name. Write it as nexus-system/nexus."
        )
    seal_key = b""
    try:
        seal_key = parse_key(text("NEXUS_SEAL_KEY")) if text("NEXUS_SEAL_KEY") else b""
    except SealError as err:
        faults.append(f"NEXUS_SEAL_KEY cannot be used. {err}")
    settings = Settings(
        consul_url=url("NEXUS_CONSUL_URL", required=True),
        consul_token=text("NEXUS_CONSUL_TOKEN"),
        gateway_consul_token=text("NEXUS_GATEWAY_CONSUL_TOKEN"),
        prefix=text("NEXUS_CONSUL_PREFIX", "nexus"),
        consul_node=text("NEXUS_CONSUL_NODE", f"{text('NEXUS_CONSUL_PREFIX', 'nexus')}-k8s"),
        namespace=text("NEXUS_NAMESPACE", "default"),
        class_name=text("NEXUS_GATEWAY_CLASS", "nexus"),
        gateway_url=url("NEXUS_GATEWAY_URL"),
        gateway_image=text("NEXUS_GATEWAY_IMAGE", DEFAULT_IMAGE),
        gateway_pull_policy=cast(
            "PullPolicy", choice("NEXUS_GATEWAY_PULL_POLICY", "IfNotPresent", get_args(PullPolicy))
        ),
        gateway_pull_secrets=tuple(
            name.strip() for name in text("NEXUS_GATEWAY_PULL_SECRETS").split(",") if name.strip()
        ),
        gateway_parameters=gateway_parameters,
        seal_key=seal_key,
        seal_secret=text("NEXUS_SEAL_SECRET", "nexus-seal-key"),
        docs_url=text("NEXUS_DOCS_URL", "docs/errors/"),
        listen=(host.strip("[]"), port),
        leader_election=choice("NEXUS_LEADER_ELECTION", "true", ("true", "false")) == "true",
        lease_name=text("NEXUS_LEASE_NAME", "nexus-operator"),
        lease_s=seconds("NEXUS_LEASE_SECONDS", 15.0),
        identity=text("NEXUS_IDENTITY") or text("NEXUS_POD"),
        resync_s=seconds("NEXUS_RESYNC_SECONDS", 15.0),
        relist_s=seconds("NEXUS_RELIST_SECONDS", 120.0),
        index_ttl_s=seconds("NEXUS_INDEX_TTL_SECONDS", 300.0),
        state_dir=text("NEXUS_STATE_DIR", _state_dir()),
        workload_security=cast(
            "WorkloadSecurity", choice("NEXUS_WORKLOAD_SECURITY", "compatible", get_args(WorkloadSecurity))
        ),
        workload_consul_url=url("NEXUS_WORKLOAD_CONSUL_URL"),
        otlp_endpoint=url("OTEL_EXPORTER_OTLP_ENDPOINT"),
        log_level=choice("NEXUS_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
    )
    if faults:
        raise SettingsInvalid("\n".join(faults))
    return settings
