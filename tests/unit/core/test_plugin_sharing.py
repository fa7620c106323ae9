"""Secrets of plugins in Snapshots: who gets them, and what differs between two that are sealed with other keys."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from nexus_core.certificates.sealing import Opener, Sealer, SealError, gateway_key
from nexus_core.snapshot import (
    Discovered,
    Listener,
    Permissions,
    PluginInstance,
    Release,
    Route,
    Rule,
    Snapshot,
    Upstream,
    WeightedBackend,
)
from nexus_core.snapshot.differences import find_differences
from nexus_core.snapshot.narrowing import has_plugin, of_gateway
from nexus_core.snapshot.plugins import Candidate, SealedValue
from nexus_core.translate.plugin_order import sort_plugins

ONE, OTHER = Sealer(bytes(32)), Sealer(bytes(range(32)))


def plugin(name: str, *sealed: SealedValue, order: int = 0, **release: Any) -> PluginInstance:
    return PluginInstance(
        id=f"shop/{name}",
        source=f"NexusPlugin shop/{name}",
        release=Release(name=name, version="1", api="", package="p", entry_point="p:P", sha256="", url="", **release),
        public_key="",
        sealed=sealed,
        order=order,
    )


def granted(name: str, *services: str) -> PluginInstance:
    return msgspec.structs.replace(plugin(name), granted=Permissions(services=services))


@pytest.mark.parametrize(
    ("calls", "kept"),
    [
        ((), {"shop/orders"}),
        (("shop/pricing", "billing/tax"), {"shop/orders", "shop/pricing", "billing/tax"}),
        (("*",), {"shop/orders", "shop/pricing"}),
    ],
)
@pytest.mark.parametrize("tried", [False, True])
def test_a_gateway_gets_the_services_that_plugins_on_its_routes_may_call(
    calls: tuple[str, ...], kept: set[str], tried: bool
) -> None:
    mine = granted("a", *calls)
    if tried:
        mine = msgspec.structs.replace(plugin("a"), candidate=Candidate(instance=mine))
    names = ("shop/orders", "shop/pricing", "billing/tax", "billing/other", "Service/shop/pricing/80")
    world = Snapshot(
        listeners=(Listener("infra/web/http", "Gateway infra/web", 80), Listener("infra/api/http", "Gateway infra/api", 80)),
        routes=(
            Route("a", "HTTPRoute shop/a", ("infra/web/http",), (), (
                Rule("a/0", (), (), (WeightedBackend("shop/orders"),), plugins=("shop/a",)),)),
            Route("b", "HTTPRoute shop/b", ("infra/api/http",), (), (
                Rule("b/0", (), (), (WeightedBackend("billing/other"),)),)),
        ),
        upstreams=tuple(Upstream(name, f"NexusService {name}", Discovered(name)) for name in names),
        plugins=(mine,),
    )  # fmt: skip
    assert {each.id for each in of_gateway(world, "infra/web").upstreams} == kept
    assert {each.id for each in of_gateway(world, "infra/api").upstreams} == {"billing/other"}


def sealed(name: str, value: str, *gateways: str, sealer: Sealer = ONE) -> SealedValue:
    text, holders = sealer.seal(value.encode(), f"shop/a#{name}", gateways)
    return SealedValue(name, text, holders)


def test_a_gateway_gets_what_it_can_open_and_no_plugin_that_it_cannot_run() -> None:
    shared = sealed("secret:t", "x", "infra/web", "infra/api")
    tried = Candidate(instance=plugin("a", shared))
    world = Snapshot(
        plugins=(
            msgspec.structs.replace(plugin("a", shared), candidate=tried),
            plugin("b", sealed("secret:t", "y", "infra/api")),
            plugin("c"),
        )
    )
    kept = of_gateway(world, "infra/web").plugins
    assert [each.id for each in kept] == ["shop/a", "shop/c"]
    assert [has_plugin(each, "infra/web") for each in world.plugins] == [True, False, True]
    assert all(has_plugin(each, "") for each in world.plugins)
    assert kept[0].candidate is not None
    for each in (kept[0], kept[0].candidate.instance):
        assert [h.gateway for h in each.sealed[0].holders] == ["infra/web"]
    assert kept[1] is world.plugins[2]
    opener = Opener(gateway_key(bytes(32), "infra/web"), "infra/web")
    (value,) = kept[0].sealed
    assert opener.unseal_text(value.text, value.holders, "shop/a#secret:t") == b"x"
    with pytest.raises(SealError, match="not sealed for Gateway infra/web"):
        opener.unseal_text(value.text, (), "shop/a#secret:t")
    with pytest.raises(SealError, match="cannot be opened"):
        opener.unseal_text(value.text, value.holders, "shop/a#secret:other")


def test_another_key_makes_no_difference_and_another_name_does() -> None:
    def world(*values: SealedValue, tried: tuple[SealedValue, ...] = ()) -> Snapshot:
        one = plugin("a", *values)
        return Snapshot(plugins=(msgspec.structs.replace(one, candidate=Candidate(instance=plugin("a", *tried))),))

    here = sealed("secret:t", "x", "infra/web")
    there = sealed("secret:t", "x", "infra/web", "infra/api", sealer=OTHER)
    assert find_differences(world(here, tried=(here,)), world(there, tried=(there,))) == ()
    (found,) = find_differences(world(here), world(sealed("secret:u", "x", "infra/web")))
    assert (found.id, found.change) == ("shop/a", "changed")


@pytest.mark.parametrize(
    ("plugins", "wanted"),
    [
        ([plugin("b"), plugin("a")], "a b"),
        ([plugin("b", order=-1), plugin("a")], "b a"),
        ([plugin("a", after=("b",)), plugin("b")], "b a"),
        ([plugin("a", after=("b",), order=-1), plugin("b")], "a b"),
        ([plugin("a", after=("c",)), plugin("b"), plugin("c", before=("b",))], "c a b"),
        ([plugin("a", before=("a", "gone")), plugin("b", after=("gone",))], "a b"),
    ],
)
def test_order(plugins: list[PluginInstance], wanted: str) -> None:
    found, problems = sort_plugins(plugins)
    assert " ".join(each.removeprefix("shop/") for each in found) == wanted
    assert sort_plugins(plugins[::-1]) == (found, problems) == (found, [])


def test_a_circle_is_broken_by_name_and_told_to_all_in_it() -> None:
    some = [
        plugin("a", after=("d",)), plugin("b", before=("c",)), plugin("c", before=("d",)), plugin("d", before=("b",)),
        plugin("e"),
    ]  # fmt: skip
    found, problems = sort_plugins(some)
    assert [each.removeprefix("shop/") for each in found] == ["e", "b", "c", "d", "a"]
    assert [p.where.name for p in problems] == ["b", "c", "d"]
    assert {p.reason for p in problems} == {"PluginConflict"}
