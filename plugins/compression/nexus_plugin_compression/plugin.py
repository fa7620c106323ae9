"""The plugin: decides from both heads whether and how a response is compressed, says so in its head, and does it to its body.

The decision is a function of the two heads, so that both hooks come to the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import BodyStream, Headers, Plugin, RequestHead, ResponseHead

from .accepting import choose
from .coding import Compressed

_BODILESS = frozenset({204, 205, 304})
_FORMER = frozenset(
    {
        "content-length",
        "content-encoding",
        "accept-ranges",
        "content-md5",
        "content-digest",
        "digest",
        "repr-digest",
        "etag",
    }
)
"""Headers that speak of the body as it came, byte for byte."""


class Compression(Plugin):
    """Compresses responses for those who want them so."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._preferred = tuple(config["encodings"])
        self._levels = {
            "gzip": int(config["gzipLevel"]),
            "br": int(config["brotliLevel"]),
            "zstd": int(config["zstdLevel"]),
        }
        self._least = int(config["minBytes"])
        types = [str(each).lower() for each in config["types"]]
        self._types = frozenset(each for each in types if not each.endswith("/*"))
        self._families = tuple(each[:-1] for each in types if each.endswith("/*"))
        self._flushed = frozenset(str(each).lower() for each in config["flushTypes"])

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return the head as the body will be. HEAD is told of the body as it is: how long it would become is not known."""
        if response.status == 304:
            return self._not_modified(request, response)
        if not self._is_worth_it(request, response):
            return response
        coding = self._coding(request)
        if coding is None:
            # The next client may want it compressed: caches have to know that this answer is not for all.
            return response.with_headers(_vary(response.headers))
        etag = response.header("etag")
        if request.method == "HEAD":
            # RFC 9110, 8.6: a length beside this coding would have to be the compressed one. The tag is what GET gets.
            head = response if etag is None else response.with_header("etag", _weak(etag))
            return head.with_headers(_vary(head.headers))
        headers = tuple([pair for pair in response.headers if pair[0] not in _FORMER])
        if etag is not None:
            headers += (("etag", _weak(etag)),)
        return response.with_headers((*_vary(headers), ("content-encoding", coding)))

    def on_response_stream(self, request: RequestHead, response: ResponseHead) -> BodyStream | None:
        """Return what compresses the body, None when it goes on as it is. response: as `on_response` got it."""
        if request.method == "HEAD" or response.status in _BODILESS or not self._is_worth_it(request, response):
            return None
        coding = self._coding(request)
        if coding is None:
            return None
        return Compressed(coding, self._levels[coding], each=_type(response) in self._flushed)

    def _coding(self, request: RequestHead) -> str | None:
        lines = [value for name, value in request.headers if name == "accept-encoding"]
        return choose(", ".join(lines), self._preferred)

    def _is_worth_it(self, request: RequestHead, response: ResponseHead) -> bool:
        """Return whether a response may be compressed at all, for whoever wants it."""
        status = response.status
        if status < 200 or status in _BODILESS or status == 206 or request.method == "CONNECT":
            return False
        kind = _type(response)
        if kind not in self._types and not kind.startswith(self._families):
            return False
        for name, value in response.headers:
            if name == "content-encoding":
                if value.strip().lower() not in ("", "identity"):
                    return False
            elif name == "content-length":
                if value.isdigit() and int(value) < self._least:
                    return False
            elif name == "cache-control":
                # RFC 9110, 7.7: who says no-transform wants the body to arrive as it is.
                if "no-transform" in [each.strip().lower() for each in value.split(",")]:
                    return False
            elif name == "content-range":
                return False
        return True

    def _not_modified(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return a 304 whose tag is the one that the client has: of a compressed copy, the weak form of the service's."""
        etag = response.header("etag")
        if etag is None or etag.startswith("W/"):
            return response
        sent = ",".join([value for name, value in request.headers if name == "if-none-match"])
        if _weak(etag) not in [each.strip() for each in sent.split(",")]:
            return response
        return response.with_header("etag", _weak(etag))


def _type(response: ResponseHead) -> str:
    return (response.header("content-type") or "").partition(";")[0].strip().lower()


def _weak(etag: str) -> str:
    """Return a tag as weak: equal in meaning, not byte for byte (RFC 9110, 8.8.3)."""
    return etag if etag.startswith("W/") else "W/" + etag


def _vary(headers: Headers) -> Headers:
    listed = [each.strip().lower() for name, value in headers if name == "vary" for each in value.split(",")]
    return headers if "accept-encoding" in listed or "*" in listed else (*headers, ("vary", "accept-encoding"))
