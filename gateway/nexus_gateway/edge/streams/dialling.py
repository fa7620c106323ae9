"""A connection's way to an endpoint: a place at the upstream, an endpoint that takes it, others when one does not."""

from __future__ import annotations

import asyncio
import logging
import ssl
from math import inf
from time import monotonic

from nexus_wire.clock import TICK_S

from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.streams.fars import Far, Near
from nexus_gateway.edge.streams.service import Streams
from nexus_gateway.edge.streams.visits import Admission, Client, Refused, Visit, enter
from nexus_gateway.edge.tls.origination import TlsInvalid, server_name
from nexus_gateway.resilience.attempts import Outcome, may_retry

log = logging.getLogger("nexus.gateway.streams")


class Dial:
    """One connection's search for an endpoint."""

    def __init__(
        self,
        streams: Streams,
        near: Near,
        admission: Admission,
        visits: list[Visit],
        started_at: float,
        *,
        speaks_tls: bool = False,
    ) -> None:
        """visits: where each attempt is added, for whoever ends the connection to leave them. started_at: when its time began to run.
        speaks_tls: the bytes are TLS already, between the client and the endpoint: the upstream's own would be one too many."""
        self._streams = streams
        self._near = near
        self._admission = admission
        self._visits = visits
        self._started_at = started_at
        self._speaks_tls = speaks_tls

    async def run(self, client: str, client_name: str) -> Far:
        """Return a connection to the endpoint of the last visit. Raises `Refused`.

        client: its address. client_name: what it asked for over TLS, empty for nothing.
        """
        admission = self._admission
        pool = admission.pool
        within_s = pool.upstream.timeouts.request_s
        deadline_at = self._started_at + within_s if within_s else inf
        try:
            async with asyncio.timeout(within_s or None):
                await admission.wait()
                await self._wait_for_endpoints(pool)
        except TimeoutError:
            raise Refused("UpstreamOverloaded") from None
        key = pool.key(Client(client)) if pool.key is not None else b""
        tried: set[str] = set()
        while True:
            visit = enter(admission, tried, key, self._streams.measurements)
            self._visits.append(visit)
            far = await self._connect(visit, client_name, deadline_at)
            if far is not None:
                return far
            tried.add(visit.endpoint.authority)
            await self._may_try_again(pool, deadline_at)

    async def _wait_for_endpoints(self, pool: Pool) -> None:
        """Wait for a first endpoint a little: a fresh start or a scale-up drops nothing."""
        if pool.endpoints:
            return
        came = asyncio.Event()
        pool.wait(came.set)
        try:
            async with asyncio.timeout(self._streams.settings.endpoints_wait_s):
                await came.wait()
        except TimeoutError:
            raise Refused("NoEndpoints") from None
        finally:
            pool.stop_waiting(came.set)

    async def _connect(self, visit: Visit, client_name: str, deadline_at: float) -> Far | None:
        """Return the connection to the visit's endpoint, None when there is none in time."""
        upstream = visit.pool.upstream
        tls = upstream.tls if not self._speaks_tls else None
        address = visit.endpoint.endpoint
        far = Far(self._near, tls=tls is not None)
        connect_s = min(upstream.timeouts.connect_s or inf, max(deadline_at - monotonic(), TICK_S))
        try:
            context = self._streams.means.tls(tls) if tls is not None else None
            name = server_name(tls, client_name, address.address) if tls is not None else ""
            # As `ssl` does; on a name that is none it would leave asyncio's socket open.
            name.encode("idna")
            async with asyncio.timeout(connect_s if connect_s < inf else None):
                await self._streams.loop.create_connection(
                    lambda: far, address.address, address.port, ssl=context, server_hostname=name or None
                )
        except (OSError, ssl.SSLError, TlsInvalid, ValueError) as error:
            far.detach()
            visit.failed(Outcome.CONNECT_FAILURE, monotonic())
            visit.leave()
            log.debug("%s (%s) took no connection: %s", address.authority, upstream.id, error)
            return None
        except BaseException:
            far.detach()
            raise
        if far.lost and not far.received:
            visit.failed(Outcome.RESET, monotonic())
            visit.leave()
            return None
        return far

    async def _may_try_again(self, pool: Pool, deadline_at: float) -> None:
        """Wait for the next attempt's time. Raises `Refused` when there is none. Nothing was sent: policy, budget and time decide."""
        wait_s = may_retry(
            True, Outcome.CONNECT_FAILURE, pool.upstream.retry, len(self._visits), True, True, pool.budget, monotonic(),
            deadline_at if deadline_at < inf else None, self._streams.means.rng,
        )  # fmt: skip
        if wait_s is None:
            raise Refused("UpstreamConnectFailure")
        self._streams.measurements.retry(pool.upstream.id)
        await asyncio.sleep(wait_s)
