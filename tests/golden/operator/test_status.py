"""`<case>.in.yaml` → `<case>.out.yaml`: the statuses of a small world.

Input: `objects` as the API server holds them; `published`: objects of the Snapshot that is out (default: the same ones), or
null; `acks`: gateways as `{name, generation?, plugins?, gateway?, listeners?}`; `consulFault`, `counts`; `fronts`: by
`<namespace>/<name>` of a Gateway, the `addresses` of its data plane, how many replicas are `ready` (1), `ports` that are open (all);
`childProblems`: what went wrong with children. Of plugins: `indexes`, releases as `{name, version, …}` by marketplace; `locks` as
statuses hold them, `publishedLocks` where the Snapshot that is out was made with others; `figures`; `metadata` and `troubles` of
marketplaces; `services`: what their instances report of plugins, by service, instance and plugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from nexus_core.marketplace import Index
from nexus_core.model.load import parse
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Ack, PluginReport, Published, Release, wire
from nexus_core.translate import translate
from nexus_core.translate.features import NEEDED_FIELDS
from nexus_core.translate.service_plugins import service_plugins
from nexus_operator.children.gateways import of_deleted_classes
from nexus_operator.mirror.endpoints import named_services, slices_by_service
from nexus_operator.publication.acks import Ledger, fingerprints
from nexus_operator.publication.figures import Figure
from nexus_operator.publication.fleets import Fleet
from nexus_operator.publication.locks import parse_lock
from nexus_operator.publication.servicereports import hostings
from nexus_operator.status.build import build_statuses
from nexus_operator.status.view import Front, Trouble, View
from nexus_operator.status.writes import needed
from nexus_operator.world.addresses import Address, is_ip
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED

CASES = Path(__file__).parent / "status"
GENERATION = 42


RUNTIME_KINDS = (
    "Deployment",
    "EndpointSlice",
    "Pod",
    "ServiceAccount",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
)


def front(addresses: list[str], ready: int = 1, ports: Sequence[int] = range(1, 65536)) -> Front:
    found = tuple(Address("IPAddress" if is_ip(a) else "Hostname", a) for a in addresses)
    return Front(True, found, ready, frozenset(ports))


def view_of(case: dict[str, Any]) -> View:
    inventory = Inventory(kind.kind for kind in WATCHED)
    inventory.note_fields(frozenset(NEEDED_FIELDS.values()))
    for kind in WATCHED:
        inventory.replace(kind.kind, (), 1)  # all of them are installed
    for number, obj in enumerate(case["objects"]):
        meta = {"uid": f"u{number}", "generation": 1, "resourceVersion": str(number + 1), **obj["metadata"]}
        inventory.observe(obj["kind"], {**obj, "metadata": meta})
    ledger, published, previous = Ledger(), None, None
    indexes = {name: index_of(*releases) for name, releases in case.get("indexes", {}).items()}
    locks = {name: parse_lock(lock) for name, lock in case.get("locks", {}).items()}
    before_locks = {name: parse_lock(lock) for name, lock in case.get("publishedLocks", case.get("locks", {})).items()}
    if case.get("published", []) is not None:
        before = case.get("published") or case["objects"]
        parsed = [parse(o) for o in before if o["kind"] not in RUNTIME_KINDS]
        # Once for what runs, and again for what is tried beside it.
        former = translate(parsed, indexes=indexes, locks=before_locks).snapshot
        previous = translate(parsed, indexes=indexes, locks=before_locks, previous=former).snapshot
        published = Published(GENERATION, wire.encode(previous).digest, previous)
        ledger.record(published)
    resources = tuple(
        parse(obj) for kind in WATCHED if kind.kind not in RUNTIME_KINDS for obj in inventory.all(kind.kind)
    )
    translation = translate(
        resources, previous=previous, standing=of_deleted_classes(inventory), indexes=indexes, locks=locks
    )
    acks = tuple(
        Ack(
            a["name"], a.get("generation", GENERATION), published.digest if published and "generation" not in a else "other",
            plugins=msgspec.convert(a.get("plugins", {}), dict[str, PluginReport]), gateway=a.get("gateway", ""),
            listeners=a.get("listeners", {}),
        )
        for a in case.get("acks", ())
    )  # fmt: skip
    return View(
        inventory=inventory,
        resources=resources,
        translation=translation,
        published=published,
        wanted=fingerprints(translation.snapshot),
        since=ledger.since,
        fleet=Fleet(acks, {}, published),
        now_utc="2026-02-02T00:00:00Z",
        docs_base="docs/errors/",
        consul_fault=case.get("consulFault", ""),
        child_problems=tuple(
            Problem(ObjectRef.parse(p["where"]), p["path"], p["reason"], p["what"], p["fix"])
            for p in case.get("childProblems", ())
        ),
        counts={name: tuple(pair) for name, pair in case.get("counts", {}).items()},
        named=named_services(slices_by_service(inventory)),
        mirrored=frozenset(mirror.consul_service for mirror in translation.mirrors),
        fronts={name: front(**told) for name, told in case.get("fronts", {}).items()},
        listeners={listener.id: listener for listener in translation.snapshot.listeners},
        indexes=indexes,
        troubles={name: Trouble(**trouble) for name, trouble in case.get("troubles", {}).items()},
        locks=locks,
        figures={name: Figure(*figure) for name, figure in case.get("figures", {}).items()},
        metadata=case.get("metadata", {}),
        hostings=hostings(
            msgspec.convert(case.get("services", {}), dict[str, dict[str, dict[str, PluginReport]]]),
            service_plugins(translation.snapshot, resources),
        ),
    )


def index_of(*releases: dict[str, Any]) -> Index:
    """An index of signed-looking releases: what a signature is worth is the gateways' business."""
    usual = {"api": ">=1,<2", "package": "p", "entry_point": "p:P", "publisher": "nexus"}
    found = (
        {**usual, "sha256": f"{release['version']:0>64}", "url": f"artefacts/{release['version']}.zip", **release}
        for release in releases
    )
    return Index(tuple(msgspec.convert(each, Release) for each in found), "http://market/")


