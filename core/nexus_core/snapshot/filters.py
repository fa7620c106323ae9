"""What a rule changes on heads. Header names are lower-case; values are as written."""

from __future__ import annotations

from typing import Literal

import msgspec


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


Filter = HeaderModifier | UrlRewrite | Redirect
