"""One container through all its runs: image, configuration, start, probes, restarts with back-off, stop.

    waiting (ContainerCreating | ErrImagePull | ImagePullBackOff | CreateContainerConfigError | CrashLoopBackOff)
       → running (started? ready?) → terminated → waiting … or the end

The back-off is shorter than a real kubelet's (10 s doubling to 5 min), since tests wait for it.
"""

from __future__ import annotations

import asyncio
import enum
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_testbed import images, places
from nexus_testbed.api import Api, ApiError, ApiUnavailable, Object
from nexus_testbed.kubelet import environment, logs, probes, runtime
from nexus_testbed.kubelet.sandbox import Sandbox
from nexus_testbed.kubelet.volumes import Volumes

BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 16.0
"""Waits before the second and later restarts in a row; the first restart is immediate."""
BACKOFF_RESET_S = 60.0
"""A run at least this long counts as healthy: the next restart is immediate again."""
CONFIG_RETRY_S = 0.3
IMAGE_RETRY_S = 0.5


class Role(enum.Enum):
    """What a container is to its pod."""

    INIT = "init"  # runs to its end before the next one starts
    SIDECAR = "sidecar"  # an init container that stays (restartPolicy: Always)
    MAIN = "main"  # the pod is these


@dataclass(frozen=True, slots=True)
class Context:
    """What a container gets from its pod."""

    api: Api
    pod: Object
    box: Sandbox
    volumes: Volumes
    changed: Callable[[], None]
    """Tells that the status is worth publishing."""
    event: Callable[[str, str, str], None]
    """(type, reason, message) → an Event of the pod."""
    grace_s: Callable[[], float]
    """Seconds between SIGTERM and SIGKILL, as the pod says now."""


def _now() -> str:
    return logs.timestamp()[:19] + "Z"


