"""Files on disk by their SHA-256: right whenever they are read, whole whenever they are written, bounded in all.

Several processes may use one directory. What is in it is used without asking anyone, so that gateways restart with the same plugins
while marketplaces cannot be reached.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path

from nexus_marketplace import durable

log = logging.getLogger("nexus.marketplace.cache")

MAX_CACHE_BYTES = 2**30
"""Of all files. 256 of the largest artefacts; a gateway that runs more of them fetches some anew at its next start."""
_NAME = re.compile(r"[0-9a-f]{64}\.(zip|whl)")


class Cache:
    """One directory. Calls block."""

    def __init__(self, directory: Path, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def read(self, sha256: str, suffix: str) -> bytes | None:
        """Return a file's bytes, None when it is not there. suffix: `zip` or `whl`. A damaged file is removed."""
        path = self._directory / f"{sha256}.{suffix}"
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            log.warning("%s is damaged and is fetched anew", path)
            path.unlink(missing_ok=True)
            return None
        try:
            os.utime(path)  # what is used stays when room is made
        except OSError as error:
            log.debug("the time of %s cannot be set: %s", path, error)
        return data

    def keep(self, sha256: str, suffix: str, data: bytes) -> None:
        """Write a file, and remove those that were not used for longest where there are too many bytes.

        A cache that cannot be written costs a download at the next start: it is logged, no more.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            durable.write(self._directory / f"{sha256}.{suffix}", data, mode=0o600)
            self._make_room(f"{sha256}.{suffix}")
        except OSError as error:
            log.warning("%s.%s cannot be kept in %s: %s", sha256, suffix, self._directory, error)

    def _make_room(self, newest: str) -> None:
        found: list[tuple[float, int, Path]] = []
        for path in self._directory.iterdir():
            if _NAME.fullmatch(path.name):
                try:
                    status = path.stat()
                except FileNotFoundError:  # another process made room
                    continue
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._max_bytes:
                return
            if path.name != newest:
                path.unlink(missing_ok=True)
                total -= size
