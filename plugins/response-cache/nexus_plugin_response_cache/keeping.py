"""What the cache is made of a configuration, and the body of a response on its way into the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nexus_sdk.plugin import PluginConfigError

from .entries import Entry
from .freshness import Defaults


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration, read once. See `plugin.yaml` for what each means."""

    defaults: Defaults
    wait_s: float
    most_bytes: int
    ignored: Sequence[str]
    ordered: bool
    skipped_cookies: frozenset[str]
    obey: bool
    tag_headers: tuple[str, ...]
    hidden: tuple[str, ...]
    purge_path: str
    purge_token: str


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return the settings. Raises PluginConfigError."""
    purge: Mapping[str, Any] = config["purge"]
    if purge.get("path") and not purge.get("token"):
        raise PluginConfigError(
            "config.purge: a path without a token would let everybody purge; set config.purge.token, from a Secret."
        )
    tags = tuple(str(each).lower() for each in config["tagHeaders"])
    return Settings(
        Defaults(
            float(config["defaultSeconds"]), float(config["staleWhileRevalidateSeconds"]), float(config["staleIfErrorSeconds"]),
            float(config["maxSeconds"]),
        ),
        float(config["waitSeconds"]), int(config["maxBodyBytes"]), tuple(config["ignoreQuery"]), bool(config["sortQuery"]),
        frozenset(config["skipCookies"]), bool(config["obeyClients"]), tags, () if config["showTags"] else tags,
        str(purge.get("path", "")), str(purge.get("token", "")),
    )  # fmt: skip


class Copy:
    """Lets a body pass and keeps a copy. length: that the head states, None for none. done: called once, None when it is not whole."""

    __slots__ = ("_done", "_entry", "_left", "_length", "_pieces")

    def __init__(self, entry: Entry, most_bytes: int, length: int | None, done: Callable[[Entry | None], None]) -> None:
        self._entry = entry
        self._left = most_bytes
        self._length = length
        self._done: Callable[[Entry | None], None] | None = done
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """Return the piece."""
        if self._done is not None:
            self._left -= len(data)
            if self._left < 0:
                self._end(None)
            else:
                self._pieces.append(data)
        return data

    def finish(self) -> bytes:
        """Return nothing more; the copy is whole."""
        body = b"".join(self._pieces)
        whole = self._length is None or self._length == len(body)
        self._end(replace(self._entry, body=body) if whole else None)
        return b""

    def _end(self, entry: Entry | None) -> None:
        done, self._done = self._done, None
        self._pieces.clear()
        if done is not None:
            done(entry)
