"""Leader election by a Lease: at most one replica writes.

The client's own `kubernetes.aio.leaderelection` does not fit: a connection error ends its `run()`, it never releases the
Lease, it measures with the wall clock (a clock step loses or doubles the leadership), and it goes on leading until its
renew deadline is noticed in a sleep. The protocol here is the same (client-go's): a holder is trusted for `lease_s` after
*we* saw its last renewal, by our own monotonic clock, so that skewed clocks do no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from nexus_operator.edge.kube import Conflict, KubeApi, KubeError, NotFound
from nexus_operator.world.kinds import Kind

log = logging.getLogger(__name__)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")


class Election:
    """One replica's part in the election of one Lease."""

    def __init__(self, kube: KubeApi, *, namespace: str, name: str, identity: str, lease_s: float) -> None:
        """lease_s: how long a silent leader is trusted. It gives up by itself after two thirds of that, and renews five times in it."""
        self._kube, self._namespace, self._name = kube, namespace, name
        self._identity, self._lease_s = identity, lease_s
        self._seen: tuple[str, str] = ("", "")  # holder and renewTime as last read
        self._seen_at = 0.0
        self._held: dict[str, Any] | None = None
        self.leading = False

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Compete for ever; while this replica leads, `lead()` runs, and is cancelled at once when the Lease is lost.

        When cancelled, the Lease is released so that another replica takes over without waiting. An exception of `lead`
        ends the election with that exception.
        """
        try:
            while True:
                await self._until_held()
                log.info("leading as %s", self._identity)
                self.leading = True
                try:
                    await self._lead(lead)
                finally:
                    self.leading = False
                log.warning("lost the lease %s/%s; writing nothing until it is won again", self._namespace, self._name)
        finally:
            await self._release()

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        work = asyncio.ensure_future(lead())
        keep = asyncio.ensure_future(self._renew())
        try:
            await asyncio.wait({work, keep}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                raise RuntimeError("the leader's work ended by itself")
            keep.result()
        finally:
            for task in (work, keep):
                task.cancel()
            await asyncio.gather(work, keep, return_exceptions=True)

    async def _until_held(self) -> None:
        away = False
        while True:
            try:
                async with asyncio.timeout(self._lease_s / 3):
                    if await self._try():
                        return
                away = False
            except (KubeError, TimeoutError) as err:
                if not away:
                    log.warning(
                        "cannot take part in the election until the API answers: %s", err or "no answer in time"
                    )
                away = True
            await asyncio.sleep(self._lease_s / 7 * (1 + random.random() / 2))

    async def _renew(self) -> None:
        """Return when the Lease is lost."""
        renewed_at = time.monotonic()
        deadline_s = self._lease_s * 2 / 3
        while (left_s := renewed_at + deadline_s - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    started = time.monotonic()
                    if not await self._try():
                        return
                    renewed_at = started
            except (KubeError, TimeoutError) as err:
                log.info("the lease could not be renewed yet: %s", err or "no answer in time")
                await asyncio.sleep(min(1.0, max(0.0, renewed_at + deadline_s - time.monotonic())))
                continue
            await asyncio.sleep(self._lease_s / 5)

    async def _try(self) -> bool:
        """Take or renew the Lease; return whether it is ours now."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._lease_s)),
            "renewTime": now,
        }
        try:
            lease = await self._kube.get(LEASE, self._namespace, self._name)
        except NotFound:
            body = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": {**mine, "acquireTime": now, "leaseTransitions": 0},
            }
            with contextlib.suppress(Conflict):
                self._held = dict(await self._kube.create(LEASE, self._namespace, body))
                return True
            return False
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        if holder and holder != self._identity:
            seen = (holder, str(spec.get("renewTime") or ""))
            if seen != self._seen:
                self._seen, self._seen_at = seen, time.monotonic()
            trusted_s = float(spec.get("leaseDurationSeconds") or self._lease_s)
            if time.monotonic() < self._seen_at + trusted_s:
                return False
        took_over = holder != self._identity
        fresh = {
            **mine,
            "acquireTime": now if took_over else spec.get("acquireTime") or now,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + took_over,
        }
        try:
            self._held = dict(await self._kube.replace(LEASE, self._namespace, self._name, {**lease, "spec": fresh}))
        except Conflict:
            return False
        return True

    async def _release(self) -> None:
        held, self._held = self._held, None
        if held is None or held["spec"].get("holderIdentity") != self._identity:
            return
        spec = {**held["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(3):
                # The resourceVersion in `held` makes this fail, rightly, when another replica has taken over.
                await self._kube.replace(LEASE, self._namespace, self._name, {**held, "spec": spec})
        except (KubeError, TimeoutError) as err:
            log.warning("the lease was not released, it runs out in %.0f s: %s", self._lease_s, err)
