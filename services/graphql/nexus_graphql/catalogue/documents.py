"""What is known of one service's document, and how an answer to the question for it changes that. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from nexus_graphql.schema import Note, ServiceInfo, ServiceModel, State, read


@dataclass(frozen=True, slots=True)
class Known:
    """One service. model: of its last good document, else of a broken one, else None (never seen).

    seen_at: when the registry last had it. away: why its document could not be read at the last look, or empty.
    broken: what is wrong with the newest document when an older good one serves, or empty.
    """

    name: str
    path: str
    seen_at: float
    model: ServiceModel | None = None
    etag: str = ""
    digest: str = ""
    away: str = ""
    broken: str = ""

    def info(self) -> ServiceInfo:
        url = f"http://{self.name}{self.path}"
        model = self.model
        if model is None:
            return ServiceInfo(self.name, url, "waiting", 0, self.away or None)
        notes = tuple(str(n) for n in model.notes)
        if model.is_broken:
            return ServiceInfo(self.name, url, "broken", 0, notes[0], notes)
        problem = self.broken or self.away or next((str(n) for n in model.notes if n.lost), None)
        state: State = "broken" if self.broken else "stale" if self.away else "live"
        return ServiceInfo(self.name, url, state, len(model.operations), problem, notes)


def receive(known: Known, body: bytes, etag: str) -> Known:
    """Return what is known after the service answered 200. CPU-bound for large documents: call it off the loop.

    A document that cannot be used never takes the place of a good one.
    """
    digest = hashlib.sha256(body).hexdigest()
    if digest == known.digest:
        return replace(known, etag=etag, away="")
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError) as err:
        note = Note("", f"The document is not JSON ({err}).", "Serve JSON; YAML is not read.", fatal=True)
        model = ServiceModel(known.name, "", (), {}, (note,))
    else:
        model = read(known.name, document)
    if model.is_broken and known.model is not None and not known.model.is_broken:
        wrong = next(str(n) for n in model.notes if n.fatal)
        return replace(known, etag=etag, digest=digest, away="", broken=wrong)
    return replace(known, model=model, etag=etag, digest=digest, away="", broken="")
