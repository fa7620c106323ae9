"""The rules of Consul's blocking queries, and of what its answers are worth after a loss. Pure: `now` is handed in.

From Consul's documentation of blocking queries: an index below the one before means that the state was restored or
lost, so start again from 0; an index below 1 would make the next query not block, so use 1; limit the rate.

And our own: whoever has lost its data says "nobody" for every service. That is believed only after `hold_s`, in which
the services register again; until then the last endpoints that were there hold. The same after Consul was away, since
a restarted Consul may have lost its data without its index showing it.

A lower index alone does not show a loss: a server that restarts reads its log again, and a stale answer shows the past
on the way, with instances that are long gone. So what is known is put in question by the leader alone: `asks_leader`.

Where the leader's index does show it, an answer with some of the endpoints is doubted, too: the services come back one by one, and
the first would take the load of all. For `hold_s` the answer adds to what was there and takes nothing away. Not so
after Consul was merely away: then a part is much more likely the truth, and what has gone would be tried for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from nexus_core.discovery import Endpoint

Endpoints = tuple[Endpoint, ...]

HOLD_S = 30.0
WAIT_S = 30.0
"""Longest blocking query: also how long a connection that died in silence goes unnoticed."""
DRAINING = "nexus-draining"
"""Service meta: `true` marks an instance that ends soon; the operator writes it while a pod terminates."""
ZONE = "nexus-zone"
"""Service meta, or else the node's: the zone the instance runs in."""
INSTALLATION = "nexus-installation"
"""Service meta: the installation of Nexus (its `consul.prefix`) whose cluster the instance runs in; the operator writes it."""
OF_SERVICE = frozenset({"nexus-type", "nexus-openapi", "nexus-namespace"})
"""Meta that all instances share: it says what the service is, and tells no instance from another."""
OF_INSTANCE = frozenset({DRAINING, ZONE, INSTALLATION})
"""Meta that tells of one instance what Nexus itself reads."""
LARGEST_WEIGHT = 65_535


class Cursor:
    """One query's place: its index, what was shown last, and how long an empty answer is not believed."""

    def __init__(self, hold_s: float = HOLD_S) -> None:
        self.index = 0
        self._hold_s = hold_s
        self._shown: Endpoints | None = None
        self._away = False
        self._seen_index = 0
        self._doubted_until = -math.inf
        self._lost_until = -math.inf

    @property
    def asks_leader(self) -> bool:
        """Whether the next query must not be `stale` but `consistent`: its answer may take away what is shown."""
        return self.index == 0 and self._shown is not None

    def note_away(self) -> None:
        """Consul did not answer. The next query does not block, and an empty answer to it is doubted."""
        self.index, self._away = 0, True

    def note_answer(self, index: int, known_leader: bool, endpoints: Endpoints, now: float) -> Endpoints | None:
        """Take one answer, asked as `asks_leader` said, and return what to show, or None for no change."""
        lost = index < self._seen_index
        if lost and not self.asks_leader:
            self.index = 0
            return None
        if self._away or lost:
            self._doubted_until = now + self._hold_s
        self._away = False
        if not endpoints and not known_leader and self.index == 0:
            # A stale answer of a server that may not have read its log yet says nothing. Answers that blocked come
            # from Consul's streaming views, which always say "no leader" (seen in 1.13): there it means nothing.
            self.note_away()
            return None
        if lost:
            self._lost_until = self._doubted_until
        self.index, self._seen_index = 0 if index < self.index else max(index, 1), index
        if endpoints and self._shown and now < self._lost_until:
            endpoints = _joined(self._shown, endpoints)
        if not endpoints and self._shown and now < self._doubted_until:
            return None
        if endpoints == self._shown:
            return None
        self._shown = endpoints
        return endpoints

    def wait_s(self, now: float) -> float:
        """Return how long the next query may block: to the end of a hold, if one is on."""
        held_s = self._doubted_until - now
        return min(WAIT_S, held_s) if self._shown and held_s > 0 else WAIT_S


def _joined(shown: Endpoints, answered: Endpoints) -> Endpoints:
    """Return what was shown and what was answered, sorted; the answer wins for an address and port of both."""
    found = {(each.address, each.port): each for each in (*shown, *answered)}
    return tuple(sorted(found.values()))


def parse_instances(document: Any, installation: str = "") -> tuple[Endpoints, Mapping[str, str]]:
    """Return the endpoints that take requests (sorted, unique) and the service's meta, from `/v1/health/service/<name>`.

    Left out: instances with a check that is not passing, and weight 0. There, but draining: those whose only such check is
    Consul's maintenance mode, of the node or of the instance, and those whose meta say so, whatever their checks: pods that
    terminate are no longer ready, so that nobody else chooses them.
    meta: of all instances, the first in address order wins. Raises ValueError if it is not such a document.
    installation: whose instances count, beside those that belong to none; empty: everybody's. Kubernetes Services of one name
    and namespace in two clusters are two services, though Consul's catalog holds them under one name.
    """
    if document is None:
        return (), {}
    if not isinstance(document, list):
        raise ValueError("health of a service is no list")
    found: dict[tuple[str, int], Endpoint] = {}
    meta: dict[str, str] = {}
    for instance in sorted(document, key=_order):
        service, node = instance["Service"], instance.get("Node") or {}
        own = service.get("Meta") or {}
        if installation and own.get(INSTALLATION, installation) != installation:
            continue
        for key, value in own.items():
            if key not in OF_INSTANCE:
                meta.setdefault(str(key), str(value))
        weight = (service.get("Weights") or {}).get("Passing", 1)
        address = service.get("Address") or node.get("Address")
        failing = [check for check in instance.get("Checks") or () if check.get("Status") != "passing"]
        port = service.get("Port")
        draining = own.get(DRAINING) == "true" or (bool(failing) and all(map(_is_maintenance, failing)))
        if not (address and port and weight > 0) or (failing and not draining):
            continue
        endpoint = Endpoint(
            address=str(address),
            port=int(port),
            id=str(service.get("ID", "")),
            weight=min(int(weight), LARGEST_WEIGHT),
            zone=str(own.get(ZONE) or (node.get("Meta") or {}).get(ZONE) or ""),
            meta=tuple(sorted((str(k), str(v)) for k, v in own.items() if k not in OF_SERVICE | OF_INSTANCE)),
            draining=draining,
        )
        key = (endpoint.address, endpoint.port)
        # An instance that was started anew under another id is there beside the one that drains.
        if key not in found or (found[key].draining and not endpoint.draining):
            found[key] = endpoint
    return tuple(sorted(found.values())), meta


def _is_maintenance(check: Any) -> bool:
    """Whether a check is one of those that Consul's maintenance mode adds."""
    name = str(check.get("CheckID", ""))
    return name == "_node_maintenance" or name.startswith("_service_maintenance:")


def _order(instance: Any) -> tuple[str, int, str]:
    try:
        service = instance["Service"]
        return str(service.get("Address") or ""), int(service.get("Port") or 0), str(service.get("ID") or "")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"an instance has no Service: {str(instance)[:80]}") from error


def parse_names(document: Any) -> Iterable[str]:
    """Return the service names of `/v1/catalog/services`, sorted, without Consul itself. Raises ValueError."""
    if not isinstance(document, dict):
        raise ValueError("the catalog's services are no object")
    return sorted(str(name) for name in document if name != "consul")
