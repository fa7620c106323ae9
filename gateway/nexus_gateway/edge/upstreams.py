"""Calls to endpoints: aiohttp's client as a proxy needs it, and its exceptions as our outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    SocketTimeoutError,
    TCPConnector,
)
from multidict import CIMultiDict
from nexus_core.hooks import RequestHead
from nexus_core.snapshot import Timeouts
from yarl import URL

from nexus_gateway.resilience.exchanges import Attempt, Outcome

IDLE_CONNECTION_S = 4.0
"""Idle upstream connections are closed after this: below the 5 s of common servers (uvicorn, Node), because a request
sent while the server closes is lost, and one that is not idempotent cannot be sent again."""


class AttemptFailed(Exception):
    """The attempt brought no response head. outcome: what to make of it. reason: of `replies.TITLES`, should it be the last."""

    def __init__(self, outcome: Outcome, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.reason = reason


class Upstreams:
    """The connections to all endpoints of one gateway, pooled by address."""

    def __init__(self) -> None:
        # No limits here: the bound is the gateway's on requests in flight, and a queue in front of one endpoint would
        # hide its slowness from the balancer.
        connector = TCPConnector(limit=0, limit_per_host=0, ttl_dns_cache=10, keepalive_timeout=IDLE_CONNECTION_S)
        self.session = ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=ClientTimeout(total=None),
            read_bufsize=2**16,
            max_line_size=2**15,
            max_field_size=2**15,
        )
        # aiohttp repeats idempotent requests once by itself, on whatever connection comes next: out of reach of the
        # retry policy, its budget, the breaker and the traces. Repeating is the Exchange's decision alone.
        self.session._retry_connection = False

    async def call(
        self,
        attempt: Attempt,
        head: RequestHead,
        headers: CIMultiDict[str],
        data: bytes | AsyncIterator[bytes] | None,
        timeouts: Timeouts,
    ) -> ClientResponse:
        """Return the response as soon as its head is there. Raises `AttemptFailed`."""
        endpoint = attempt.endpoint.endpoint
        url = URL.build(
            scheme="http",
            host=endpoint.address,
            port=endpoint.port,
            path=head.path,
            query_string=head.query,
            encoded=True,
        )
        limits = ClientTimeout(total=None, connect=timeouts.connect_s or None, sock_read=timeouts.idle_s or None)
        try:
            async with asyncio.timeout_at(attempt.deadline_at):
                return await self.session.request(
                    head.method, url, headers=headers, data=data, allow_redirects=False, timeout=limits
                )
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            raise AttemptFailed(Outcome.CONNECT_FAILURE, "UpstreamConnectFailure", str(error)) from error
        except (SocketTimeoutError, TimeoutError) as error:
            raise AttemptFailed(Outcome.TIMEOUT, "RequestTimeout", "no response head in time") from error
        except ClientResponseError as error:
            raise AttemptFailed(Outcome.RESET, "UpstreamProtocolError", str(error)) from error
        except (ClientError, OSError) as error:
            raise AttemptFailed(Outcome.RESET, "UpstreamReset", str(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()
