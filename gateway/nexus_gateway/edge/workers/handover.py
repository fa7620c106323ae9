"""What a supervisor gives to a worker, in one environment variable: numbers of inherited descriptors, and names."""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass

VARIABLE = "NEXUS_WORKER_HANDOVER"


@dataclass(frozen=True, slots=True)
class Handover:
    """index: the worker's place, 0..n-1; its successor has the same. serial: of the process; no two alive share one, 0..1023.
    column: as the serial, but the least one that is free: where it counts in shared memory.

    control, memory, plain, secure, broker: descriptors; plain and secure are None where settings name no such listener; broker is where
    sockets of further ports are asked for. admin: path of the Unix socket where
    the worker's own admin API is expected. workers: how many places there are. manifests: their directory; empty takes the
    Snapshot from Consul.
    """

    index: int
    serial: int
    column: int
    workers: int
    control: int
    memory: int
    plain: int | None
    secure: int | None
    admin: str
    manifests: str
    broker: int = -1

    def to_env(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))


def take(environ: MutableMapping[str, str] | None = None) -> Handover:
    """Return what this process was given, and remove it: its own children are no workers. Raises `NotAWorker`."""
    text = (os.environ if environ is None else environ).pop(VARIABLE, None)
    if text is None:
        raise NotAWorker(f"{VARIABLE} is not set: workers are started by `nexus gateway --workers N`, not by hand.")
    found = Handover(**json.loads(text))
    for descriptor in (found.control, found.memory, found.plain, found.secure, found.broker):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    return found


class NotAWorker(RuntimeError):
    """The process was not started by a supervisor."""
