"""A steady open-loop load: `steady.py URL --rate 300 --seconds 20`, one JSON report on stdout.

Requests start on schedule whether or not earlier ones are answered, so a stall shows as latency and not as fewer
requests. With `--retries N` a request is repeated up to N times on a new connection when it fails, as a client may
with idempotent requests; the report counts those apart. Ends by itself; SIGTERM ends it early with the report so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter

import aiohttp


class Report:
    """What happened so far."""

    def __init__(self) -> None:
        self.sent = 0
        self.ok = 0
        self.retried = 0
        self.failures: Counter[str] = Counter()
        self.examples: list[dict[str, object]] = []
        self.latencies_ms: list[float] = []

    def fail(self, kind: str, at_s: float, detail: str) -> None:
        self.failures[kind] += 1
        if len(self.examples) < 20:
            self.examples.append({"at_s": round(at_s, 3), "kind": kind, "detail": detail[:300]})

    def as_json(self) -> str:
        ordered = sorted(self.latencies_ms)
        at = lambda share: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2) if ordered else None  # noqa: E731
        return json.dumps(
            {
                "sent": self.sent,
                "ok": self.ok,
                "failed": sum(self.failures.values()),
                "retried": self.retried,
                "failures": dict(self.failures),
                "examples": self.examples,
                "p50_ms": at(0.50),
                "p99_ms": at(0.99),
                "max_ms": at(1.0),
            }
        )


async def one(session: aiohttp.ClientSession, options: argparse.Namespace, report: Report, started: float) -> None:
    begun = time.monotonic()
    report.sent += 1
    for attempt in range(options.retries + 1):
        try:
            async with session.request(
                options.method, options.url, headers=dict(h.split(":", 1) for h in options.header), data=options.data
            ) as reply:
                body = await reply.read()
            if reply.status < 400:
                report.ok += 1
                report.latencies_ms.append((time.monotonic() - begun) * 1000)
                return
            kind, detail = f"status {reply.status}", body.decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            kind, detail = type(err).__name__, str(err)
        if attempt < options.retries:
            report.retried += 1
            await asyncio.sleep(0.05 * (attempt + 1))
    report.fail(kind, begun - started, detail)


async def main(options: argparse.Namespace) -> Report:
    report = Report()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    connector = aiohttp.TCPConnector(limit=options.connections, keepalive_timeout=15)
    timeout = aiohttp.ClientTimeout(total=options.timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
        started = time.monotonic()
        for number in range(int(options.rate * options.seconds)):
            delay = started + number / options.rate - time.monotonic()
            if delay > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), delay)
            if stopped.is_set():
                break
            tasks.create_task(one(session, options, report, started))
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="at most")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--header", action="append", default=[], help="name:value")
    parser.add_argument("--data", default=None)
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for one attempt")
    parser.add_argument("--connections", type=int, default=128)
    sys.stdout.write(asyncio.run(main(parser.parse_args())).as_json() + "\n")
