"""A small shop behind real sockets: two services with OpenAPI documents, found through a discovery file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from nexus_graphql.app import GraphqlService
from nexus_graphql.catalogue import View
from nexus_sdk import HttpProblem, ServiceApp


def schema(**properties: Any) -> dict[str, Any]:
    required = [name for name, value in properties.items() if value.pop("must", False)]
    return {"type": "object", "properties": properties, "required": required}


def answers(schema: Any, status: str = "200") -> dict[str, Any]:
    return {status: {"description": "", "content": {"application/json": {"schema": schema}}}}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def path_id() -> dict[str, Any]:
    return {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


CATALOG: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Catalog", "version": "1"},
    "paths": {
        "/products": {
            "get": {
                "operationId": "products",
                "parameters": [
                    {"name": "limit", "in": "query", "schema": {"type": "integer"}},
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                ],
                "responses": answers({"type": "array", "items": ref("Product")}),
            }
        },
        "/products/{id}": {
            "get": {"operationId": "product", "parameters": [path_id()], "responses": answers(ref("Product"))}
        },
    },
    "components": {
        "schemas": {
            "Product": schema(
                id={"type": "string", "must": True},
                name={"type": "string", "must": True},
                priceCents={"type": "integer", "format": "int64"},
                maker=schema(name={"type": "string"}),
            )
        }
    },
}
ORDERS: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Orders", "version": "1"},
    "paths": {
        "/orders": {
            "post": {
                "operationId": "placeOrder",
                "requestBody": {"required": True, "content": {"application/json": {"schema": ref("NewOrder")}}},
                "responses": answers(ref("Order"), "201"),
            }
        },
        "/orders/{id}": {
            "get": {"operationId": "order", "parameters": [path_id()], "responses": answers(ref("Order"))},
            "delete": {
                "operationId": "cancelOrder",
                "parameters": [path_id()],
                "responses": {"204": {"description": "gone"}},
            },
        },
    },
    "components": {
        "schemas": {
            "NewOrder": schema(
                product={"type": "string", "must": True}, **{"gift-note": {"type": "string", "nullable": True}}
            ),
            "Order": schema(
                id={"type": "string", "must": True},
                product={"type": "string", "must": True},
                **{"gift-note": {"type": "string", "nullable": True}},
            ),
        }
    },
}


@dataclass
class Shop:
    """The running parts. requests: what the services were asked, in order. headers: of the last request by service."""

    directory: Path
    stack: contextlib.AsyncExitStack
    table: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, Mapping[str, str]] = field(default_factory=dict)
    apps: dict[str, ServiceApp] = field(default_factory=dict)
    graphql: GraphqlService = field(init=False)
    url: str = ""
    session: aiohttp.ClientSession = field(init=False)

    @property
    def file(self) -> Path:
        return self.directory / "discovery.json"

    def write(self) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps({"services": self.table}))
        os.replace(fresh, self.file)

    async def serve(self, name: str, document: Any, add: Callable[[ServiceApp], None] = lambda app: None) -> ServiceApp:
        """Start a service and write it into the discovery file."""
        app = ServiceApp(name, openapi=document, environ={"NEXUS_NAMESPACE": "shop"})
        add(app)

        @web.middleware
        async def record(request: web.Request, handler: Any) -> web.StreamResponse:
            if request.path != "/openapi.json":
                self.requests.append((request.method, request.path_qs))
                self.headers[name] = dict(request.headers)
            answer: web.StreamResponse = await handler(request)
            return answer

        app.web.middlewares.append(record)
        running = await self.stack.enter_async_context(app.test_server())
        self.apps[name] = app
        self.table[f"{name}.shop"] = {
            "endpoints": [{"address": running.host, "port": running.port, "id": f"{name}-1"}],
            "meta": {"nexus-openapi": "/openapi.json", "nexus-type": "http"},
        }
        self.write()
        return app

    async def start_graphql(self, **environ: str) -> None:
        base = {
            "NEXUS_NAMESPACE": "shop", "NEXUS_DISCOVERY_FILE": str(self.file), "NEXUS_GRAPHQL_REFRESH_SECONDS": "0.1",
        }  # fmt: skip
        self.graphql = GraphqlService(environ={**base, **environ})
        running = await self.stack.enter_async_context(self.graphql.app.test_server())
        self.url = running.url
        self.session = await self.stack.enter_async_context(aiohttp.ClientSession(running.url))

    async def until(self, is_there: Callable[[View], bool]) -> View:
        async with asyncio.timeout(20):
            return await self.graphql.catalogue.wait_for(is_there)

    async def until_live(self, *names: str) -> View:
        wanted = {f"{n}.shop" for n in names}
        return await self.until(lambda v: {s.name for s in v.services if s.state == "live"} >= wanted)

    async def ask(self, query: str, variables: Any = None, **headers: str) -> dict[str, Any]:
        body = {"query": query, "variables": variables}
        accept = {"accept": "application/graphql-response+json", **headers}
        async with self.session.post("/graphql", json=body, headers=accept) as answer:
            found: dict[str, Any] = await answer.json(content_type=None)
            return found


PRODUCTS = {
    "tea": {"id": "tea", "name": "Tea", "priceCents": 450, "maker": {"name": "Leaf & Co"}},
    "gold": {"id": "gold", "name": "Gold", "priceCents": 2**60, "maker": None},
}


def add_catalog(app: ServiceApp) -> None:
    @app.get("/products")
    async def products(request: web.Request) -> web.Response:
        limit = int(request.query.get("limit", "10"))
        return web.json_response(list(PRODUCTS.values())[:limit])

    @app.get("/products/{id}")
    async def product(request: web.Request) -> web.Response:
        key = request.match_info["id"]
        if key not in PRODUCTS:
            raise HttpProblem(404, "ProductNotFound", f"There is no product {key!r}.")
        return web.json_response(PRODUCTS[key])


def add_orders(app: ServiceApp) -> None:
    stored: dict[str, Any] = {}

    @app.post("/orders")
    async def place(request: web.Request) -> web.Response:
        order = {"id": str(len(stored) + 1), **await request.json()}
        if order["product"] not in PRODUCTS:
            raise HttpProblem(422, "UnknownProduct", "That product is not sold here.", errors=[{"pointer": "/product"}])
        stored[order["id"]] = order
        return web.json_response(order, status=201)

    @app.get("/orders/{id}")
    async def one(request: web.Request) -> web.Response:
        return web.json_response(stored[request.match_info["id"]])

    @app.delete("/orders/{id}")
    async def cancel(request: web.Request) -> web.Response:
        del stored[request.match_info["id"]]
        return web.Response(status=204)


@pytest.fixture
async def empty_shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with contextlib.AsyncExitStack() as stack:
        shop = Shop(tmp_path, stack)
        shop.write()
        yield shop


@pytest.fixture
async def shop(empty_shop: Shop) -> Shop:
    await empty_shop.serve("catalog", CATALOG, add_catalog)
    await empty_shop.serve("orders", ORDERS, add_orders)
    await empty_shop.start_graphql()
    await empty_shop.until_live("catalog", "orders")
    return empty_shop
