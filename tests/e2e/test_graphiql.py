"""GraphiQL in a real browser: it opens under its content security policy, runs a query and shows the answer."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web
from nexus_graphql.app import GraphqlService
from nexus_sdk import ServiceApp
from playwright.async_api import Page, async_playwright

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def _load(name: str) -> ModuleType:
    # Tests are imported by path (importlib mode), so their neighbours are no package.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_graphiql_runs_a_query_in_the_browser(tmp_path: Path) -> None:
    shop = _load("graphiql_shop")
    assets = await shop.find_assets()
    catalog = ServiceApp("catalog", openapi=shop.DOCUMENT, environ={"NEXUS_NAMESPACE": "shop"})

    @catalog.get("/products")
    async def products(request: web.Request) -> web.Response:
        return web.json_response([{"id": "tea", "name": "Tea"}, {"id": "pot", "name": "Pot"}])

    async with catalog.test_server() as running:
        table = {
            "catalog.shop": {
                "endpoints": [{"address": running.host, "port": running.port}],
                "meta": {"nexus-openapi": "/openapi.json"},
            }
        }
        (tmp_path / "discovery.json").write_text(json.dumps({"services": table}))
        service = GraphqlService(
            environ={
                "NEXUS_NAMESPACE": "shop",
                "NEXUS_DISCOVERY_FILE": str(tmp_path / "discovery.json"),
                "NEXUS_GRAPHIQL_ASSETS": str(assets),
            }
        )
        async with service.app.test_server() as server, asyncio.timeout(90):
            await service.catalogue.wait_for(lambda v: any(s.state == "live" for s in v.services))
            await _look(f"{server.url}/graphql", tmp_path)


async def _look(url: str, directory: Path) -> None:
    query = "{ products { id name } }"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 720})
            said: list[str] = []
            strangers: list[str] = []
            page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda e: said.append(str(e)))
            page.on("request", lambda r: strangers.append(r.url) if not _is_own(r.url, url) else None)
            await page.goto(f"{url}?query={query}", wait_until="load")
            await page.click("button.graphiql-execute-button")
            await page.wait_for_selector(".graphiql-response >> text=Pot")
            shown = await _value(page)
            await page.click('button[aria-label="Show Documentation Explorer"]')
            await page.wait_for_selector(".graphiql-doc-explorer >> text=Query")
            await page.screenshot(path=directory / "graphiql.png")
            assert shown == {"data": {"products": [{"id": "tea", "name": "Tea"}, {"id": "pot", "name": "Pot"}]}}
            assert said == []
            assert strangers == []
        finally:
            await browser.close()


async def _value(page: Page) -> Any:
    text = await page.evaluate("() => document.querySelector('.graphiql-response .CodeMirror').CodeMirror.getValue()")
    return json.loads(text)


def _is_own(asked: str, url: str) -> bool:
    return asked.startswith((url.rsplit("/", 1)[0], "data:", "blob:"))


async def test_without_its_scripts_the_page_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "discovery.json").write_text('{"services": {}}')
    service = GraphqlService(
        environ={
            "NEXUS_DISCOVERY_FILE": str(tmp_path / "discovery.json"),
            "NEXUS_GRAPHIQL_ASSETS": "http://127.0.0.1:9/npm",  # the discard port: nobody listens
        }
    )
    async with service.app.test_server() as server, asyncio.timeout(90), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = await browser.new_page()
            await page.goto(f"{server.url}/graphql")
            await page.wait_for_selector("text=NEXUS_GRAPHIQL_ASSETS")
        finally:
            await browser.close()
