"""Which plugin runs, from which release, with which configuration."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Release(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One version of a plugin as its publisher signed it.

    name: kebab-case. version: PEP 440. api: specifier set over `nexus_core.hooks.API_VERSION` (`>=1,<2`).
    package: the one import package inside the artefact. entry_point: `module:Class` inside that package.
    sha256: hex digest of the artefact, a zip of the package. url: where to fetch it; relative to the index when it has
    no scheme; `bundled:` for plugins that ship with Nexus. Not signed, so that mirrors work: the digest is.
    config_schema: JSON Schema (draft 2020-12) of the configuration. failure_policy: what a rule does while the plugin
    cannot run, unless the NexusPlugin says otherwise. publisher: name of the key. signature: base64 Ed25519 over
    `nexus_core.marketplace.signed_bytes(release)`.
    """

    name: str
    version: str
    api: str
    package: str
    entry_point: str
    sha256: str
    url: str
    summary: str = ""
    config_schema: dict[str, Any] = {}
    failure_policy: Literal["open", "closed"] = "open"
    publisher: str = ""
    signature: str = ""


class PluginInstance(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An enabled NexusPlugin.

    id: `<namespace>/<name>` of the NexusPlugin. public_key: base64 Ed25519 key the marketplace pins for the release's publisher.
    base_url: the index's address, against which `release.url` is resolved; empty for bundled plugins.
    config: the user's configuration, as JSON text with sorted keys. timeout_s: budget of one hook call.
    failure_policy: `open` lets requests pass without the plugin, `closed` answers 503, when it cannot be loaded, fails or is too slow.
    """

    id: str
    source: str
    release: Release
    public_key: str
    base_url: str = ""
    config: str = "{}"
    order: int = 0
    timeout_s: float = 0.5
    failure_policy: Literal["open", "closed"] = "open"
