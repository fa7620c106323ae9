"""Settings of a service, parsed from an environment mapping that is handed in. Pure: reads no environment itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from nexus_sdk.errors import SettingsError

_META_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
SAMPLERS = ("always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off",
            "parentbased_traceidratio")  # fmt: skip

DEFAULT_PLUGIN_CACHE = "~/.cache/nexus/plugins"
"""The gateway's, too."""


@dataclass(frozen=True, slots=True)
class ConsulSettings:
    """Where Consul is and how the service stands in its catalog.

    url: `http(s)://host:port` of the agent; None: no Consul. (NEXUS_CONSUL_URL)
    token: ACL token, None: anonymous. (NEXUS_CONSUL_TOKEN)
    prefix: of the installation of Nexus that the service belongs to: pods of another one in the same Consul are not found.
    (NEXUS_CONSUL_PREFIX)
    register: whether the service registers itself; default: when `url` is set. The operator sets false, because it
    mirrors EndpointSlices. (NEXUS_CONSUL_REGISTER)
    ttl_s: the TTL check fails when the service was silent that long. 15: three beats of 5 s. (NEXUS_CONSUL_TTL_SECONDS)
    forget_after_s: a failing instance leaves the catalog after this; Consul takes no less than 60. 90: longer than a
    restart, short enough that dead instances do not pile up. (NEXUS_CONSUL_FORGET_SECONDS)
    """

    url: str | None = None
    token: str | None = field(default=None, repr=False)
    prefix: str = "nexus"
    register: bool = False
    ttl_s: float = 15.0
    forget_after_s: float = 90.0


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Where spans go. endpoint: full URL of the OTLP/HTTP traces receiver; None: spans are made but not exported.

    (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT as it is, or OTEL_EXPORTER_OTLP_ENDPOINT plus `/v1/traces`.)
    sampler, sampler_ratio: OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG; default parentbased_always_on, as the
    OpenTelemetry specification has it. flush_s: bound of the flush at stop; 3: a receiver that is away must not hold
    the exit. Headers, compression and certificates: the exporter's own OTEL_EXPORTER_OTLP_* variables.
    """

    endpoint: str | None = None
    sampler: str = "parentbased_always_on"
    sampler_ratio: float = 1.0
    flush_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one service instance.

    name: DNS label. (NEXUS_SERVICE_NAME; default: the name given to ServiceApp)
    namespace: DNS label. (NEXUS_NAMESPACE; default: default)
    host: address to listen on; 0.0.0.0, because a pod's probes come from outside of it. (NEXUS_HOST)
    port: 0..65535, 0 for any free one. (PORT; default: 8000)
    advertise_address: what others connect to; None: the address of the interface that leads to Consul.
    (NEXUS_ADVERTISE_ADDRESS)
    zone: where it runs; gateways prefer endpoints of their own zone where a policy says so. (NEXUS_ZONE)
    meta: what the registration says of this instance, for subsets to choose by. (NEXUS_META: `version=v2,tier=fast`)
    discovery_file: JSON of services; wins over Consul, because someone named a file on purpose. (NEXUS_DISCOVERY_FILE)
    data_dir: directory for what must survive a restart; None: the service decides. (NEXUS_DATA_DIR)
    drain_s: how long requests in flight may take after SIGTERM before they are cancelled. 10: below the 30 s after
    which Kubernetes kills. (NEXUS_DRAIN_SECONDS)
    settle_s: how long new requests are still taken after SIGTERM, until balancers have noticed; default: 1 with Consul,
    else 0. (NEXUS_SETTLE_SECONDS)
    max_body_bytes: larger request bodies get 413; 1 MiB. (NEXUS_MAX_BODY_BYTES; ServiceApp(max_body_bytes=) wins)
    plugins_file: JSON list of the service's plugins; wins over Consul. (NEXUS_PLUGINS_FILE)
    plugin_cache: directory of verified artefacts of plugins, by digest. (NEXUS_PLUGIN_CACHE)
    """

    name: str
    namespace: str = "default"
    host: str = "0.0.0.0"
    port: int = 8000
    advertise_address: str | None = None
    zone: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    discovery_file: str | None = None
    data_dir: str | None = None
    log_level: str = "INFO"
    drain_s: float = 10.0
    settle_s: float = 0.0
    max_body_bytes: int = 1024 * 1024
    plugins_file: str | None = None
    plugin_cache: str = DEFAULT_PLUGIN_CACHE
    consul: ConsulSettings = ConsulSettings()
    traces: TraceSettings = TraceSettings()


