"""NexusPlugin: an installed plugin. NexusMarketplace: an index of plugins and the keys of its publishers."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, ClassVar, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import Field

from nexus_core.model.base import LABEL_PATTERN, NAME_PATTERN, Model
from nexus_core.model.policies import TargetRef
from nexus_core.model.rules import Rule


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
        description="Versions that may be used, as PEP 440 range; the highest is. Empty for any.",
    )
    enabled: bool = Field(
        default=True, description="False takes it out of the gateway without losing its configuration."
    )
    order: int = Field(
        default=0, ge=-1000, le=1000, description="Lower runs earlier on the request and later on the response."
    )
    config: dict[str, Any] = Field(
        default={}, description="The plugin's configuration; its marketplace entry says which fields it has."
    )
    target_refs: tuple[TargetRef, ...] = Field(
        default=(),
        max_length=16,
        description="Objects of the same namespace it applies to. Empty: every route of the namespace.",
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=0.5, description="How long one call of the plugin may take."
    )
    failure_policy: Literal["open", "closed"] | None = Field(
        default=None,
        description="While the plugin cannot run: open lets requests pass without it, closed answers 503. "
        "Default: what the plugin's release says.",
    )


class Source(Model):
    """Where the index is."""

    bundled: bool | None = Field(default=None, description="True: the index that ships with Nexus; needs no network.")
    url: str | None = Field(default=None, min_length=1, max_length=2048, description="Address of the index.json.")

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(has(self.bundled) && self.bundled) != has(self.url)",
            what="An index is either bundled or fetched.",
            fix="Set just one of bundled: true and url.",
            holds=lambda s: bool(s.bundled) != (s.url is not None),
        ),
        Rule(
            cel="!has(self.url) || self.url.startsWith('https://') || self.url.startsWith('http://')",
            what="The index cannot be fetched from this address.",
            fix="Write an http:// or https:// address.",
            holds=lambda s: s.url is None or s.url.startswith(("https://", "http://")),
            field=".url",
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
    description: str | None = Field(default=None, max_length=1024, description="For people.")
