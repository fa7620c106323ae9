"""Where the gateway's CPU time goes under load: a table of functions and a flame graph.

Everything is on, as in `make bench`. py-spy samples the gateway's stacks, native frames included, while a load keeps its core
busy; the cost of a request and the kernel's share of it are taken before, without the profiler.
Results: `benchmarks/results/profile.txt` (repeated and varied requests, or others of `--kinds`) and `profile.svg` (the first).
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection
from pathlib import Path

import flames
import results
from processes import TICKS_PER_S, Unusable, allow_many_files
from scenarios.throughput import KINDS, Kind, load
from sessions import LOAD_CORE, Session, Stage, session, stage

ROWS = 40
RATE_PER_S = 500
CONNECTIONS = 32


def main() -> int:
    """Profile and write. Returns 1 when something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="of sampling, for each kind of request (default 8)")
    parser.add_argument("--output", type=Path, default=results.FOLDER, help="folder of the two files")
    parser.add_argument("--kinds", default="repeated,varied", help=f"comma-separated, of {', '.join(KINDS)}")
    asked = parser.parse_args()
    names = asked.kinds.split(",")
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"unknown kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    kinds = {name: KINDS[name] for name in names}
    try:
        allow_many_files()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nexus-profile-"))
            around = stack.enter_context(stage(Path(folder)))
            running = stack.enter_context(_session(around, kinds.values()))
            about = results.machine()
            text = f"Nexus at commit {about['commit']}, {about['cpu']}, kernel {about['kernel']}, Python {about['python']}\n"
            for name, kind in kinds.items():
                cost = _cost(running, kind)
                stacks = _sample(running, kind, asked.seconds, Path(folder) / f"{name}.stacks")
                text += f"\n## {name} requests: {cost}\n\n{flames.table(stacks, ROWS)}"
                if name == names[0]:
                    drawn = flames.svg(flames.tree(stacks), f"Nexus, {name} requests: {cost}")
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "profile.txt").write_text(text)
    (asked.output / "profile.svg").write_text(drawn)
    print(f"{text}\nkept in {asked.output}/profile.txt and profile.svg")
    return 0


def _session(around: Stage, kinds: Collection[Kind]) -> contextlib.AbstractContextManager[Session]:
    return session(around, "nexus", tls=any(kind.tls for kind in kinds), grpc=any(kind.grpc for kind in kinds))


def _cost(running: Session, kind: Kind) -> str:
    """Return what a request costs without the profiler, in words."""
    load(running, kind, CONNECTIONS, 1)
    before = _times(running)
    seen = load(running, kind, CONNECTIONS, 3)
    user, system = (after - start for after, start in zip(_times(running), before, strict=True))
    each = 1e6 / TICKS_PER_S / max(seen.requests, 1)
    return f"{(user + system) * each:.1f} µs CPU each ({user * each:.1f} user, {system * each:.1f} kernel)"


def _times(running: Session) -> tuple[int, int]:
    rows = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in running.server.pids()]
    return sum(int(row[11]) for row in rows), sum(int(row[12]) for row in rows)


def _sample(running: Session, kind: Kind, seconds: int, out: Path) -> list[tuple[tuple[str, ...], int]]:
    """Return the stacks of the busiest process while it is loaded. Raises Unusable without py-spy, or without its rights."""
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        raise Unusable("py-spy is not installed. Run: make dev")
    pid = max(running.server.pids(), key=_ticks)
    argv = [
        "taskset",
        "-c",
        LOAD_CORE,
        str(program),
        "record",
        "--pid",
        str(pid),
        "--native",
        "--function",
        "--threads",
    ]
    argv += ["--rate", str(RATE_PER_S), "--duration", str(seconds), "--format", "raw", "--output", str(out)]
    loading = threading.Thread(target=load, args=(running, kind, CONNECTIONS, seconds + 3))
    loading.start()
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    finally:
        loading.join()
    if done.returncode:
        raise Unusable(
            f"py-spy could not sample process {pid} (it needs ptrace: run as root). {done.stderr.strip()[-500:]}"
        )
    stacks = flames.parse(out.read_text())
    # Helper threads that wait in a system call look busy to the sampler; requests are served by the main thread alone.
    return [(frames[1:], count) for frames, count in stacks if len(frames) > 1 and "MainThread" in frames[0]]


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    sys.exit(main())
