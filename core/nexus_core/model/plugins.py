"""NexusPlugin: an installed plugin. NexusMarketplace: an index of plugins and the keys of its publishers."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, ClassVar, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import Field

from nexus_core.model.base import LABEL_PATTERN, NAME_PATTERN, Model
from nexus_core.model.policies import TargetRef
from nexus_core.model.rules import Rule, at_least


def _is_range(text: str) -> bool:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return False
    return True


VERSION_RANGE = Rule(
    # The grammar of PEP 440 without its local versions and the arbitrary `===`; empty for any version.
    cel=r"self.matches('^\\s*$|^\\s*(~=|==|!=|<=|>=|<|>)\\s*[0-9][0-9A-Za-z.!*_-]*"
    r"(\\s*,\\s*(~=|==|!=|<=|>=|<|>)\\s*[0-9][0-9A-Za-z.!*_-]*)*\\s*$')",
    what="The version range cannot be read.",
    fix="Write it like '>=1.0,<2' or '==1.2.3'.",
    holds=_is_range,
)


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


PUBLIC_KEY = Rule(
    cel="self.matches('^[A-Za-z0-9+/]{43}=$')",
    what="The key is no Ed25519 public key.",
    fix="Put the 32 raw bytes of the key here, in base64 (44 characters).",
    holds=_is_key,
)


HOST_PATTERN = r"^(\*|(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?)$"
SERVICE_PATTERN = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"
HEADER_PATTERN = r"^([a-z0-9!#$%&'*+.^_`|~-]+\*?|\*)$"
CLOCK_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


class SecretKeyRef(Model):
    """A key of a Secret of the same namespace."""

    name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Name of the Secret.")
    key: str = Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key in its data.")


class ConfigFrom(Model):
    """A value of the configuration that comes from a Secret."""

    path: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*$",
        description="Where it goes in the configuration, such as `redis.password`.",
    )
    secret_ref: SecretKeyRef = Field(description="Where it is.")


class GrantedSecret(Model):
    """A secret that the plugin gets under the name it asks for."""

    name: str = Field(
        min_length=1, max_length=63, pattern=LABEL_PATTERN, description="Name in the plugin's permissions."
    )
    secret_ref: SecretKeyRef = Field(description="Where it is.")


class GrantedHeaders(Model):
    """Headers that the plugin may see and change."""

    read: tuple[Annotated[str, Field(max_length=128, pattern=HEADER_PATTERN)], ...] = Field(
        default=("*",), max_length=64, description="Lower-case names, `x-acme-*` for a prefix, `*` for any."
    )
    write: tuple[Annotated[str, Field(max_length=128, pattern=HEADER_PATTERN)], ...] = Field(
        default=("*",), max_length=64, description="Lower-case names, `x-acme-*` for a prefix, `*` for any."
    )


class Grants(Model):
    """What the plugin may use. What a release asks for beyond this keeps it from being installed."""

    network: tuple[Annotated[str, Field(min_length=1, max_length=253, pattern=HOST_PATTERN)], ...] = Field(
        default=(),
        max_length=64,
        description="Hosts it may call: `host`, `host:port`, `*.example.com`, `*`. Hosts that the configuration names need no grant.",
    )
    services: tuple[Annotated[str, Field(min_length=1, max_length=253, pattern=SERVICE_PATTERN)], ...] = Field(
        default=(),
        max_length=64,
        description="NexusServices it may call: `<namespace>/<name>`, or `*` for all of its own namespace. Another namespace has to "
        "permit it with a ReferenceGrant.",
    )
    secrets: tuple[GrantedSecret, ...] = Field(
        default=(),
        max_length=16,
        description="Secrets it gets.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    headers: GrantedHeaders = Field(
        default=GrantedHeaders(), description="Headers it may see and change. Default: any."
    )
    consul: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = Field(
        default=(), max_length=16, description="Prefixes of Consul keys it may read."
    )
    modules: tuple[Annotated[str, Field(max_length=128, pattern=r"^[a-z_][a-zA-Z0-9_.]*$")], ...] = Field(
        default=(), max_length=64, description="Modules of the standard library it may import beyond the harmless ones."
    )
    native_code: bool = Field(default=False, description="Whether its wheels may hold compiled code.")


class UpdateWindow(Model):
    """When a new version may be taken."""

    days: tuple[Day, ...] = Field(default=(), max_length=7, description="Days of the week. Empty: every day.")
    start: str = Field(default="00:00", max_length=5, pattern=CLOCK_PATTERN, description="From, as HH:MM, UTC.")
    end: str = Field(
        default="00:00",
        max_length=5,
        pattern=CLOCK_PATTERN,
        description="Until, as HH:MM, UTC; on the next day if it is not after start. Equal: the whole day.",
    )


class UpdatePolicy(Model):
    """Which newer versions of the range are taken by themselves."""

    mode: Literal["manual", "patch", "minor", "any"] = Field(
        default="minor",
        description="manual stays with what is installed until the range excludes it; patch takes 1.2.x for 1.2.0, minor 1.x, "
        "any all of the range.",
    )
    window: UpdateWindow | None = Field(default=None, description="When. Default: at any time.")


class Canary(Model):
    """How a new version proves itself beside the one that runs."""

    percent: Annotated[float, Field(gt=0, le=100)] = Field(default=10, description="Share of the requests it gets.")
    seconds: Annotated[float, Field(ge=0, le=86400)] = Field(
        default=30, description="How long. 0: no canary, the new version takes over at once."
    )
    error_percent: Annotated[float, Field(ge=0, le=100)] = Field(
        default=5,
        description="It is rolled back when so many more of its calls fail, or of its requests are answered 5xx, than of the running "
        "version's.",
    )
    latency_milliseconds: Annotated[float, Field(gt=0, le=60000)] = Field(
        default=50, description="It is rolled back when its calls take so much longer on average."
    )
    min_calls: Annotated[int, Field(ge=1, le=100000)] = Field(
        default=20, description="How many of its calls are seen before shares are compared."
    )


class PluginBudgets(Model):
    """How much the plugin may take. Beyond, it is disabled for a while, and its condition says why."""

    call_seconds: Annotated[float, Field(gt=0, le=60)] | None = Field(
        default=None, description="How long one call may take. Default: timeoutSeconds."
    )
    block_seconds: Annotated[float, Field(gt=0, le=10), at_least(0.05)] = Field(
        default=1, description="How long one call may hold the event loop before it is interrupted. At least 0.05."
    )
    body_bytes: Annotated[int, Field(ge=1024, le=104857600)] = Field(
        default=1048576, description="How much of one body or message is buffered for it."
    )
    error_percent: Annotated[float, Field(gt=0, le=100)] = Field(
        default=50, description="Share of failed calls within the window that disables it."
    )
    cpu_percent: Annotated[float, Field(gt=0, le=100)] | None = Field(
        default=None, description="Share of one core, over the window, that disables it. Default: no limit."
    )
    memory_megabytes: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=64, description="Memory that is reachable from it, that disables it."
    )
    window_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=10, description="Over how long calls are counted."
    )
    min_calls: Annotated[int, Field(ge=1, le=100000)] = Field(
        default=20, description="Calls within the window before shares count."
    )
    disabled_seconds: Annotated[float, Field(ge=1, le=86400)] = Field(
        default=30, description="How long it is disabled before a few calls try it again."
    )


class NexusPluginSpec(Model):
    """An installed plugin: where it comes from, which versions, its configuration and what it applies to."""

    marketplace: str = Field(
        default="official",
        min_length=1,
        max_length=253,
        pattern=NAME_PATTERN,
        description="The NexusMarketplace that lists it.",
    )
    plugin: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        pattern=LABEL_PATTERN,
        description="Name of the plugin in the marketplace. Default: the name of this object.",
    )
    version: Annotated[str, VERSION_RANGE] = Field(
        default="",
        max_length=128,
        description="Versions that may be used, as PEP 440 range; updatePolicy says which of them is. Empty for any.",
    )
    channel: str = Field(
        default="stable",
        min_length=1,
        max_length=63,
        pattern=LABEL_PATTERN,
        description="Releases of this channel are taken, and of `stable` too.",
    )
    enabled: bool = Field(
        default=True, description="False takes it out of the gateway without losing its configuration."
    )
    update_policy: UpdatePolicy = Field(default=UpdatePolicy(), description="Which newer versions are taken, and when.")
    canary: Canary = Field(default=Canary(), description="How a new version proves itself before it takes over.")
    order: int = Field(
        default=0,
        ge=-1000,
        le=1000,
        description="Lower runs earlier on the request and later on the response. Equal ones run as their releases' before and "
        "after say, then by name.",
    )
    config: dict[str, Any] = Field(
        default={}, description="The plugin's configuration; its marketplace entry says which fields it has."
    )
    config_from: tuple[ConfigFrom, ...] = Field(
        default=(),
        max_length=16,
        description="Values of the configuration that come from Secrets of the same namespace.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["path"]},
    )
    target_refs: tuple[TargetRef, ...] = Field(
        default=(),
        max_length=16,
        description="Objects of the same namespace it applies to. Empty: every route of the namespace.",
    )
    grants: Grants = Field(default=Grants(), description="What it may use.")
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=0.5, description="How long one call of the plugin may take."
    )
    budgets: PluginBudgets = Field(default=PluginBudgets(), description="How much it may take.")
    failure_policy: Literal["open", "closed"] | None = Field(
        default=None,
        description="While the plugin cannot run: open lets requests pass without it, closed answers 503. "
        "Default: what the plugin's release says. While no release could be installed yet (its marketplace is away, no version fits, "
        "its publisher is not trusted), only what is written here counts: requests pass unless it is closed.",
    )


class ConfigMapSource(Model):
    """A ConfigMap that holds the marketplace's files; `/` in their paths is written `__` in its keys."""

    namespace: str = Field(min_length=1, max_length=63, pattern=LABEL_PATTERN, description="Its namespace.")
    name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Its name.")


