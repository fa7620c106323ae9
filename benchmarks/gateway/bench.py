"""The gateway beside its peers: requests/s, CPU per request and latency, in turns, on one pinned core.

Prints a table and keeps every round in `benchmarks/results/gateway.json`. See `benchmarks/README.md` for the method.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import peers

RESULTS = Path(__file__).parent.parent / "results" / "gateway.json"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True, slots=True)
class Round:
    """One proxy under load once. cpu_us: user and system time per request."""

    proxy: str
    requests: int
    errors: int
    requests_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    rss_mb: float


class Server:
    """A started process on its core. Its whole process group ends with it."""

    def __init__(self, name: str, command: peers.Command, core: int, log: Path) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            **command.env,
        }
        self.name = name
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                ("taskset", "-c", str(core), *command.argv),
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """Return the process and its descendants."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += [int(child) for child in children.read_text().split()]
        return found

    def cpu_s(self) -> float:
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS_PER_S

    def rss_mb(self) -> float:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def wait_ready(self, url: str, *, timeout_s: float = 20.0) -> None:
        """Return once `url` answers 200. Raises RuntimeError with the process's last words otherwise."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=1) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not answer at {url}:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def free_port() -> int:
    """Return a port with its successor free as well."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def load(url: str, *, connections: int, seconds: int, core: int) -> dict[str, float]:
    """Run wrk once. Returns requests, errors, requests_per_s, p50_ms, p99_ms."""
    wrk = shutil.which("wrk")
    if not wrk:
        raise peers.PeerMissing("wrk is not installed; run: scripts/debian.sh bench")
    argv = ("taskset", "-c", str(core), wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url)
    text = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    percentile = lambda p: _milliseconds(re.search(rf"^\s+{p}%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE), text)  # noqa: E731
    errors = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    if sockets := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text):
        errors += sum(map(int, sockets.groups()))
    counted = re.search(r"(\d+) requests in", text)
    speed = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not counted or not speed:
        raise RuntimeError(f"wrk printed no figures:\n{text}")
    return {
        "requests": int(counted[1]),
        "errors": errors,
        "requests_per_s": float(speed[1]),
        "p50_ms": percentile(50),
        "p99_ms": percentile(99),
    }


def _milliseconds(found: re.Match[str] | None, text: str) -> float:
    if not found:
        raise RuntimeError(f"wrk printed no latency distribution:\n{text}")
    return float(found[1]) * UNITS_MS[found[2]]


def measure(proxy: str, backend_port: int, work: Path, options: argparse.Namespace) -> Round:
    """Start one proxy, warm it, load it, stop it."""
    port = free_port()
    server = Server(proxy, peers.PROXIES[proxy](port, backend_port, work / proxy), 0, work / f"{proxy}.log")
    url = f"http://127.0.0.1:{port}/items/7"
    try:
        server.wait_ready(url)
        load(url, connections=options.connections, seconds=options.warm_up, core=1)
        before = server.cpu_s()
        figures = load(url, connections=options.connections, seconds=options.seconds, core=1)
        cpu_s = server.cpu_s() - before
        rss_mb = server.rss_mb()
    finally:
        server.stop()
    requests = int(figures["requests"])
    if not requests:
        raise RuntimeError(f"{proxy} answered nothing; see {server.log}")
    return Round(
        proxy,
        requests,
        int(figures["errors"]),
        round(figures["requests_per_s"]),
        round(cpu_s / requests * 1e6, 1),
        figures["p50_ms"],
        figures["p99_ms"],
        round(rss_mb, 1),
    )


def medians(rounds: list[Round]) -> dict[str, dict[str, float]]:
    """Return each proxy's medians, and its ratio to Envoy's (absent without Envoy)."""
    summary: dict[str, dict[str, float]] = {}
    for proxy in dict.fromkeys(r.proxy for r in rounds):
        own = [asdict(r) for r in rounds if r.proxy == proxy]
        keys = ("requests_per_s", "cpu_us", "p50_ms", "p99_ms", "rss_mb")
        summary[proxy] = {key: round(statistics.median(r[key] for r in own), 3) for key in keys}
        summary[proxy]["errors"] = sum(r["errors"] for r in own)
    if "envoy" in summary:
        for figures in summary.values():
            figures["cpu_ratio"] = round(figures["cpu_us"] / summary["envoy"]["cpu_us"], 2)
            figures["rps_ratio"] = round(figures["requests_per_s"] / summary["envoy"]["requests_per_s"], 2)
    return summary


def show(summary: dict[str, dict[str, float]]) -> None:
    print(
        f"{'proxy':10} {'req/s':>9} {'CPU µs/req':>11} {'p50 ms':>8} {'p99 ms':>8} {'RSS MB':>8} {'errors':>7} "
        f"{'CPU vs envoy':>13} {'req/s vs envoy':>15}"
    )
    for proxy, f in sorted(summary.items(), key=lambda item: item[1]["cpu_us"]):
        ratios = f"{f['cpu_ratio']:>12.2f}× {f['rps_ratio']:>14.2f}×" if "cpu_ratio" in f else ""
        print(
            f"{proxy:10} {f['requests_per_s']:>9,.0f} {f['cpu_us']:>11.1f} {f['p50_ms']:>8.2f} {f['p99_ms']:>8.2f} "
            f"{f['rss_mb']:>8.1f} {f['errors']:>7.0f} {ratios}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of every proxy (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="length of one measurement (default 3)")
    parser.add_argument("--warm-up", type=int, default=1, help="seconds of load before it (default 1)")
    parser.add_argument("--connections", type=int, default=32, help="keep-alive connections (default 32)")
    parser.add_argument("--proxies", default=",".join(peers.PROXIES), help="which, comma-separated")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    names = options.proxies.split(",")
    if unknown := set(names) - set(peers.PROXIES):
        parser.error(f"unknown proxy {', '.join(sorted(unknown))}; there are {', '.join(peers.PROXIES)}")
    if (os.cpu_count() or 1) < 2:
        parser.error("a run needs two cores: one for the proxy, one for backend and load")
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder:
        work = Path(folder)
        backend_port = free_port()
        try:
            backend = Server("backend", peers.backend(backend_port, work), 1, work / "backend.log")
        except peers.PeerMissing as err:
            print(err, file=sys.stderr)
            return 2
        try:
            backend.wait_ready(f"http://127.0.0.1:{backend_port}/")
            for turn in range(1, options.rounds + 1):
                for proxy in names:
                    result = measure(proxy, backend_port, work, options)
                    rounds.append(result)
                    print(
                        f"round {turn}/{options.rounds}  {proxy:8} {result.requests_per_s:>9,.0f} req/s  "
                        f"{result.cpu_us:>6.1f} µs CPU  p99 {result.p99_ms:.2f} ms",
                        file=sys.stderr,
                    )
        except peers.PeerMissing as err:
            print(err, file=sys.stderr)
            return 2
        finally:
            backend.stop()
    summary = medians(rounds)
    show(summary)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "measured_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu_count": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "options": {"rounds": options.rounds, "seconds": options.seconds, "connections": options.connections},
        "medians": summary,
        "rounds": [asdict(r) for r in rounds],
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"kept in {options.output}", file=sys.stderr)
    return 0 if not any(r.errors for r in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
