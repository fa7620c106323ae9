"""What a place of files is to its readers."""

from __future__ import annotations

import re
from typing import Protocol

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class FileMissing(Exception):
    """The place is there and has no such file."""


class FileTooLarge(Exception):
    """The file has more bytes than were asked for at most."""


class SourcePort(Protocol):
    """Files of one marketplace. Calls block; use it from one thread at a time, not from the event loop's.

    base_url: against which a release's `url` is resolved: ends with `/`; empty for what is installed here. for_people: how messages
    name the place. signed: whether there is TUF metadata to follow; False for what is part of this installation.
    """

    base_url: str
    for_people: str
    signed: bool

    def begin(self) -> None:
        """Forget what is remembered of the place: what is read until the next `begin` is of one state, as far as the place can tell."""
        ...

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return a file. path: with `/`, below the marketplace's directory.

        Raises `FileMissing`, `FileTooLarge`, and `MarketplaceTrouble` where the place cannot be read.
        """
        ...


def check_path(path: str) -> str:
    """Return the path. Raises ValueError for one that could leave the directory or means different things to different places."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no path of a marketplace's file.")
    return path
