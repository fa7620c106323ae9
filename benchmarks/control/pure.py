"""Translation alone: the whole world cold, and after one route of it changed. Medians of several runs."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time

from nexus_core.model.load import parse
from nexus_core.snapshot import wire
from nexus_core.translate.session import Session

from control import worlds

RUNS = 5
CHANGES = 21


def measure(gateways: int, routes: int) -> dict[str, float]:
    """Return seconds, and seconds of CPU, which neighbours on the machine move less.

    What comes out after changes is checked to be what a cold run gives, to the byte.
    """
    manifests = list(worlds.world(gateways, routes))
    parsing: list[float] = []
    cold: list[float] = []
    cold_cpu: list[float] = []
    for _ in range(RUNS):
        gc.collect()
        at = time.perf_counter()
        resources = [parse(manifest) for manifest in manifests]
        parsing.append(time.perf_counter() - at)
        at, cpu_at = time.perf_counter(), time.process_time()
        found = Session().translate(resources)
        cold.append(time.perf_counter() - at)
        cold_cpu.append(time.process_time() - cpu_at)
        assert len(found.snapshot.routes) == routes, found.problems[:3]
    session = Session()
    found = session.translate(resources)
    where = {resource.ref.name: index for index, resource in enumerate(resources) if resource.ref.kind == "HTTPRoute"}
    changed: list[float] = []
    changed_cpu: list[float] = []
    encoding: list[float] = []
    for edition in range(1, CHANGES + 1):
        number = edition * 37 % routes
        at, cpu_at = time.perf_counter(), time.process_time()
        resources[where[f"route-{number}"]] = parse(worlds.route(number, gateways, routes, edition=edition))
        found = session.translate(resources, previous=found.snapshot)
        changed.append(time.perf_counter() - at)
        changed_cpu.append(time.process_time() - cpu_at)
        at = time.perf_counter()
        encoded = wire.encode(found.snapshot)
        encoding.append(time.perf_counter() - at)
    again = Session().translate(resources, previous=found.snapshot)
    if wire.encode(again.snapshot).digest != encoded.digest or again != found:
        raise SystemExit("A translation after a change differs from a cold one: no figure of it means anything.")
    return {
        "gateways": gateways,
        "routes": routes,
        "parse_s": round(statistics.median(parsing), 3),
        "cold_s": round(statistics.median(cold), 3),
        "cold_cpu_s": round(statistics.median(cold_cpu), 3),
        "one_change_s": round(statistics.median(changed), 4),
        "one_change_cpu_s": round(statistics.median(changed_cpu), 4),
        "one_change_max_s": round(max(changed), 4),
        "encode_s": round(statistics.median(encoding), 4),
    }


def main() -> None:
    """Measure in a process of its own: what was measured before leaves no garbage to collect."""
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))


def in_a_process(gateways: int, routes: int) -> dict[str, float]:
    """Return what `measure` does, of a fresh interpreter."""
    argv = (sys.executable, "-m", "control.pure", str(gateways), str(routes))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=__file__.rpartition("/control/")[0])
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
