"""Locks reach their objects before anything follows from them."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.snapshot import Ack, PluginInstance, PluginReport, Published, Release, Snapshot
from nexus_core.snapshot.acks import CandidateReport
from nexus_core.snapshot.plugins import Candidate
from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.kube import KubeApi, KubeAway, NotFound
from nexus_operator.edge.pluginlife import PluginLife
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED, Kind


class Cluster:
    """The one write that is made. fault: what it raises."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.fault: Exception | None = None

    async def write_status(self, kind: Kind, obj: Any, status: dict[str, Any]) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        self.written.append(status)
        meta = {**obj["metadata"], "resourceVersion": str(int(obj["metadata"]["resourceVersion"]) + 1)}
        return {**obj, "metadata": meta, "status": {**(obj.get("status") or {}), **status}}


def instance(version: str, candidate: PluginInstance | None = None) -> PluginInstance:
    release = Release(name="key", version=version, api=">=1", package="p", entry_point="p:P", sha256=version, url="x")
    return PluginInstance(
        id="shop/key", source="NexusPlugin shop/key", release=release, public_key="",
        candidate=Candidate(instance=candidate) if candidate is not None else None,
    )  # fmt: skip


TRIED = Published(7, "now", Snapshot(plugins=(instance("1.0", instance("1.1")),)))


def acks(state: Any) -> list[Ack]:
    said = CandidateReport("1.1", state, "PluginRolledBack", "It failed.")
    return [Ack("a", 7, "now", plugins={"shop/key": PluginReport("loaded", "1.0", candidate=said)})]


class World:
    """One NexusPlugin with a lock, and who looks after it."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.inventory = Inventory(kind.kind for kind in WATCHED)
        self.inventory.observe("NexusPlugin", {
            "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPlugin", "spec": {},
            "metadata": {"name": "key", "namespace": "shop", "uid": "u", "resourceVersion": "1"},
            "status": {"lock": {"version": "1.0", "sha256": "1.0"}},
        })  # fmt: skip
        self.life = self.restarted()

    def restarted(self) -> PluginLife:
        kube: KubeApi = self.cluster  # type: ignore[assignment]  # the one write that is made of it
        consul: ConsulApi = None  # type: ignore[assignment]  # not asked
        return PluginLife(kube, consul, self.inventory, "nexus")


@pytest.fixture
def world() -> World:
    return World()


async def test_a_lock_moves_when_it_is_written(world: World) -> None:
    assert await world.life.settle(TRIED, acks("passed"))
    assert world.life.locks["shop/key"].version == "1.1"
    [written] = world.cluster.written
    assert written["lock"]["version"] == "1.1"
    assert not await world.life.settle(TRIED, acks("passed")), "and once"


@pytest.mark.parametrize("state", ["passed", "refused"])
async def test_what_cannot_be_written_counts_as_unmoved_and_is_tried_again(world: World, state: str) -> None:
    await world.life.settle(None, [])
    before = world.life.locks["shop/key"]
    world.cluster.fault = KubeAway("away")
    with pytest.raises(KubeAway):
        await world.life.settle(TRIED, acks(state))
    assert world.life.locks["shop/key"] == before, "no Snapshot may be made of it"
    world.cluster.fault = None
    assert await world.life.settle(TRIED, acks(state))
    assert world.life.locks["shop/key"] != before


async def test_a_restart_refuses_what_was_refused(world: World) -> None:
    await world.life.settle(TRIED, acks("refused"))
    again = world.restarted()
    await again.settle(None, [])
    [refused] = again.locks["shop/key"].refused
    assert (refused.version, refused.message) == ("1.1", "It failed.")


async def test_what_is_refused_still_when_another_release_is_forgiven_is_no_news(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.life.settle(TRIED, acks("refused"))
    assert [record.getMessage() for record in caplog.records] == [
        "plugin shop/key: 1.1 was taken back: PluginRolledBack It failed."
    ]
    caplog.clear()
    obj = world.inventory.get("NexusPlugin", "shop", "key")
    assert obj is not None
    lock = obj["status"]["lock"]
    misfit = {"version": "1.2", "sha256": "1.2", "reason": "PythonIncompatible", "runtimes": ["old"]}
    meta = {**obj["metadata"], "resourceVersion": "9"}
    refused = [misfit, *lock["refused"]]
    world.inventory.observe("NexusPlugin", {**obj, "metadata": meta, "status": {"lock": {**lock, "refused": refused}}})
    running = Published(8, "then", Snapshot(plugins=(instance("1.0"),)))
    said = {"shop/key": PluginReport("loaded", "1.0")}
    assert await world.life.settle(running, [Ack("a", 8, "then", plugins=said, runtime="new")])
    assert [each.version for each in world.life.locks["shop/key"].refused] == ["1.1"]
    assert caplog.records == []


async def test_a_plugin_that_was_deleted_meanwhile_holds_nobody_up(world: World) -> None:
    world.cluster.fault = NotFound("gone")
    assert not await world.life.settle(TRIED, acks("passed"))
