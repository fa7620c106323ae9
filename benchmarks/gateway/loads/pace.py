"""pace: open-loop load at a constant rate, with latencies that count the wait in line. `pace.c` says how it measures.

Why a generator of our own: wrk is closed-loop, h2load's `--rps` sends in bursts of 10 ms and takes the time from the
send, and wrk2 is not packaged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import Unusable

_SOURCE = Path(__file__).with_name("pace.c")
_RECORD = struct.Struct("=III")


@dataclass(frozen=True, slots=True)
class Paced:
    """What one run saw. Times in microseconds, `due_us` since the start. late_us: how late the generator itself was."""

    rate_per_s: float
    failed: int
    due_us: tuple[int, ...]
    latency_us: tuple[int, ...]
    late_us: tuple[int, ...]

    def percentiles_ms(self, *, after_s: float = 0.0) -> dict[str, float]:
        """Return p50_ms, p99_ms, p999_ms and max_ms of the requests due after `after_s`, and late_p99_ms."""
        kept = sorted(
            latency for due, latency in zip(self.due_us, self.latency_us, strict=True) if due >= after_s * 1e6
        )
        if not kept:
            raise Unusable("No request was answered in time to be counted.")
        named = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
        found = {name: percentile(kept, share) / 1000 for name, share in named.items()}
        return {**found, "late_p99_ms": percentile(sorted(self.late_us), 0.99) / 1000}


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed. ordered: ascending, not empty."""
    return ordered[max(0, min(len(ordered), -int(-share * len(ordered) // 1)) - 1)]


def program(cache: Path) -> Path:
    """Return the built generator; it is built once per source. Raises Unusable without a C compiler."""
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]
    built = cache / f"pace-{digest}"
    if built.exists():
        return built
    compiler = shutil.which("cc")
    if not compiler:
        raise Unusable("A C compiler is missing. Run: scripts/debian.sh bench")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / "pace"
        done = subprocess.run(
            (compiler, "-O2", "-Wall", "-Wextra", "-o", str(made), str(_SOURCE)),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unusable(f"pace.c does not compile:\n{done.stderr}")
        made.rename(built)
    return built


def run(
    pace: Path, port: int, *, connections: int, rate_per_s: float, seconds: float, cores: str, requests: Path
) -> Paced:
    """Load a proxy at a rate. Returns every request's latency. Raises Unusable."""
    with tempfile.TemporaryDirectory(prefix="nexus-pace-") as folder:
        out = Path(folder) / "records"
        argv = ("taskset", "-c", cores, str(pace), str(port), str(connections), f"{rate_per_s:.3f}", f"{seconds:.3f}")
        done = subprocess.run(
            (*argv, str(requests), str(out)), capture_output=True, text=True, timeout=seconds + 60, check=False
        )
        if done.returncode:
            raise Unusable(f"pace failed on port {port}: {done.stderr}")
        told = json.loads(done.stdout)
        rows = list(_RECORD.iter_unpack(out.read_bytes()))
    due, latency, late = zip(*rows, strict=True) if rows else ((), (), ())
    return Paced(rate_per_s, int(told["failed"]), due, latency, late)
