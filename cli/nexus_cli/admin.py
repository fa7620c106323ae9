"""Asks a gateway's admin API. On urllib, because a command that asks once should not load a web framework."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from nexus_cli.errors import UserError

TIMEOUT_S = 5.0
MAX_BYTES = 64 * 1024 * 1024


def check_url(url: str, what: str) -> str:
    """Return the base URL without a slash at its end. Raises UserError when it is none."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{what} {url!r} is not a URL. Write it like http://127.0.0.1:8081.")
    return url.rstrip("/")


def get(admin: str, path: str, **query: str) -> Any:
    """Return the JSON that `GET {admin}{path}` answers. Raises UserError when nobody answers or it is no JSON."""
    base = check_url(admin, "--admin")
    given = {name: value for name, value in query.items() if value}
    url = f"{base}{path}" + (f"?{urllib.parse.urlencode(given)}" if given else "")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
            return json.loads(reply.read(MAX_BYTES))
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
