"""wrk: closed-loop load, as fast as the proxy answers."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import Unusable

UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
UNITS_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_SCRIPT = Path(__file__).with_name("varied.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw. errors: socket errors and statuses other than 2xx and 3xx. bytes_per_s: heads and bodies."""

    requests: int
    errors: int
    requests_per_s: float
    bytes_per_s: float
    p50_ms: float
    p99_ms: float


def run(url: str, *, host: str, connections: int, seconds: float, cores: str, requests: Path | None = None) -> Load:
    """Load `url` and return what came of it. Raises Unusable.

    seconds: whole ones are wrk's finest grain, so it is rounded up. requests: a file of `requests.write`; without one
    the same GET is sent all the time.
    """
    wrk = shutil.which("wrk")
    if not wrk:
        raise Unusable("wrk is not installed. Run: scripts/debian.sh bench")
    whole = max(1, round(seconds + 0.499))
    argv = ["taskset", "-c", cores, wrk, "-t1", f"-c{connections}", f"-d{whole}s", "--latency", "-H", f"Host: {host}"]
    argv += ["-s", str(_SCRIPT), url, "--", str(requests)] if requests else [url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=whole + 60, check=False)
    if done.returncode:
        raise Unusable(f"wrk failed at {url}: {done.stderr or done.stdout}")
    return parse(done.stdout)


def parse(text: str) -> Load:
    """Return the figures in wrk's report. Raises Unusable for a text that is none."""
    errors = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    if sockets := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text):
        errors += sum(map(int, sockets.groups()))
    counted = re.search(r"(\d+) requests in", text)
    speed = re.search(r"Requests/sec:\s+([\d.]+)", text)
    transfer = re.search(r"Transfer/sec:\s+([\d.]+)([KMG]?)B", text)
    if not counted or not speed or not transfer:
        raise Unusable(f"wrk printed no figures:\n{text}")
    return Load(
        requests=int(counted[1]),
        errors=errors,
        requests_per_s=float(speed[1]),
        bytes_per_s=float(transfer[1]) * UNITS_BYTES[transfer[2]],
        p50_ms=_percentile_ms(text, 50),
        p99_ms=_percentile_ms(text, 99),
    )


def _percentile_ms(text: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if not found:
        raise Unusable(f"wrk printed no latency distribution:\n{text}")
    return float(found[1]) * UNITS_MS[found[2]]
