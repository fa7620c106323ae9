"""Whether a response may be stored, for how long it is fresh, and what it is good for afterwards. Pure.

Source: RFC 9111, 3 (storing), 4.2 (freshness); RFC 5861 (stale-while-revalidate, stale-if-error).
"""

from __future__ import annotations

from dataclasses import dataclass

from nexus_sdk.plugin import RequestHead, ResponseHead

from . import directives

_HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses that may be stored though nothing says for how long (RFC 9110, 15.1)."""
_NEVER = frozenset({206, 304})
"""What this cache does not understand as a whole response."""
_CREDENTIALS = ("authorization", "x-consumer-name")
"""The second is what plugins that check credentials put in their place: api-key and basic-auth take the credentials themselves out."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where a response says nothing. All in seconds. most_s: fresh for no longer, whatever it says."""

    fresh_s: float = 0.0
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    most_s: float = 86400.0


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a response is stored. All in seconds.

    validate: it is asked about before each use. authorized: it is good for requests with credentials, too.
    """

    lifetime_s: float
    stale_while_revalidate_s: float
    stale_if_error_s: float
    validate: bool
    authorized: bool


def is_authorized(request: RequestHead) -> bool:
    """Return whether a request has credentials, or had some that a plugin before this one checked."""
    return any(name in _CREDENTIALS for name, _ in request.headers)


def terms_of(request: RequestHead, response: ResponseHead, defaults: Defaults) -> Terms | None:
    """Return the terms on which a shared cache may store the response to a GET, None when it may not."""
    status = response.status
    if status < 200 or status in _NEVER:
        return None
    headers = response.headers
    said = directives.parse(directives.values(headers, "cache-control"))
    asked = directives.parse(directives.values(request.headers, "cache-control"))
    understood = "must-understand" in said and status in _HEURISTIC
    if "no-store" in asked or ("no-store" in said and not understood) or "private" in said:
        return None
    shared_s = directives.seconds(said, "s-maxage")
    # RFC 9111, 3.5: what was asked for with credentials is for others only if it says so.
    authorized = "public" in said or "must-revalidate" in said or shared_s is not None
    if is_authorized(request) and not authorized:
        return None
    # A cookie is for one user; storing it is allowed, and gives one user's session to all.
    if response.header("set-cookie") is not None or "*" in directives.values(headers, "vary"):
        return None
    lifetime_s = _lifetime(response, said, shared_s)
    if lifetime_s is None:
        if status not in _HEURISTIC and "public" not in said:
            return None
        lifetime_s = defaults.fresh_s
    lifetime_s = min(lifetime_s, defaults.most_s)
    validate = "no-cache" in said
    strict = "must-revalidate" in said or "proxy-revalidate" in said
    while_s = directives.seconds(said, "stale-while-revalidate")
    if_error_s = directives.seconds(said, "stale-if-error")
    # RFC 9111, 5.2.2.10: s-maxage forbids stale use, too; a response that names both means its own words for it.
    plain = not strict and shared_s is None
    terms = Terms(
        0.0 if validate else lifetime_s,
        0.0
        if strict or validate
        else while_s
        if while_s is not None
        else defaults.stale_while_revalidate_s
        if plain
        else 0.0,
        0.0
        if strict or validate
        else if_error_s
        if if_error_s is not None
        else defaults.stale_if_error_s
        if plain
        else 0.0,
        validate,
        authorized,
    )
    useful = terms.lifetime_s or terms.stale_while_revalidate_s or terms.stale_if_error_s
    validator = response.header("etag") or response.header("last-modified")
    return terms if useful or validator else None


def _lifetime(response: ResponseHead, said: directives.Directives, shared_s: float | None) -> float | None:
    """Return the freshness lifetime that is stated, None when none is (RFC 9111, 4.2.1)."""
    if shared_s is not None:
        return shared_s
    own_s = directives.seconds(said, "max-age")
    if own_s is not None:
        return own_s
    expires = directives.values(response.headers, "expires")
    if not expires:
        return None
    until, made = directives.date(expires), directives.date(response.header("date"))
    return max(0.0, until - made) if until is not None and made is not None else 0.0


def initial_age_s(response: ResponseHead, now: float, delay_s: float) -> float:
    """Return a response's age when it arrived (RFC 9111, 4.2.3). now: seconds since 1970. delay_s: since it was asked for."""
    made = directives.date(response.header("date"))
    apparent_s = max(0.0, now - made) if made is not None else 0.0
    text = directives.values(response.headers, "age").partition(",")[0].strip()
    stated_s = min(float(text), directives.MOST_S) if text.isascii() and text.isdigit() else 0.0
    return max(apparent_s, stated_s + delay_s)
