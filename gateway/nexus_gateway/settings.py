"""What can be set on a gateway, by field or by environment variable. `docs/reference/gateway-settings.md` lists the same."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nexus_core.certificates.keys import KEY_BYTES

from nexus_gateway.telemetry.series import LEAST

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_WORKERS = 256
"""More processes than that share no machine sensibly."""


LISTEN = "127.0.0.1:8080"


class SettingInvalid(ValueError):
    """An environment variable cannot be used. The text says which, what it holds, and what to write."""


def _default_replica() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nexus" / "plugins"


def _env(name: str, default: Any = None, *, factory: Callable[[], Any] | None = None) -> Any:
    metadata = {"env": name}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """All settings of one gateway process. `from_env` reads the variable named beside each field."""

    listen: str = _env("NEXUS_GATEWAY_LISTEN", LISTEN)
    """`host:port` where the listeners of HTTP port 80 are (without one: of the lowest HTTP port); port 0 takes any free one. Other ports
    are opened on the same host, those below 1024 at 8000 more. Default: this machine only, so nothing is exposed unasked.
    With NEXUS_PORTS=declared only the host counts, and the default is every address."""
    tls_listen: str = _env("NEXUS_GATEWAY_TLS_LISTEN", "")
    """`host:port` where the listeners of HTTPS and TLS port 443 are (without one: of the lowest such port). Default: port 8443 of the
    other's host, once there is such a listener."""
    ports: str = _env("NEXUS_PORTS", "local")
    """`local` opens ports as above; `declared` exactly those that listeners declare, which below 1024 needs the permission to. Default:
    what a user of one machine can do."""
    gateway: str = _env("NEXUS_GATEWAY", "")
    """`<namespace>/<name>` of the one Gateway that this process serves; empty serves all."""
    seal_key: str = field(default="", metadata={"env": "NEXUS_SEAL_KEY"}, repr=False)
    """Opens the private keys in the Snapshot: base64 of 32 bytes. With NEXUS_GATEWAY the key that the operator gave that Gateway, in the
    Secret of its data plane; else the operator's own. Not needed where manifests come from files."""
    tls_certificates: Path | None = _env("NEXUS_TLS_CERTIFICATES")  # noqa: RUF009 - `_env` makes a dataclass field
    """Directory of certificates for NEXUS_GATEWAY_TLS_LISTEN: pairs NAME.crt and NAME.key, or subdirectories with tls.crt and tls.key.
    Chosen by the name a client asks for; read again when they change. For clients whom no HTTPS or TLS listener serves."""
    workers: int = _env("NEXUS_WORKERS", 1)
    """Processes that take traffic; `auto` is one for each CPU the gateway may use. Default: 1, as Kubernetes scales by replicas;
    with more a supervisor stands in front of the admin API, and nothing stands in front of the traffic."""
    zone: str = _env("NEXUS_ZONE", "")
    """Where this gateway is, as endpoints name their zones: upstreams that prefer their own zone go by it. Empty: nowhere."""
    admin: str = _env("NEXUS_GATEWAY_ADMIN", "127.0.0.1:8081")
    """`host:port` of the admin API. It is not authenticated: keep it inside the machine or the pod's network."""
    replica: str = _env("NEXUS_GATEWAY_REPLICA", factory=_default_replica)
    """Name under which this process acknowledges Snapshots; unique per process. Default: host name and process id."""
    consul_url: str = _env("NEXUS_CONSUL_URL", "")
    """`http(s)://host:port` of a Consul agent; empty runs without Consul."""
    consul_token: str = field(default="", metadata={"env": "NEXUS_CONSUL_TOKEN"}, repr=False)
    """ACL token for it; empty sends none."""
    consul_prefix: str = _env("NEXUS_CONSUL_PREFIX", "nexus")
    """First part of the keys in Consul's KV store."""
    discovery_file: Path | None = _env("NEXUS_DISCOVERY_FILE")  # noqa: RUF009 - `_env` makes a dataclass field
    """JSON file that names the services' endpoints, read again when it changes; wins over Consul, because someone named it
    on purpose. None finds services in Consul."""
    state_dir: Path | None = _env("NEXUS_GATEWAY_STATE_DIR")  # noqa: RUF009 - as above
    """Directory that keeps the last good Snapshot and endpoints, so that a gateway restarted while Consul is away still serves.
    None keeps nothing: right for replicas that are replaced rather than restarted."""
    plugin_cache: Path = _env("NEXUS_PLUGIN_CACHE", factory=_default_cache)  # noqa: RUF009 - as above
    """Directory of verified plugin artefacts, by digest. Kept over restarts, an unreachable marketplace stops no start."""
    pypi_index: str = _env("NEXUS_PYPI_INDEX", "https://pypi.org/simple/")
    """Where wheels that plugins need are asked for when the marketplace does not have them: a URL with the pages of PEP 503 or PEP 691."""
    max_in_flight: int = _env("NEXUS_MAX_IN_FLIGHT", 4096)
    """Requests served at once; more are answered 503 with Retry-After. Default: what one process can hold without
    its queues growing into timeouts."""
    max_connections: int = _env("NEXUS_MAX_CONNECTIONS", 20000)
    """Client connections open at once; more are answered 503 and closed. 0: any number. Default: 35 MB of idle ones, 400 MB over TLS."""
    max_udp_sessions: int = _env("NEXUS_MAX_UDP_SESSIONS", 4096)
    """Clients of UDP routes that are known at once, each with a socket of its own; the one that is silent longest makes room for
    another. 0: any number. Never more than half of the files that the process may open (`ulimit -n`): TCP needs files as well."""
    udp_idle_s: float = _env("NEXUS_UDP_IDLE_SECONDS", 60.0)
    """A UDP client that is silent for so long, in both directions, may get another endpoint. 0: never."""
    session_secret: str = field(
        default_factory=lambda: secrets.token_hex(32), metadata={"env": "NEXUS_SESSION_SECRET"}, repr=False
    )
    """Seals the sessions of `sessionPersistence`: the same for all gateways that serve the same clients, 16 characters or more.
    Default: a random one, so sessions end with the process."""
    priority_paths: tuple[str, ...] = _env("NEXUS_PRIORITY_PATHS", ("/healthz", "/readyz", "/livez"))
    """Paths that are still served when the gateway sheds load, so that a load balancer does not take a busy gateway for a dead one."""
    min_body_bytes_per_s: int = _env("NEXUS_MIN_BODY_BYTES_PER_SECOND", 64)
    """Request bodies that come slower, on average and after NEXUS_HEAD_TIMEOUT_SECONDS, are answered 408. 0: any pace.
    Not those of gRPC, nor while an answer comes: who talks with a server may say little for long."""
    max_body_replay_bytes: int = _env("NEXUS_MAX_BODY_REPLAY_BYTES", 65536)
    """Bodies of idempotent requests up to this size are held in memory so that they can be sent again; larger ones stream.
    Mirrors are sent copies of bodies up to this size."""
    max_head_bytes: int = _env("NEXUS_MAX_HEAD_BYTES", 32768)
    """Size of a request's line and headers together; more is answered 431."""
    head_timeout_s: float = _env("NEXUS_HEAD_TIMEOUT_SECONDS", 10.0)
    """From the first byte of a request's head to its last; slower is answered 408."""
    keepalive_s: float = _env("NEXUS_KEEPALIVE_SECONDS", 75.0)
    """Idle client connections are closed after this. Default above the 60 s of usual load balancers, so that they close first."""
    endpoints_wait_s: float = _env("NEXUS_ENDPOINTS_WAIT_SECONDS", 1.0)
    """How long a request waits for an upstream that has no endpoint yet, so that a fresh start or scale-up drops nothing."""
    trusted_proxies: tuple[Network, ...] = _env("NEXUS_TRUSTED_PROXIES", ())
    """Networks (comma-separated CIDRs) whose X-Forwarded-* headers are believed and extended; others' are replaced
    or dropped, X-Forwarded-Port and the like included, and so are X-Real-IP, True-Client-IP, X-Original-Host and their kin.
    X-HTTP-Method-Override is the application's own matter and goes through, whoever sends it."""
    access_log: bool = _env("NEXUS_ACCESS_LOG", True)
    """JSON access log on standard output."""
    access_log_ratio: float = _env("NEXUS_ACCESS_LOG_RATIO", 1.0)
    """Share of requests that are logged, 0..1. Refused ones, those that ended in 500 or more, broken off, slow or with more than
    one attempt are always logged."""
    log_level: str = _env("NEXUS_LOG_LEVEL", "INFO")
    """Least level of the log on standard error: DEBUG, INFO, WARNING or ERROR."""
    trace_ratio: float = _env("NEXUS_TRACE_RATIO", 1.0)
    """Share of new traces that are recorded, 0..1; a caller's own decision wins."""
    trace_slow_s: float = _env("NEXUS_TRACE_SLOW_SECONDS", 1.0)
    """Requests that take this long are recorded and logged whatever the ratios say, as are failed ones; 0 finds none slow.
    Default: what a person notices as waiting."""
    otlp_endpoint: str = _env("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    """Base URL of an OTLP/HTTP collector (`http://jaeger:4318`); empty exports nothing."""
    traces_memory: int = _env("NEXUS_TRACES_MEMORY", 0)
    """Traces kept in memory for `GET /traces`, and whether the admin API takes `POST /v1/traces`. 0 turns both off."""
    sample_requests: int = _env("NEXUS_SAMPLE_REQUESTS", 2000)
    """Requests kept, redacted, as a sample for `nexus diff --replay` and previews; 0 keeps none. Default: enough to find what
    one request in a thousand does, in some 1 MB."""
    metrics_series: int = _env("NEXUS_METRICS_SERIES", 2000)
    """Series that `/metrics` shows at most, 500 or more: what is configured beyond them is counted together, under `other`."""
    debug_key: str = field(default="", metadata={"env": "NEXUS_DEBUG_KEY"}, repr=False)
    """Key of signed debug tokens (`nexus explain --live`), 16 characters or more; empty answers none."""
    drain_delay_s: float = _env("NEXUS_DRAIN_DELAY", 0.0)
    """Seconds between `/readyz` turning 503 and the listener closing, so that load balancers notice first."""
    drain_s: float = _env("NEXUS_DRAIN_SECONDS", 10.0)
    """Seconds that requests in flight get to finish, and clients to take their answers, when the gateway stops."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: Any) -> GatewaySettings:
        """Return the settings of the environment; overrides that are not None win. Raises `SettingInvalid`."""
        values: dict[str, Any] = {}
        for each in fields(cls):
            name = each.metadata["env"]
            text = environ.get(name, "")
            if text:
                values[each.name] = _parse(name, each.name, text)
        values.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**values)

    def to_env(self) -> dict[str, str]:
        """Return the environment that makes `from_env` return these settings; names that are not in it must be unset."""
        found = {each.metadata["env"]: _text(getattr(self, each.name)) for each in fields(self)}
        return {name: text for name, text in found.items() if text}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(str(each) for each in value) if isinstance(value, tuple) else str(value)


