"""What the churn happens to: Consul, gateways, replicas of a service and the load, all of them real processes on 127.0.0.1.

Consul holds the Snapshot, published as the operator publishes it, and the catalog, in which the replicas register themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from nexus_core.snapshot import Snapshot
from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.publisher import Publisher
from nexus_sdk.testing.consul import LocalConsul

from churn import certificates, routes
from churn.cores import Cores

HERE = Path(__file__).parent
WITHIN_S = 30.0
SETTLED_S = 0.7
"""From when a replica listens until it runs as it will."""
POLL_S = 0.05
"""Between two questions whether something is so. Each is a request that the gateway's admin API answers beside the load."""
TTL_S = 6.0
"""Of the replicas' checks: three beats of 2 s, so that a Consul that lost its data knows them again soon."""


async def until(check: Callable[[], Awaitable[object]], what: str, within_s: float = WITHIN_S) -> None:
    """Return once `check()` is true. Raises AssertionError with `what` when it does not come to that."""
    ends_at = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < ends_at, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(POLL_S)


def free_port() -> int:
    """Return a port nobody listens on, outside of those the kernel gives to outgoing connections."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


async def ask(url: str) -> tuple[int, Any]:
    """Return status and JSON of a GET; 0 and None when nobody answers."""
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session, session.get(url) as answer:
            return answer.status, await answer.json()
    except (aiohttp.ClientError, TimeoutError):
        return 0, None


@dataclass
class Process:
    """A process of the world, its output in a file."""

    process: asyncio.subprocess.Process
    log: Path

    @classmethod
    async def start(cls, log: Path, *arguments: str, **environ: str) -> Process:
        with log.open("ab") as out:
            return cls(
                await asyncio.create_subprocess_exec(
                    sys.executable, *arguments, env={**_environment(), **environ}, stdout=out, stderr=out
                ),
                log,
            )

    def check(self) -> None:
        """Raise AssertionError if it has ended."""
        assert self.process.returncode is None, f"it ended:\n{self.log.read_text()[-3000:]}"

    async def end(self, number: signal.Signals = signal.SIGTERM, within_s: float = WITHIN_S) -> None:
        """Signal it, and return when it has ended."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        try:
            async with asyncio.timeout(within_s):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise AssertionError(f"it did not end within {within_s:g} s:\n{self.log.read_text()[-3000:]}") from None


def _environment() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith(("NEXUS_", "OTEL_", "CHURN_"))}


@dataclass
class Replica(Process):
    """One instance of a service. ledger: what it has executed."""

    service: str = ""
    ledger: Path = Path()
    port: int = 0
    killed_at: float = 0.0

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        """As Consul knows it."""
        return f"{self.service}.churn-127.0.0.1-{self.port}"

    async def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.killed_at = time.monotonic()
        await self.process.wait()

    def executed(self) -> int:
        """How many requests so far."""
        return self.ledger.read_bytes().count(b"\n")


@dataclass
class Gateway(Process):
    """A gateway. port, tls_port, admin: on 127.0.0.1."""

    name: str = ""
    port: int = 0
    tls_port: int = 0
    admin: int = 0
    draining: bool = False

    async def ready(self, generation: int = 1) -> bool:
        self.check()
        status, said = await ask(f"http://127.0.0.1:{self.admin}/readyz")
        return status == 200 and said["generation"] >= generation

    async def endpoints(self, upstream: str) -> set[str]:
        """The authorities of an upstream that take new requests. One whose circuit is open counts, too: it is listed."""
        _, said = await ask(f"http://127.0.0.1:{self.admin}/endpoints")
        pool = (said or {}).get("upstreams", {}).get(upstream, {"endpoints": ()})
        return {row["endpoint"] for row in pool["endpoints"] if not _drains(row)}

    async def workers(self) -> list[dict[str, Any]]:
        """Its worker processes."""
        _, said = await ask(f"http://127.0.0.1:{self.admin}/workers")
        return list(said["workers"]) if said else []

    def accesses(self) -> Iterable[dict[str, Any]]:
        """The lines of its access log: requests that failed or took more than one attempt."""
        for line in self.log.read_text(errors="replace").splitlines():
            if '"kind":"access"' in line:
                yield json.loads(line)


def _drains(row: dict[str, Any]) -> bool:
    return any(each["why"] == "draining" for each in row["why_not"])