@pytest.mark.parametrize("case", sorted(p.name.removesuffix(".in.yaml") for p in CASES.glob("*.in.yaml")))
def test_statuses_are_as_reviewed(case: str, accept: bool) -> None:
    """Run `pytest --accept` after a meant change; the diff is the review."""
    writes = needed(build_statuses(view_of(yaml.safe_load((CASES / f"{case}.in.yaml").read_text()))))
    shown = {f"{w.kind} {w.obj['metadata']['name']}": dict(w.status) for w in writes}
    rendered = yaml.safe_dump(shown, sort_keys=False, width=140, allow_unicode=True)
    golden = CASES / f"{case}.out.yaml"
    if accept:
        golden.write_text(rendered)
    assert rendered == golden.read_text()


@pytest.mark.parametrize("case", sorted(p.name.removesuffix(".in.yaml") for p in CASES.glob("*.in.yaml")))
def test_what_is_written_is_not_written_again(case: str) -> None:
    """Writing a status wakes the operator; were it to find a difference in its own words, it would never rest."""
    view = view_of(yaml.safe_load((CASES / f"{case}.in.yaml").read_text()))
    for write in needed(build_statuses(view)):
        status = {**(write.obj.get("status") or {}), **write.status}
        view.inventory.observe(write.kind, {**write.obj, "status": {k: v for k, v in status.items() if v is not None}})
    assert needed(build_statuses(view)) == ()


def plugin_view(*states: dict[str, Any]) -> View:
    """One plugin, on as many gateways as there are states."""
    release = Release(
        name="key",
        version="1.2.0",
        api=">=1,<2",
        package="p",
        entry_point="p:P",
        sha256="0" * 64,
        url="key.zip",
        publisher="nexus",
    )
    index = Index(origin="http://market/index.json", releases=(release,))
    case = {
        "objects": [
            {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusMarketplace", "metadata": {"name": "official"},
             "spec": {"source": {"url": "http://market/index.json"}, "publishers": [{"name": "nexus", "publicKey": "A" * 43 + "="}]}},
            {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPlugin", "metadata": {"name": "key", "namespace": "shop"}, "spec": {}},
            {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusService", "metadata": {"name": "a", "namespace": "shop"},
             "spec": {"backend": {"addresses": ["10.0.0.1:80"]}, "expose": {"path": "/a"}}},
        ],
    }  # fmt: skip
    view = view_of(case)
    translation = translate(view.resources, indexes={"official": index})
    published = Published(GENERATION, "digest", translation.snapshot)
    ledger = Ledger()
    ledger.record(published)
    acks = tuple(
        Ack(f"gw-{n}", GENERATION, "digest", plugins={"shop/key": PluginReport(**state)} if state else {})
        for n, state in enumerate(states)
    )
    return replace(
        view, translation=translation, published=published, wanted=fingerprints(translation.snapshot), since=ledger.since,
        fleet=Fleet(acks, {}, published), indexes={"official": index},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("states", "status", "reason", "says"),
    [
        ([{"state": "loaded", "version": "1.2.0"}] * 2, "True", "Ready", "live on 2/2 gateways"),
        (
            [{"state": "loaded"}, {"state": "failed", "reason": "PluginSignatureInvalid", "message": "Signed by another key."}],
            "False", "PluginSignatureInvalid",
            "On 1 of 2 gateways it does not run as declared. Signed by another key. → docs/errors/plugin-signature-invalid.md",
        ),
        (
            [{"state": "previous", "version": "1.1.0", "reason": "PluginFetchFailed", "message": "No answer."}],
            "False", "PluginFetchFailed", "there version 1.1.0 stays in use. No answer.",
        ),
        ([{"state": "failed"}], "False", "PluginFailed", "docs/errors/plugin-failed.md"),
        ([{"state": "loaded"}, {}], "Unknown", "Pending", "1 of 2 gateways have not loaded it yet."),
        ([], "False", "NoGateways", "No gateway is running"),
    ],
)  # fmt: skip
def test_a_plugin_is_ready_when_every_gateway_runs_it(
    states: list[dict[str, Any]], status: str, reason: str, says: str
) -> None:
    [write] = [w for w in build_statuses(plugin_view(*states)) if w.kind == "NexusPlugin"]
    ready = write.status["conditions"][-1]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", status, reason)
    assert says in ready["message"]
    assert write.status["version"] == "1.2.0"