def environment(settings: GatewaySettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for another process with these very settings, and everything else as in `environ`."""
    names = {each.metadata["env"] for each in fields(GatewaySettings)}
    return {**{name: text for name, text in environ.items() if name not in names}, **settings.to_env()}


def _parse(variable: str, name: str, text: str) -> Any:
    parser, wanted = _PARSERS.get(name, (str, "text"))
    try:
        return parser(text)
    except ValueError as error:
        shown = variable if name in _SECRETS else f"{variable}={text!r}"
        raise SettingInvalid(f"{shown} cannot be used: it wants {wanted}. Change or unset {variable}.") from error


def _flag(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _workers(text: str) -> int:
    value = count_cpus() if text.lower() == "auto" else int(text)
    if not 1 <= value <= MAX_WORKERS:
        raise ValueError(text)
    return value


def count_cpus() -> int:
    """Return how many CPUs this process may use at once: those it is bound to, or fewer when its cgroup has a quota."""
    bound = len(os.sched_getaffinity(0))
    try:
        quota, _, period = Path("/sys/fs/cgroup/cpu.max").read_text().partition(" ")
        return max(1, min(bound, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no cgroup v2, or the quota is `max`
        return bound


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())


def _secret(text: str) -> str:
    if len(text.encode()) < 16:
        raise ValueError(text)
    return text


def _key(text: str) -> str:
    if len(base64.b64decode(text.strip(), validate=True)) != KEY_BYTES:
        raise ValueError
    return text.strip()


def _paths(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(path.startswith("/") for path in found):
        raise ValueError(text)
    return found


def _url(text: str) -> str:
    url = urlsplit(text)
    # `port` raises for one that is out of range.
    if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
        raise ValueError(text)
    return text


def _address(text: str) -> str:
    split_address(text)
    return text


def _ports(text: str) -> str:
    if text.lower() not in ("local", "declared"):
        raise ValueError(text)
    return text.lower()


def _gateway(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9.-]{1,253}/[a-z0-9.-]{1,253}", text):
        raise ValueError(text)
    return text


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError(text)
    return text.upper()


def _series(text: str) -> int:
    if int(text) < LEAST:
        raise ValueError(text)
    return int(text)


def _replica(text: str) -> str:
    # `~` and a number is what a supervisor appends for each of its workers.
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}(~[0-9]{1,3})?", text):
        raise ValueError(text)
    return text


def split_address(text: str) -> tuple[str, int]:
    """Return `(host, port)` of `host:port`, `[v6]:port` or `:port`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port, for example 127.0.0.1:8080.")
    return host.strip("[]") or "0.0.0.0", int(port)


_SECRETS = frozenset({"consul_token", "debug_key", "seal_key", "session_secret"})
"""Fields whose values are in no message."""
_PARSERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "listen": (_address, "host:port, for example 127.0.0.1:8080"),
    "tls_listen": (_address, "host:port, for example 127.0.0.1:8443"),
    "ports": (_ports, "local or declared"),
    "gateway": (_gateway, "namespace/name of a Gateway"),
    "seal_key": (_key, "base64 of 32 bytes, as `openssl rand -base64 32` makes them"),
    "tls_certificates": (Path, "a directory"),
    "workers": (_workers, "`auto` or a whole number from 1 to 256"),
    "admin": (_address, "host:port, for example 127.0.0.1:8081"),
    "replica": (_replica, "letters, digits, dots, dashes and underscores, at most 128"),
    "discovery_file": (Path, "a file"),
    "state_dir": (Path, "a directory"),
    "plugin_cache": (Path, "a directory"),
    "pypi_index": (_url, "an http:// or https:// URL, for example https://pypi.org/simple/"),
    "max_in_flight": (_count, "a whole number, 0 or more"),
    "session_secret": (_secret, "16 characters or more"),
    "max_connections": (_count, "a whole number, 0 or more"),
    "max_udp_sessions": (_count, "a whole number, 0 or more"),
    "udp_idle_s": (_seconds, "seconds, 0 or more"),
    "priority_paths": (_paths, "paths separated by commas, for example /healthz,/readyz"),
    "min_body_bytes_per_s": (_count, "a number of bytes, 0 or more"),
    "max_body_replay_bytes": (_count, "a number of bytes, 0 or more"),
    "max_head_bytes": (_count, "a number of bytes, 0 or more"),
    "head_timeout_s": (_seconds, "seconds, 0 or more"),
    "keepalive_s": (_seconds, "seconds, 0 or more"),
    "endpoints_wait_s": (_seconds, "seconds, 0 or more"),
    "trusted_proxies": (_networks, "networks separated by commas, for example 10.0.0.0/8,::1/128"),
    "log_level": (_level, "DEBUG, INFO, WARNING or ERROR"),
    "access_log": (_flag, "true or false"),
    "trace_ratio": (_ratio, "a number from 0 to 1"),
    "access_log_ratio": (_ratio, "a number from 0 to 1"),
    "trace_slow_s": (_seconds, "seconds, 0 or more"),
    "otlp_endpoint": (_url, "an http:// or https:// URL, for example http://jaeger:4318"),
    "traces_memory": (_count, "a whole number, 0 or more"),
    "sample_requests": (_count, "a whole number, 0 or more"),
    "metrics_series": (_series, "a whole number, 500 or more"),
    "debug_key": (_secret, "16 characters or more"),
    "drain_delay_s": (_seconds, "seconds, 0 or more"),
    "drain_s": (_seconds, "seconds, 0 or more"),
}
