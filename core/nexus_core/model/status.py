"""The statuses of our kinds, as the operator writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nexus_core.model.base import Model


class Condition(Model):
    """One thing that is or is not so, and why."""

    type: str = Field(min_length=1, max_length=316, description="What it is about, in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation of the spec this is about."
    )
    last_transition_time: str = Field(
        description="When the status changed last.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        min_length=1, max_length=1024, description="Why, in one CamelCase word; docs/errors/ has a page on it."
    )
    message: str = Field(max_length=32768, description="Why, in sentences, and what to do.")


class Status(Model):
    """What every status holds."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation of the spec that this status is about."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="What is so and what is not; Ready sums the others up.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class NexusServiceStatus(Status):
    """Whether the service runs and is reached."""

    endpoints: str | None = Field(
        default=None, max_length=64, description="Endpoints that take requests, of those there should be: 2/3."
    )
    url: str | None = Field(default=None, max_length=2048, description="Where clients reach it.")


class NexusPolicyStatus(Status):
    """Whether the policy is in force."""

    targets: str | None = Field(default=None, max_length=4096, description="What it is in force for.")


class RefusedRelease(Model):
    """A release that was tried and taken back, and is not tried again."""

    version: str = Field(max_length=128, description="Its version.")
    sha256: str = Field(default="", max_length=64, description="Digest of its artefact.")
    reason: str = Field(default="", max_length=253, description="Why, in one CamelCase word.")
    message: str = Field(default="", max_length=4096, description="Why, in sentences, and what to do.")
    at: str = Field(default="", max_length=64, description="When, RFC 3339.")
    config: str = Field(
        default="",
        max_length=64,
        description="Digest of the spec.config that it did not take; with another one it is tried again. Empty: refused with any.",
    )
    runtimes: tuple[str, ...] = Field(
        default=(),
        max_length=16,
        description="Digests of the runtimes (Python, what is installed) that it is not for; it is tried again when no gateway has one of "
        "them. Empty: refused on any.",
    )


class PassedOver(Model):
    """A release that spec.version allows, newer than the one that the plugin gets."""

    version: str = Field(max_length=128, description="Its version.")
    reason: str = Field(max_length=253, description="Why it was passed over, in one CamelCase word.")
    message: str = Field(default="", max_length=4096, description="Why, in sentences.")


class LockedPart(Model):
    """What runs with the release: another plugin, or a distribution."""

    name: str = Field(max_length=253, description="Its name.")
    version: str = Field(max_length=128, description="Its version.")
    sha256: str | None = Field(default=None, max_length=64, description="Digest of its artefact, of a plugin.")


class PluginLock(Model):
    """The release that has proved itself, and those that have not. What is here outlives every process."""

    version: str = Field(default="", max_length=128, description="Version that runs, empty before the first one does.")
    sha256: str = Field(default="", max_length=64, description="Digest of its artefact.")
    dependencies: tuple[LockedPart, ...] = Field(default=(), max_length=64, description="Plugins that it imports.")
    wheels: tuple[LockedPart, ...] = Field(default=(), max_length=256, description="Distributions that it imports.")
    refused: tuple[RefusedRelease, ...] = Field(
        default=(), max_length=16, description="Releases that were taken back, oldest first."
    )


class NexusPluginStatus(Status):
    """Which release runs, how it does, and whether it runs everywhere."""

    plugin: str | None = Field(default=None, max_length=253, description="Name of the plugin in its marketplace.")
    version: str | None = Field(default=None, max_length=128, description="Version that runs.")
    acknowledged: str | None = Field(
        default=None,
        max_length=128,
        description="Version that all gateways, and all services that have it, said they ran, last.",
    )
    candidate: str | None = Field(
        default=None, max_length=128, description="Version that is tried on a share of the requests."
    )
    available: str | None = Field(
        default=None, max_length=128, description="Newest version of the range that updatePolicy holds back."
    )
    passed_over: tuple[PassedOver, ...] = Field(
        default=(), max_length=5, description="Newer releases of the range that cannot run here, the newest first."
    )
    state: str | None = Field(
        default=None,
        max_length=160,
        description="Running, Canary with the version that is tried, Pending, RolledBack, Disabled (beyond a budget), Failed, or Off "
        "(spec.enabled is false).",
    )
    lock: PluginLock | None = Field(default=None, description="What is remembered between updates.")
    calls_per_second: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Calls of its hooks, lately, in all gateways."
    )
    p99_milliseconds: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="What 99 of 100 of its calls stay below, lately, in the slowest gateway."
    )
    errors: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Calls that failed since the gateways that run now began."
    )


class NexusGatewayParametersStatus(Status):
    """Whether the parameters can be used."""


class MarketplaceMetadata(Model):
    """Versions of signed metadata, by role of The Update Framework."""

    root: int = Field(default=0, ge=0, description="Of the root role, which names all keys.")
    timestamp: int = Field(default=0, ge=0, description="Of the timestamp role, which says which snapshot is current.")
    snapshot: int = Field(default=0, ge=0, description="Of the snapshot role.")
    targets: int = Field(default=0, ge=0, description="Of the targets role, which names the index.")
    expires: str = Field(default="", max_length=64, description="When the first of them expires, RFC 3339.")
    anew: str = Field(
        default="",
        max_length=64,
        description="Digest of the annotation nexus.dev/trust-anew that it was trusted with; what was seen before is forgotten.",
    )


class NexusMarketplaceStatus(Status):
    """Whether the index could be read."""

    plugins: int | None = Field(default=None, ge=0, description="How many plugins the index lists.")
    metadata: MarketplaceMetadata | None = Field(
        default=None, description="The signed metadata that was trusted last; nothing older is, afterwards."
    )
