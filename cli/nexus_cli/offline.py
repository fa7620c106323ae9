"""What the operator or a gateway would make of manifests, without either: for `validate`, `explain -f`, `plugin -f`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nexus_core.marketplace import Index, parse_index
from nexus_core.marketplace.locks import Lock
from nexus_core.model.plugins import NexusMarketplaceSpec, NexusPluginSpec
from nexus_core.problems import sort_problems
from nexus_core.snapshot import Snapshot
from nexus_core.translate import Translation
from nexus_core.translate import translate as translate_all

from nexus_cli.errors import UserError
from nexus_cli.manifests import Manifests

HOOK = "on_manifest"
_NEEDS_INDEX = frozenset({"PluginNotFound", "PluginVersionNotFound", "PluginIncompatible", "MarketplaceUnreachable"})


@cache
def bundled_index() -> Index:
    """Return the index that ships with Nexus."""
    from importlib import resources

    data = resources.files("nexus_plugins").joinpath("index.json").read_bytes()
    return parse_index(data, "that ships with Nexus")


def translate(
    manifests: Manifests,
    previous: Snapshot | None = None,
    caches: Iterable[Path] = (),
    locks: Mapping[str, Lock] | None = None,
) -> Translation:
    """Return the translation of the manifests with the problems of their texts.

    previous: what runs; broken objects keep what it holds of them. caches: directories with indexes that were trusted here.
    locks: what is remembered of plugins, by `<namespace>/<name>`.

    Marketplaces elsewhere are not fetched: nothing is said of what only their index, as it is now, could tell.
    """
    from dataclasses import replace

    from nexus_cli.plugins.configs import index_at_hand

    caches = tuple(caches)
    indexes: dict[str, Index] = {}
    remote: set[str] = set()
    for resource, _ in manifests.resources:
        if isinstance(resource.spec, NexusMarketplaceSpec):
            if not resource.spec.source.bundled:
                remote.add(resource.ref.name)
            index = index_at_hand(resource.ref.name, resource.spec, caches)
            if index is not None:
                indexes[resource.ref.name] = index
    untold = {
        resource.ref
        for resource, _ in manifests.resources
        if isinstance(resource.spec, NexusPluginSpec) and resource.spec.marketplace in remote
    }
    made = translate_all(
        [resource for resource, _ in manifests.resources], previous=previous, indexes=indexes, locks=locks or {}
    )
    told = [p for p in made.problems if not (p.where in untold and p.reason in _NEEDS_INDEX)]
    return replace(made, problems=sort_problems([*manifests.problems, *told]))


def find_unasked(manifests: Manifests, translation: Translation) -> list[str]:
    """Return the plugins whose hooks on manifests were not run, `<namespace>/<name>`; of those whose releases only a marketplace
    elsewhere lists, with the remark that they may have none.
    """
    release_of = {each.id: each.release for each in translation.snapshot.plugins if each.lacking is None}
    found = []
    for resource, _ in manifests.resources:
        if isinstance(resource.spec, NexusPluginSpec) and resource.spec.enabled:
            name = f"{resource.ref.namespace}/{resource.ref.name}"
            if name not in release_of:
                found.append(f"{name} (if it has any)")
            elif HOOK in release_of[name].hooks:
                found.append(name)
    return sorted(found)


def explain_request(
    snapshot: Snapshot, method: str, url: str, headers: tuple[str, ...], client_ip: str = ""
) -> dict[str, Any]:
    """Return what the admin API's /explain would, as far as files can tell: no endpoints, no circuits."""
    from nexus_core.match import hosts, paths
    from nexus_core.match.asking import parse_question
    from nexus_core.match.descriptions import describe
    from nexus_core.match.router import Router
    from nexus_gateway.edge.listeners.asking import Doors, Seen, connect, see
    from nexus_gateway.edge.listeners.plans import Addresses, build
    from nexus_gateway.telemetry.redactions import is_secret
    from nexus_gateway.telemetry.shown import without_header_values

    try:
        question = parse_question(method, url, headers, client_ip)
    except (hosts.HostRefused, paths.PathRefused) as error:
        raise UserError(f"The gateway answers 400 to {method} {url[:200]!r}: {error} Correct the URL.") from error
    except ValueError as error:
        raise UserError(f"{url[:200]!r} cannot be explained: {error}") from error
    # Ports as `nexus up` would have them; the declared ones are found just as well.
    doors = Doors(build(snapshot.listeners, Addresses(False, ("127.0.0.1",), ("127.0.0.1", 8080))), {})
    if question.is_stream:
        return connect(snapshot, doors, question)
    router: Router[None] = Router(snapshot, lambda route, rule: None)
    seen = see(router, doors, question)
    if not isinstance(seen, Seen):
        return seen
    described = describe(snapshot, seen.router, question, secret=is_secret, listeners=seen.listeners)
    found: dict[str, Any] = {**without_header_values(described), "note": seen.note}
    return found