@dataclass
class Load:
    """A load that runs. name: first part of its requests' ids."""

    name: str
    process: asyncio.subprocess.Process
    report: Path

    async def aim(self, *ports: int) -> None:
        """Send new connections to these ports, in turn; as a load balancer does when its targets change."""
        await self._tell({"targets": ports})

    async def _tell(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()

    async def stop(self) -> dict[str, Any]:
        """End it and return its report."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(WITHIN_S):
            await self.process.wait()
        assert self.process.returncode == 0, f"the load generator ended with {self.process.returncode}"
        found: dict[str, Any] = json.loads(await asyncio.to_thread(self.report.read_text))
        return found


@dataclass
class World:
    """All of it. `async with World(directory, consul_binary) as world:`."""

    directory: Path
    consul_binary: Path
    replicas: list[Replica] = field(default_factory=list)
    gateways: dict[str, Gateway] = field(default_factory=dict)
    retired: list[Gateway] = field(default_factory=list)
    gone: list[Replica] = field(default_factory=list)
    generation: int = 0

    async def __aenter__(self) -> World:
        self._stack = contextlib.AsyncExitStack()
        self._serial = 0
        self.cores = Cores()
        self.cores.leave()
        self._stack.callback(self.cores.restore)
        self.authority = certificates.Authority()
        self.tls = self.directory / "tls"
        self.tls.mkdir()
        self.rotate()
        try:
            (self.directory / "consul").mkdir()
            self.consul = LocalConsul(self.consul_binary, self.directory / "consul", keep=True)
            await self._stack.enter_async_context(self.consul)
            self._stack.push_async_callback(self._end)
            self._api = ConsulApi(self.consul.url)
            self._stack.push_async_callback(self._api.close)
            self._publisher = Publisher(self._api, "nexus")
            await self.publish(routes.snapshot())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _end(self) -> None:
        running = [each for each in (*self.gateways.values(), *self.replicas) if each.process.returncode is None]
        for each in running:
            each.process.kill()
        await asyncio.gather(*(each.process.wait() for each in running))

    def _number(self) -> int:
        self._serial += 1
        return self._serial

    # ---- configuration

    async def publish(self, snapshot: Snapshot, *, anew: bool = False) -> None:
        """Publish, as the operator does. anew: to a Consul that has lost what was there. Does not wait for gateways."""
        published = await self._publisher.publish(snapshot, acked=self.generation if anew else 0)
        self.generation = published.generation

    async def live(self) -> None:
        """Return once every gateway serves what was published last."""
        for gateway in self.gateways.values():
            await until(lambda g=gateway: g.ready(self.generation), f"generation {self.generation} on {gateway.name}")

    def rotate(self) -> str:
        """Put a new certificate into the gateways' directory; return its digest as the load reports it."""
        return self.authority.write(self.tls / "churn", "churn.example")

    # ---- replicas

    async def start_replicas(self, count: int, service: str = "orders") -> list[Replica]:
        """Start replicas, all at once, and return when each of them listens; they register themselves."""
        made = await asyncio.gather(*(self._start_replica(service) for _ in range(count)))
        self.replicas += made
        return made

    async def _start_replica(self, service: str) -> Replica:
        name = f"{service}-{self._number()}"
        ledger = self.directory / f"{name}.ledger"
        environ = {
            "CHURN_LEDGER": str(ledger), "PORT": "0", "NEXUS_HOST": "127.0.0.1", "NEXUS_SERVICE_NAME": service,
            "NEXUS_NAMESPACE": "churn", "NEXUS_CONSUL_URL": self.consul.url, "NEXUS_LOG_LEVEL": "WARNING",
            "NEXUS_CONSUL_TTL_SECONDS": f"{TTL_S:g}", "OTEL_TRACES_SAMPLER": "always_off",
        }  # fmt: skip
        log = self.directory / f"{name}.log"
        replica = await Replica.start(log, str(HERE / "service.py"), **environ)
        assert isinstance(replica, Replica)
        replica.service, replica.ledger = service, ledger
        port = ledger.with_suffix(".port")

        async def listens() -> bool:
            replica.check()
            return port.exists()

        await until(listens, f"{name} listens")
        replica.port = int(port.read_text())
        # What a Python process does for the first time (registering, the first requests) is part of its start.
        asyncio.get_running_loop().call_later(SETTLED_S, self._settle, replica)
        return replica

    def _settle(self, replica: Replica) -> None:
        if replica in self.replicas:
            self.cores.put(replica.process.pid)

    async def stop_replica(self, replica: Replica) -> None:
        """Stop it as an orchestrator does: SIGTERM, and wait."""
        self.cores.free(replica.process.pid)
        await replica.end()
        self._bury(replica)

    async def kill_replica(self, replica: Replica) -> None:
        """SIGKILL, as the kernel out of memory does. It stays in the catalog until its check runs out."""
        await replica.kill()
        self._bury(replica)

    def _bury(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        self.gone.append(replica)

    async def maintain(self, replica: Replica, on: bool) -> None:
        """Put a replica into Consul's maintenance mode, or take it out."""
        flag = "true&reason=churn" if on else "false"
        await self.consul.request("PUT", f"/v1/agent/service/maintenance/{replica.id}?enable={flag}")

    async def seen(self, service: str = "orders", *, but: Iterable[Replica] = ()) -> None:
        """Return once every gateway knows exactly the replicas that run, without those named."""
        wanted = {each.authority for each in self.replicas if each.service == service} - {e.authority for e in but}
        for gateway in self.gateways.values():

            async def same(gateway: Gateway = gateway) -> bool:
                return await gateway.endpoints(f"shop/{service}") == wanted

            await until(same, f"{gateway.name} knows the {len(wanted)} replicas of {service}")

    async def have(self, count: int) -> None:
        """Return with so many replicas of `orders`, and none of other services, known to every gateway."""
        spare = [each for each in self.replicas if each.service != "orders"]
        mine = [each for each in self.replicas if each.service == "orders"]
        await asyncio.gather(*(self.stop_replica(each) for each in (*spare, *mine[count:])))
        await self.start_replicas(count - len(mine[:count]))
        # What was killed would be known until its check runs out.
        for dead in self.gone:
            if dead.killed_at:
                await self.consul.deregister(dead.id)
                dead.killed_at = 0.0
        await self.seen()

    # ---- gateways

    async def gateway(self, workers: int = 1) -> Gateway:
        """Return the gateway with so many workers, started when there is none yet."""
        name = f"workers-{workers}"
        if name not in self.gateways:
            self.gateways[name] = await self.start_gateway(name, workers)
        return self.gateways[name]

    async def start_gateway(self, name: str, workers: int = 1, **environ: str) -> Gateway:
        """Start a gateway and return when it is ready."""
        port, tls_port, admin = free_port(), free_port(), free_port()
        own = f"{name}-{self._number()}"
        settings = {
            "NEXUS_CONSUL_URL": self.consul.url, "NEXUS_GATEWAY_REPLICA": own, "NEXUS_ACCESS_LOG_RATIO": "0",
            "NEXUS_TRACE_RATIO": "0", "NEXUS_TRACE_SLOW_SECONDS": "0", "NEXUS_DRAIN_DELAY": "0.5",
            "XDG_CACHE_HOME": str(self.directory / "cache"), **environ,
        }  # fmt: skip
        gateway = await Gateway.start(
            self.directory / f"{own}.log", "-m", "nexus_cli", "gateway", "--workers", str(workers),
            "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}",
            "--tls-listen", f"127.0.0.1:{tls_port}", "--certificates", str(self.tls), **settings,
        )  # fmt: skip
        assert isinstance(gateway, Gateway)
        gateway.name, gateway.port, gateway.tls_port, gateway.admin = own, port, tls_port, admin
        await until(lambda: gateway.ready(self.generation), f"{own} is ready", 60)
        self.cores.put(gateway.process.pid)
        return gateway

    def choose(self, chosen: Gateway) -> None:
        """Let this one serve; the others follow all changes, too, but where they are in nobody's way."""
        for gateway in self.gateways.values():
            self.cores.put(gateway.process.pid, serves=gateway is chosen)

    async def retire_gateway(self, gateway: Gateway) -> None:
        """SIGTERM, and wait for its drain."""
        self.cores.free(gateway.process.pid)
        await gateway.end()
        self.retired.append(gateway)

    # ---- load, and what came of it

    async def load(self, *ports: int, tls: bool = False, **spec: Any) -> Load:
        """Start the load; return when it sends."""
        name = f"r{self._number()}"
        report = self.directory / f"{name}.json"
        given = {"targets": ports, "report": str(report), "name": name, "ca": self.authority.pem if tls else "", **spec}
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "loops.py"), json.dumps(given),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line == b"ready\n", f"the load generator does not start: {line!r}"
        self.cores.put(process.pid)
        return Load(name, process, report)

    def executions(self, name: str) -> Counter[tuple[str, str]]:
        """Count how often each request of a load was executed, by (method, id), whoever did it."""
        counted: Counter[tuple[str, str]] = Counter()
        for path in self.directory.glob("*.ledger"):
            for line in path.read_text().splitlines():
                method, _, given = line.partition(" ")
                if given.startswith(f"{name}-"):
                    counted[method, given] += 1
        return counted

    def accesses(self, name: str) -> dict[str, dict[str, Any]]:
        """Return what gateways logged of a load's requests, by id: failed ones and those with more than one attempt."""
        found = {}
        for gateway in (*self.gateways.values(), *self.retired):
            for line in gateway.accesses():
                given = line.get("path", "").removeprefix("/load/")
                if given.startswith(f"{name}-"):
                    found[given] = line
        return found


@contextlib.asynccontextmanager
async def making(directory: Path, consul_binary: Path) -> AsyncIterator[World]:
    """A world with the gateway that most steps use."""
    async with World(directory, consul_binary) as world:
        await world.start_replicas(3)
        await world.gateway()
        await world.seen()
        yield world
