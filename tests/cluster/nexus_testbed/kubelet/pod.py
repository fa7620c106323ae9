"""One pod on the node: its sandbox, its volumes, its containers in order, its status, and its end.

A `PodWorker` is one task. It starts the pod, publishes what changes, and when the pod is to be deleted (or is gone from
the API) stops the containers within the grace period, removes every trace and confirms the deletion.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from nexus_testbed import netns, places
from nexus_testbed.api import STRATEGIC_PATCH, Api, ApiError, ApiUnavailable, Object
from nexus_testbed.kubelet import logs
from nexus_testbed.kubelet.container import Container, Context, Role
from nexus_testbed.kubelet.environment import ConfigError
from nexus_testbed.kubelet.sandbox import Addresses, Sandbox, SysctlError, sysctls_of
from nexus_testbed.kubelet.volumes import VolumeError, Volumes

VOLUME_RETRY_S = 0.2
RETRY_S = 1.0
CLEAR_ATTEMPTS = 5
NETWORK_TRIES = 3
FORCED_GRACE_S = 2.0
"""Grace for a pod that vanished from the API without a word (forced deletion)."""


def _now() -> str:
    return logs.timestamp()[:19] + "Z"


class PodWorker:
    """Runs one pod from its first sight to its removal. `run()` never raises for what the pod does."""

    def __init__(
        self, api: Api, where: places.Places, addresses: Addresses, pod: Object, event: Callable[..., None]
    ) -> None:
        """event: (pod, type, reason, message) → publishes an Event."""
        self.pod = pod
        self._api, self._where, self._publish_event = api, where, event
        self._box = Sandbox(where, pod["metadata"]["uid"], addresses.take())
        self._volumes = Volumes(api, pod, self._box.directory / "volumes", self._box.ip)
        self._started_at = _now()
        self._conditions: dict[str, Object] = {}
        self._dirty = asyncio.Event()
        self._delete_requested = asyncio.Event()
        self._gone = False
        self._sandbox_ready = False
        self._finished = False
        context = Context(api, pod, self._box, self._volumes, self._dirty.set, self._event, self._configured_grace_s)
        earlier: dict[str, Any] = {
            status["name"]: status
            for field in ("initContainerStatuses", "containerStatuses")
            for status in (pod.get("status") or {}).get(field) or ()
        }
        spec = pod["spec"]
        self._init = [
            Container(
                context, c, Role.SIDECAR if c.get("restartPolicy") == "Always" else Role.INIT, earlier.get(c["name"])
            )
            for c in spec.get("initContainers") or ()
        ]
        self._main = [Container(context, c, Role.MAIN, earlier.get(c["name"])) for c in spec["containers"]]

    # --- what the kubelet tells us ---------------------------------------------------------------------------------------

    def update(self, pod: Object) -> None:
        """Take note of a new version of the pod object."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._delete_requested.set()
        self._dirty.set()  # another controller may have set a readiness gate

    def vanish(self) -> None:
        """The object is gone from the API: stop without confirming anything."""
        self._gone = True
        self._delete_requested.set()

    def find_log(self, container: str, *, previous: bool) -> logs.LogFile | None:
        """Return the log of the current (or the previous) run of a container."""
        for candidate in (*self._main, *self._init):
            if candidate.name == container:
                wanted = candidate.logs[:-1] if previous else candidate.logs
                return wanted[-1] if wanted else None
        return None

    # --- life ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until the pod is deleted; leave nothing behind, also when cancelled."""
        publishing = asyncio.create_task(self._publish())
        living = asyncio.create_task(self._live())
        try:
            await self._delete_requested.wait()
            await self._stop(living)
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            await self._clear_network()
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        if not self._gone:
            await self._confirm_deletion()
        await self._box.remove_directory()

    async def _live(self) -> None:
        """Start everything in order and wait for its end; report a bug of ours as an event instead of dying silently."""
        try:
            await self._make_network(sysctls_of(self.pod))
            self._sandbox_ready = True
            self._dirty.set()
            await self._prepare_volumes()
            async with asyncio.TaskGroup() as group:
                fresh = group.create_task(self._volumes.keep_fresh())
                sidecars = []
                for container in self._init:
                    if container.role is Role.SIDECAR:
                        sidecars.append(group.create_task(container.run()))
                        await container.became_started.wait()
                    elif await container.run() != 0:
                        break
                else:
                    await asyncio.gather(*(group.create_task(container.run()) for container in self._main))
                for sidecar in self._init:
                    if sidecar.role is Role.SIDECAR:
                        await sidecar.stop(self._configured_grace_s())
                for task in (fresh, *sidecars):
                    task.cancel()
            self._finished = True
            self._dirty.set()
            await self._box.remove_network()
        except Exception as err:  # whatever goes wrong with one pod must not stop the others
            text = str(err.exceptions[0]) if isinstance(err, ExceptionGroup) else str(err)
            match err:
                case SysctlError():
                    reason = "SysctlForbidden"
                case netns.NetnsError():
                    reason = "FailedCreatePodSandBox"
                case _:
                    reason = "KubeletBug"
            if not isinstance(err, SysctlError):
                traceback.print_exception(err)
            self._event("Warning", reason, text)

    async def _make_network(self, sysctls: Mapping[str, str]) -> None:
        """Make the pod's network; what fails on a busy machine is tried again from nothing, as a real kubelet does."""
        for _ in range(NETWORK_TRIES - 1):
            try:
                await self._box.create(sysctls)
            except SysctlError:
                raise
            except (OSError, netns.NetnsError) as err:
                self._event("Warning", "FailedCreatePodSandBox", f"{err}; it is tried again")
                await self._box.remove_network()
                await asyncio.sleep(RETRY_S)
            else:
                return
        await self._box.create(sysctls)

    async def _prepare_volumes(self) -> None:
        while True:
            try:
                await self._volumes.prepare()
                return
            except (VolumeError, ConfigError, ApiError, ApiUnavailable) as err:
                self._event("Warning", "FailedMount", str(err))
            await asyncio.sleep(VOLUME_RETRY_S)

    def _configured_grace_s(self) -> float:
        return float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    async def _stop(self, living: asyncio.Task[None]) -> None:
        if self._gone and not self.pod["metadata"].get("deletionTimestamp"):
            grace_s = min(self._configured_grace_s(), FORCED_GRACE_S)
        else:
            grace_s = float(self.pod["metadata"].get("deletionGracePeriodSeconds", self._configured_grace_s()))
        # All at once, as the kubelet does; sidecars after the main containers.
        await asyncio.gather(*(container.stop(grace_s) for container in self._main))
        await asyncio.gather(*(container.stop(grace_s) for container in reversed(self._init)))
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        self._finished = True

    async def _clear_network(self) -> None:
        """Remove the network. What resists is left to the end of the cluster: it must not keep the pod in the API for ever."""
        for _ in range(CLEAR_ATTEMPTS):
            try:
                await self._box.remove_network()
                return
            except (OSError, netns.NetnsError) as err:
                print(f"network of {self.pod['metadata']['name']}: {err}", flush=True)
                await asyncio.sleep(RETRY_S)

    async def _confirm_deletion(self) -> None:
        """Tell the API that nothing of the pod is left, until it has taken note."""
        meta = self.pod["metadata"]
        options = {
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
            "preconditions": {"uid": meta["uid"]},
        }  # fmt: skip
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        while True:
            try:
                with contextlib.suppress(ApiError):  # the last status is worth a try; what counts is the end
                    await self._patch_status()
                await self._api.request_until_answered("DELETE", path, options)
            except ApiError as err:
                if err.status not in (404, 409):  # gone already, or another pod of that name by now
                    # As 401 and 403 of an API server that starts and has not read its roles yet.
                    print(f"end of {meta['name']}: {err}", flush=True)
                    await asyncio.sleep(RETRY_S)
                    continue
            return

    # --- status ----------------------------------------------------------------------------------------------------------

    def _event(self, kind: str, reason: str, message: str) -> None:
        self._publish_event(self.pod, kind, reason, message)

    def _phase(self) -> str:
        codes = [container.exit_code for container in self._main]
        failed_init = any(c.role is Role.INIT and c.exit_code not in (None, 0) for c in self._init)
        if failed_init and self._finished:
            return "Failed"
        if all(code is not None for code in codes):
            return "Succeeded" if not any(codes) else "Failed"
        if all(container.ever_started.is_set() for container in self._main):
            return "Running"
        return "Pending"

    def _gates_pass(self) -> bool:
        seen = {c["type"]: c["status"] for c in (self.pod.get("status") or {}).get("conditions") or ()}
        return all(seen.get(g["conditionType"]) == "True" for g in self.pod["spec"].get("readinessGates") or ())

    def _condition(self, kind: str, holds: bool, reason: str = "", message: str = "") -> Object:
        status = "True" if holds else "False"
        before = self._conditions.get(kind)
        changed_at = before["lastTransitionTime"] if before and before["status"] == status else _now()
        condition: Object = {"type": kind, "status": status, "lastTransitionTime": changed_at, "lastProbeTime": None}
        # null removes what an earlier patch said
        condition |= (
            {"reason": reason or None, "message": message or None} if not holds else {"reason": None, "message": None}
        )
        self._conditions[kind] = condition
        return condition

    def build_status(self) -> Object:
        """Return the status as a strategic merge patch: our conditions, and complete lists of container statuses."""
        phase = self._phase()
        done = phase in ("Succeeded", "Failed")
        initialized = all(c.ready if c.role is Role.INIT else c.started for c in self._init)
        unready = [c.name for c in (*self._main, *(s for s in self._init if s.role is Role.SIDECAR)) if not c.ready]
        ready = not unready and not self._finished
        why = "PodCompleted" if done else "ContainersNotReady"
        message = f"containers with unready status: [{' '.join(unready)}]" if unready and not done else ""
        gates = self._gates_pass()
        conditions = [
            self._condition("PodReadyToStartContainers", self._sandbox_ready and not self._finished),
            self._condition("Initialized", initialized or done, "ContainersNotInitialized"),
            self._condition("ContainersReady", ready, why, message),
            self._condition("Ready", ready and gates, why if gates else "ReadinessGatesNotReady", message),
        ]
        status: Object = {
            "phase": phase,
            "startTime": self._started_at,
            "hostIP": places.NODE_IP,
            "hostIPs": [{"ip": places.NODE_IP}],
            "conditions": conditions,
            "containerStatuses": [container.status() for container in self._main],
        }
        if self._init:
            status["initContainerStatuses"] = [container.status() for container in self._init]
        if self._sandbox_ready:
            # Merged by address otherwise: the one a kubelet before us gave would stay in the list.
            status |= {"podIP": self._box.ip, "podIPs": [{"ip": self._box.ip}, {"$patch": "replace"}]}
        return status

    async def _patch_status(self) -> None:
        meta = self.pod["metadata"]
        # The uid in the patch makes the API refuse it if another pod has that name by now.
        body = {"metadata": {"uid": meta["uid"]}, "status": self.build_status()}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        await self._api.request_until_answered("PATCH", path, body, STRATEGIC_PATCH)

    async def _publish(self) -> None:
        """Patch the status whenever it changed, until the pod is gone. Changes during a patch make one more."""
        last: Object = {}
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            status = self.build_status()
            if status == last:
                continue
            try:
                await self._patch_status()
                last = status
            except ApiError as err:
                if err.status in (404, 409):
                    return
                print(f"status of {self.pod['metadata']['name']}: {err}", flush=True)
                await asyncio.sleep(VOLUME_RETRY_S)
                self._dirty.set()