LOGIN_TYPE = "nexus.dev/marketplace-login"
"""Of Secrets that hold the login of a marketplace, and nothing else."""
LOGIN_KEYS = ("token", "username", "password")


_NAMED = re.compile(r"[^/]*//[^/]*@")
"""An address with a name in it."""


class LoginRef(Model):
    """A Secret of type nexus.dev/marketplace-login, with a bearer `token`, or with `username` and `password`."""

    namespace: str = Field(min_length=1, max_length=63, pattern=LABEL_PATTERN, description="Its namespace.")
    name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Its name.")


_PLACES = ("bundled", "url", "oci", "directory", "config_map")


class Source(Model):
    """Where the marketplace's files are: one of these."""

    bundled: bool | None = Field(default=None, description="True: the index that ships with Nexus; needs no network.")
    url: str | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        description="Address of the directory on a web server. A name and password in it stay with who reads this object.",
    )
    oci: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        pattern=r"^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+(:[A-Za-z0-9._-]+)?$",
        description="An image in an OCI registry: `registry[:port]/repository[:tag]`.",
    )
    plain_http: bool = Field(default=False, description="Whether the OCI registry is asked without TLS.")
    directory: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        pattern="^/",
        description="A directory, where operator or gateway run.",
    )
    config_map: ConfigMapSource | None = Field(default=None, description="A ConfigMap, for a few small plugins.")
    secret_ref: LoginRef | None = Field(
        default=None, description="Who asks the web server or OCI registry. It is sent there, and never shown."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.bundled) && self.bundled, has(self.url), has(self.oci), has(self.directory), has(self.configMap)]"
            ".filter(x, x).size() == 1",
            what="A marketplace is in one place.",
            fix="Set just one of bundled: true, url, oci, directory and configMap.",
            holds=lambda s: sum(bool(getattr(s, place)) for place in _PLACES) == 1,
        ),
        Rule(
            cel="!has(self.url) || self.url.startsWith('https://') || self.url.startsWith('http://')",
            what="The index cannot be fetched from this address.",
            fix="Write an http:// or https:// address.",
            holds=lambda s: s.url is None or s.url.startswith(("https://", "http://")),
            field=".url",
        ),
        Rule(
            cel="!has(self.url) || !(self.url.contains('?') || self.url.contains('#'))",
            what="The address of a marketplace has a query or a fragment.",
            fix="Leave out what begins with ? or #: files are read below the address. A name and password can be in it, as "
            "https://name:password@host/.",
            holds=lambda s: s.url is None or not ({"?", "#"} & set(s.url)),
            field=".url",
        ),
        Rule(
            cel="!has(self.secretRef) || has(self.url) || has(self.oci)",
            what="A login is for a web server or an OCI registry.",
            fix="Remove secretRef, or name url or oci.",
            holds=lambda s: s.secret_ref is None or s.url is not None or s.oci is not None,
            field=".secretRef",
        ),
        Rule(
            cel="!has(self.secretRef) || !has(self.url) || !self.url.matches('^[^/]*//[^/]*@')",
            what="The marketplace has two logins: secretRef and a name in the address.",
            fix="Leave one of them out; what is in the address, everybody who may read this object can read.",
            holds=lambda s: s.secret_ref is None or s.url is None or not _NAMED.match(s.url),
            field=".secretRef",
        ),
    )


