"""The lists of services' plugins in a real Consul."""

from __future__ import annotations

import secrets

import msgspec
from nexus_core.snapshot import PluginInstance, Release
from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.serviceplugins import ServiceLists


def instance(name: str) -> PluginInstance:
    release = Release(name=name, version="1.0", api=">=1", package="p", entry_point="p:P", sha256="0" * 64, url="x")
    return PluginInstance(id=f"shop/{name}", source=f"NexusPlugin shop/{name}", release=release, public_key="")


async def test_a_service_has_its_list_while_it_has_plugins(consul: ConsulApi) -> None:
    prefix = f"test-{secrets.token_hex(4)}"
    lists = ServiceLists(consul, prefix)
    key = f"{prefix}/services/shop/events/plugins"
    await consul.put(f"{prefix}/services/shop/events/other", b"somebody else's")

    async def held() -> tuple[PluginInstance, ...] | None:
        found = await consul.get(key)
        return msgspec.json.decode(found.value, type=tuple[PluginInstance, ...]) if found is not None else None

    await lists.sync({"shop/events": (instance("a"), instance("b")), "shop/graphql": ()})
    assert await held() == (instance("a"), instance("b"))
    assert await consul.get(f"{prefix}/services/shop/graphql/plugins") is None
    before = await consul.get(key)
    await ServiceLists(consul, prefix).sync({"shop/events": (instance("a"), instance("b"))})
    assert await consul.get(key) == before, "what is right is not written again"
    await lists.sync({"shop/events": (instance("b"),)})
    assert await held() == (instance("b"),)
    await lists.sync({"shop/events": ()})
    assert await held() is None
    assert await consul.get(f"{prefix}/services/shop/events/other") is not None


async def test_lists_of_services_that_are_gone_go(consul: ConsulApi) -> None:
    prefix = f"test-{secrets.token_hex(4)}"
    await ServiceLists(consul, prefix).sync({"shop/events": (instance("a"),)})
    await ServiceLists(consul, prefix).sync({})
    assert not await consul.keys(f"{prefix}/services/")
