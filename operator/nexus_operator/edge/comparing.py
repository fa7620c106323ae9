"""Replays the gateways' requests through what serves and what would serve with the previewed objects applied."""

from __future__ import annotations

import asyncio

from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Snapshot

from nexus_operator.edge.samples import SampleFeed
from nexus_operator.publication.previews import Preview, build_preview


class Comparing:
    """Of one term of one leader. preview: what the previewed objects would do; None while there are none."""

    def __init__(self, samples: SampleFeed) -> None:
        self.preview: Preview | None = None
        self._samples = samples
        self._compared: tuple[object, object, object] | None = None

    @property
    def waits(self) -> bool:
        """Whether no gateway has told of any request yet."""
        return self.preview is None or self.preview.report is None

    async def compare(self, previewed: tuple[ObjectRef, ...], serving: Snapshot, candidate: Snapshot | None) -> None:
        """Bring the preview up to date. candidate: with all previewed objects applied, None when there are none. Raises ConsulAway."""
        if candidate is None:
            self.preview = self._compared = None
            await self._samples.stop()
            return
        self.preview = self.preview or Preview(previewed, None)
        samples = await self._samples.read()
        compared = (samples, serving, candidate)
        if self._compared is None or any(a is not b for a, b in zip(compared, self._compared, strict=True)):
            # Thousands of requests through two routers: other work of the event loop does not wait for it.
            self.preview = await asyncio.to_thread(build_preview, previewed, samples, serving, candidate)
            self._compared = compared
