"""What plugins cost a request: one header by one plugin, by five, by one that may do nothing else, by a coroutine, by another process, and
by Lua in Envoy.

One gateway has all plugins, each on a host of its own, so that what is compared runs in one process; another one has none installed.
Turns alternate, in both directions, on one pinned core; a turn's figure is the CPU time of the proxy divided by its requests, and a
cost is the difference between two turns' figures. What else runs on a machine only ever adds to a figure, so that the cost is taken
between the rounds that were disturbed least, the 20th percentiles; the median of the differences in each round is kept beside it.

  bench.py            25 rounds, some five minutes (`make bench-plugins`)
  bench.py --quick    two rounds, to see that it works
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "gateway"))

import beds
import results
from loads import wrk
from peers import nginx
from processes import Server, Unusable, allow_many_files, fetch, free_ports

PROXY_CORE, LOAD_CORE = "0", "1"
CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Turn:
    """One measured way. server: whose CPU time counts. than: the turn that its cost is counted from, empty for none."""

    name: str
    server: str
    host: str
    port: int
    than: str = ""


def main() -> int:
    """Run, print, keep. Returns 1 when a request failed, 2 for bad usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=int, default=1, help="length of one turn")
    parser.add_argument("--quick", action="store_true", help="two short rounds; nothing is kept")
    asked = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        parser.error("a run needs two cores: one for the proxies, one for backend and load")
    rounds, seconds = (2, 1) if asked.quick else (asked.rounds, asked.seconds)
    try:
        allow_many_files()
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder, ExitStack() as stack:
            turns, servers, check = _start(Path(folder), stack)
            found = _rounds(turns, servers, rounds, seconds)
            check()
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    figures = results.report(
        "plugins", found, {"rounds": rounds, "seconds": seconds, "connections": CONNECTIONS}, "unmatched"
    )
    figures["costs_us"] = _costs(found, turns)
    figures["median_costs_us"] = _median_costs(found, turns)
    _show(figures)
    if any(float(each["errors"]) for each in found):
        print("requests failed; the figures are not kept", file=sys.stderr)
        return 1
    if not asked.quick:
        print(f"kept in {results.write(figures)}", file=sys.stderr)
    return 0


def _start(work: Path, stack: ExitStack) -> tuple[Sequence[Turn], Mapping[str, Server], Callable[[], None]]:
    """Return what is measured, where, and what makes sure that all of it did what it should."""
    backend, calls, marketplace, nexus, nexus_admin, bare, bare_admin, again, again_admin, envoy, lua = free_ports(11)
    bed = beds.Bed(backend, work, nexus, nexus_admin, bare, bare_admin, again, again_admin, envoy, lua)
    key = beds.publish(bed)
    commands = {
        "backend": (nginx.backend((backend,), (calls,), marketplace, work, work / "backend"), LOAD_CORE),
        "runner": (beds.runner(bed), LOAD_CORE),
        "nexus": (beds.nexus(bed, key), PROXY_CORE),
        "bare": (beds.bare(bed), PROXY_CORE),
        "again": (beds.bare(bed, again=True), PROXY_CORE),
        "envoy": (beds.envoys(bed), PROXY_CORE),
    }
    servers = {}
    for name, (command, core) in commands.items():
        servers[name] = Server(name, command, core, work / f"{name}.log")
        stack.callback(servers[name].stop)
        if name == "runner":
            _until(bed.socket.exists, "the runner's socket is not there")
    turns = [
        Turn("again", "again", "unmatched", again, "bare"),
        Turn("bare", "bare", "unmatched", bare),
        Turn("unmatched", "nexus", "unmatched", nexus, "bare"),
        Turn("one", "nexus", "one", nexus, "unmatched"),
        Turn("five", "nexus", "five", nexus, "unmatched"),
        Turn("granted", "nexus", "granted", nexus, "unmatched"),
        Turn("waiting", "nexus", "waiting", nexus, "unmatched"),
        Turn("rpc", "nexus", "rpc", nexus, "unmatched"),
        Turn("envoy", "envoy", "any", envoy),
        Turn("envoy-lua", "envoy", "any", lua, "envoy"),
    ]
    for turn in turns:
        servers[turn.server].wait_ready(turn.port, f"{turn.host}.bench.example", "/items/1", times=3)
    check = partial(_check, bed, nexus_admin)
    check()
    for name in ("nexus", "bare", "again"):
        servers[name].settle()
    return turns, servers, check


