"""Removal of every trace of a cluster, from its name alone, as often as you like.

Needs neither the process that started the cluster nor its state file: processes are found by cgroup and by network
namespace, namespaces and directories by name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator

from nexus_testbed import netns, places, processes

GIVE_UP_S = 20.0


@contextlib.contextmanager
def locked(cluster_id: str) -> Iterator[None]:
    """Hold the lock of one cluster id, so that start-up and removals of it do not meet."""
    path = places.lock_path(cluster_id)
    while True:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            file = path.open("w")
        except FileNotFoundError:  # the last cluster's removal took the directory away in between
            continue
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The holder before us may have unlinked it: then we hold a lock nobody else will ever see.
            try:
                same = os.fstat(file.fileno()).st_ino == path.stat().st_ino
            except FileNotFoundError:
                same = False
            if not same:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def known_ids() -> list[str]:
    """Return the ids of all clusters of which any trace exists on this machine, sorted."""
    names = [name.removeprefix(places.PREFIX).split("-")[0] for name in netns.names()]
    if (root := processes.cgroup_root()) is not None:
        names += [path.name.removeprefix(places.PREFIX) for path in root.glob(f"{places.PREFIX}*")]
    with contextlib.suppress(FileNotFoundError):
        names += [path.name for path in places.states_dir().iterdir() if not path.name.startswith(".")]
    return sorted(set(names))


def is_orphan(cluster_id: str) -> bool:
    """Return whether the process that owns the cluster is gone. A detached cluster (`bed up`) owns itself."""
    try:
        state = json.loads(places.Places(cluster_id).state_file.read_text())
    except FileNotFoundError:
        # Either being born or half removed: whoever does that holds the lock.
        return not places.lock_path(cluster_id).exists()
    owner = state["owner"]
    return owner is not None and not processes.is_alive(processes.Proc(owner["pid"], owner["started"]))


def _kill_in_namespaces(names: list[str]) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while pids := [pid for name in names for pid in netns.pids_in(name)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} in {', '.join(names)} survive SIGKILL for {GIVE_UP_S:.0f} s")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def remove(cluster_id: str) -> None:
    """Kill every process of the cluster and remove its cgroup, namespaces (with their devices) and directory."""
    where = places.Places(places.parse_id(cluster_id))
    with locked(cluster_id):
        if (cgroup := processes.cgroup_of(cluster_id)) is not None:
            processes.kill_cgroup(cgroup)
        names = netns.names_of(cluster_id)
        _kill_in_namespaces(names)
        # veth pairs end with the first of their two namespaces, mounts with their processes.
        netns.delete(names)
        shutil.rmtree(where.root, ignore_errors=False) if where.root.exists() else None
    with contextlib.suppress(OSError):
        places.states_dir().rmdir()  # the last one turns off the light


def remove_orphans() -> list[str]:
    """Remove the clusters whose owner is gone; return their ids."""
    orphans = [cluster_id for cluster_id in known_ids() if is_orphan(cluster_id)]
    for cluster_id in orphans:
        remove(cluster_id)
    return orphans
