"""A real Consul agent for tests: development mode on free ports of 127.0.0.1, which can be killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp


class LocalConsul:
    """`async with LocalConsul(binary, tmp_path) as consul:`. It keeps nothing: `kill` and `start` is a loss of all data.

    binary: the `consul` program. directory: for its configuration and log.
    keep: write to disk as a server does; `kill` and `start` is a restart then, and `wipe` in between the loss of all data.
    """

    START_S = 30.0

    def __init__(self, binary: str | os.PathLike[str], directory: Path, *, keep: bool = False) -> None:
        self._binary, self._directory = os.fspath(binary), directory
        self._data = directory / "data" if keep else None
        names = ("http", "server", "serf_lan")
        self._ports: dict[str, int] = dict(zip(names, _find_free_ports(len(names)), strict=True))
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"http://127.0.0.1:{self._ports['http']}"

    async def __aenter__(self) -> LocalConsul:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start the agent and return once it has a leader. Raises RuntimeError with the end of its log."""
        # The same ports each time: who knew the agent finds it again.
        off = {"dns": -1, "grpc": -1, "https": -1, "serf_wan": -1}
        config = self._directory / "consul.json"
        settings: dict[str, Any] = {
            "ports": {**off, **self._ports},
            "disable_update_check": True,
            "bind_addr": "127.0.0.1",
        }
        how = ["-dev"]
        if self._data is not None:
            settings |= {
                "server": True, "bootstrap_expect": 1, "data_dir": str(self._data), "disable_host_node_id": True,
                "leave_on_terminate": False, "performance": {"raft_multiplier": 1},
            }  # fmt: skip
            how = []
        config.write_text(json.dumps(settings))
        log = self._directory / "consul.log"
        with log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                self._binary, "agent", *how, f"-config-file={config}", stdout=out, stderr=out
            )
        try:
            async with asyncio.timeout(self.START_S):
                await self._wait_for_leader()
        except (TimeoutError, RuntimeError) as error:
            await self.kill()
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._binary} agent has not started: {error}\n{tail}") from error

    async def _wait_for_leader(self) -> None:
        assert self._process is not None
        while self._process.returncode is None:
            try:
                # Registering also needs the agent's own node in the catalog, which comes after the leader.
                if await self.request("GET", f"/v1/health/node/{socket.gethostname()}"):
                    return
            except (aiohttp.ClientError, OSError):
                pass  # not listening or no leader yet; the process' end and the timeout bound the loop
            await asyncio.sleep(0.05)
        raise RuntimeError(f"it exited with {self._process.returncode}")

    async def kill(self) -> None:
        """End the agent as a crash would (SIGKILL); its data is gone, unless it keeps them."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None

    def wipe(self) -> None:
        """Lose all data; only while it does not run."""
        assert self._process is None, "the agent still runs: kill it first"
        if self._data is not None:
            shutil.rmtree(self._data)

    async def request(self, method: str, path: str, document: Any = None) -> Any:
        """Call the HTTP API; return the decoded JSON, or None for an empty body. Raises aiohttp.ClientError."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.request(method, self.url + path, json=document) as answer,
        ):
            body = await answer.read()
            return json.loads(body) if body.strip() else None

    async def register(
        self,
        service: str,
        id: str,  # noqa: A002 -- Consul's name
        port: int,
        *,
        address: str = "127.0.0.1",
        **fields: Any,
    ) -> None:
        """Register an instance without checks. fields: further ones of `/v1/agent/service/register`, such as Weights."""
        document: Mapping[str, Any] = {"Name": service, "ID": id, "Address": address, "Port": port, **fields}
        await self.request("PUT", "/v1/agent/service/register", document)

    async def deregister(self, id: str) -> None:  # noqa: A002 -- Consul's name
        await self.request("PUT", f"/v1/agent/service/deregister/{id}")


def _find_free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
