"""Watches Services and EndpointSlices, keeps one listener per address and writes load balancer addresses to status."""

from __future__ import annotations

import asyncio
import datetime

from aiohttp import web

from nexus_testbed import places
from nexus_testbed.api import JSON, MERGE_PATCH, Api, ApiError, ApiUnavailable, Listed, Object
from nexus_testbed.lb import datagrams, dns, proxy, services

HEALTH_PORT = 10256
RETRY_S = 0.5


class Controller:
    """All Services of the cluster. `run()` is the whole program and ends when cancelled."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._world = services.World()
        self._listeners: dict[services.Binding, tuple[services.Target, proxy.Listener | datagrams.Listener]] = {}
        self._refused: dict[services.Key, str] = {}
        self._services_changed = asyncio.Event()
        self._listed: set[str] = set()

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: dns.Server(self._world.find_name), local_addr=(places.DNS_IP, 53))
        app = web.Application()
        app.router.add_get("/healthz", self._get_health)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", HEALTH_PORT).start()
            await self._reserve_dns_address()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch("/api/v1/services", self._world.services))
                group.create_task(self._watch("/apis/discovery.k8s.io/v1/endpointslices", self._world.slices))
                group.create_task(self._reconcile())
        finally:
            await runner.cleanup()

    async def _get_health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok", status=200 if len(self._listed) == 2 else 503)

    async def _reserve_dns_address(self) -> None:
        """Create the Service kube-system/kube-dns, so that no other Service is given its address."""
        ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
        service = {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": places.DNS_IP, "ports": ports},
        }  # fmt: skip
        while True:
            try:
                await self._api.request_until_answered("POST", "/api/v1/namespaces/kube-system/services", service)
                return
            except ApiError as err:
                if err.status in (409, 422):  # there from an earlier start (422: "provided IP is already allocated")
                    return
                if err.status not in (403, 404):  # a starting API server makes kube-system a moment later
                    raise
            await asyncio.sleep(RETRY_S)

    async def _watch(self, path: str, table: dict[services.Key, Object]) -> None:
        async for event in self._api.watch(path):
            if isinstance(event, Listed):
                services.replace_all(table, event.items)
                self._listed.add(path)
            elif event.deleted:
                table.pop(services.key_of(event.item), None)
            else:
                table[services.key_of(event.item)] = event.item
            if table is self._world.slices:
                self._world.index()
            else:
                self._services_changed.set()

    async def _reconcile(self) -> None:
        while True:
            await self._services_changed.wait()
            self._services_changed.clear()
            failed = not await self._listen()
            failed |= not await self._write_statuses()
            if failed:
                await asyncio.sleep(RETRY_S)
                self._services_changed.set()

    async def _listen(self) -> bool:
        """Open and close listeners until they are those wanted; False if one cannot be opened (yet)."""
        wanted = self._world.listeners()
        complete = True
        for binding, (target, listener) in list(self._listeners.items()):
            if wanted.get(binding) != target:
                listener.close()
                del self._listeners[binding]
        for binding, target in wanted.items():
            if binding in self._listeners:
                continue
            kind = proxy.Listener if binding.protocol == "TCP" else datagrams.Listener
            listener = kind(lambda target=target: self._world.endpoints(target))  # type: ignore[misc]
            try:
                await listener.open((binding.host, binding.port))
            except OSError as err:
                print(f"cannot listen on {binding} for Service {'/'.join(target.service)}: {err}", flush=True)
                complete = False
            else:
                self._listeners[binding] = (target, listener)
        return complete

    async def _write_statuses(self) -> bool:
        """Write each load balancer's address to its Service once it is being listened on; False to be called again.

        A Service that cannot have the address it asks for has none, and an Event says why.
        """
        complete = True
        for (namespace, name), address in self._world.loadbalancers().items():
            service = self._world.services[namespace, name]
            if address is None:
                complete &= await self._refuse(service)
            else:
                self._refused.pop((namespace, name), None)
            if services.ingress_of(service) == ([address] if address is not None else []):
                continue
            ingress = None if address is None else [{"ip": address, "ipMode": "VIP"}]
            path = f"/api/v1/namespaces/{namespace}/services/{name}/status"
            complete &= await self._tell("PATCH", path, {"status": {"loadBalancer": {"ingress": ingress}}}, MERGE_PATCH)
        for gone in self._refused.keys() - self._world.services.keys():
            del self._refused[gone]
        return complete

    async def _refuse(self, service: Object) -> bool:
        """Say once for each wish why it cannot be fulfilled; False to be called again."""
        meta = service["metadata"]
        key, wish = services.key_of(service), service["spec"].get("loadBalancerIP") or ""
        if self._refused.get(key) == wish:
            return True
        why = f"another Service has {wish}" if wish in services.POOL else f"{wish} is not in {places.LOADBALANCER_CIDR}"
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "AllocationFailed", "count": 1,
            "message": f"no load balancer address: {why if wish else f'all of {places.LOADBALANCER_CIDR} are in use'}",
            "metadata": {"generateName": f"{meta['name'][:200]}.", "namespace": meta["namespace"]},
            "involvedObject": {"apiVersion": "v1", "kind": "Service", "name": meta["name"],
                               "namespace": meta["namespace"], "uid": meta["uid"]},
            "source": {"component": "lb"}, "firstTimestamp": now, "lastTimestamp": now,
        }  # fmt: skip
        done = await self._tell("POST", f"/api/v1/namespaces/{meta['namespace']}/events", event, JSON)
        if done:
            self._refused[key] = wish
        return done

    async def _tell(self, method: str, path: str, body: Object, content_type: str) -> bool:
        """Send one change; False if it is worth another try. What it is about may be gone by now."""
        try:
            await self._api.request(method, path, body, content_type)
        except ApiUnavailable:
            return False
        except ApiError as err:
            if err.status != 404:
                print(f"{method} {path}: {err}", flush=True)
                return err.status == 403  # the namespace is on its way out
        return True
