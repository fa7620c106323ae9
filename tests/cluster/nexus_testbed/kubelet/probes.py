"""Probes and lifecycle hooks: httpGet, tcpSocket and exec, asked from the node like the real kubelet does.

Source: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from nexus_testbed.api import Object

Exec = Callable[[list[str]], Awaitable[tuple[int, str]]]
"""Runs a command in the container; returns exit code and output. Must end when cancelled."""

EAGER_PERIOD_S = 0.2
"""How often a probe that never succeeded yet is tried, if its period is longer: tests wait for readiness. Only failures
at the declared period count against the threshold, so slow starters are judged as on a real node."""


# A probe checks no certificate. Made once: a default context would read all authorities of the machine, each time.
_TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_TRUSTING.check_hostname, _TRUSTING.verify_mode = False, ssl.CERT_NONE


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container can be probed."""

    ip: str
    ports: dict[str, int]
    exec: Exec

    def port(self, value: int | str) -> int:
        """Return a port number for a number or the name of a container port. Raises ValueError."""
        if isinstance(value, int) or value.isdigit():
            return int(value)
        if value not in self.ports:
            raise ValueError(f"no container port is called {value!r}")
        return self.ports[value]


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a container, with the API's defaults filled in. Times in seconds."""

    spec: Object
    initial_delay_s: float
    period_s: float
    timeout_s: float
    failures: int
    successes: int

    @classmethod
    def parse(cls, spec: Object) -> Probe:
        return cls(
            spec,
            spec.get("initialDelaySeconds", 0),
            spec.get("periodSeconds", 10),
            spec.get("timeoutSeconds", 1),
            spec.get("failureThreshold", 3),
            spec.get("successThreshold", 1),
        )


def find_unsupported(spec: Object) -> str | None:
    """Return the name of an action this kubelet does not have, or None."""
    return "grpc" if "grpc" in spec else None


async def _http_get(action: Object, target: Target) -> str | None:
    scheme = action.get("scheme", "HTTP").lower()
    host = action.get("host") or target.ip
    url = f"{scheme}://{host}:{target.port(action['port'])}/{action.get('path', '/').removeprefix('/')}"
    headers = {"User-Agent": "kube-probe/1.36", "Accept": "*/*", "Connection": "close"}
    headers |= {h["name"]: h["value"] for h in action.get("httpHeaders") or ()}
    connector = aiohttp.TCPConnector(ssl=_TRUSTING, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        await response.content.read(10 * 1024)
        return None if 200 <= response.status < 400 else f"HTTP probe failed with statuscode: {response.status}"


async def act(action: Object, target: Target, timeout_s: float) -> str | None:
    """Perform one probe or hook action; return None if it succeeded, else what went wrong."""
    try:
        async with asyncio.timeout(timeout_s):
            if "httpGet" in action:
                return await _http_get(action["httpGet"], target)
            if "tcpSocket" in action:
                spec = action["tcpSocket"]
                _, writer = await asyncio.open_connection(spec.get("host") or target.ip, target.port(spec["port"]))
                writer.close()
                return None
            if "exec" in action:
                code, output = await target.exec(action["exec"]["command"])
                return None if code == 0 else f"command failed with exit code {code}: {output[-500:]}"
            if "sleep" in action:
                await asyncio.sleep(action["sleep"]["seconds"])
                return None
            return f"unknown action {', '.join(action)}"
    except TimeoutError:
        return f"timed out after {timeout_s:g} s"
    except (OSError, aiohttp.ClientError, ValueError) as err:
        return str(err) or type(err).__name__


async def watch(probe: Probe, target: Target, report: Callable[[bool, str], None], *, eager: bool) -> None:
    """Call `report(healthy, why)` whenever enough results in a row agree, until cancelled.

    It is called for every result past the threshold, not only for changes.
    eager: try more often until the first success (see EAGER_PERIOD_S).
    """
    loop = asyncio.get_running_loop()
    await asyncio.sleep(probe.initial_delay_s)
    good = bad = 0
    next_counted = loop.time()
    while True:
        counted = loop.time() >= next_counted
        if counted:
            next_counted = loop.time() + probe.period_s
        why = await act(probe.spec, target, probe.timeout_s)
        if why is None:
            good, bad, eager = good + 1, 0, False
            if good >= probe.successes:
                report(True, "")
            next_counted = loop.time() + probe.period_s
        elif counted:
            good, bad = 0, bad + 1
            if bad >= probe.failures:
                report(False, why)
        delay_s = max(next_counted - loop.time(), 0.0)
        await asyncio.sleep(min(delay_s, EAGER_PERIOD_S) if eager else delay_s)
