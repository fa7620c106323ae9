"""What a rule does with requests and responses. Header names are lower-case; values are as written."""

from __future__ import annotations

from typing import Literal

import msgspec

from nexus_core.snapshot.policies import HashKey


class HeaderModifier(msgspec.Struct, frozen=True, omit_defaults=True, tag="header-modifier"):
    """Set (replace), add (append) and remove headers of the request or of the response, in that order: remove, set, add."""

    on: Literal["request", "response"]
    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class UrlRewrite(msgspec.Struct, frozen=True, omit_defaults=True, tag="url-rewrite"):
    """Change host and path before the request goes upstream.

    path_kind: `full` puts `path` in place of the whole path; `prefix` in place of the matched prefix; `none` keeps it.
    hostname: empty keeps the client's host.
    """

    hostname: str = ""
    path_kind: Literal["none", "full", "prefix"] = "none"
    path: str = ""


class Redirect(msgspec.Struct, frozen=True, omit_defaults=True, tag="redirect"):
    """Answer with a Location instead of calling an upstream. Empty scheme/hostname and port 0 keep the request's own."""

    scheme: Literal["", "http", "https"] = ""
    hostname: str = ""
    port: int = 0
    path_kind: Literal["none", "full", "prefix"] = "none"
    path: str = ""
    status: Literal[301, 302, 303, 307, 308] = 302


class DirectReply(msgspec.Struct, frozen=True, omit_defaults=True, tag="direct-reply"):
    """Answer with this instead of calling an upstream. body: text, UTF-8 on the wire."""

    status: int = 200
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"


class Cors(msgspec.Struct, frozen=True, omit_defaults=True, tag="cors"):
    """Cross-origin requests (the Fetch standard's CORS protocol). Preflights are answered here.

    origins: `https://a.example`, `https://*.example` (one or more labels) or `*`. methods, headers: what a preflight may ask for, `*`
    for anything. expose: response headers scripts may read. max_age_s: how long browsers may keep a preflight's answer.
    """

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("GET", "HEAD", "POST")
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age_s: int = 5


class Mirror(msgspec.Struct, frozen=True, omit_defaults=True, tag="mirror"):
    """Send a copy of the request to another upstream and throw its answer away.

    ratio: share of requests. Bodies up to the gateway's replay size are copied; requests with larger ones are not mirrored.
    """

    upstream: str
    ratio: float = 1.0


class RateLimit(msgspec.Struct, frozen=True, omit_defaults=True, tag="rate-limit"):
    """At most `requests` in `per_s` seconds, spread evenly (GCRA), with `burst` at once; more are answered 429.

    Source: ITU-T I.371, generic cell rate algorithm. key: counted for each value of it, for all requests together without;
    a request that has none of the keys is counted by its client's address. burst: 0 takes `requests`.
    name: identity of its counters, kept through every change of the Snapshot.
    """

    name: str
    requests: int
    per_s: float = 1.0
    burst: int = 0
    key: tuple[HashKey, ...] = ()


class SizeLimit(msgspec.Struct, frozen=True, omit_defaults=True, tag="size-limit"):
    """Bodies above are refused: requests with 413, responses with 502 (or broken off, once begun). 0: any size."""

    request_bytes: int = 0
    response_bytes: int = 0


class Fault(msgspec.Struct, frozen=True, omit_defaults=True, tag="fault"):
    """Trouble on purpose: delay a share of requests, answer a share with a status. Drawn independently."""

    delay_s: float = 0.0
    delay_ratio: float = 0.0
    abort_status: int = 503
    abort_ratio: float = 0.0


class Fallback(msgspec.Struct, frozen=True, omit_defaults=True, tag="fallback"):
    """What a client gets instead of the gateway's own 502, 503 or 504.

    upstream: tried once, empty for none; then, or without one, the reply. reply: None leaves the gateway's own answer.
    """

    upstream: str = ""
    reply: DirectReply | None = None


Filter = HeaderModifier | UrlRewrite | Redirect | DirectReply | Cors | Mirror | RateLimit | SizeLimit | Fault | Fallback
