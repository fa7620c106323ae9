"""The loop's rounds, where a step of ours has a fault."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.translate import Session
from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.edge.kube import KubeApi, KubeAway
from nexus_operator.metrics import Metrics
from nexus_operator.reconcile import Reconciler
from nexus_operator.settings import Settings
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED


class Nowhere:
    """A Kubernetes API or a Consul that never answers."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        async def call(*_: object, **__: object) -> None:
            raise self._error

        return call


@pytest.fixture
def reconciler() -> Reconciler:
    return made()


def made(**more: Any) -> Reconciler:
    inventory = Inventory(kind.kind for kind in WATCHED)
    for kind in WATCHED:
        inventory.replace(kind.kind, (), 1)
    settings = Settings(consul_url="http://consul:8500", seal_key=bytes(32), **more)
    kube: KubeApi = Nowhere(KubeAway("away"))  # type: ignore[assignment]  # only its errors matter here
    consul: ConsulApi = Nowhere(ConsulAway("away"))  # type: ignore[assignment]
    found = Reconciler(settings, kube, consul, inventory, Metrics())
    found._acks.known.set()  # no gateway has anything to say
    return found


class Faulty(Session):
    """Raises instead of translating."""

    def translate(self, *_: object, **__: object) -> Any:
        raise RuntimeError("a fault of ours")


async def test_a_fault_in_translation_ends_nothing_and_leaves_what_was_there(reconciler: Reconciler) -> None:
    """The process would otherwise end, start again, and end: one manifest would keep everything from being reconciled."""
    await reconciler._round()
    assert reconciler._translation is not None
    before = reconciler._translation, reconciler._planned, reconciler._rendered
    reconciler._translator.session = Faulty()
    reconciler.wake_for("Gateway")
    await reconciler._round()
    assert (reconciler._translation, reconciler._planned, reconciler._rendered) == before
    assert reconciler._failures["translate"] == 1
    await reconciler._round()
    assert "translate" not in reconciler._failures, "it is tried again, from nothing, though nothing else has changed"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"consul_token": "ours", "gateway_consul_token": "theirs"}, "theirs"),
        ({"consul_token": "ours"}, "ours"),
        ({"gateway_consul_token": "theirs"}, "theirs"),
        ({}, ""),
    ],
)
async def test_gateways_are_given_their_own_token_where_there_is_one(given: dict[str, str], told: str) -> None:
    reconciler = made(**given)
    await reconciler._round()
    assert reconciler._fabric is not None
    assert reconciler._fabric.consul_token == told


async def test_children_are_all_or_none_of_a_translation(reconciler: Reconciler) -> None:
    """Half of the rendered children would be taken for all of them, and the others be deleted."""
    await reconciler._round()
    service = {
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusService", "spec": {"workload": {"image": "x"}},
        "metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "2", "generation": 1},
    }  # fmt: skip
    reconciler._inventory.observe("NexusService", service)
    reconciler.wake_for("NexusService")
    await reconciler._round()
    made = reconciler._rendered
    assert made
    surroundings = reconciler._surroundings
    reconciler._surroundings = None  # type: ignore[assignment]  # rendering raises
    reconciler.wake_for("NexusService")
    await reconciler._round()
    assert reconciler._rendered is made
    reconciler._surroundings = surroundings
    await reconciler._round()
    assert reconciler._rendered == made
    assert "translate" not in reconciler._failures
