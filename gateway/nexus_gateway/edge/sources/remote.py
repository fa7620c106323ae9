"""Makes Snapshots in a process of its own, which ends when nothing changes any more.

Reading manifests takes the model, pydantic, YAML and the parsed world: 70 MB with 5,000 routes, that a process which only serves
would keep for ever. Here it gets the Snapshot in its wire form, as a gateway beside Consul does; and no request waits for a
translation, which held the interpreter for 0.2 s in slices. It costs the start of a Python (0.5 s), and reading all files, when
the first of a row of edits is seen; whoever edits once edits again, so the process stays for a while.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
from nexus_core.certificates.keys import process_key
from nexus_core.marketplace.locks import Lock
from nexus_core.snapshot import Snapshot, wire
from nexus_hosting.asides import Aside, AsideGone

from nexus_gateway.edge.slices import START_SLICE_S, run_in_slices
from nexus_gateway.edge.sources.making import DEFAULT_CLASS, Fingerprint, Made, MakerGone
from nexus_gateway.edge.sources.orders import Ask, Told

LINGER_S = 20.0
"""How long the process stays after a change. Longer than it takes until an unreachable marketplace is tried again (`indexes`)."""


class RemoteWorkshop:
    """The `Maker` beside this process."""

    def __init__(
        self,
        cache: Path,
        *,
        class_name: str = DEFAULT_CLASS,
        linger_s: float = LINGER_S,
        seal_key: bytes = b"",
        alone: bool = False,
        artefacts: Path | None = None,
    ) -> None:
        """cache: directory for fetched marketplace indexes. seal_key: of private keys in the Snapshot; empty takes this process's.
        alone, artefacts: as in `workshop.Workshop`."""
        self.aside = Aside("nexus_gateway.edge.sources.translating", class_name, str(cache), str(artefacts or ""))
        self._linger_s = linger_s
        self._seal_key = seal_key or process_key()
        self._alone = alone
        self._snapshot: Snapshot | None = None
        self._digest = ""
        self._texts: dict[str, bytes] = {}
        self._reader = wire.Reader()
        self._decoder = msgspec.msgpack.Decoder(Told)

    async def make(self, found: Fingerprint, locks: Mapping[str, Lock] = MappingProxyType({})) -> Made:
        """See `making.Maker`. Raises `MakerGone`."""
        first = self._snapshot is None
        try:
            told = self._decoder.decode(await self.aside.call(lambda fresh: self._ask(found, locks, fresh=fresh)))
        except AsideGone as error:
            raise MakerGone(str(error)) from error
        for line in told.log:
            logging.getLogger(line.logger).log(line.level, "%s", line.text)
        names = {row[0] for row in found}
        self._texts = {name: text for name, text in {**self._texts, **told.texts}.items() if name in names}
        if self._snapshot is None or told.digest != self._digest:
            reading = self._reader.read(wire.parse_manifest(told.manifest), told.chunks)
            self._snapshot = await (run_in_slices(reading, START_SLICE_S, 0.0) if first else run_in_slices(reading))
            self._digest = told.digest
        # Nothing tells that what was just started will be edited; that an index is to be looked at soon is known.
        soon = told.due_in_s is not None and told.due_in_s < self._linger_s
        self.aside.leave(0.0 if first and not soon else self._linger_s)
        return Made(self._snapshot, self._digest, told.problems, told.due_in_s, told.locks)

    def _ask(self, found: Fingerprint, locks: Mapping[str, Lock], *, fresh: bool) -> bytes:
        ask = Ask(found, self._digest, locks=dict(locks))
        if fresh:
            ask.texts = self._texts
            ask.seal_key = self._seal_key
            ask.alone = self._alone
            if self._snapshot is not None:
                encoded = wire.encode(self._snapshot)
                ask.previous = (wire.manifest_bytes(encoded, 1), dict(encoded.chunks))
        return msgspec.msgpack.encode(ask)

    async def close(self) -> None:
        """End the process, whatever it is at."""
        await self.aside.close()
