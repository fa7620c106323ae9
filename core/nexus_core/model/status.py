"""The statuses of our kinds, as the operator writes them."""

from __future__ import annotations

from typing import Literal

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


class NexusPluginStatus(Status):
    """Which release runs, and whether it runs everywhere."""

    plugin: str | None = Field(default=None, max_length=253, description="Name of the plugin in its marketplace.")
    version: str | None = Field(default=None, max_length=128, description="Version that was chosen.")


class NexusGatewayParametersStatus(Status):
    """Whether the parameters can be used."""


class NexusMarketplaceStatus(Status):
    """Whether the index could be read."""

    plugins: int | None = Field(default=None, ge=0, description="How many plugins the index lists.")
