"""Asks a gateway's admin API. On urllib, because a command that asks once should not load a web framework."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from nexus_cli.errors import UserError

TIMEOUT_S = 5.0
FOLLOW_S = 30.0
"""Longest silence of a stream: a gateway writes an empty line more often than that."""
MAX_BYTES = 64 * 1024 * 1024


def check_url(url: str, what: str) -> str:
    """Return the base URL without a slash at its end. Raises UserError when it is none."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{what} {url!r} is not a URL. Write it like http://127.0.0.1:8081.")
    return url.rstrip("/")


def get(admin: str, path: str, **query: str) -> Any:
    """Return the JSON that `GET {admin}{path}` answers. Raises UserError when nobody answers or it is no JSON."""
    with _asked(admin, path, query, TIMEOUT_S) as reply:
        return json.loads(reply.read(MAX_BYTES))


def lines(admin: str, path: str, *, follow: bool) -> Iterator[dict[str, Any]]:
    """Yield the objects of an answer in NDJSON. follow: those that come, too, until the gateway ends. Raises UserError."""
    with _asked(admin, path, {"follow": "1" if follow else ""}, FOLLOW_S if follow else TIMEOUT_S) as reply:
        for line in reply:
            if line.strip():
                yield json.loads(line)


@contextlib.contextmanager
def _asked(admin: str, path: str, query: Mapping[str, str], timeout_s: float) -> Iterator[Any]:
    base = check_url(admin, "--admin")
    given = {name: value for name, value in query.items() if value}
    url = f"{base}{path}" + (f"?{urllib.parse.urlencode(given)}" if given else "")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as reply:
            yield reply
    except urllib.error.HTTPError as error:
        raise UserError(f"{url} answered {error.code}: {_detail(error)}") from error
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"No gateway answers at {base} ({reason}). Start one with `nexus up DIR`, or name its admin API with --admin."
        ) from error
    except ValueError as error:
        raise UserError(f"{url} did not answer JSON ({error}). Is {base} a Nexus admin API? Set --admin.") from error


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read(4096).decode(errors="replace")
    try:
        document = json.loads(text)
        return str(document.get("detail") or document.get("error") or document.get("title") or text)
    except (ValueError, AttributeError):
        return text.strip() or str(error.reason)
