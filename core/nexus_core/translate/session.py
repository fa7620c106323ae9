"""One world after another, translated in the time that the difference takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from nexus_core.marketplace import Index
from nexus_core.marketplace.locks import Lock
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Snapshot
from nexus_core.translate.hooked import ManifestHook
from nexus_core.translate.memory import Memory
from nexus_core.translate.translation import Translation
from nexus_core.translate.whole import translate_with

if TYPE_CHECKING:
    from nexus_core.certificates.sealing import Sealer


class Session:
    """Remembers one translation for the next. What comes out is what `translate` gives, to the byte."""

    def __init__(self) -> None:
        self._memory = Memory()

    def translate(
        self,
        resources: Iterable[Resource],
        *,
        previous: Snapshot | None = None,
        indexes: Mapping[str, Index] | None = None,
        class_name: str = "nexus",
        standing: Iterable[ObjectRef] = (),
        sealer: Sealer | None = None,
        locks: Mapping[str, Lock] | None = None,
        now_utc: datetime | None = None,
        manifest_hooks: Sequence[ManifestHook] = (),
    ) -> Translation:
        """As `whole.translate`. resources: those that did not change since the last call have to be the same objects, or they are
        translated anew.
        """
        return translate_with(
            self._memory,
            resources,
            previous=previous,
            indexes=indexes,
            class_name=class_name,
            standing=standing,
            sealer=sealer,
            locks=locks,
            now_utc=now_utc,
            manifest_hooks=manifest_hooks,
        )
