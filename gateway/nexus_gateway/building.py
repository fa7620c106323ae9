"""What a gateway is made of, by its settings: where Snapshots come from, where services are found, where it listens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_core.certificates.keys import process_key
from nexus_core.discovery import Discovery
from nexus_core.hooks import CallFailed
from nexus_core.snapshot import UpstreamTls
from nexus_core.snapshot.plugins import SealedValue
from nexus_hosting.means import Means, Reached
from nexus_sdk.discovery.file import FileDiscovery
from nexus_sdk.discovery.memory import MemoryDiscovery

from nexus_gateway.edge.kept import KeptDiscovery
from nexus_gateway.edge.listeners.plans import Addresses
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.sources.files import FileSource
from nexus_gateway.edge.sources.locks import LocksFile, locks_of
from nexus_gateway.edge.sources.port import SnapshotSource
from nexus_gateway.edge.sources.remote import RemoteWorkshop
from nexus_gateway.edge.tls.origination import TlsInvalid
from nexus_gateway.edge.workers.places import Place
from nexus_gateway.edge.workers.sockets import every_address
from nexus_gateway.resilience.breakers import OPEN
from nexus_gateway.settings import LISTEN, GatewaySettings, SettingInvalid, split_address

if TYPE_CHECKING:
    from ssl import SSLContext

    from nexus_core.certificates.sealing import Opener, Sealer

    from nexus_gateway.edge.sources.keys import Keys


class NothingToServe(ValueError):
    """No Snapshot source is configured. The text says what to give."""


NOTHING = "The gateway has no configuration: neither a directory of manifests (`nexus gateway -f DIR`) nor NEXUS_CONSUL_URL is given."


def place_of(settings: GatewaySettings) -> Place:
    """Return where a gateway of one process is."""
    return Place.alone(split_address(settings.admin))


def addresses_of(settings: GatewaySettings) -> Addresses:
    """Return how listeners' ports are bound."""
    plain = split_address(settings.listen)
    declared = settings.ports == "declared"
    return Addresses(
        declared,
        every_address() if declared and settings.listen == LISTEN else (plain[0],),
        plain,
        split_address(settings.tls_listen) if settings.tls_listen else None,
        always_secure=settings.tls_certificates is not None and bool(settings.tls_listen) and not declared,
    )


def build_opener(settings: GatewaySettings) -> Opener | Sealer:
    """Return what opens private keys: those of one Gateway where the process serves one, else all. With the key of the settings,
    else with that of this process, for Snapshots made for it alone.

    Raises `SettingInvalid`.
    """
    # Here: a gateway without TLS listeners does without the library behind it, which takes 7 MB.
    from nexus_core.certificates.sealing import Opener, Sealer

    key = _seal_key(settings) if settings.seal_key else process_key()
    return Opener(key, settings.gateway) if settings.gateway else Sealer(key)


def _seal_key(settings: GatewaySettings) -> bytes:
    from nexus_core.certificates.sealing import SealError, parse_key

    try:
        return parse_key(settings.seal_key)
    except SealError as error:
        raise SettingInvalid(f"NEXUS_SEAL_KEY cannot be used. {error}") from error


def build_means(
    settings: GatewaySettings,
    pools: Callable[[], Mapping[str, Pool]],
    workers: int,
    keys: Keys | None,
    contexts: Callable[[UpstreamTls], SSLContext],
) -> Means:
    """Return what this process lends to its plugins. pools: the live ones, by upstream. keys: of Consul, None without it. contexts: of
    the gateway's own connections to upstreams.
    """
    opener = functools.cache(lambda: build_opener(settings))

    def unseal(sealed: SealedValue, about: str) -> bytes:
        return opener().unseal_text(sealed.text, sealed.holders, about)

    return Means(
        workers=workers,
        endpoint=lambda service: reach(pools(), service, contexts),
        consul=keys.value if keys is not None else None,
        artefact=keys.artefact if keys is not None else None,
        unseal=unseal,
        pypi=settings.pypi_index,
    )


def build_keys(settings: GatewaySettings) -> Keys | None:
    """Return what reads Consul's KV store for plugins, None without Consul."""
    if not settings.consul_url:
        return None
    # Where it is needed, as below: its client takes 7 MB.
    from nexus_sdk.consul.connection import Connection

    from nexus_gateway.edge.sources.keys import Keys

    return Keys(Connection(settings.consul_url, settings.consul_token or None), settings.consul_prefix)


def reach(pools: Mapping[str, Pool], service: str, contexts: Callable[[UpstreamTls], SSLContext]) -> Reached | None:
    """Return how a plugin's call gets to a service: with the TLS that requests to it have. Raises `CallFailed` for one that does not
    speak HTTP/1.1.
    """
    authority = find_endpoint(pools, service)
    if authority is None:
        return None
    upstream = pools[service].upstream
    if upstream.protocol != "http":
        spoken = {"h2": "HTTP/2 alone", "tcp": "TCP", "udp": "UDP"}[upstream.protocol]
        raise CallFailed(f"The NexusService {service} speaks {spoken}; plugins call services that speak HTTP/1.1.")
    policy = upstream.tls
    if policy is None:
        return Reached(authority)

    def make() -> SSLContext:
        try:
            return contexts(policy)
        except TlsInvalid as error:
            raise CallFailed(f"The NexusService {service} cannot be called over TLS: {error}") from error

    return Reached(authority, make, policy.server_name)


def find_endpoint(pools: Mapping[str, Pool], service: str) -> str | None:
    """Return the endpoint of a service that has the least to do, of those that take requests: `host:port`; None without one."""
    pool = pools.get(service)
    if pool is None:
        return None
    able = [each for each in pool.endpoints if each.healthy and not each.draining and each.breaker.state != OPEN]
    return (
        min(able or pool.endpoints, key=lambda each: (each.active, each.attempts)).authority if pool.endpoints else None
    )


def build_source(
    settings: GatewaySettings, manifests: Path | None, worker: int = 0, workers: int = 1
) -> SnapshotSource:
    """Return the file source for a directory of manifests, else the Consul source. worker: this process's place, 0..workers-1.

    Raises `NothingToServe`, `SettingInvalid`.
    """
    if manifests is not None:
        key = _seal_key(settings) if settings.seal_key else b""
        alone = not settings.consul_url and settings.discovery_file is None
        beside = settings.plugin_cache.parent
        maker = RemoteWorkshop(beside / "indexes", seal_key=key, alone=alone, artefacts=settings.plugin_cache)
        locks = LocksFile(beside / locks_of(manifests), worker=worker, workers=workers)
        return FileSource(manifests, maker, locks=locks)
    if settings.consul_url:
        # Where it is needed, as below: its client takes 7 MB.
        from nexus_gateway.edge.sources.consul import ConsulSource

        return ConsulSource(
            settings.consul_url, settings.consul_token, settings.consul_prefix, settings.replica, settings.state_dir
        )
    raise NothingToServe(NOTHING)


def build_discovery(settings: GatewaySettings) -> Discovery:
    """Return the file's discovery when one is named, else Consul's, else one that knows no service; as in `nexus_sdk`."""
    if settings.discovery_file is not None:
        return FileDiscovery(settings.discovery_file)
    if settings.consul_url:
        from nexus_sdk.discovery.consul import ConsulDiscovery

        found = ConsulDiscovery(
            settings.consul_url, token=settings.consul_token or None, installation=settings.consul_prefix
        )
        return KeptDiscovery(found, settings.state_dir / "endpoints") if settings.state_dir is not None else found
    return MemoryDiscovery()
