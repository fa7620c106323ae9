"""Plugins of the GraphQL gateway: what they do before an operation is executed, and to what it gave."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nexus_core.snapshot import PluginInstance
from nexus_hosting.testing import make_instance

from tests.integration.graphql.conftest import Shop

GUARD = """
    from nexus_sdk.plugin import Plugin, Refusal

    class Demo(Plugin):
        async def on_operation_parsed(self, operation):
            if dict(operation.headers).get("x-user") == "robot":
                return Refusal("NoRobots", "Robots ask elsewhere.")
            if operation.depth > 2:
                return Refusal("TooDeep", f"{operation.kind} {operation.name} is {operation.depth} deep: {operation.fields}")
            return operation.with_variables({**operation.variables, "limit": 1})

        def on_operation_resolved(self, operation, result):
            if operation.name == "Crash":
                raise RuntimeError("boom")
            if result.data is None:
                return result
            data = {**result.data, "products": [{**p, "name": "***"} for p in result.data["products"]]}
            return type(result)(data, result.errors, {"masked": True}, result.seconds)
"""
HOOKS = {"hooks": ("on_operation_parsed", "on_operation_resolved")}
ASK = "query Ask($limit: Int) { products(limit: $limit) { name } }"


class Plugins:
    """The list that the running service follows."""

    def __init__(self, shop: Shop, directory: Path) -> None:
        self.shop = shop
        self.file = directory / "plugins.json"
        self.cache = directory / "cache"
        self.list()

    def list(self, *instances: PluginInstance) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(instances))
        fresh.replace(self.file)

    def guard(self, **fields: Any) -> PluginInstance:
        return make_instance(self.cache, GUARD, release=HOOKS, **fields)

    async def until_masked(self) -> dict[str, Any]:
        while True:
            answer = await self.shop.ask(ASK)
            if "extensions" in answer:
                return answer
            await asyncio.sleep(0.05)


@pytest.fixture
async def plugins(shop: Shop, tmp_path: Path) -> Plugins:
    made = Plugins(shop, tmp_path)
    await shop.graphql.app.stop(drain_s=0, settle_s=0)
    await shop.start_graphql(NEXUS_PLUGINS_FILE=str(made.file), NEXUS_PLUGIN_CACHE=str(made.cache))
    await shop.until_live("catalog")
    return made


async def test_plugins_change_variables_and_results(plugins: Plugins) -> None:
    assert len((await plugins.shop.ask(ASK))["data"]["products"]) == 2
    plugins.list(plugins.guard())
    assert await plugins.until_masked() == {"data": {"products": [{"name": "***"}]}, "extensions": {"masked": True}}


async def test_a_refused_operation_is_not_executed(plugins: Plugins) -> None:
    plugins.list(plugins.guard())
    await plugins.until_masked()
    before = len(plugins.shop.requests)
    refused = await plugins.shop.ask(ASK, **{"x-user": "robot"})
    assert refused == {
        "errors": [{"message": "Robots ask elsewhere.", "extensions": {"code": "REFUSED", "reason": "NoRobots"}}]
    }
    deep = await plugins.shop.ask("query Deep { ...f } fragment f on Query { products { maker { name } } }")
    assert deep["errors"][0]["message"] == "query Deep is 3 deep: ('products',)"
    assert len(plugins.shop.requests) == before


async def test_a_failing_plugin_is_passed_over_or_refuses_as_its_policy_says(plugins: Plugins) -> None:
    plugins.list(plugins.guard())
    await plugins.until_masked()
    crash = ASK.replace("Ask", "Crash")
    assert (await plugins.shop.ask(crash))["data"]["products"][0]["name"] == "Tea"
    plugins.list(plugins.guard(failure_policy="closed"))
    while True:
        answer = await plugins.shop.ask(crash)
        if "errors" in answer:
            break
        await asyncio.sleep(0.05)
    assert answer["errors"][0]["extensions"]["code"] == "PLUGIN_UNAVAILABLE"
    assert "shop/demo" in answer["errors"][0]["message"]
