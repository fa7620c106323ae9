"""The plugin: gives browsers a token in a cookie, and wants it back with every request that changes something."""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from nexus_sdk.plugin import Headers, Plugin, Reply, RequestHead, ResponseHead

from .forms import find_field, is_form
from .tokens import Tokens

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_UNCLEAR = re.compile(r"//|/\.{1,2}(?:/|$)|%2e|%2f|%5c|\\|;", re.IGNORECASE)
"""In a path: what a service may read as another path than the one that is exempt."""
_PORTS = {"http": ":80", "https": ":443"}
_SHARED = re.compile(r"(?:^|,)\s*(?:public|s-maxage\s*=)", re.IGNORECASE)
_PRIVATE = re.compile(r"(?:^|,)\s*(?:private|no-store)\s*(?:,|$)", re.IGNORECASE)


class Csrf(Plugin):
    """Refuses requests that another site made a user's browser send."""

    clock: Callable[[], float] = staticmethod(time.time)
    """Seconds since 1970; tests set their own."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        keys = [key for key in (config["secret"], config.get("previousSecret")) if key]
        self._lifetime_s = int(config["lifetimeSeconds"])
        self._tokens = Tokens(keys, self._lifetime_s)
        self._secure = not config["insecure"]
        self._cookie = ("__Host-" if self._secure else "") + str(config["cookie"])
        self._attributes = f"; Path=/; Max-Age={self._lifetime_s}; SameSite={str(config['sameSite']).capitalize()}" + (
            "; Secure" if self._secure else ""
        )
        self._session = str(config["sessionCookie"])
        self._header = str(config["header"]).lower()
        self._field = str(config["field"])
        self._trusted = frozenset(_normalise(origin) for origin in config["trustedOrigins"])
        self._same_site = bool(config["allowSameSite"])
        self._exempt = tuple(str(path) for path in config["exempt"])

    # ---- requests

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request, or 403 for one that another site made, or that changes something and has no valid token.

        A form without the header goes on here: its token is in the body, which `on_request_body` looks at.
        """
        if request.method in _SAFE:
            # A WebSocket begins with a GET, with cookies, from any page (CSWSH): its origin is all there is to check.
            if (request.header("upgrade") or "").lower() != "websocket":
                return request
            return request if self._is_from_here(request) else _refuse(request, "CsrfOrigin")
        if self._is_exempt(request.path):
            return request
        if not self._is_from_here(request):
            return _refuse(request, "CsrfOrigin")
        submitted = request.header(self._header)
        if submitted is None:
            if self._field and is_form(request.header("content-type") or ""):
                return request
            return _refuse(request, "CsrfTokenMissing")
        return request if self._is_valid(request, submitted) else _refuse(request, "CsrfTokenInvalid")

    def wants_request_body(self, request: RequestHead) -> bool:
        """Return whether the token is in the body."""
        return (
            request.method not in _SAFE
            and bool(self._field)
            and request.header(self._header) is None
            and not self._is_exempt(request.path)
        )

    def on_request_body(self, request: RequestHead, body: bytes) -> bytes | Reply:
        """Return the form as it came, or 403 when its field does not hold a valid token."""
        submitted = find_field(request.header("content-type") or "", body, self._field)
        if submitted is None:
            return _refuse(request, "CsrfTokenMissing")
        return body if self._is_valid(request, submitted) else _refuse(request, "CsrfTokenInvalid")

    # ---- responses

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return the response with a cookie, where the browser has no token for its session or one past half its life.

        Pages get it, and responses that begin a session; what shared caches may keep gets none.
        """
        begun = _set_cookie(response.headers, self._session) if self._session else None
        page = (response.header("content-type") or "").partition(";")[0].strip().lower() in (
            "text/html",
            "application/xhtml+xml",
        )
        if begun is None and not (page and request.method in ("GET", "HEAD")):
            return response
        control = ", ".join([value for name, value in response.headers if name == "cache-control"])
        if _SHARED.search(control):
            return response
        now = self.clock()
        session = begun if begun is not None else self._session_of(request)
        age = self._tokens.age(_cookie(request, self._cookie) or "", session, now)
        if age is not None and age < self._lifetime_s / 2:
            return response
        cookie = ("set-cookie", f"{self._cookie}={self._tokens.issue(session, now)}{self._attributes}")
        private = () if _PRIVATE.search(control) else (("cache-control", "private"),)
        return response.with_headers((*response.headers, cookie, *private))

    # ---- judging

    def _is_valid(self, request: RequestHead, submitted: str) -> bool:
        """Return whether what was submitted is the cookie's token, and that one is good for the session."""
        cookie = _cookie(request, self._cookie)
        if cookie is None or not hmac.compare_digest(_bytes(cookie), _bytes(submitted)):
            return False
        return self._tokens.age(cookie, self._session_of(request), self.clock()) is not None

    def _session_of(self, request: RequestHead) -> str:
        return (_cookie(request, self._session) or "") if self._session else ""

    def _is_exempt(self, path: str) -> bool:
        if not self._exempt or _UNCLEAR.search(path):
            return False
        return any(path.startswith(each[:-1]) if each.endswith("*") else path == each for each in self._exempt)

    def _is_from_here(self, request: RequestHead) -> bool:
        """Return whether the browser says that the request comes from this site, or says nothing. The token decides then.

        `Sec-Fetch-Site` cannot be set by pages; Origin and Referer cannot be either, but may be missing.
        """
        origin = request.header("origin")
        if origin is None:
            referer = request.header("referer")
            if referer:
                try:
                    parts = urlsplit(referer)
                except ValueError:  # no browser sends such a one
                    return False
                origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        if origin is not None and _normalise(origin) in self._trusted:
            return True
        site = request.header("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none") and not (site == "same-site" and self._same_site):
            return False
        return origin is None or (site == "same-site" and self._same_site) or self._is_own(_normalise(origin), request)

    def _is_own(self, origin: str, request: RequestHead) -> bool:
        scheme, found, authority = origin.partition("://")
        if not found or (self._secure and scheme != "https"):
            return False
        asked = (request.header("host") or "").lower()
        if asked:
            return authority == asked.removesuffix(_PORTS.get(scheme, ""))
        # HTTP/2 has no Host header, and heads do not tell the port that `:authority` names.
        return _hostname(authority) == request.host


