"""Settles names across services: who wants a name alone gets it; when several services do, each puts its own in front.

So `Product` of catalog alone is `Product`; with another in reviews they are `CatalogProduct` and `ReviewsProduct`, and
which service came first does not show. The prefix is the service's short name, or name and namespace when two
namespaces have a service of that name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nexus_graphql.schema import names
from nexus_graphql.schema.shapes import Named, ObjectShape, Operation, ServiceModel, find_named

RESERVED = frozenset({
    "Query", "Mutation", "Subscription", "String", "Int", "Float", "Boolean", "ID", "JSON", "BigInt", "DateTime",
    "Date", "UUID", "_Service", "_ServiceState",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Names:
    """types: final name by (service, type key), of the types that operations reach. fields: (service, operation.at)."""

    types: Mapping[tuple[str, str], str]
    fields: Mapping[tuple[str, str], str]


def settle(models: Sequence[ServiceModel]) -> Names:
    """Return final names. models: one a service, in any order."""
    models = sorted(models, key=lambda m: m.service)
    prefixes = _prefixes([m.service for m in models])
    wanted_types = [(m.service, key, m.types[key].wanted) for m in models for key in sorted(reachable(m))]
    types = _assign(wanted_types, prefixes, RESERVED, capital=True)
    fields: dict[tuple[str, str], str] = {}
    for root, reserved in (("query", frozenset({"_services"})), ("mutation", frozenset[str]())):
        wanted = [(m.service, o.at, o.wanted) for m in models for o in m.operations if o.root == root]
        fields.update(_assign(wanted, prefixes, reserved, capital=False))
    return Names(types, fields)


def reachable(model: ServiceModel) -> set[str]:
    """Return the keys of the types that the model's operations lead to."""
    todo = [named.key for o in model.operations for named in _of(o)]
    found: set[str] = set()
    while todo:
        key = todo.pop()
        if key in found:
            continue
        found.add(key)
        shape = model.types[key]
        if isinstance(shape, ObjectShape):
            todo.extend(named.key for f in shape.fields if (named := find_named(f.ref)) is not None)
    return found


def _of(operation: Operation) -> Iterable[Named]:
    for ref in (operation.returns, *(a.ref for a in operation.arguments)):
        named = find_named(ref)
        if named is not None:
            yield named


def _prefixes(services: Sequence[str]) -> dict[str, str]:
    short = Counter(names.type_name(s.split(".")[0]) for s in services)
    scope = names.Scope()
    out = {}
    for service in services:
        first = names.type_name(service.split(".")[0])
        out[service] = scope.take(first if short[first] == 1 else names.type_name(service))
    return out


def _assign(
    wanted: Sequence[tuple[str, str, str]], prefixes: Mapping[str, str], reserved: frozenset[str], *, capital: bool
) -> dict[tuple[str, str], str]:
    by_name: dict[str, set[str]] = defaultdict(set)
    for service, _, name in wanted:
        by_name[name].add(service)
    alone = [w for w in wanted if len(by_name[w[2]]) == 1 and w[2] not in reserved]
    shared = [w for w in wanted if not (len(by_name[w[2]]) == 1 and w[2] not in reserved)]
    # Names wanted by one service are given first: a prefixed name never pushes out one that somebody chose.
    scope, out = names.Scope(reserved), {}
    for service, key, name in alone:
        out[service, key] = scope.take(name)
    for service, key, name in shared:
        prefix = prefixes[service]
        full = prefix + name[:1].upper() + name[1:]
        out[service, key] = scope.take(full if capital else full[:1].lower() + full[1:])
    return out
