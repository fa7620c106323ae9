"""Consul as the operator uses it: keys with compare-and-set, a blocking watch of a prefix, the catalog of one node.

The only module that knows `py-consul`. Of that client it works around three things: its aiohttp adapter sets no deadline of
its own, so every call here is bounded; it builds its session with arguments that aiohttp has deprecated, so the
session is made here; and where it has a token, what it writes into the catalog holds a field that Consul refuses, so those two
requests are made here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import consul
import consul.aio
import consul.base
from consul.callback import CB

from nexus_operator.mirror.registrations import Registration

T = TypeVar("T")
REQUEST_TIMEOUT_S = 10.0
CONNECTIONS = 32
WAIT_S = 30
"""How long Consul holds a blocking query without a change."""
NODE_ADDRESS = "127.0.0.1"
"""Address of the virtual node. Never used for traffic: every mirrored service carries its own address."""


class ConsulAway(Exception):
    """Consul did not answer, or could not do what it was asked. The message is a sentence for people."""


@dataclass(frozen=True, slots=True)
class Held:
    """A key as Consul holds it. modify_index: what a compare-and-set must name."""

    key: str
    value: bytes
    modify_index: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Keys under a prefix. index: to hand to the next blocking query."""

    index: int
    entries: tuple[Held, ...]


class ConsulApi:
    """One Consul agent. Must be made inside a running event loop; call `close()`. Methods raise ConsulAway only."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        parts = urlsplit(url)
        self._consul = _Consul(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or (443 if parts.scheme == "https" else 8500),
            scheme=parts.scheme,
            token=token or None,
        )

    async def get(self, key: str) -> Held | None:
        """Return a key, or None when it does not exist."""
        _, row = await self._call(self._consul.kv.get(key, consistency="consistent"), f"read {key}")
        return _held(row) if row else None

    async def list(self, prefix: str, *, index: int = 0) -> Listing:
        """Return the keys under a prefix. index: wait (up to half a minute) for a change after it; 0 answers at once."""
        call = self._consul.kv.get(prefix, recurse=True, index=index or None, wait=f"{WAIT_S}s")
        # Consul adds up to 1/16 of the wait as jitter.
        at, rows = await self._call(call, f"watch {prefix}", timeout_s=WAIT_S * 17 / 16 + REQUEST_TIMEOUT_S)
        return Listing(int(at), tuple(_held(row) for row in rows or ()))

    async def keys(self, prefix: str) -> frozenset[str]:
        """Return the names of the keys under a prefix."""
        _, rows = await self._call(self._consul.kv.get(prefix, keys=True), f"list {prefix}")
        return frozenset(rows or ())

    async def put(self, key: str, value: bytes) -> None:
        """Write a key whatever it holds."""
        if not await self._call(self._consul.kv.put(key, value), f"write {key}"):
            raise ConsulAway(f"Consul at {self.url} refused to write {key}.")

    async def put_if(self, key: str, value: bytes, modify_index: int) -> bool:
        """Write a key if it is still at `modify_index` (0: if it does not exist); return whether it was."""
        return bool(await self._call(self._consul.kv.put(key, value, cas=modify_index), f"write {key}"))

    async def delete(self, key: str) -> None:
        """Delete a key; absent is fine."""
        await self._call(self._consul.kv.delete(key), f"delete {key}")

    async def registrations(self, node: str) -> dict[str, Registration]:
        """Return what the catalog holds for a node, by service id; empty for an unknown node."""
        _, row = await self._call(self._consul.catalog.node(node), f"read node {node}")
        if not row:
            return {}
        _, checks = await self._call(self._consul.health.node(node), f"read checks of {node}")
        passing = {check["ServiceID"]: check["Status"] == "passing" for check in checks or () if check.get("ServiceID")}
        return {
            sid: Registration(
                id=sid,
                service=entry["Service"],
                address=entry["Address"],
                port=entry["Port"],
                passing=passing.get(sid, False),
                tags=tuple(sorted(entry.get("Tags") or ())),
                meta=tuple(sorted((entry.get("Meta") or {}).items())),
                weight=(entry.get("Weights") or {}).get("Passing", 1),
            )
            for sid, entry in row["Services"].items()
        }

    async def register(self, node: str, entry: Registration) -> None:
        """Write one service instance of a node with its check."""
        service: Mapping[str, Any] = {
            "ID": entry.id,
            "Service": entry.service,
            "Address": entry.address,
            "Port": entry.port,
            "Tags": list(entry.tags),
            "Meta": dict(entry.meta),
            "Weights": {"Passing": entry.weight, "Warning": 1},
        }
        check = {
            "Node": node,
            "CheckID": f"nexus:{entry.id}",
            "Name": "Kubernetes readiness",
            "Status": "passing" if entry.passing else "critical",
            "ServiceID": entry.id,
        }
        body = {"Node": node, "Address": NODE_ADDRESS, "Service": service, "Check": check}
        await self._call(self._write("/v1/catalog/register", body), f"register {entry.id}")

    async def deregister(self, node: str, service_id: str) -> None:
        """Remove one service instance of a node with its check; absent is fine."""
        body = {"Node": node, "ServiceID": service_id}
        await self._call(self._write("/v1/catalog/deregister", body), f"deregister {service_id}")

    async def close(self) -> None:
        """Close the connections."""
        await self._consul.close()

    def _write(self, path: str, body: Mapping[str, Any]) -> Awaitable[bool]:
        call: Awaitable[bool] = self._consul.http.put(
            CB.boolean(), path, headers=self._consul.prepare_headers(), data=json.dumps(body)
        )
        return call

    async def _call(self, call: Awaitable[T], what: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await call
        except (aiohttp.ClientError, OSError, TimeoutError, consul.ConsulException, ValueError) as err:
            detail = str(err).strip() or type(err).__name__
            raise ConsulAway(f"Consul at {self.url} did not {what}: {detail}.") from err


class _HTTPClient(consul.aio.HTTPClient):  # type: ignore[misc]  # py-consul is untyped
    def __init__(self, host: str, port: int, scheme: str) -> None:
        consul.base.HTTPClient.__init__(self, host, port, scheme)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))


class _Consul(consul.aio.Consul):  # type: ignore[misc]  # py-consul is untyped
    def http_connect(self, host: str, port: int, scheme: str, verify: Any = True, cert: Any = None) -> _HTTPClient:
        return _HTTPClient(host, port, scheme)


def _held(row: Mapping[str, Any]) -> Held:
    return Held(key=row["Key"], value=row["Value"] or b"", modify_index=int(row["ModifyIndex"]))
