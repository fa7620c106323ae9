"""`cors`: which origins' scripts may call a rule, told to browsers. Preflights are answered here, no upstream sees them.

Sources: Fetch standard, "CORS protocol" (https://fetch.spec.whatwg.org/#http-cors-protocol); Gateway API, HTTPCORSFilter.
The protocol protects users of browsers, not the service: a request from another origin is passed on, and its answer lacks
the headers without which a browser keeps it from the script. Origins are echoed, never answered with `*`: so answers are the
same with and without credentials; hence `Vary: Origin` on every response of the rule.
"""

from __future__ import annotations

import re
from dataclasses import replace

from nexus_core.hooks import Headers, Reply, RequestHead, ResponseHead
from nexus_core.snapshot import Cors

from nexus_gateway.filters.place import Place

_ORIGIN = re.compile(r"null|[A-Za-z][A-Za-z0-9+.-]*://[^\x00-\x20\x7f-\U0010ffff/?#@,\"\\]{1,261}")
"""A serialised origin, or `null`; 253 characters of host, a colon, five digits, and brackets around an IPv6 address."""
_METHOD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,32}")
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_MAX_NAMES = 4096
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_SAFELISTED = frozenset(
    {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
)
_HIDDEN = _SAFELISTED | {"set-cookie", "set-cookie2", "connection", "keep-alive", "transfer-encoding", "vary"}
"""Readable anyway, or never (Fetch: forbidden response-header names)."""
_PREFIX = "access-control-"
_VARY_PREFLIGHT = "origin, access-control-request-method, access-control-request-headers"


def normalise(origin: str) -> str:
    """Return an origin as it is compared: lower-case, without its scheme's well-known port."""
    low = origin.lower()
    scheme = low.partition("://")[0]
    port = _DEFAULT_PORT.get(scheme, "")
    return low.removesuffix(port) if port else low


class Origins:
    """The origins of a policy: exact ones, `scheme://*.domain[:port]` (one or more labels), `scheme://*[:port]`, `*`."""

    __slots__ = ("_any", "_exact", "_wild")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._any = "*" in patterns
        known = [normalise(pattern) for pattern in patterns if pattern != "*"]
        self._exact = frozenset(pattern for pattern in known if "*" not in pattern)
        wild = []
        for pattern in known:
            before, star, after = pattern.partition("*")
            if star:
                wild.append((before, after))
        self._wild = tuple(wild)

    def allow(self, origin: str) -> bool:
        """Return whether an Origin header's value is one of these. A value that is no origin never is."""
        if not _ORIGIN.fullmatch(origin):
            return False
        if self._any:
            return True
        asked = normalise(origin)
        if asked in self._exact:
            return True
        for before, after in self._wild:
            if asked.startswith(before) and asked.endswith(after) and len(asked) > len(before) + len(after):
                # What the star stands for is labels: a colon in it would be a port that the pattern does not name.
                covered = asked[len(before) : len(asked) - len(after)]
                if ":" not in covered and not covered.startswith("."):
                    return True
        return False


class CorsFilter:
    """Answers preflights, and tells browsers which responses scripts may read.

    What the upstream says of CORS itself is taken out: two answers to one question make browsers refuse both.
    """

    __slots__ = ("_expose", "_expose_all", "_headers", "_methods", "_origins", "_policy")

    def __init__(self, policy: Cors) -> None:
        self._policy = policy
        self._origins = Origins(policy.origins)
        # None: `*`, that is whatever was asked for.
        self._methods = None if "*" in policy.methods else ", ".join(policy.methods)
        self._headers = None if "*" in policy.headers else ", ".join(policy.headers)
        self._expose_all = "*" in policy.expose
        self._expose = ", ".join(policy.expose)

    def preflight(self, head: RequestHead) -> Reply | None:
        """Return the answer to a preflight; None for any other request.

        Asked before plugins: browsers send preflights without credentials, so whoever asks for some must not see them.
        A preflight of an origin that is not allowed gets 403 without a CORS header.
        """
        if head.method != "OPTIONS":
            return None
        origin = head.header("origin")
        method = head.header(_PREFIX + "request-method")
        if origin is None or method is None:
            return None
        vary = ("vary", _VARY_PREFLIGHT)
        empty = ("content-length", "0")
        if not self._origins.allow(origin):
            return Reply(403, (vary, empty))
        found = list(self._allowed(origin))
        methods = self._methods
        if methods is None:
            methods = method if _METHOD.fullmatch(method) else ""
        if methods:
            found.append((_PREFIX + "allow-methods", methods))
        # Who asks for no headers is told of none (Gateway API, HTTPCORSFilter.allowHeaders).
        asked = head.header(_PREFIX + "request-headers")
        names = self._headers if asked is not None else ""
        if names is None:
            names = asked if asked and len(asked) <= _MAX_NAMES and _NAMES.fullmatch(asked) else ""
        if names:
            found.append((_PREFIX + "allow-headers", names))
        if self._expose and not (self._expose_all and self._policy.credentials):
            found.append((_PREFIX + "expose-headers", self._expose))
        found.append((_PREFIX + "max-age", str(self._policy.max_age_s)))
        # 200, not 204: some old clients take no other status for a success (Fetch asks for any ok status).
        return Reply(200, (*found, vary, empty))

    def headers(self, origin: str | None, response: Headers = ()) -> Headers:
        """Return what a response to this origin carries, None being a request without one. response: its own headers.

        Also for the gateway's own answers: without these a script sees a failed call instead of a 429.
        """
        vary: Headers = (("vary", "origin"),)
        for name, value in response:
            if name == "vary" and {"*", "origin"} & {item.strip().lower() for item in value.split(",")}:
                vary = ()
        if origin is None or not self._origins.allow(origin):
            return vary
        expose = self._expose
        if self._expose_all and self._policy.credentials:
            # With credentials `*` would be a header's name.
            expose = ", ".join(
                sorted({name for name, _ in response if name not in _HIDDEN and not name.startswith(_PREFIX)})
            )
        exposed: Headers = ((_PREFIX + "expose-headers", expose),) if expose else ()
        return (*self._allowed(origin), *exposed, *vary)

    def _allowed(self, origin: str) -> Headers:
        allowed = (_PREFIX + "allow-origin", origin)
        return (allowed, (_PREFIX + "allow-credentials", "true")) if self._policy.credentials else (allowed,)

    def on_request(self, head: RequestHead, place: Place) -> RequestHead | Reply:
        """Answer a preflight; let anything else go on."""
        return self.preflight(head) or head

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Put this policy's headers in place of the upstream's."""
        kept = tuple(pair for pair in response.headers if not pair[0].startswith(_PREFIX))
        return replace(response, headers=(*kept, *self.headers(request.header("origin"), kept)))
