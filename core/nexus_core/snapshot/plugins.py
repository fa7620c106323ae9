"""Which plugin runs, from which release, with which configuration, and what it may do."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from nexus_core.snapshot.listeners import Holder

FailurePolicy = Literal["open", "closed"]


class Permissions(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a release asks for, or an instance may use.

    network: hosts of `Context.call` and `Context.redis`: `host`, `host:port`, `*.example.com`, or `config:<path>` for the host of the URL
    that the configuration has at this dotted path. services: `<namespace>/<name>` of NexusServices, `*` for whichever
    are granted. secrets: names, in a release with `?` after those that it does without.
    read_headers, write_headers: lower-case names, `x-acme-*` for a prefix, `*` for any; a plugin sees no others and changes no others.
    consul: prefixes of keys. modules: of the standard library, beyond those that every plugin may import. native: wheels with
    compiled code.
    """

    network: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    read_headers: tuple[str, ...] = ("*",)
    write_headers: tuple[str, ...] = ("*",)
    consul: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    native: bool = False


class PluginNeed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Another plugin, by name, and its versions as PEP 440 range; empty for any."""

    name: str
    versions: str = ""


class Wheel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a distribution on PyPI. filename: as PEP 427 names it. sha256: hex. url: empty asks the index for the file."""

    filename: str
    sha256: str
    url: str = ""


class WheelNeed(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a distribution that a release may run with, with its files for the platforms that it has some for.

    name: normalised as PEP 503 says. A release lists several versions of one distribution where it works with any of them.
    """

    name: str
    version: str
    files: tuple[Wheel, ...]


class Release(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One version of a plugin as its publisher signed it.

    name: kebab-case. version: PEP 440. api: specifier set over `nexus_core.hooks.API_VERSION` (`>=1,<2`).
    package: the one import package inside the artefact. entry_point: `module:Class` inside that package.
    sha256: hex digest of the artefact, a zip of the package. url: where to fetch it; relative to the index when it has
    no scheme; `bundled:` for plugins that ship with Nexus. Not signed, so that mirrors work: the digest is.
    config_schema: JSON Schema (draft 2020-12) of the configuration; `writeOnly` marks secrets. failure_policy: what a rule does while
    the plugin cannot run, unless the NexusPlugin says otherwise. publisher: name of the key. signature: base64 Ed25519 over
    `nexus_core.marketplace.signed_bytes(release)`.

    python: specifier set over the interpreter's version, empty for any. hooks: that it overrides, sorted; empty for releases made
    before API 1.1, which have `on_request` and `on_response` alone. plugins: that have to be there, as libraries that it imports by
    their package. wheels: that it imports. host: requirements (PEP 508) on what is installed beside Nexus. conflicts: plugins that the
    same namespace must not have. before, after: names of plugins that it runs before or after, where both have the same `order`.
    channel: `stable`, or a name that a NexusPlugin has to ask for. changelog: of this version, Markdown. icon, screenshots: URLs.
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
    failure_policy: FailurePolicy = "open"
    publisher: str = ""
    signature: str = ""
    python: str = ""
    hooks: tuple[str, ...] = ()
    permissions: Permissions = Permissions()
    plugins: tuple[PluginNeed, ...] = ()
    wheels: tuple[WheelNeed, ...] = ()
    host: tuple[str, ...] = ()
    conflicts: tuple[PluginNeed, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    channel: str = "stable"
    licence: str = ""
    homepage: str = ""
    icon: str = ""
    screenshots: tuple[str, ...] = ()
    changelog: str = ""


class Budgets(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How much a plugin may take. Within `window_s`, `min_calls` and more of which more than `error_percent` failed, or that took
    more than `cpu_percent` of one core, disable it for `disabled_s`; then a few calls try it again.

    body_bytes: of one body or message that is buffered for it. block_s: how long one call may hold the event loop before it is
    interrupted. memory_mb: of everything that is reachable from it. 0: no limit, of cpu_percent and memory_mb.
    """

    body_bytes: int = 1048576
    error_percent: float = 50.0
    window_s: float = 10.0
    min_calls: int = 20
    disabled_s: float = 30.0
    cpu_percent: float = 0.0
    block_s: float = 1.0
    memory_mb: int = 64


class SealedValue(msgspec.Struct, frozen=True):
    """A secret for an instance, sealed as certificates' keys are, about `<instance id>#<name>`.

    name: `secret:<name>` for `Context.secrets`, `config:<dotted path>` for a place in the configuration. text: sealed UTF-8.
    holders: who can open it.
    """

    name: str
    text: str
    holders: tuple[Holder, ...] = ()


class Library(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plugin that another imports: its release, with what proves and finds it."""

    release: Release
    public_key: str
    base_url: str = ""


class Lacking(msgspec.Struct, frozen=True):
    """Why there is no release to run. reason: from the problems catalogue. message: what and how to fix."""

    reason: str
    message: str


class PluginInstance(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An enabled NexusPlugin.

    id: `<namespace>/<name>` of the NexusPlugin. public_key: base64 Ed25519 key the marketplace pins for the release's publisher.
    base_url: the index's address, against which `release.url` is resolved; empty for bundled plugins.
    config: the user's configuration, as JSON text with sorted keys. timeout_s: budget of one hook call.
    failure_policy: `open` lets requests pass without the plugin, `closed` answers 503, when it cannot be loaded, fails or is too slow.

    libraries: plugins it imports, resolved. wheels: one version of each distribution, resolved. granted: what it asks for and was
    granted; never more than it asks. sealed: its secrets. candidate: another version that is being tried beside this one.

    lacking: set where no release of it is known and its NexusPlugin says that it fails closed: it is there so that its rules refuse
    requests, and nothing of it is fetched or loaded. Its release has a name, and nothing else: who does not know this field finds that
    nobody signed it.
    """

    id: str
    source: str
    release: Release
    public_key: str
    base_url: str = ""
    config: str = "{}"
    order: int = 0
    timeout_s: float = 0.5
    failure_policy: FailurePolicy = "open"
    libraries: tuple[Library, ...] = ()
    wheels: tuple[WheelNeed, ...] = ()
    granted: Permissions = Permissions()
    budgets: Budgets = Budgets()
    sealed: tuple[SealedValue, ...] = ()
    candidate: Candidate | None = None
    lacking: Lacking | None = None


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Another version of an instance, that takes a share of its requests until it has proved itself.

    instance: as it would run; its own `candidate` is None. percent: of requests. seconds: how long. error_percent: it is given up
    when so many more of its calls fail, or of its requests are answered 5xx, than of the running version's. latency_ms: or when its
    calls take so much longer on average. min_calls: that are seen before it is judged by shares.
    """

    instance: PluginInstance
    percent: float = 10.0
    seconds: float = 30.0
    error_percent: float = 5.0
    latency_ms: float = 50.0
    min_calls: int = 20
