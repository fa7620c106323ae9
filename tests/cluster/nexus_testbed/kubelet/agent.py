"""The kubelet itself: registers the node, keeps one worker per pod bound to it, and serves container logs."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import ssl
import traceback

from aiohttp import web

from nexus_testbed import components, places
from nexus_testbed.api import MERGE_PATCH, Api, ApiError, ApiUnavailable, Changed, Listed, Object
from nexus_testbed.kubelet import logs, sandbox
from nexus_testbed.kubelet.pod import PodWorker

PORT = 10250
MAX_EVENTS_IN_FLIGHT = 64


class Kubelet:
    """All pods of the node. `run()` is the whole program and ends when cancelled, with every pod removed."""

    def __init__(self, where: places.Places, api: Api) -> None:
        self._where, self._api = where, api
        self._addresses = sandbox.Addresses(where)
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: set[asyncio.Task[None]] = set()
        self._events_seen: set[tuple[str, str, str]] = set()
        self._listed = False

    async def run(self) -> None:
        """Serve until cancelled."""
        await sandbox.remove_left_overs(self._where)
        runner = await self._serve()
        try:
            await self._register()
            async for event in self._api.watch("/api/v1/pods", {"fieldSelector": f"spec.nodeName%3D{places.NODE}"}):
                match event:
                    case Listed(items):
                        present = {pod["metadata"]["uid"] for pod in items}
                        for uid in set(self._workers) - present:
                            self._workers[uid].vanish()
                        for pod in items:
                            self._sync(pod)
                        self._listed = True
                    case Changed(pod, deleted=True):
                        if worker := self._workers.get(pod["metadata"]["uid"]):
                            worker.update(pod)
                            worker.vanish()
                    case Changed(pod):
                        self._sync(pod)
        finally:
            tasks = [*self._tasks, *self._events]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await runner.cleanup()

    def _sync(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is None:
            finished = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            if finished and not pod["metadata"].get("deletionTimestamp"):
                return
            worker = PodWorker(self._api, self._where, self._addresses, pod, self.event)
            self._workers[uid] = worker
            self._own(self._tasks, asyncio.create_task(self._work(uid, worker)))
        worker.update(pod)

    async def _work(self, uid: str, worker: PodWorker) -> None:
        try:
            await worker.run()
        except Exception as err:
            traceback.print_exception(err)
        finally:
            self._workers.pop(uid, None)
            self._events_seen = {seen for seen in self._events_seen if seen[0] != uid}

    @staticmethod
    def _own(owner: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        owner.add(task)
        task.add_done_callback(owner.discard)

    # --- the API server --------------------------------------------------------------------------------------------------

    async def _register(self) -> None:
        labels = {"kubernetes.io/hostname": places.NODE, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": places.NODE, "labels": labels}, "spec": {}}
        try:
            await self._api.request_until_answered("POST", "/api/v1/nodes", node)
        except ApiError as err:
            if err.status != 409:
                raise
        # There is no node-lifecycle controller that would take away the not-ready taint admission gives a new node.
        path = f"/api/v1/nodes/{places.NODE}"
        await self._api.request_until_answered("PATCH", path, {"spec": {"taints": None}}, MERGE_PATCH)
        now = logs.timestamp()[:19] + "Z"
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "100Gi"}
        system = os.uname()
        info = dict.fromkeys(("machineID", "systemUUID", "bootID", "kubeProxyVersion"), "") | {
            "kubeletVersion": f"v{components.KUBERNETES_VERSION}", "architecture": "amd64", "operatingSystem": "linux",
            "osImage": "process kubelet", "containerRuntimeVersion": "process://1", "kernelVersion": system.release,
        }  # fmt: skip
        status = {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": places.NODE_IP}, {"type": "Hostname", "address": places.NODE}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
            "nodeInfo": info,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the process kubelet is ready",
                "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }  # fmt: skip
        await self._api.request_until_answered("PATCH", f"{path}/status", {"status": status}, MERGE_PATCH)

    def event(self, pod: Object, kind: str, reason: str, message: str) -> None:
        """Publish an Event about a pod, once per reason and text, without waiting for it."""
        meta = pod["metadata"]
        seen = (meta["uid"], reason, message)
        if seen in self._events_seen or len(self._events) >= MAX_EVENTS_IN_FLIGHT:
            return
        self._events_seen.add(seen)
        now = logs.timestamp()[:19] + "Z"
        body = {
            "apiVersion": "v1", "kind": "Event", "type": kind, "reason": reason, "message": message[:1000], "count": 1,
            "metadata": {"generateName": f"{meta['name'][:200]}.", "namespace": meta["namespace"]},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "namespace": meta["namespace"],
                               "uid": meta["uid"]},
            "source": {"component": "kubelet", "host": places.NODE}, "firstTimestamp": now, "lastTimestamp": now,
        }  # fmt: skip
        self._own(self._events, asyncio.create_task(self._send_event(body)))

    async def _send_event(self, body: Object) -> None:
        try:
            await self._api.request("POST", f"/api/v1/namespaces/{body['metadata']['namespace']}/events", body)
        except (ApiError, ApiUnavailable) as err:
            # Events are best effort by contract; the text must still be found somewhere.
            print(f"event {body['reason']} of {body['involvedObject']['name']}: {body['message']} ({err})", flush=True)

    # --- the HTTPS server ------------------------------------------------------------------------------------------------

    async def _serve(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._get_logs)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._where.pki / "ca.crt"))
        context.load_cert_chain(self._where.pki / "node.crt", self._where.pki / "node.key")
        context.verify_mode = ssl.CERT_REQUIRED
        # handler_cancellation: `kubectl logs -f` that goes away must not keep its handler waiting for a next line
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, places.NODE_IP, PORT, ssl_context=context).start()
        return runner

    async def _get_health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok") if self._listed else web.Response(status=503, text="not registered yet")

    async def _get_logs(self, request: web.Request) -> web.StreamResponse:
        wanted, asked = request.match_info, request.query
        name = (wanted["namespace"], wanted["pod"])
        newest: PodWorker | None = None
        for worker in self._workers.values():
            if (worker.pod["metadata"]["namespace"], worker.pod["metadata"]["name"]) == name:
                newest = worker
        log = newest.find_log(wanted["container"], previous=asked.get("previous") == "true") if newest else None
        if log is None:
            return web.Response(status=404, text=f"no log of container {wanted['container']} of pod {'/'.join(name)}")
        try:
            query = _parse_query(dict(asked))
        except ValueError as err:
            return web.Response(status=400, text=str(err))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            async for chunk in logs.read(log, query):
                await response.write(chunk)
            await response.write_eof()
        return response


def _parse_query(asked: dict[str, str]) -> logs.Query:
    since = None
    if text := asked.get("sinceTime"):
        since = datetime.datetime.fromisoformat(text)
    elif text := asked.get("sinceSeconds"):
        since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=int(text))
    return logs.Query(
        since_utc=since,
        tail_lines=int(asked["tailLines"]) if "tailLines" in asked else None,
        limit_bytes=int(asked["limitBytes"]) if "limitBytes" in asked else None,
        timestamps=asked.get("timestamps") == "true",
        follow=asked.get("follow") == "true",
    )