class Container:
    """The state and the runs of one container. `run()` is its life, `stop()` its end."""

    def __init__(self, context: Context, spec: Object, role: Role, earlier: Mapping[str, Any] | None) -> None:
        """earlier: the containerStatus a kubelet before us published, if any."""
        self._context, self.spec, self.role = context, spec, role
        self.name: str = spec["name"]
        self.restart_count: int = earlier["restartCount"] + 1 if earlier and "running" in earlier["state"] else 0
        self.logs: list[logs.LogFile] = []
        self.state: Object = {"waiting": {"reason": "PodInitializing" if role is Role.MAIN else "ContainerCreating"}}
        self.started = False
        self.exit_code: int | None = None
        self.ever_started = asyncio.Event()
        self.became_started = asyncio.Event()
        self._last_state: Object = {}
        self._probed_ready = False
        self._run: runtime.Run | None = None
        self._run_ended = asyncio.Event()
        self._run_ended.set()
        self._stopping = False
        self._unhealthy = asyncio.Event()
        self._container_id = ""

    @property
    def ready(self) -> bool:
        if self.role is Role.INIT:
            return self.exit_code == 0
        return "running" in self.state and self.started and (self._probed_ready or "readinessProbe" not in self.spec)

    def status(self) -> Object:
        """Return the containerStatus as the API shows it."""
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": f"process://{self.spec['image']}" if self.ever_started.is_set() else "",
            "containerID": self._container_id,
            "ready": self.ready,
            "started": self.started if "running" in self.state else False,
            "restartCount": self.restart_count,
            "state": self.state,
            "lastState": self._last_state,
        }

    def _set(self, state: Object) -> None:
        if state != self.state:
            self.state = state
            self._context.changed()

    def _wait_state(self, reason: str, message: str = "") -> None:
        self._set({"waiting": {"reason": reason, **({"message": message} if message else {})}})

    def _restarts_after(self, code: int) -> bool:
        if self.role is Role.SIDECAR:
            return True
        policy = self._context.pod["spec"].get("restartPolicy", "Always")
        if self.role is Role.INIT:
            return code != 0 and policy != "Never"
        return bool(policy == "Always" or (policy == "OnFailure" and code != 0))

    async def run(self) -> int:
        """Run the container, again and again as the restart policy says; return the last exit code."""
        failures_in_a_row = 0
        loop = asyncio.get_running_loop()
        while True:
            plan = await self._configure()
            began = loop.time()
            code = await self._run_once(plan)
            if self._stopping or not self._restarts_after(code):
                self.exit_code = code
                self._context.changed()
                return code
            failures_in_a_row = 0 if loop.time() - began >= BACKOFF_RESET_S else failures_in_a_row + 1
            if failures_in_a_row > 1:
                delay_s = min(BACKOFF_FIRST_S * 2 ** (failures_in_a_row - 2), BACKOFF_MAX_S)
                self._last_state = self.state
                message = f"back-off {delay_s:g}s restarting failed container={self.name}"
                self._wait_state("CrashLoopBackOff", message)
                self._context.event("Warning", "BackOff", message)
                await asyncio.sleep(delay_s)
            self.restart_count += 1

    async def _configure(self) -> runtime.Plan:
        """Return how to start the container, as soon as its image is known and all it refers to exists."""
        first = True
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if unsupported := probes.find_unsupported(self.spec.get(probe) or {}):
                message = f"{probe}: this kubelet has no {unsupported} probes; use httpGet, tcpSocket or exec"
                self._wait_state("CreateContainerConfigError", message)
                self._context.event("Warning", "Failed", message)
                await asyncio.Event().wait()
        while True:
            image = images.find(images.load(self._context.box.where.images), self.spec["image"])
            if image is None:
                message = (
                    f'no program is registered for image "{self.spec["image"]}": add a row for it, '
                    "Cluster(image_table={regex: [argv...]}) or cluster.add_image(regex, argv)"
                )
                self._wait_state("ErrImagePull" if first else "ImagePullBackOff", message)
                self._context.event("Warning", "Failed", message)
                first = False
                await asyncio.sleep(IMAGE_RETRY_S)
                continue
            program = (self.spec.get("command") or image.argv)[0]
            if program.startswith(str(places.cache_dir())) and not os.path.exists(program):
                message = f'image "{self.spec["image"]}" is {program}, which is not built: tests/cluster/bed.py build'
                self._wait_state("ErrImagePull" if first else "ImagePullBackOff", message)
                self._context.event("Warning", "Failed", message)
                first = False
                await asyncio.sleep(IMAGE_RETRY_S)
                continue
            try:
                return await self._plan(image)
            except (environment.ConfigError, ApiError, ApiUnavailable) as err:
                self._wait_state("CreateContainerConfigError", str(err))
                self._context.event("Warning", "Failed", f"Error: {err}")
                await asyncio.sleep(CONFIG_RETRY_S)

    async def _plan(self, image: images.Image) -> runtime.Plan:
        context, pod = self._context, self._context.pod
        env = await environment.build(context.api, pod, self.spec, context.box.ip, image.env)
        security = {**(pod["spec"].get("securityContext") or {}), **(self.spec.get("securityContext") or {})}
        hostname = pod["spec"].get("hostname") or pod["metadata"]["name"]
        namespace = pod["metadata"]["namespace"]
        domains = f"{namespace}.svc.cluster.local svc.cluster.local cluster.local"
        aliases = "".join(
            f"{entry['ip']}\t{' '.join(entry['hostnames'])}\n" for entry in pod["spec"].get("hostAliases") or ()
        )
        user: int | None = security.get("runAsUser")
        return runtime.Plan(
            argv=environment.command_of(self.spec, image.argv, env),
            env=env,
            working_dir=self.spec.get("workingDir") or image.working_dir,
            mounts=context.volumes.mounts_of(self.spec),
            hostname=hostname[:63],
            hosts=f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{context.box.ip}\t{hostname}\n{aliases}",
            resolv_conf=f"nameserver {places.DNS_IP}\nsearch {domains}\noptions ndots:5\n",
            user=user,
            group=security.get("runAsGroup"),
            extra_group=security.get("fsGroup"),
            read_only_root=bool(security.get("readOnlyRootFilesystem")),
            needs=tuple(map(Path, image.needs)),
        )

    async def _run_once(self, plan: runtime.Plan) -> int:
        box = self._context.box
        meta = self._context.pod["metadata"]
        directory = box.where.pod_logs / f"{meta['namespace']}_{meta['name']}_{meta['uid']}" / self.name
        log = logs.LogFile(directory / f"{self.restart_count}.log")
        self.logs = [*self.logs[-1:], log]
        self._unhealthy.clear()
        self.started = self._probed_ready = False
        run = await runtime.Run.start(plan, box, self.name, self.restart_count, log)
        self._run = run
        self._run_ended.clear()
        started_at = _now()
        self._container_id = f"process://{meta['uid']}-{self.name}-{self.restart_count}"
        self.ever_started.set()
        self.started = "startupProbe" not in self.spec and "postStart" not in (self.spec.get("lifecycle") or {})
        if self.started:
            self.became_started.set()
        self._set({"running": {"startedAt": started_at}})
        ended = asyncio.create_task(run.wait())
        unhealthy = asyncio.create_task(self._unhealthy.wait())
        probing = asyncio.create_task(self._probe(run))
        try:
            await asyncio.wait({ended, unhealthy}, return_when=asyncio.FIRST_COMPLETED)
            probing.cancel()
            if not ended.done():
                await self._terminate(run, self._context.grace_s())
            code = await ended
        finally:
            for task in (unhealthy, probing):
                task.cancel()
            await asyncio.gather(unhealthy, probing, return_exceptions=True)
            if not ended.done():  # cancelled: nothing of ours may outlive us
                run.signal(signal.SIGKILL)
                await ended
            self._run = None
            self._run_ended.set()
        if not probing.cancelled() and (failure := probing.exception()):
            raise failure
        terminated: Object = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": started_at,
            "finishedAt": _now(),
            "containerID": self._container_id,
        }
        if code > 128:
            terminated["signal"] = code - 128
        if code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            terminated["message"] = log.tail(80)[-2048:]
        self._last_state = {"terminated": terminated} if not self._stopping else self._last_state
        self._set({"terminated": terminated})
        return code

    def _become_started(self) -> None:
        self.started = True
        self.became_started.set()
        self._context.changed()

    async def _probe(self, run: runtime.Run) -> None:
        """Run the postStart hook and the probes of one run, until cancelled."""
        ports = {p["name"]: p["containerPort"] for p in self.spec.get("ports") or () if p.get("name")}
        target = probes.Target(self._context.box.ip, ports, run.exec)
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook and (why := await probes.act(hook, target, self._context.grace_s())):
            self._fail("FailedPostStartHook", f"PostStart hook failed: {why}")
            return
        if spec := self.spec.get("startupProbe"):
            passed = asyncio.Event()

            def report_startup(healthy: bool, why: str) -> None:
                passed.set() if healthy else self._fail("Unhealthy", f"Startup probe failed: {why}")

            watching = asyncio.create_task(probes.watch(probes.Probe.parse(spec), target, report_startup, eager=True))
            try:
                await passed.wait()
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        if not self.started:
            self._become_started()

        def report_ready(healthy: bool, why: str) -> None:
            if healthy != self._probed_ready:
                self._probed_ready = healthy
                self._context.changed()
            if not healthy:
                self._context.event("Warning", "Unhealthy", f"Readiness probe failed: {why}")

        def report_alive(healthy: bool, why: str) -> None:
            if not healthy:
                self._fail("Unhealthy", f"Liveness probe failed: {why}")

        async with asyncio.TaskGroup() as group:
            if spec := self.spec.get("readinessProbe"):
                group.create_task(probes.watch(probes.Probe.parse(spec), target, report_ready, eager=True))
            if spec := self.spec.get("livenessProbe"):
                group.create_task(probes.watch(probes.Probe.parse(spec), target, report_alive, eager=False))

    def _fail(self, reason: str, message: str) -> None:
        self._context.event("Warning", reason, message)
        self._context.event("Normal", "Killing", f"Container {self.name} failed, will be restarted")
        self._unhealthy.set()

    async def _terminate(self, run: runtime.Run, grace_s: float) -> None:
        """preStop hook, SIGTERM, and SIGKILL when the grace period (which includes the hook) is over."""
        deadline = asyncio.get_running_loop().time() + grace_s
        ports = {p["name"]: p["containerPort"] for p in self.spec.get("ports") or () if p.get("name")}
        if hook := (self.spec.get("lifecycle") or {}).get("preStop"):
            target = probes.Target(self._context.box.ip, ports, run.exec)
            if why := await probes.act(hook, target, grace_s):
                self._context.event("Warning", "FailedPreStopHook", f"PreStop hook failed: {why}")
        run.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout_at(deadline):
                await run.process_ended.wait()
        except TimeoutError:
            run.signal(signal.SIGKILL)

    async def stop(self, grace_s: float) -> None:
        """End the current run for good: no restart follows. Returns when the process is gone."""
        self._stopping = True
        if self._run is not None:
            await self._terminate(self._run, grace_s)
            await self._run_ended.wait()
