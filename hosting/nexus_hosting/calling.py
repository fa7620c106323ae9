"""HTTP requests of one plugin. The library is imported with the first of them: most plugins make none."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from nexus_core.hooks import Called, CallFailed, Headers

from nexus_hosting.hosts import Target, parse_host
from nexus_hosting.means import Reached

if TYPE_CHECKING:
    from aiohttp import ClientSession

MAX_ANSWER_BYTES = 16 * 2**20
MAX_TIMEOUT_S = 60.0
MAX_CONNECTIONS = 64
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PORT = re.compile(r":[0-9]*$")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Caller:
    """One plugin's connections: its own, so that no cookie, credential or connection of another is ever in one of its requests."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None
        self._closed = False

    async def call(
        self,
        target: Target,
        method: str,
        headers: Headers,
        body: bytes,
        timeout_s: float,
        reached: Reached | None = None,
    ) -> Called:
        """Return the answer, of whatever status. reached: of a NexusService, how it is spoken to. Raises `CallFailed`."""
        from aiohttp import ClientError
        from yarl import URL

        told = f"{target.scheme}://{target.authority}"
        if not _TOKEN.fullmatch(method):
            raise CallFailed(f"{method[:40]!r} is not a method.")
        for name, value in headers:
            if not _TOKEN.fullmatch(name) or _UNFIT.search(value):
                raise CallFailed(f"{name[:40]!r} is not the name of a header, or its value does not fit in a line.")
        try:
            async with asyncio.timeout(min(timeout_s, MAX_TIMEOUT_S)):
                session = self._open()
                # Built of what was judged, not of what the plugin wrote.
                url = URL(f"{told}{target.rest if target.rest[:1] == '/' else '/' + target.rest}")
                secure: dict[str, Any] = {}
                if reached is not None and reached.tls is not None:
                    name = reached.server_name or _host_of(headers) or target.host
                    secure = {"ssl": reached.tls(), "server_hostname": name}
                async with session.request(
                    method, url, headers=headers, data=body or None, allow_redirects=False, **secure
                ) as response:
                    data = bytearray()
                    async for piece in response.content.iter_chunked(2**16):
                        data += piece
                        if len(data) > MAX_ANSWER_BYTES:
                            raise CallFailed(f"{told} answered with more than {MAX_ANSWER_BYTES // 2**20} MiB.")
                    pairs = tuple((name.lower(), value) for name, value in response.headers.items())
                    return Called(response.status, pairs, bytes(data))
        except TimeoutError as error:
            raise CallFailed(f"{told} did not answer within {timeout_s:g} s.") from error
        except (ClientError, OSError, ValueError, TypeError) as error:
            raise CallFailed(f"{told} could not be asked: {str(error) or type(error).__name__}.") from error

    async def close(self) -> None:
        """Close the connections; no call is made any more."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

        if self._closed:
            raise CallFailed("The plugin has stopped.")
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(limit=MAX_CONNECTIONS),
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=None),
                # The plugin gets the bytes that it asked for: what it did not ask to be compressed is not.
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent"),
                trust_env=False,
            )
        return self._session


def _host_of(headers: Headers) -> str:
    """Return the host that a call names for itself, without port; empty for none, and for one that is none. Raises nothing."""
    said = next((value for name, value in headers if name.lower() == "host"), "")
    try:
        return parse_host(_PORT.sub("", said)) if said else ""
    except ValueError:
        return ""
