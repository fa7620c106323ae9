"""Secrets and ConfigMaps that plugins and marketplaces name: kept by those names, from the moment they are named."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.model.load import parse
from nexus_operator.edge.kube import KubeApi, KubeAway, NotFound
from nexus_operator.edge.named import NamedObjects
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED, Kind
from nexus_operator.world.named import named_by

SECRET = {
    "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"dsn": "ZA==", "other": "bw=="},
    "metadata": {"name": "keys", "namespace": "shop", "uid": "s", "resourceVersion": "7"},
}  # fmt: skip
CONFIG_MAP = {
    "apiVersion": "v1", "kind": "ConfigMap", "data": {"index.json": "{}"}, "binaryData": {"artefacts__a.zip": "AA=="},
    "metadata": {"name": "market", "namespace": "shop", "uid": "c", "resourceVersion": "8"},
}  # fmt: skip


def plugin(key: str = "dsn", name: str = "sentry") -> Any:
    return parse({
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPlugin", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"configFrom": [{"path": "dsn", "secretRef": {"name": "keys", "key": key}}]},
    })  # fmt: skip


def marketplace() -> Any:
    return parse({
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusMarketplace", "metadata": {"name": "m"},
        "spec": {"source": {"configMap": {"namespace": "shop", "name": "market"}},
                 "publishers": [{"name": "nexus", "publicKey": "A" * 43 + "="}]},
    })  # fmt: skip


class Cluster:
    """The one call that is made of the API server. away: it does not answer."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = {(o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]): o for o in objects}
        self.asked: list[str] = []
        self.away = False

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        self.asked.append(f"{kind.kind} {namespace}/{name}")
        if self.away:
            raise KubeAway("away")
        if (kind.kind, namespace, name) not in self.objects:
            raise NotFound("none")
        return self.objects[kind.kind, namespace, name]


@pytest.fixture
def inventory() -> Inventory:
    found = Inventory(kind.kind for kind in WATCHED)
    found.observe("Secret", SECRET)
    found.observe("ConfigMap", CONFIG_MAP)
    return found


def named(cluster: Cluster, inventory: Inventory) -> NamedObjects:
    kube: KubeApi = cluster  # type: ignore[assignment]  # the one call that is made of it
    return NamedObjects(kube, inventory)


def data_of(inventory: Inventory) -> Any:
    found = inventory.get("Secret", "shop", "keys")
    assert found is not None
    return found.get("data")


async def test_what_a_plugin_names_is_read_and_no_more(inventory: Inventory) -> None:
    assert data_of(inventory) is None
    cluster = Cluster(SECRET, CONFIG_MAP)
    reader = named(cluster, inventory)
    assert await reader.read([plugin(), marketplace()])
    assert data_of(inventory) == {"dsn": "ZA=="}
    kept = inventory.get("ConfigMap", "shop", "market")
    assert kept is not None
    assert (kept["data"], kept["binaryData"]) == (CONFIG_MAP["data"], CONFIG_MAP["binaryData"])
    assert not await reader.read([plugin(), marketplace()])
    assert cluster.asked == ["ConfigMap shop/market", "Secret shop/keys"], "once"


async def test_another_key_of_the_same_secret_is_read_too(inventory: Inventory) -> None:
    reader = named(Cluster(SECRET), inventory)
    await reader.read([plugin()])
    await reader.read([plugin(), plugin("other", "second")])
    assert data_of(inventory) == SECRET["data"]


async def test_what_is_named_no_more_leaves_the_memory_at_once(inventory: Inventory) -> None:
    reader = named(Cluster(SECRET, CONFIG_MAP), inventory)
    await reader.read([plugin(), marketplace()])
    await reader.read([])
    assert data_of(inventory) is None
    assert inventory.get("ConfigMap", "shop", "market") is None


async def test_changes_come_by_watch_and_list(inventory: Inventory) -> None:
    reader = named(Cluster(SECRET), inventory)
    await reader.read([plugin()])
    changed = {
        **SECRET,
        "data": {"dsn": "ZQ==", "other": "bw=="},
        "metadata": {**SECRET["metadata"], "resourceVersion": "9"},
    }  # type: ignore[dict-item]
    assert inventory.observe("Secret", changed)
    assert data_of(inventory) == {"dsn": "ZQ=="}
    again = {**changed, "data": {"dsn": "Zg=="}, "metadata": {**SECRET["metadata"], "resourceVersion": "10"}}  # type: ignore[dict-item]
    listed = inventory.keep("Secret", again)
    assert listed is not None
    assert inventory.replace("Secret", [listed], 11)
    assert data_of(inventory) == {"dsn": "Zg=="}


async def test_what_could_not_be_read_is_tried_again(inventory: Inventory) -> None:
    cluster = Cluster(SECRET)
    cluster.away = True
    reader = named(cluster, inventory)
    with pytest.raises(KubeAway):
        await reader.read([plugin()])
    cluster.away = False
    assert await reader.read([plugin()])
    assert data_of(inventory) == {"dsn": "ZA=="}


async def test_a_secret_that_is_not_there_holds_nothing_up_and_comes_by_watch() -> None:
    inventory = Inventory(kind.kind for kind in WATCHED)
    cluster = Cluster()
    reader = named(cluster, inventory)
    assert not await reader.read([plugin()])
    assert not await reader.read([plugin()])
    assert cluster.asked == ["Secret shop/keys"]
    inventory.observe("Secret", SECRET)
    assert data_of(inventory) == {"dsn": "ZA=="}


async def test_no_plugin_gets_what_the_operator_made(inventory: Inventory) -> None:
    """Such as the seal key of a data plane, which opens the secrets of all others."""
    ours = {
        **SECRET,
        "metadata": {**SECRET["metadata"], "labels": {"app.kubernetes.io/managed-by": "nexus"},  # type: ignore[dict-item]
                     "annotations": {"nexus.dev/rendered": "d"}, "resourceVersion": "12"},
    }  # fmt: skip
    await named(Cluster(ours), inventory).read([plugin()])
    assert data_of(inventory) is None


def test_names_of_broken_resources_are_not_read() -> None:
    broken = parse({"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPlugin", "metadata": {"name": "x"}, "spec": 1})
    assert named_by([broken]) == {}


async def test_translation_sees_what_came_to_be_named(inventory: Inventory) -> None:
    """The object is of the same edition as before, and more of it is known."""
    from nexus_core.model.kubernetes import SecretContent
    from nexus_operator.world.reading import Reader

    reader = Reader()

    def found() -> bytes | None:
        [secret] = [r for r in reader.read(inventory) if r.ref.kind == "Secret"]
        assert isinstance(secret.spec, SecretContent)
        return secret.spec.find("dsn")

    assert found() is None
    objects = named(Cluster(SECRET), inventory)
    await objects.read([plugin()])
    assert found() == b"d"
    await objects.read([])
    assert found() is None