def parse(environ: Mapping[str, str], *, default_name: str = "") -> Settings:
    """Return the settings. An empty variable counts as unset. Raises SettingsError: which variable, what, how to fix."""
    name = _label(environ, "NEXUS_SERVICE_NAME", default_name)
    url = _url(environ, "NEXUS_CONSUL_URL")
    level = (environ.get("NEXUS_LOG_LEVEL") or "INFO").upper()
    if level not in _LEVELS:
        raise _bad("NEXUS_LOG_LEVEL", level, f"Use one of: {', '.join(_LEVELS)}.")
    return Settings(
        name=name,
        namespace=_label(environ, "NEXUS_NAMESPACE", "default"),
        host=environ.get("NEXUS_HOST") or "0.0.0.0",
        port=int(_number(environ, "PORT", 8000, low=0, high=65535, whole=True)),
        advertise_address=environ.get("NEXUS_ADVERTISE_ADDRESS") or None,
        zone=environ.get("NEXUS_ZONE") or "",
        meta=_pairs(environ, "NEXUS_META"),
        discovery_file=environ.get("NEXUS_DISCOVERY_FILE") or None,
        data_dir=environ.get("NEXUS_DATA_DIR") or None,
        log_level=level,
        drain_s=_number(environ, "NEXUS_DRAIN_SECONDS", 10.0, low=0, high=3600),
        settle_s=_number(environ, "NEXUS_SETTLE_SECONDS", 1.0 if url else 0.0, low=0, high=600),
        max_body_bytes=int(_number(environ, "NEXUS_MAX_BODY_BYTES", 1024 * 1024, low=0, high=2**40, whole=True)),
        plugins_file=environ.get("NEXUS_PLUGINS_FILE") or None,
        plugin_cache=environ.get("NEXUS_PLUGIN_CACHE") or DEFAULT_PLUGIN_CACHE,
        consul=ConsulSettings(
            url=url,
            token=environ.get("NEXUS_CONSUL_TOKEN") or None,
            prefix=environ.get("NEXUS_CONSUL_PREFIX") or "nexus",
            register=_flag(environ, "NEXUS_CONSUL_REGISTER", default=True) and url is not None,
            ttl_s=_number(environ, "NEXUS_CONSUL_TTL_SECONDS", 15.0, low=1, high=3600),
            forget_after_s=_number(environ, "NEXUS_CONSUL_FORGET_SECONDS", 90.0, low=60, high=86400),
        ),
        traces=_traces(environ),
    )


def _traces(environ: Mapping[str, str]) -> TraceSettings:
    base, exact = _url(environ, "OTEL_EXPORTER_OTLP_ENDPOINT"), _url(environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    disabled = (environ.get("OTEL_SDK_DISABLED") or "").lower() == "true"
    none = (environ.get("OTEL_TRACES_EXPORTER") or "").strip().lower() == "none"
    endpoint = None if disabled or none else exact or (f"{base.rstrip('/')}/v1/traces" if base else None)
    sampler = (environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on").strip().lower()
    if sampler not in SAMPLERS:
        raise _bad("OTEL_TRACES_SAMPLER", sampler, f"Use one of: {', '.join(SAMPLERS)}.")
    ratio = _number(environ, "OTEL_TRACES_SAMPLER_ARG", 1.0, low=0, high=1) if "ratio" in sampler else 1.0
    return TraceSettings(endpoint, sampler, ratio)


def _bad(variable: str, value: str, fix: str) -> SettingsError:
    return SettingsError(f"Environment variable {variable}: {value!r} cannot be used. {fix}")


def _pairs(environ: Mapping[str, str], variable: str) -> dict[str, str]:
    """Return `a=b,c=d` as a map. Bounds are those of Consul's service meta."""
    found: dict[str, str] = {}
    for part in (environ.get(variable) or "").split(","):
        if not part.strip():
            continue
        name, equals, value = (text.strip() for text in part.partition("="))
        if not equals or not _META_NAME.match(name) or len(value) > 512 or name in found:
            fix = "Write name=value pairs with commas between them; names once, of letters, digits, '-' and '_'."
            raise _bad(variable, part, fix)
        if name.startswith("nexus-"):
            raise _bad(variable, part, "Names that begin with nexus- are taken; choose another.")
        found[name] = value
    return dict(sorted(found.items()))


def _label(environ: Mapping[str, str], variable: str, default: str) -> str:
    value = environ.get(variable) or default
    if not _LABEL.match(value):
        raise _bad(variable, value, "Use a DNS label: a-z, 0-9 and '-', at most 63 characters, such as 'orders'.")
    return value


def _url(environ: Mapping[str, str], variable: str) -> str | None:
    value = (environ.get(variable) or "").strip()
    if not value:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise _bad(variable, value, "Use a URL such as 'http://127.0.0.1:8500'.")
    return value.rstrip("/")


def _flag(environ: Mapping[str, str], variable: str, *, default: bool) -> bool:
    value = (environ.get(variable) or "").strip().lower()
    if not value:
        return default
    if value not in _TRUE | _FALSE:
        raise _bad(variable, value, "Use 'true' or 'false'.")
    return value in _TRUE


def _number(
    environ: Mapping[str, str], variable: str, default: float, *, low: float, high: float, whole: bool = False
) -> float:
    text = (environ.get(variable) or "").strip()
    if not text:
        return default
    kind = "whole number" if whole else "number"
    try:
        value = float(int(text)) if whole else float(text)
    except ValueError:
        raise _bad(variable, text, f"Use a {kind} from {low:g} to {high:g}.") from None
    if not low <= value <= high:  # also refuses nan
        raise _bad(variable, text, f"Use a {kind} from {low:g} to {high:g}.")
    return value