def _check(bed: beds.Bed, admin: int) -> None:
    """Raise Unusable unless all plugins run, and none failed: a host whose plugins are passed over would look cheap."""

    def loaded() -> bool:
        rows = json.loads(fetch(admin, "admin", "/plugins")[2])["plugins"]
        fine = all(row["state"] == "loaded" and row["calls"] and not row["errors"] for row in rows)
        return fine and len(rows) == sum(map(len, beds.HOSTS.values()))

    try:
        _until(loaded, "not all plugins run as they should")
    except Unusable as error:
        tail = "\n".join((bed.work / "nexus.log").read_text(errors="replace").splitlines()[-12:])
        raise Unusable(f"{error}: {tail}") from error


def _until(holds: object, otherwise: str, timeout_s: float = 30.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise Unusable(otherwise)
        time.sleep(0.1)


def _rounds(turns: Sequence[Turn], servers: Mapping[str, Server], rounds: int, seconds: int) -> list[results.Round]:
    found: list[results.Round] = []
    for turn in turns:
        _measure(turn, servers, 1)  # warms up
    for number in range(rounds):
        for turn in turns if number % 2 else reversed(turns):
            found.append({"round": number, **_measure(turn, servers, seconds)})
            shown = found[-1]
            print(
                f"{number:3} {turn.name:10} {float(shown['cpu_us']):8.2f} µs  {float(shown['requests_per_s']):9,.0f}/s",
                file=sys.stderr,
            )
    return found


def _measure(turn: Turn, servers: Mapping[str, Server], seconds: int) -> dict[str, float | str]:
    server = servers[turn.server]
    before = server.cpu_s()
    seen = wrk.run(
        f"http://127.0.0.1:{turn.port}/items/1",
        host=f"{turn.host}.bench.example",
        connections=CONNECTIONS,
        seconds=seconds,
        cores=LOAD_CORE,
    )
    return {
        "proxy": turn.name,
        "cpu_us": (server.cpu_s() - before) / max(seen.requests, 1) * 1e6,
        "requests_per_s": seen.requests_per_s,
        "p99_ms": seen.p99_ms,
        "requests": seen.requests,
        "errors": seen.errors,
    }


def _costs(found: Sequence[results.Round], turns: Sequence[Turn]) -> dict[str, float]:
    """Return each turn's cost: by how much its 20th percentile is above that of the turn that it is counted from."""
    figures: dict[str, list[float]] = {}
    for each in found:
        figures.setdefault(str(each["proxy"]), []).append(float(each["cpu_us"]))
    low = {name: statistics.quantiles(values, n=5, method="inclusive")[0] for name, values in figures.items()}
    return {turn.name: round(low[turn.name] - low[turn.than], 2) for turn in turns if turn.than}


def _median_costs(found: Sequence[results.Round], turns: Sequence[Turn]) -> dict[str, float]:
    """Return the median over the rounds of each turn's difference to the turn that it is counted from."""
    by_round: dict[object, dict[str, float]] = {}
    for each in found:
        by_round.setdefault(each["round"], {})[str(each["proxy"])] = float(each["cpu_us"])
    return {
        turn.name: round(statistics.median(each[turn.name] - each[turn.than] for each in by_round.values()), 2)
        for turn in turns
        if turn.than
    }


def _show(kept: Mapping[str, Any]) -> None:
    costs, medians = kept["costs_us"], kept["median_costs_us"]
    print(f"{'':12}{'CPU µs a request':>18}{'requests/s':>14}{'cost µs':>10}{'median':>10}")
    for name, figures in kept["medians"].items():
        cost = f"{costs[name]:+10.2f}{medians[name]:+10.2f}" if name in costs else ""
        print(f"{name:12}{figures['cpu_us']:18.2f}{figures['requests_per_s']:14,.0f}{cost}")


if __name__ == "__main__":
    sys.exit(main())
