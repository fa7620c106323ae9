"""h2load: closed-loop load over HTTP/2, so many streams at once on each of a few connections."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from peers.beds import find_program
from processes import Unusable

from loads.pace import percentile
from loads.wrk import Load

CONNECTIONS = 4
STREAMS = 32
"""Of each connection, at once."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, again and again.

    host: in the URL, and so in the handshake. answer_bytes: of each whole answer's body; one that is shorter failed, whatever its
    status says. body: what is posted; None for a GET. headers: beside those of HTTP/2 itself.
    """

    host: str
    path: str
    answer_bytes: int
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What h2load prints. protocol: that ALPN chose. data_bytes: of bodies. total_bytes: heads and frames as well."""

    protocol: str
    done: int
    errors: int
    requests_per_s: float
    total_bytes: int
    data_bytes: int
    seconds: float


def run(port: int, asked: Asked, *, seconds: float, cores: str, work: Path) -> Load:
    """Load 127.0.0.1 over TLS and return what came of it. Raises Unusable. seconds: rounded up to whole ones.

    work: folder for its log, which has every request's time; the percentiles are of all of them.
    """
    whole = max(1, round(seconds + 0.499))
    log = work / "h2load.log"
    log.unlink(missing_ok=True)
    how = (f"-c{CONNECTIONS}", f"-m{STREAMS}", "-D", str(whole), f"--log-file={log}")
    text = _call(port, asked, how, cores, work, timeout_s=whole + 60)
    seen = parse(text)
    took = sorted(times_us(log.read_text()))
    log.unlink()
    if not took:
        raise Unusable(f"h2load had no answer:\n{text}")
    return Load(
        requests=seen.done,
        errors=seen.errors + lacking(seen, asked.answer_bytes),
        requests_per_s=seen.requests_per_s,
        bytes_per_s=seen.total_bytes / seen.seconds,
        p50_ms=percentile(took, 0.50) / 1000,
        p99_ms=percentile(took, 0.99) / 1000,
    )


def once(port: int, asked: Asked, *, cores: str, work: Path) -> Report:
    """Ask one time. Raises Unusable."""
    return parse(_call(port, asked, ("-c1", "-m1", "-n1"), cores, work, timeout_s=30))


def _call(port: int, asked: Asked, how: tuple[str, ...], cores: str, work: Path, *, timeout_s: float) -> str:
    argv = ["taskset", "-c", cores, find_program("h2load"), *how, f"--connect-to=127.0.0.1:{port}"]
    if asked.body is not None:
        posted = work / "h2load.body"
        posted.write_bytes(asked.body)
        argv += ["-d", str(posted)]
    for name, value in asked.headers:
        argv += ["-H", f"{name}: {value}"]
    argv.append(f"https://{asked.host}{asked.path}")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise Unusable(f"h2load failed at {argv[-1]}: {done.stderr or done.stdout}")
    return done.stdout


def parse(text: str) -> Report:
    """Return the figures in h2load's report. Raises Unusable for a text that is none."""
    protocol = re.search(r"^Application protocol: (\S+)", text, re.MULTILINE)
    finished = re.search(r"finished in ([\d.]+)(us|ms|s|m), ([\d.]+) req/s", text)
    counted = re.search(r"(\d+) done, \d+ succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    statuses = re.search(r"status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    traffic = re.search(r"traffic: \S+ \((\d+)\) total.* \((\d+)\) data", text)
    if not protocol or not finished or not counted or not statuses or not traffic:
        raise Unusable(f"h2load printed no figures:\n{text}")
    # What failed has no good status: not to be counted twice.
    _, failed, errored, timeout = map(int, counted.groups())
    return Report(
        protocol=protocol[1],
        done=int(counted[1]),
        errors=max(failed, errored + timeout + sum(map(int, statuses.groups()))),
        requests_per_s=float(finished[3]),
        total_bytes=int(traffic[1]),
        data_bytes=int(traffic[2]),
        seconds=float(finished[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[finished[2]],
    )


def lacking(seen: Report, answer_bytes: int) -> int:
    """Return how many answers at least were not whole: gRPC's errors are a status of 200, too, but have no message."""
    return max(0, seen.done - seen.data_bytes // answer_bytes)


def times_us(log: str) -> list[int]:
    """Return how long each request of a log took: lines of its start, its status and the microseconds to its end."""
    return [int(line.rpartition("\t")[2]) for line in log.splitlines()]
