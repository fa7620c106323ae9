"""Sends a request with a signed debug token and reads the gateway's signed word on what happened to it."""

from __future__ import annotations

import http.client
import secrets
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nexus_core.match.asking import parse_question
from nexus_gateway.telemetry import debugging

from nexus_cli.errors import StepFailed, UserError

TIMEOUT_S = 30.0
AHEAD_S = 30
"""How long the token holds: half of what gateways take, for clocks that differ."""
MIN_KEY_BYTES = 16


def read_key(path: Path) -> bytes:
    """Return the key in a file, without white space around it. Raises UserError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Name a file that holds NEXUS_DEBUG_KEY.") from error
    if len(key) < MIN_KEY_BYTES:
        raise UserError(f"The key in {path} has {len(key)} characters; gateways take {MIN_KEY_BYTES} or more.")
    return key


def ask(method: str, url: str, lines: tuple[str, ...], key: bytes) -> dict[str, Any]:
    """Return what the gateway says happened to the request, with `request` as `/explain` has it.

    The request is sent for real. Raises UserError for a URL that cannot be used and for a gateway that does not answer, StepFailed
    for an answer without explanation or with a signature of another key.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r} is not a URL. With --live write it in full, like http://127.0.0.1:8080/orders.")
    given = dict(_pair(line) for line in lines)
    try:
        question = parse_question(method, url, lines)
        if "host" in given:
            question = parse_question(method, parts.path or "/", lines)
    except ValueError as error:
        raise UserError(f"The gateway answers 400 to {method} {url[:200]!r}: {error} Correct the URL.") from error
    nonce = secrets.token_urlsafe(12)
    token = debugging.make_token(key, question.method, question.host, question.path, int(time.time()) + AHEAD_S, nonce)
    status, answer = _send(parts.scheme, parts.netloc, method, url, {**given, debugging.ASKS: token})
    value, signature = answer.get(debugging.ANSWERS), answer.get(debugging.SIGNS)
    if value is None or signature is None:
        raise StepFailed(
            f"The gateway answered {status} and explained nothing. Its NEXUS_DEBUG_KEY is empty or another, its clock is "
            f"{AHEAD_S} s off, or a proxy before it changes host or path."
        )
    found = debugging.read_answer(key, nonce, value, signature)
    if found is None:
        raise StepFailed(f"The gateway answered {status} with an explanation that is not signed with this key.")
    return {"asked": {"method": question.method, "host": question.host, "path": question.path}, **found}


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _send(
    scheme: str, authority: str, method: str, url: str, headers: Mapping[str, str]
) -> tuple[int, Mapping[str, str]]:
    connection: http.client.HTTPConnection
    if scheme == "https":
        connection = http.client.HTTPSConnection(authority, timeout=TIMEOUT_S, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(authority, timeout=TIMEOUT_S)
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, headers=dict(headers))
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"No gateway answers at {scheme}://{authority} ({error}). Start one, or correct the URL."
        ) from error
    finally:
        connection.close()


def render(found: Mapping[str, Any]) -> str:
    """Return the answer for people."""
    asked = found["asked"]
    shown = f"{asked['method']} {asked['host']}{asked['path']}"
    reason = f", {found['reason']}" if found.get("reason") else ""
    lines = [f"{shown} was answered {found.get('status')}{reason} after {found.get('ms', 0):g} ms."]

    def add(name: str, text: str) -> None:
        lines.append(f"  {name.ljust(10)}{text}".rstrip())

    add(
        "route",
        f"{found.get('route') or 'none'} (rule {found.get('rule') or 'none'}), generation {found.get('generation')}",
    )
    for listener in found.get("listeners") or ():
        add("listener", listener)
    for plugin in found.get("plugins") or ():
        add("plugin", f"{plugin['id']} {plugin['hook']} at {plugin['at_ms']:g} ms, took {plugin['ms']:g} ms")
    for each in found.get("attempts") or ():
        hedge = ", a hedge" if each["hedge"] else ""
        status = f" {each['status']}" if each["status"] else ""
        add(
            "attempt",
            f"{each['endpoint']} {each['outcome']}{status} at {each['at_ms']:g} ms, took {each['ms']:g} ms,"
            f" circuit {each['circuit']}{hedge}",
        )
    for endpoint, state in (found.get("circuits") or {}).items():
        add("circuit", f"{endpoint} {state}")
    if found.get("service_circuit", "closed") != "closed":
        add("circuit", f"of the whole service {found['service_circuit']}")
    for other in found.get("others") or ():
        add("other", f"{other['route']}: {other['why']}")
    if found.get("cut"):
        add("", "(the answer was too long; parts are left out)")
    return "\n".join(lines)
