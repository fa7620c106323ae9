"""The plugin: answers preflights, and tells browsers which responses scripts may read.

Source: Fetch standard, "CORS protocol" (https://fetch.spec.whatwg.org/#http-cors-protocol); Private Network Access (WICG).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nexus_sdk.plugin import Headers, Plugin, PluginConfigError, Reply, RequestHead, ResponseHead

from .origins import Origins

_PREFIX = "access-control-"
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_MAX_NAMES = 4096
_VARY_PREFLIGHT = "origin, access-control-request-method, access-control-request-headers"


class Cors(Plugin):
    """Lets scripts of other origins call a route."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._origins = Origins(config["origins"], config["originPatterns"])
        self._credentials = bool(config["credentials"])
        if self._credentials and self._origins.any:
            raise PluginConfigError(
                "config.credentials: with `*` in config.origins every page on the web could act as the user; list the origins."
            )
        # Without credentials `*` says the same to everybody, so that caches need no copy for each origin.
        self._same_for_all = self._origins.any
        # None: `*`, that is whatever was asked for.
        self._methods = _joined(config["methods"])
        self._headers = _joined(config["headers"])
        self._refuse_others = bool(config["refuseOthers"])
        self._private_network = bool(config["privateNetwork"])
        self._preflight: Headers = (
            (_PREFIX + "max-age", str(config["maxAgeSeconds"])),
            ("content-length", "0"),
        )  # fmt: skip
        exposed = ", ".join(config["exposeHeaders"])
        self._expose: Headers = ((_PREFIX + "expose-headers", exposed),) if exposed else ()

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the answer to a preflight; any other request goes on, unless those of other origins are refused."""
        origin = request.header("origin")
        if origin is None:
            return request
        if request.method == "OPTIONS":
            method = request.header(_PREFIX + "request-method")
            if method is not None:
                return self._answer(request, origin, method)
        if self._refuse_others and origin not in self._origins and not _is_own(origin, request.host):
            return self._refusal()
        return request

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return the response with what browsers are told. What the service says of CORS itself is taken out.

        Two answers to one question make browsers refuse both.
        """
        headers = tuple([pair for pair in response.headers if not pair[0].startswith(_PREFIX)])
        if not self._same_for_all:
            headers = _vary(headers, "origin")
        origin = request.header("origin")
        if origin is not None and origin in self._origins:
            headers = (*headers, *self._allowed(origin), *self._expose)
        return response.with_headers(headers)

    def _answer(self, request: RequestHead, origin: str, method: str) -> Reply:
        vary = ("vary", _VARY_PREFLIGHT)
        if self._private_network:
            vary = ("vary", _VARY_PREFLIGHT + f", {_PREFIX}request-private-network")
        if origin not in self._origins:
            return Reply(403, (vary, ("content-length", "0")))
        found = list(self._allowed(origin))
        methods = self._methods if self._methods is not None else method if _TOKEN.fullmatch(method) else ""
        if methods:
            found.append((_PREFIX + "allow-methods", methods))
        asked = request.header(_PREFIX + "request-headers")
        names = self._named(asked) if asked else ""
        if names:
            found.append((_PREFIX + "allow-headers", names))
        if self._private_network and request.header(_PREFIX + "request-private-network") == "true":
            found.append((_PREFIX + "allow-private-network", "true"))
        return Reply(204, (*found, vary, *self._preflight))

    def _named(self, asked: str) -> str:
        """Return what a preflight is told of headers: all that are allowed, or what it asks for where any are."""
        if self._headers is not None:
            return self._headers
        # `*` itself does not cover Authorization, nor anything with credentials; what was asked for does.
        return asked if len(asked) <= _MAX_NAMES and _NAMES.fullmatch(asked) else ""

    def _allowed(self, origin: str) -> Headers:
        allow = (_PREFIX + "allow-origin", "*" if self._same_for_all else origin)
        return (allow, (_PREFIX + "allow-credentials", "true")) if self._credentials else (allow,)

    def _refusal(self) -> Reply:
        body = {
            "type": "about:blank", "title": "Requests from this origin are not accepted", "status": 403, "reason": "OriginRefused",
        }  # fmt: skip
        headers = (("content-type", "application/problem+json"), ("cache-control", "no-store"), ("vary", "origin"))
        return Reply(403, headers, json.dumps(body).encode())


def _joined(names: Iterable[str]) -> str | None:
    """Return a list as a header has it, None if any name is meant."""
    listed = set(names)
    return None if "*" in listed else ", ".join(sorted(listed, key=str.lower))


def _is_own(origin: str, host: str) -> bool:
    """Return whether an origin is the host that was asked: browsers send Origin with their own pages' POSTs, too."""
    rest = origin.lower().partition("://")[2]
    name = rest.partition("]")[0] + "]" if rest.startswith("[") else rest.partition(":")[0]
    return bool(host) and name == host


def _vary(headers: Headers, name: str) -> Headers:
    """Return the headers with a name in Vary, once."""
    listed = [each.strip().lower() for key, value in headers if key == "vary" for each in value.split(",")]
    return headers if name in listed or "*" in listed else (*headers, ("vary", name))
