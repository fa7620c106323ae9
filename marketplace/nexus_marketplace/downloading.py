"""One file over HTTP: bounded in bytes, time and redirects. Asks for no compression, so that a bound in bytes is one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit, urlunsplit

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

if TYPE_CHECKING:
    from nexus_core.translate.market_access import Access

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 2**16


class DownloadFailed(Exception):
    """A file that was not had. The text says of which address and why.

    status: of the answer, None without one. retryable: whether it may work later by itself.
    """

    def __init__(self, message: str, *, status: int | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


class TooLarge(DownloadFailed):
    """The file has more bytes than it may."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered. headers: names lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def download(url: str, max_bytes: int, *, total_s: float, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the body of a 200. total_s: for all of it, redirects too, so that no server can hold us by dripping.

    Raises `DownloadFailed`, `TooLarge`.
    """
    answer = await ask("GET", url, max_bytes, total_s=total_s, headers=headers)
    if answer.status != 200:
        raise DownloadFailed(
            f"{shown(url)} answered {answer.status}; expected 200.", status=answer.status, retryable=True
        )
    return answer.body


async def ask(
    method: str,
    url: str,
    max_bytes: int,
    *,
    total_s: float,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Return a server's answer of any status but a redirect, which is followed at most `MAX_REDIRECTS` times.

    `Authorization` stays with the server it was meant for. From http to https is followed, the other way is not.
    Raises `DownloadFailed`, `TooLarge`.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadFailed(f"{shown(url)} is neither http nor https. Correct the address.")
    sent = {"Accept-Encoding": "identity", **(headers or {})}
    first = url
    try:
        async with (
            asyncio.timeout(total_s),
            ClientSession(timeout=ClientTimeout(total=total_s), auto_decompress=False) as session,
        ):
            for _ in range(MAX_REDIRECTS + 1):
                async with session.request(method, url, headers=sent, data=body, allow_redirects=False) as response:
                    location = response.headers.get("Location")
                    # A registry answers 201 and 202 with a Location too, which is no redirect.
                    if response.status in _REDIRECTS and location:
                        target = follow(url, location)
                        if urlsplit(target).netloc != urlsplit(url).netloc:
                            sent = {name: value for name, value in sent.items() if name.lower() != "authorization"}
                        url = target
                        continue
                    return Answer(
                        response.status,
                        {name.lower(): value for name, value in response.headers.items()},
                        await _bounded(response, max_bytes, url),
                    )
    except TimeoutError as error:
        raise DownloadFailed(f"{shown(first)} did not answer in full within {total_s:g} s.", retryable=True) from error
    except (ClientError, OSError, ValueError) as error:
        why = (str(error) or type(error).__name__).replace(url, shown(url))
        raise DownloadFailed(f"{shown(first)} could not be fetched: {why}.", retryable=True) from error
    raise DownloadFailed(f"{shown(first)} redirects more than {MAX_REDIRECTS} times.")


def authorizing(access: Access | None) -> dict[str, str]:
    """Return the headers that say who asks."""
    return {"Authorization": access.authorization} if access is not None else {}


def hidden(error: Exception, access: Access | None) -> str:
    """Return an error's text as people may see it."""
    return access.hide(str(error)) if access is not None else str(error)


def follow(url: str, location: str) -> str:
    """Return where a redirect leads. Raises `DownloadFailed` for another scheme, but for https instead of http."""
    target = urljoin(url, location)
    here, there = urlsplit(url).scheme, urlsplit(target).scheme
    if there != here and (here, there) != ("http", "https"):
        raise DownloadFailed(f"{shown(url)} redirects from {here} to {there}, which is not followed.")
    return target


def shown(url: str) -> str:
    """Return an address as statuses and logs may show it: without a name and password, which many may read there."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    _, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"…@{host}")) if at else url


async def _bounded(response: ClientResponse, max_bytes: int, url: str) -> bytes:
    if response.content_length is not None and response.content_length > max_bytes:
        raise TooLarge(f"{shown(url)} has {response.content_length} bytes; at most {max_bytes} are read.")
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise TooLarge(f"{shown(url)} has more than {max_bytes} bytes; no more are read.")
    return bytes(data)