def _normalise(origin: str) -> str:
    low = origin.strip().lower()
    port = _PORTS.get(low.partition("://")[0], "")
    return low.removesuffix(port) if port else low


def _hostname(authority: str) -> str:
    return authority.partition("]")[0] + "]" if authority.startswith("[") else authority.partition(":")[0]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _cookie(request: RequestHead, name: str) -> str | None:
    """Return a cookie's value; None when there is none, or several that differ: one of them was planted."""
    values = {
        value.strip()
        for header, line in request.headers
        if header == "cookie"
        for key, found, value in [pair.partition("=") for pair in line.split(";")]
        if found and key.strip() == name
    }
    return values.pop() if len(values) == 1 else None


def _set_cookie(headers: Headers, name: str) -> str | None:
    """Return the value that a response gives a cookie, None when it does not set it. The last one counts, as in browsers."""
    found: str | None = None
    for header, line in headers:
        if header == "set-cookie":
            key, _, value = line.partition(";")[0].partition("=")
            if key.strip() == name:
                found = value.strip()
    return found


_DETAILS = {
    "CsrfOrigin": "The request comes from another site.",
    "CsrfTokenMissing": "The request carries no token.",
    "CsrfTokenInvalid": "The token is not that of this session, or it expired. Load the page again.",
}


def _refuse(request: RequestHead, reason: str) -> Reply:
    problem: dict[str, Any] = {
        "type": "about:blank", "title": "The request could not be tied to a page of this site", "status": 403,
        "reason": reason, "detail": _DETAILS[reason],
    }  # fmt: skip
    request_id = request.header("x-request-id")
    if request_id:
        problem["request_id"] = request_id
    headers = (("content-type", "application/problem+json"), ("cache-control", "no-store"))
    return Reply(403, headers, json.dumps(problem).encode())
