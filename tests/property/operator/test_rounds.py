"""What follows from any manifests beyond their translation: data planes, children, statuses. Nothing raises, and statuses rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core.model.load import parse
from nexus_core.snapshot import Ack, Published
from nexus_core.translate import translate
from nexus_operator.children.dataplanes import Fabric, render_data_plane
from nexus_operator.children.gateways import plan_data_planes
from nexus_operator.children.plan import child_key
from nexus_operator.children.render import Surroundings, render
from nexus_operator.mirror.endpoints import build_registrations, slices_by_service
from nexus_operator.publication.acks import Ledger, fingerprints
from nexus_operator.publication.fleets import Fleet
from nexus_operator.status.build import build_statuses
from nexus_operator.status.fronts import fronts_of, replicas_of
from nexus_operator.status.view import View
from nexus_operator.status.writes import needed
from nexus_operator.world.inventory import Inventory, key_of
from nexus_operator.world.kinds import BY_NAME, RUNTIME, WATCHED

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
import manifests

FABRIC = Fabric(image="nexus", seal_key=bytes(32), consul_url="http://consul:8500", consul_token="hush")
CLASS = {
    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "nexus"},
    "spec": {"controllerName": "nexus.dev/gateway-controller"},
}  # fmt: skip


def watched(found: Any) -> bool:
    """Whether an API server could have such an object: it looks after kinds and names, whatever a CRD leaves open."""
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str) or found["kind"] not in BY_NAME:
        return False
    kind, meta = BY_NAME[found["kind"]], found.get("metadata")
    is_named = isinstance(meta, dict) and isinstance(meta.get("name"), str) and bool(meta["name"])
    if not is_named or found.get("apiVersion") != kind.api_version or kind.kind in RUNTIME:
        return False
    return all(isinstance(meta.get(key, ""), str) for key in ("namespace", "creationTimestamp")) and all(
        isinstance(meta.get(key, {}), dict) for key in ("labels", "annotations")
    )


def inventory_of(world: list[Any]) -> Inventory:
    inventory = Inventory(kind.kind for kind in WATCHED)
    for kind in WATCHED:
        inventory.replace(kind.kind, (), 1)
    for number, found in enumerate(filter(watched, world)):
        meta = {
            "uid": f"u{number}", "generation": 1, **found["metadata"], "resourceVersion": str(number + 2),
            "namespace": found["metadata"].get("namespace", "") if BY_NAME[found["kind"]].namespaced else "",
        }  # fmt: skip
        inventory.observe(found["kind"], {**found, "metadata": {**meta, "generation": 1}})
    return inventory


def view_of(inventory: Inventory) -> View:
    resources = tuple(parse(obj) for kind in WATCHED if kind.kind not in RUNTIME for obj in inventory.all(kind.kind))
    translation = translate(resources)
    parameters = {(r.ref.namespace, r.ref.name): r for r in resources if r.ref.kind == "NexusGatewayParameters"}
    planned = plan_data_planes(
        translation, inventory, parameters, namespace="nexus-system", default_parameters=("nexus", "a")
    )
    made = [child for plane in planned.planes.values() for child in render_data_plane(plane, FABRIC)]
    made += [child for r in resources for child in render(r, Surroundings())]
    assert len({child_key(child) for child in made}) == len(made)
    assert not any("hush" in str({**child, "data": None}) for child in made)
    published = Published(1, "d", translation.snapshot)
    ledger = Ledger()
    ledger.record(published)
    services = {key_of(obj): obj for obj in inventory.all("Service")}
    slices = slices_by_service(inventory)
    build_registrations(translation.mirrors, services, slices, "nexus")
    return View(
        inventory=inventory,
        resources=resources,
        translation=translation,
        published=published,
        wanted=fingerprints(translation.snapshot),
        since=ledger.since,
        fleet=Fleet([Ack("one", 1, "d")], replicas_of(inventory, planned), published),
        now_utc="2026-02-02T00:00:00Z",
        docs_base="docs/errors/",
        mirrored=frozenset(mirror.consul_service for mirror in translation.mirrors),
        fronts=fronts_of(inventory, planned, slices),
        listeners={listener.id: listener for listener in translation.snapshot.listeners},
    )


@given(st.lists(manifests.damaged() | manifests.sound, max_size=8))
@settings(max_examples=150)
def test_whatever_is_declared_children_and_statuses_follow_and_rest(world: list[Any]) -> None:
    inventory = inventory_of([CLASS, *world])
    view = view_of(inventory)
    writes = needed(build_statuses(view))
    objects = [(write.kind, key_of(write.obj)) for write in writes]
    assert len(objects) == len(set(objects)), "one write for each object"
    for write in writes:
        status = {**(write.obj.get("status") or {}), **write.status}
        inventory.observe(write.kind, {**write.obj, "status": {k: v for k, v in status.items() if v is not None}})
    assert needed(build_statuses(view)) == ()
