"""A cluster from the outside: start it, break it, talk to it, remove it.

    with Cluster(components=("consul", "jaeger")) as cluster:
        cluster.apply(manifest)
        cluster.kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=30s")
        assert cluster.http_get("http://10.200.0.1/").status == 200
        cluster.kill("consul")

Every method blocks; in a coroutine use `await asyncio.to_thread(cluster.kubectl, ...)`, and `async with` for the
cluster itself. The calling process stays in its own network namespace: `http_get`, `connect`, `aiohttp_connector`,
`run_in_net` and `spawn_in_net` reach into the cluster's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import os
import shutil
import signal
import socket as sockets
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

import yaml

from nexus_testbed import cleanup, components, controlplane, images, netns, pki, places, preflight, processes

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
Manifest = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class ClusterError(RuntimeError):
    """A daemon did not start, or a command in the cluster failed; the text holds its output."""


class CommandError(ClusterError):
    """A command ended with an exit code other than 0."""

    def __init__(self, argv: Sequence[str], code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr
        super().__init__(f"{' '.join(argv)}: exit code {code}\n{stderr.strip()}\n{stdout.strip()}".rstrip())


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer: header names in lower case, the last of equal ones wins."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)


class Cluster:
    """One cluster. `with` it, or call `up()` and `down()`; `attach()` finds one that another process started.

    components: which of consul, jaeger and nats run beside the control plane.
    image_table: image regex → entrypoint, in front of the project's own images (`images.defaults()`).
    cluster_id: 1-8 characters of a-z0-9; None picks a random one. Several clusters live side by side.
    detached: keep running when this process ends; otherwise a guard process removes the cluster then.
    keep_logs: directory that gets a copy of all logs before they are removed; `NEXUS_TESTBED_KEEP_LOGS` is the default.
    """

    def __init__(
        self,
        *,
        components: Sequence[str] = (),
        image_table: Mapping[str, images.Image | Sequence[str]] | None = None,
        cluster_id: str | None = None,
        detached: bool = False,
        keep_logs: Path | None = None,
    ) -> None:
        unknown = sorted(set(components) - set(controlplane.OPTIONAL))
        if unknown:
            raise ValueError(f"no such component: {', '.join(unknown)}; there are {', '.join(controlplane.OPTIONAL)}")
        self.where = places.Places(places.parse_id(cluster_id or places.new_id()))
        self.components = tuple(c for c in controlplane.OPTIONAL if c in components)
        self.started_in_s: dict[str, float] = {}
        """Seconds each daemon took from its start to ready, and `total`."""
        self._images = {p: images.Image.of(i) for p, i in (image_table or {}).items()} | images.defaults()
        self._detached = detached
        kept = os.environ.get("NEXUS_TESTBED_KEEP_LOGS")
        self._keep_logs = keep_logs or (Path(kept) if kept else None)
        self._procs: dict[str, processes.Proc] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._spawned: list[subprocess.Popen[Any]] = []
        self._guard: subprocess.Popen[bytes] | None = None
        self._programs: dict[str, Path] = {}
        self._sockets: netns.SocketMaker | None = None

    # --- life ----------------------------------------------------------------------------------------------------------

    def up(self) -> Self:
        """Check the machine, build what is missing, start everything and wait until it is ready.

        Raises PreflightError, BuildError, or ClusterError with the end of the log of the daemon that failed. Nothing is
        left behind on failure.
        """
        started = time.monotonic()
        needed = [d.needs for d in self._daemons() if d.needs]
        preflight.check(needed)
        self._programs = components.ensure(sorted(set(needed)))
        cleanup.remove_orphans()
        with cleanup.locked(self.id):
            if self.id in cleanup.known_ids():
                raise ClusterError(
                    f"a cluster {self.id!r} exists already; remove it first: tests/cluster/bed.py down {self.id}"
                )
            for directory in (self.where.root, self.where.logs, self.where.data, self.where.pods, self.where.pod_logs):
                directory.mkdir(mode=0o700, parents=True)
            self._save()
        try:
            self._start_all()
        except BaseException:
            self.down()
            raise
        self.started_in_s["total"] = time.monotonic() - started
        self._save()
        return self

    def _start_all(self) -> None:
        if not self._detached:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "nexus_testbed.guard", self.id],
                stdin=subprocess.PIPE, env=processes.child_env(), start_new_session=True,
            )  # fmt: skip
        if (cgroup := processes.cgroup_of(self.id)) is not None:
            processes.create_cgroup(cgroup)
        netns.create(self.where.netns)
        pki.create(self.where)
        images.save(self.where.images, self._images)
        # Consul and Jaeger need nothing of Kubernetes: their start-up hides behind the API server's.
        for name in ("etcd", *self.components):
            self._spawn(name)
        self._wait_ready("etcd")
        self.start("kube-apiserver")
        rest = ("kube-controller-manager", "kube-scheduler", "kubelet", "lb")
        for name in rest:
            self._spawn(name)
        for name in (*rest, *self.components):
            self._wait_ready(name)
        self._wait_first_objects()

    def down(self) -> None:
        """Remove every trace of the cluster. Idempotent."""
        if self._keep_logs and self.where.logs.exists():
            target = self._keep_logs / self.id
            shutil.copytree(self.where.logs, target / "logs", dirs_exist_ok=True)
            shutil.copytree(self.where.pod_logs, target / "pod-logs", dirs_exist_ok=True)
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        children = [*self._children.values(), *self._spawned]
        for child in children:
            child.kill()  # one that was started a moment ago may not be in the cgroup yet
        cleanup.remove(self.id)
        for child in children:
            child.wait(timeout=10)
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
        self._children.clear()
        self._spawned.clear()
        self._procs.clear()
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait(timeout=30)
            self._guard = None

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.down()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.up)

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.down)

    @classmethod
    def attach(cls, cluster_id: str) -> Self:
        """Return the running cluster of that id, started by any process. Raises ClusterError if there is none.

        The result does not own the cluster: it goes on when the caller ends.
        """
        where = places.Places(places.parse_id(cluster_id))
        try:
            state = json.loads(where.state_file.read_text())
        except FileNotFoundError as err:
            raise ClusterError(f"no cluster {cluster_id!r} is running; `bed up` starts one called play") from err
        self = cls(components=state["components"], cluster_id=cluster_id, detached=True)
        self._procs = {name: processes.Proc(**proc) for name, proc in state["processes"].items()}
        self._programs = {name: Path(path) for name, path in state["programs"].items()}
        self.started_in_s = state["started_in_s"]
        return self

    def _save(self) -> None:
        mine = processes.find_proc(os.getpid())
        if self.where.state_file.exists():  # an attached process must not take over the ownership
            owner = json.loads(self.where.state_file.read_text())["owner"]
        else:
            owner = None if self._detached or mine is None else dataclasses.asdict(mine)
        state = {
            "id": self.id,
            "owner": owner,
            "components": self.components,
            "processes": {name: dataclasses.asdict(proc) for name, proc in self._procs.items()},
            "programs": {name: str(path) for name, path in self._programs.items()},
            "started_in_s": self.started_in_s,
        }
        scratch = self.where.state_file.with_suffix(".tmp")
        scratch.write_text(json.dumps(state, indent=1))
        os.replace(scratch, self.where.state_file)

    def _wait_first_objects(self) -> None:
        """Wait for what the first `kubectl apply` would trip over: the default ServiceAccount and a schedulable node."""
        for path in (
            "/api/v1/namespaces/default/serviceaccounts/default",
            "/api/v1/namespaces/kube-system/services/kube-dns",
        ):
            self.wait(lambda path=path: self._answers(places.API_URL + path, ""), f"{path} to exist", 30)  # type: ignore[misc]

    # --- daemons -------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.where.id

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the cluster's administrator; its address is reachable from inside the cluster's network only."""
        return self.where.kubeconfig

    @property
    def daemons(self) -> tuple[str, ...]:
        """Names that `start`, `stop`, `kill`, `pause` and `log` take."""
        return (*controlplane.CORE, *self.components)

    def _daemons(self) -> list[controlplane.Daemon]:
        return [controlplane.DAEMONS[name] for name in self.daemons]

    def _daemon(self, name: str) -> controlplane.Daemon:
        if name not in self.daemons:
            raise ValueError(f"this cluster has no {name!r}; it has {', '.join(self.daemons)}")
        return controlplane.DAEMONS[name]

    def _spawn(self, name: str) -> None:
        daemon = self._daemon(name)
        if self.is_running(name):
            raise ClusterError(f"{name} is running already")
        with self.log_path(name).open("ab") as log:
            child = processes.spawn(
                self.where, daemon.argv(self.where, self._programs), stdout=log, stderr=subprocess.STDOUT,
                env=processes.child_env(), cwd=self.where.root,
            )  # fmt: skip
        self._children[name] = child
        proc = processes.find_proc(child.pid)
        if proc is None:
            raise ClusterError(f"{name} ended at once\n{self.log(name)}")
        self._procs[name] = proc
        self.started_in_s[name] = -time.monotonic()
        self._save()

    def _wait_ready(self, name: str) -> None:
        daemon = self._daemon(name)

        def is_ready() -> bool:
            if not self.is_running(name):
                raise ClusterError(f"{name} ended while starting; the end of {self.log_path(name)}:\n{self.log(name)}")
            return daemon.ready is None or self._answers(daemon.ready, daemon.ready_text)

        if not processes.wait_until(is_ready, daemon.ready_within_s, 0.05):
            raise ClusterError(
                f"{name} is not ready after {daemon.ready_within_s:.0f} s; the end of {self.log_path(name)}:\n{self.log(name)}"
            )
        self.started_in_s[name] += time.monotonic()

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start a daemon that was stopped or killed; by default wait until it is ready. Its data is still there.

        After kube-apiserver or etcd the controllers and the scheduler are started anew as well. That is what happens
        on a real control plane, where they end when they cannot renew their lease; ours have no leases, and would
        wait out a back-off of up to 30 s each instead.
        """
        self._spawn(name)
        if not wait:
            return
        self._wait_ready(name)
        if name in ("kube-apiserver", "etcd") and self.is_running("kube-apiserver"):
            self.wait_ready("kube-apiserver")
            controllers = [c for c in ("kube-controller-manager", "kube-scheduler") if self.is_running(c)]
            for controller in controllers:
                self.kill(controller)
                self._spawn(controller)
            for controller in controllers:
                self._wait_ready(controller)

    def wait_ready(self, name: str, timeout_s: float = 30.0) -> None:
        """Wait until a running daemon answers its readiness check (again)."""
        daemon = self._daemon(name)
        self.wait(
            lambda: daemon.ready is None or self._answers(daemon.ready, daemon.ready_text),
            f"{name} to be ready",
            timeout_s,
        )

    def kill(self, name: str) -> None:
        """`kill -9` a daemon and wait for its end. Its data and everything that depends on it stay as they are."""
        self._signal(name, signal.SIGKILL, grace_s=0)

    def stop(self, name: str, grace_s: float = 15.0) -> None:
        """SIGTERM a daemon and wait for its end; SIGKILL after `grace_s`."""
        self._signal(name, signal.SIGTERM, grace_s=grace_s)

    def restart(self, name: str) -> None:
        """Stop and start a daemon; wait until it is ready."""
        self.stop(name)
        self.start(name)

    def pause(self, name: str) -> None:
        """SIGSTOP a daemon: its connections stay open and nothing answers."""
        self._daemon(name)
        proc = self._procs[name]
        if not processes.send(proc, signal.SIGSTOP):
            raise ClusterError(f"{name} is not running")
        if not processes.wait_until(lambda: processes.is_stopped(proc), 10.0):
            raise ClusterError(f"{name} goes on 10 s after SIGSTOP")

    def resume(self, name: str) -> None:
        """SIGCONT a paused daemon."""
        self._daemon(name)
        if not processes.send(self._procs[name], signal.SIGCONT):
            raise ClusterError(f"{name} is not running")

    def is_running(self, name: str) -> bool:
        """Return whether the daemon's process exists."""
        self._daemon(name)
        return name in self._procs and processes.is_alive(self._procs[name])

    def _signal(self, name: str, number: signal.Signals, grace_s: float) -> None:
        if not self.is_running(name):
            raise ClusterError(f"{name} is not running")
        proc = self._procs[name]
        processes.send(proc, number)
        if not processes.wait_until(lambda: not processes.is_alive(proc), grace_s or 10.0):
            processes.send(proc, signal.SIGKILL)
            if not processes.wait_until(lambda: not processes.is_alive(proc), 10.0):
                raise ClusterError(f"{name} (pid {proc.pid}) survives SIGKILL")
        if (child := self._children.pop(name, None)) is not None:
            child.wait(timeout=10)
        del self._procs[name]
        self._save()

    def log_path(self, name: str) -> Path:
        return self.where.logs / f"{name}.log"

    def log(self, name: str, lines: int = 30) -> str:
        """Return the last lines of a daemon's log."""
        try:
            return "\n".join(self.log_path(name).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def status(self) -> dict[str, str]:
        """Return for each daemon `ready`, `running, not ready` or `not running`."""
        result = {}
        for daemon in self._daemons():
            if not self.is_running(daemon.name):
                result[daemon.name] = "not running"
            elif daemon.ready is None or self._answers(daemon.ready, daemon.ready_text):
                result[daemon.name] = "ready"
            else:
                result[daemon.name] = "running, not ready"
        return result

    # --- the network ---------------------------------------------------------------------------------------------------

    def socket(self, family: int = sockets.AF_INET, kind: int = sockets.SOCK_STREAM, proto: int = 0) -> sockets.socket:
        """Return an unconnected socket that lives in the cluster's network."""
        if self._sockets is None:
            self._sockets = netns.SocketMaker(self.where.netns_path)
        return self._sockets.make(family, kind, proto)

    def connect(self, host: str, port: int, timeout_s: float = 5.0) -> sockets.socket:
        """Return a TCP connection to an address of the cluster. Raises OSError."""
        sock = self.socket()
        try:
            sock.settimeout(timeout_s)
            sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def aiohttp_connector(self, **options: Any) -> aiohttp.TCPConnector:
        """Return a connector whose connections live in the cluster's network, for `aiohttp.ClientSession`."""
        import aiohttp

        return aiohttp.TCPConnector(socket_factory=lambda info: self.socket(info[0], info[1], info[2]), **options)

    def http(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        timeout_s: float = 10.0,
        context: ssl.SSLContext | None = None,
    ) -> Response:
        """Send one request from inside the cluster's network. Raises OSError or http.client.HTTPException.

        url: the host must be an address (use `run_in_net` where a name is to be resolved); a `Host` header overrides.
        context: for https; None checks nothing.
        """
        parts = urllib.parse.urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        sock = self.connect(parts.hostname or "", port, timeout_s)
        if parts.scheme == "https":
            context = context or ssl._create_unverified_context()
            sock = context.wrap_socket(sock, server_hostname=parts.hostname)
        connection = http.client.HTTPConnection(parts.hostname or "", port, timeout=timeout_s)
        connection.sock = sock
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def http_get(self, url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 10.0) -> Response:
        """GET a URL from inside the cluster's network; see `http`."""
        return self.http("GET", url, headers=headers, timeout_s=timeout_s)

    def _answers(self, url: str, text: str) -> bool:
        context = None
        if url.startswith("https:"):
            context = ssl._create_unverified_context()
            context.load_cert_chain(self.where.pki / "admin.crt", self.where.pki / "admin.key")
        try:
            answer = self.http("GET", url, timeout_s=2, context=context)
        except (OSError, http.client.HTTPException):
            return False
        return answer.status < 300 and text in answer.text

    def run_in_net(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        timeout_s: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program in the cluster's network and return its standard output.

        KUBECONFIG is set for it. Raises CommandError, which holds code, stdout and stderr, and
        subprocess.TimeoutExpired.
        """
        full = netns.argv_in(self.where.netns_path, list(argv))
        done = subprocess.run(
            full, input=input, capture_output=True, text=True, timeout=timeout_s, check=False,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), **(env or {})},
        )  # fmt: skip
        if done.returncode:
            raise CommandError(argv, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def spawn_in_net(
        self,
        argv: Sequence[str],
        *,
        stdout: IO[Any] | int = subprocess.DEVNULL,
        stderr: IO[Any] | int = subprocess.STDOUT,
        stdin: IO[Any] | int = subprocess.DEVNULL,
        text: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[Any]:
        """Start a program in the cluster's network and return at once; it is killed with the cluster at the latest.

        The arguments are subprocess.Popen's. KUBECONFIG is set for it.
        """
        child = processes.spawn(
            self.where, list(argv), stdout=stdout, stderr=stderr, stdin=stdin, text=text, cwd=cwd,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), **(env or {})},
        )  # fmt: skip
        self._spawned.append(child)
        return child

    # --- Kubernetes ----------------------------------------------------------------------------------------------------

    def kubectl_argv(self, *args: str) -> list[str]:
        """Return the command line of kubectl, to be run in the cluster's network."""
        return [str(self._programs["kubehost"]), "kubectl", f"--kubeconfig={self.kubeconfig}",
                f"--cache-dir={self.where.root / 'kubectl-cache'}", *args]  # fmt: skip

    def kubectl(self, *args: str, input: str | None = None, timeout_s: float = 120.0) -> str:  # noqa: A002
        """Run kubectl as administrator and return its standard output. Raises CommandError with standard error."""
        return self.run_in_net(self.kubectl_argv(*args), input=input, timeout_s=timeout_s)

    def helm(self, *args: str, timeout_s: float = 300.0) -> str:
        """Run Helm as administrator (built at first use) and return its standard output. Raises CommandError."""
        program = components.ensure(["helm"])["helm"]
        home = self.where.root / "helm"
        env = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        return self.run_in_net([str(program), *args], timeout_s=timeout_s, env=env)

    def apply(self, manifest: Manifest, *options: str) -> str:
        """`kubectl apply --server-side` YAML text, one object or several. Raises CommandError with the API's message."""
        if not isinstance(manifest, str):
            objects = [manifest] if isinstance(manifest, Mapping) else manifest
            manifest = yaml.safe_dump_all([dict(o) for o in objects], sort_keys=False)
        return self.kubectl("apply", "--server-side", "-f", "-", *options, input=manifest)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """Return one object. Raises CommandError if there is none."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def find(self, kind: str, namespace: str = "default", selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind that match a label selector."""
        options = ["-l", selector] if selector else []
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-n", namespace, "-o", "json", *options))[
            "items"
        ]
        return found

    def pods(self, selector: str = "", namespace: str = "default") -> list[dict[str, Any]]:
        """Return the pods that match a label selector, those being deleted included."""
        return self.find("pods", namespace, selector)

    def endpoints(self, service: str, namespace: str = "default") -> list[str]:
        """Return the ready addresses of a Service, sorted, from its EndpointSlices."""
        slices = self.find("endpointslices", namespace, f"kubernetes.io/service-name={service}")
        return sorted(
            address
            for endpoint_slice in slices
            for endpoint in endpoint_slice["endpoints"] or ()
            if endpoint.get("conditions", {}).get("ready", True)
            for address in endpoint["addresses"]
        )

    def loadbalancer_ip(self, service: str, namespace: str = "default", timeout_s: float = 10.0) -> str:
        """Wait for a LoadBalancer Service to get its address, and return it."""

        def find() -> str:
            ingress = self.get("service", service, namespace)["status"]["loadBalancer"].get("ingress") or [{}]
            return str(ingress[0].get("ip", ""))

        return self.wait(find, f"Service {namespace}/{service} to get a load balancer address", timeout_s)

    def pod_pid(self, pod: str, namespace: str = "default", container: str | None = None) -> int:
        """Return the pid of a container's main process; by default of the first container."""
        found = self.get("pod", pod, namespace)
        container = container or found["spec"]["containers"][0]["name"]
        path = self.where.pods / found["metadata"]["uid"] / container / "pid"
        try:
            return int(path.read_text())
        except FileNotFoundError as err:
            raise ClusterError(f"container {container} of pod {namespace}/{pod} is not running") from err

    def kill_pod_process(self, pod: str, namespace: str = "default", container: str | None = None) -> None:
        """`kill -9` the main process of a container."""
        os.kill(self.pod_pid(pod, namespace, container), signal.SIGKILL)

    def pod_exec(self, pod: str, *argv: str, namespace: str = "default", container: str | None = None) -> str:
        """Run a program inside a container (its files, its network) and return its standard output."""
        pid = self.pod_pid(pod, namespace, container)
        return self.run_in_net(["nsenter", f"--target={pid}", "--net", "--mount", "--uts", "--root", "--", *argv])

    def add_image(self, pattern: str, image: images.Image | Sequence[str]) -> None:
        """Say what an image reference matching `pattern` (a regex) runs; it wins over the rows before."""
        table = {pattern: images.Image.of(image)}
        table |= {p: i for p, i in images.load(self.where.images).items() if p != pattern}
        images.save(self.where.images, table)

    def install_gateway_api(self, channel: str = "standard") -> None:
        """Install the CRDs of a channel of the Gateway API (standard, experimental) and wait until they are served.

        A cluster takes one channel for life: the CRDs come with a policy that refuses to change it.
        """
        directory = components.ensure_gateway_api(channel=channel)
        self.kubectl("apply", "--server-side", "-f", str(directory))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    def wait(self, condition: Callable[[], T | None], what: str, timeout_s: float = 30.0, poll_s: float = 0.1) -> T:
        """Poll `condition` until it returns something true, and return that. Raises ClusterError, naming `what`.

        A CommandError of the condition counts as "not yet" and is quoted if the time runs out, with what the cluster itself
        has to say.
        """
        deadline = time.monotonic() + timeout_s
        last = ""
        while True:
            try:
                if result := condition():
                    return result
                last = f"last seen: {result!r}"
            except CommandError as err:
                last = f"last error: {err}"
            if time.monotonic() >= deadline:
                raise ClusterError(f"waited {timeout_s:.0f} s in vain for {what}; {last}{self._ailments()}")
            time.sleep(poll_s)

    def _ailments(self) -> str:
        """Return what is wrong with the cluster itself, to be put behind an error; mostly nothing."""
        try:
            ill = [f"{name} is {state}" for name, state in self.status().items() if state != "ready"]
        except (ClusterError, OSError) as err:  # it must not take the place of the error it belongs to
            ill = [f"nor can the daemons be asked: {err}"]
        said = self.log("kubelet", 12)  # it speaks of its own troubles only
        return "".join(f"\n{line}" for line in (*ill, *(["the kubelet's log ends:", said] if said else [])))
