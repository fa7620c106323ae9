"""What logs, traces, samples and the admin API must not show: the one place that says which names are secret."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_plus

REDACTED = "[redacted]"

# Names of query parameters and headers whose values let someone in. Matched as whole words of the name; camelCase is split.
_SECRET = re.compile(
    r"(?:^|[-_.\[\]])(?:api[-_]?key|apikey|key|token|access[-_]?token|secret|password|passwd|pwd|auth|authorization|cookie"
    r"|signature|sig|session|sessionid|credential|credentials|code|jwt|assertion)(?:$|[-_.\[\]])",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MAX_NAME = 256


@lru_cache(2048)
def _is_secret(name: str) -> bool:
    return _SECRET.search(_CAMEL.sub("_", name)) is not None or _SECRET.search(name) is not None


def is_secret(name: str) -> bool:
    """Return whether values of a header or query parameter with this name are kept out of logs and traces.

    A name too long to be anyone's is secret: it costs nothing to hide, and nothing long is kept here.
    """
    return len(name) > _MAX_NAME or _is_secret(name)


def redact_query(query: str) -> str:
    """Return the query with the values of secret parameters replaced. Names may be percent-encoded, as servers decode them."""
    if not query:
        return ""
    parts = []
    for part in query.split("&"):
        name, equals, _ = part.partition("=")
        plain = unquote_plus(name) if "%" in name or "+" in name else name
        parts.append(f"{name}={REDACTED}" if equals and is_secret(plain) else part)
    return "&".join(parts)