class Trust(Model):
    """Who may say what the marketplace holds. Its metadata is that of The Update Framework."""

    root_keys: tuple[Annotated[str, Field(max_length=64), PUBLIC_KEY], ...] = Field(
        default=(),
        max_length=16,
        description="Ed25519 keys, 32 bytes in base64, of the root role. Default: the publishers' keys.",
    )
    threshold: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1, description="How many of them must have signed the first root metadata."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.rootKeys) || self.rootKeys.size() == 0 || !has(self.threshold) || self.threshold <= self.rootKeys.size()",
            what="More signatures are asked for than there are root keys.",
            fix="Lower threshold, or add keys to rootKeys.",
            holds=lambda t: not t.root_keys or t.threshold <= len(t.root_keys),
            field=".threshold",
        ),
    )


class Publisher(Model):
    """Someone whose plugins are trusted."""

    name: str = Field(
        min_length=1, max_length=63, pattern=LABEL_PATTERN, description="Name as the index's releases give it."
    )
    public_key: Annotated[str, PUBLIC_KEY] = Field(
        max_length=64,
        description="Ed25519 public key, 32 bytes in base64. Releases signed by any other key are refused.",
    )


class NexusMarketplaceSpec(Model):
    """An index of plugins and the keys of the publishers that are trusted."""

    source: Source = Field(description="Where the index is.")
    publishers: tuple[Publisher, ...] = Field(
        min_length=1,
        max_length=64,
        description="Publishers that are trusted, with their keys.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    trust: Trust = Field(default=Trust(), description="Who may say what the marketplace holds.")
    description: str | None = Field(default=None, max_length=1024, description="For people.")

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.trust) || !has(self.trust.threshold) || (has(self.trust.rootKeys) && self.trust.rootKeys.size() > 0) || "
            "self.trust.threshold <= self.publishers.size()",
            what="More signatures are asked for than there are publishers, whose keys count while trust.rootKeys is empty.",
            fix="Lower trust.threshold, or put the keys of the root role into trust.rootKeys.",
            holds=lambda s: bool(s.trust.root_keys) or s.trust.threshold <= len(s.publishers),
            field=".trust.threshold",
        ),
    )
