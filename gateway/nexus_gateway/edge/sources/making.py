"""How manifests on disk become a Snapshot: the port between who follows the files and who reads and translates them.

Two hold it: `workshop.Workshop` in this process, and `remote.RemoteWorkshop` in a process of its own. Both end with the same bytes.
Nothing here knows the model: importing it costs 14 MB, which a process that only serves does not want.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from nexus_core.marketplace.locks import Lock
from nexus_core.problems import Problem
from nexus_core.snapshot import Snapshot

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""(path, inode, mtime_ns, size) of each file, sorted."""

DEFAULT_CLASS = "nexus"
"""GatewayClass whose Gateways are ours."""


@dataclass(frozen=True, slots=True)
class Made:
    """What came of the files. digest: of the Snapshot's wire form. problems: sorted. due_in_s: when something that the Snapshot
    depends on beside the files (a marketplace's index, an update window) wants a look; None for never. locks: of the plugins that
    there are, as they should be remembered before what gateways say of them is counted in."""

    snapshot: Snapshot
    digest: str
    problems: tuple[Problem, ...]
    due_in_s: float | None
    locks: Mapping[str, Lock] = field(default_factory=dict)


class Maker(Protocol):
    """Makes Snapshots of files, one at a time. Remembers what was good: a broken file or object counts as it last was."""

    async def make(self, found: Fingerprint, locks: Mapping[str, Lock]) -> Made:
        """Return what these files say. locks: what is remembered of plugins, by `<namespace>/<name>`.

        Raises `MakerGone` when it could not be found out; the next call begins anew.
        """
        ...

    async def close(self) -> None:
        """Release everything. What is being made is given up."""
        ...


class MakerGone(Exception):
    """Whoever reads the manifests is away. The text says why."""


class Texts(Protocol):
    """The last readable text of each file, for a maker that does not live as long as what it must remember."""

    def find(self, name: str) -> str | None:
        """Return the text; None when the file never was readable."""
        ...

    def keep(self, name: str, text: str) -> None:
        """Remember a text that could be read."""
        ...


class NoTexts:
    """For a maker that remembers what it read by itself."""

    def find(self, name: str) -> str | None:
        """Return None."""
        return None

    def keep(self, name: str, text: str) -> None:
        """Forget it."""
