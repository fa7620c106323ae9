"""Processes of a cluster: started into its cgroup and namespace, found again from a file, and killed for certain.

A process is named by pid *and* start time, so that a reused pid is never signalled. Where cgroup v2 is available every
process of the cluster is in one cgroup and is killed through it; otherwise (and in addition) every process found in one
of the cluster's network namespaces is killed. Both survive the death of whoever started the cluster.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nexus_testbed import netns, places

_INTO_CGROUP = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Proc:
    """One process: its pid, and its start time in clock ticks since boot (field 22 of /proc/<pid>/stat)."""

    pid: int
    started: int


def find_proc(pid: int) -> Proc | None:
    """Return the live process with this pid; None if there is none or it is a zombie."""
    try:
        # The command name may hold spaces and parentheses; the fields after the last ")" cannot.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else Proc(pid, int(fields[19]))


def is_alive(proc: Proc) -> bool:
    return find_proc(proc.pid) == proc


def send(proc: Proc, number: signal.Signals) -> bool:
    """Signal the process if it is still the same one; False if it is gone."""
    if not is_alive(proc):
        return False
    try:
        os.kill(proc.pid, number)
    except ProcessLookupError:
        return False
    return True


def is_stopped(proc: Proc) -> bool:
    """Return whether SIGSTOP has reached all threads: until the one that takes the signal has been on a CPU, the others go on."""
    try:
        stats = [each.read_text() for each in Path(f"/proc/{proc.pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False  # one ended just now; asked again
    return all(stat.rpartition(")")[2].split()[0] in "Tt" for stat in stats)


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = 0.02) -> bool:
    """Poll until `condition()` holds; False if it still does not after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


# --- cgroup v2 ---------------------------------------------------------------------------------------------------------


def cgroup_root() -> Path | None:
    """Return a writable cgroup v2 mount point with `cgroup.kill` support (Linux 5.14), or None.

    `NEXUS_TESTBED_CGROUP=off` does without, as on a machine that has none.
    """
    if os.environ.get("NEXUS_TESTBED_CGROUP") == "off":
        return None
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (root / "cgroup.controllers").exists() and os.access(root, os.W_OK):
            return root
    return None


def cgroup_of(cluster_id: str) -> Path | None:
    """Return the path of the cluster's cgroup (which may not exist yet), or None without cgroup v2."""
    root = cgroup_root()
    return None if root is None else root / f"{places.PREFIX}{cluster_id}"


def create_cgroup(path: Path) -> bool:
    """Make a cgroup that can be killed as a whole. False where the kernel or a container forbids it."""
    try:
        path.mkdir(exist_ok=True)
    except OSError:
        return False
    return (path / "cgroup.kill").exists()


def kill_cgroup(path: Path, timeout_s: float = 10.0) -> None:
    """SIGKILL everything in the cgroup and below, wait for the end, and remove it. Absent is no error."""
    if not path.exists():
        return
    deadline = time.monotonic() + timeout_s
    while path.exists():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"processes in {path} survive SIGKILL for {timeout_s:.0f} s; see {path}/cgroup.procs")
        try:
            # Again in every round: a process that was just being started may have entered after the last kill.
            (path / "cgroup.kill").write_text("1")
            if "populated 0" in (path / "cgroup.events").read_text():
                for directory, _, _ in os.walk(path, topdown=False):
                    os.rmdir(directory)
                return
        except FileNotFoundError:
            continue  # somebody else removes it as well
        except OSError as err:
            if err.errno not in (errno.EBUSY, errno.ENODEV):  # the kernel still counts the last one; or as above
                raise
        time.sleep(0.02)


def argv_into_cgroup(path: Path | None, argv: list[str]) -> list[str]:
    """Return `argv` prefixed so that it moves itself into the cgroup and then becomes the command (same pid)."""
    if path is None or not path.exists():
        return argv
    return ["/bin/sh", "-c", _INTO_CGROUP, str(path / "cgroup.procs"), *argv]


# --- starting ----------------------------------------------------------------------------------------------------------


def spawn(
    where: places.Places,
    argv: list[str],
    *,
    stdout: IO[Any] | int,
    stderr: IO[Any] | int,
    stdin: IO[Any] | int = subprocess.DEVNULL,
    text: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[Any]:
    """Start `argv` in the cluster's namespace and cgroup, in a session of its own. The pid is the program's."""
    full = argv_into_cgroup(cgroup_of(where.id), netns.argv_in(where.netns_path, argv))
    return subprocess.Popen(
        full, stdin=stdin, stdout=stdout, stderr=stderr, text=text, env=env, cwd=cwd, start_new_session=True
    )


def child_env(**extra: str) -> dict[str, str]:
    """Return the environment for a Python child of this package: ours, with the package importable."""
    paths = [str(places.PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **extra}
