"""What the operator or a gateway would make of manifests, without either: for `validate`, `explain -f`, `plugin -f`."""

from __future__ import annotations

from functools import cache
from typing import Any

from nexus_core.marketplace import Index, parse_index
from nexus_core.model.plugins import NexusMarketplaceSpec, NexusPluginSpec
from nexus_core.problems import sort_problems
from nexus_core.snapshot import Snapshot
from nexus_core.translate import Translation
from nexus_core.translate import translate as translate_all

from nexus_cli.errors import UserError
from nexus_cli.manifests import Manifests

_NEEDS_INDEX = frozenset({"PluginNotFound", "PluginVersionNotFound", "PluginIncompatible", "MarketplaceUnreachable"})


@cache
def bundled_index() -> Index:
    """Return the index that ships with Nexus."""
    from importlib import resources

    data = resources.files("nexus_plugins").joinpath("index.json").read_bytes()
    return parse_index(data, "that ships with Nexus")


def translate(manifests: Manifests) -> Translation:
    """Return the translation of the manifests with the problems of their texts.

    Marketplaces elsewhere are not fetched: nothing is said of what only their index could tell.
    """
    from dataclasses import replace

    indexes: dict[str, Index] = {}
    remote: set[str] = set()
    for resource, _ in manifests.resources:
        if isinstance(resource.spec, NexusMarketplaceSpec):
            if resource.spec.source.url is None:
                indexes[resource.ref.name] = bundled_index()
            else:
                remote.add(resource.ref.name)
    untold = {
        resource.ref
        for resource, _ in manifests.resources
        if isinstance(resource.spec, NexusPluginSpec) and resource.spec.marketplace in remote
    }
    made = translate_all([resource for resource, _ in manifests.resources], indexes=indexes)
    told = [p for p in made.problems if not (p.where in untold and p.reason in _NEEDS_INDEX)]
    return replace(made, problems=sort_problems([*manifests.problems, *told]))


def explain_request(snapshot: Snapshot, method: str, url: str, headers: tuple[str, ...]) -> dict[str, Any]:
    """Return what the admin API's /explain would, as far as files can tell: no endpoints, no circuits."""
    import msgspec
    from nexus_core.match import hosts, paths
    from nexus_core.match.explain import explain
    from nexus_core.match.router import Router

    given: dict[str, str] = {}
    for line in headers:
        name, _, value = line.partition(":")
        key = name.strip().lower()
        given[key] = f"{given[key]},{value.strip()}" if key in given else value.strip()
    authority, path = given.get("host", ""), url
    if "://" in url:
        rest = url.partition("://")[2]
        at = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
        authority, path = rest[:at], rest[at:]
    try:
        host = hosts.parse(authority)[0] if authority else ""
        path = paths.normalise(path.partition("#")[0].partition("?")[0] or "/")
    except (hosts.HostRefused, paths.PathRefused) as error:
        raise UserError(f"The gateway answers 400 to {method} {url[:200]!r}: {error} Correct the URL.") from error
    rules = {rule.id: rule for route in snapshot.routes for rule in route.rules}
    router: Router[None] = Router(snapshot, lambda route, rule: None)
    found = explain(router, method, host, path, given)
    answer: dict[str, Any] = {
        "request": {"method": method, "host": host, "path": path},
        "route": found.route,
        "rule": found.rule,
        "why": found.why,
        "plugins": [],
        "upstreams": [],
        "others": [{"route": o.route, "rule": o.rule, "why": o.why} for o in found.losers],
    }
    rule = rules.get(found.rule)
    if rule is not None:
        plugins = {plugin.id: plugin for plugin in snapshot.plugins}
        answer["plugins"] = [{"id": p, "version": plugins[p].release.version} for p in rule.plugins if p in plugins]
        answer["filters"] = [msgspec.to_builtins(each) for each in rule.filters]
        answer["upstreams"] = [{"upstream": each.upstream, "weight": each.weight} for each in rule.backends]
    return answer
