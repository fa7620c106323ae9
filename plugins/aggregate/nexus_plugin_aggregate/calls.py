"""The calls of one route: what each needs, in which order they can be made, and what each brought."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import urlencode, urlsplit

from nexus_sdk.plugin import Called, CallFailed, Context, Headers, NotGranted, PluginConfigError

from .texts import Expression, Text, Unfit

SCOPE = ("path", "query", "header", "method", "body")
"""Names of the request in a scope; calls have others."""
_PLACE = re.compile(r"(https?|nexus)://[^/{}?#@]+(/.*)?", re.DOTALL)
_WRITTEN_BY_CALLS = frozenset(
    {"host", "content-length", "connection", "transfer-encoding", "te", "upgrade", "keep-alive", "trailer"}
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a part is missing. status: that was answered, 0 for none."""

    part: str
    reason: str
    detail: str
    status: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the member of the reply's errors."""
        made: dict[str, Any] = {"part": self.part, "reason": self.reason, "detail": self.detail}
        return {**made, "status": self.status} if self.status else made


@dataclass(frozen=True, slots=True)
class Part:
    """What a call brought: a value, or trouble. headers: those that the client gets of its answer."""

    value: Any = None
    trouble: Trouble | None = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One call, compiled. needs: names of calls that have to be over before."""

    name: str
    method: str
    url: Text
    query: Mapping[str, Text]
    headers: Mapping[str, Text]
    body: Expression | None
    take: Expression | None
    required: bool
    default: Any
    timeout_s: float
    max_bytes: int
    reply_headers: frozenset[str]
    roots: frozenset[str]
    needs: tuple[str, ...] = field(default=())

    async def make(self, context: Context, scope: Mapping[str, Any], forwarded: Headers) -> Part:
        """Return what the call brings. Never raises: trouble is a value."""
        try:
            url, headers, body = self._written(scope, forwarded)
        except Unfit as error:
            return self._failed("PartNotAsked", f"{error}.")
        try:
            called = await context.call(self.method, url, headers=headers, body=body, timeout_s=self.timeout_s)
        except (CallFailed, NotGranted) as error:
            # What failed names addresses: that is for the log, not for clients.
            context.log.warning("part %s: %s", self.name, error)
            return self._failed("PartUnreachable", "The service did not answer.")
        return self._read(called)

    def _written(self, scope: Mapping[str, Any], forwarded: Headers) -> tuple[str, Headers, bytes]:
        url = self.url.fill_path(scope)
        pairs = [(name, text) for name, each in self.query.items() if (text := each.fill(scope)) is not None]
        if pairs:
            url += ("&" if "?" in url else "?") + urlencode(pairs)
        own = tuple((name, text) for name, each in self.headers.items() if (text := each.fill(scope)) is not None)
        names = {name for name, _ in own}
        headers = (*(pair for pair in forwarded if pair[0] not in names), *own)
        body = b""
        if self.body is not None:
            body = json.dumps(self.body.value(scope), ensure_ascii=False).encode("utf-8", "replace")
            headers = (*headers, ("content-type", "application/json"))
        return url, (*headers, ("accept", "application/json")) if "accept" not in names else headers, body

    def _read(self, called: Called) -> Part:
        if not 200 <= called.status < 300:
            return self._failed("PartFailed", f"The service answered {called.status}.", called.status)
        if len(called.body) > self.max_bytes:
            return self._failed("PartTooLarge", f"The answer is larger than {self.max_bytes} bytes.", called.status)
        try:
            value = json.loads(called.body) if called.body else None
            value = self.take.value({"body": value, "status": called.status}) if self.take else value
        except Unfit as error:
            return self._failed("PartUnfit", f"{error}.", called.status)
        except (ValueError, RecursionError):
            return self._failed("PartNotJson", "The answer is not JSON.", called.status)
        headers = tuple(pair for pair in called.headers if pair[0] in self.reply_headers)
        return Part(value, None, headers)

    def _failed(self, reason: str, detail: str, status: int = 0) -> Part:
        return Part(self.default, Trouble(self.name, reason, detail, status))


def compile_calls(calls: Mapping[str, Mapping[str, Any]], where: str, external: str = "") -> tuple[Call, ...]:
    """Return the calls, each after those that it needs. external: `host[:port]` outside Nexus that they may name.

    Raises PluginConfigError.
    """
    made = {name: _compile(name, call, f"{where}.{name}", external) for name, call in calls.items()}
    needs = {name: tuple(sorted(call.roots & (made.keys() - {name}))) for name, call in made.items()}
    for name, call in made.items():
        strange = call.roots - made.keys() - set(SCOPE)
        if name in call.roots or strange:
            root = name if name in call.roots else min(strange)
            known = ", ".join([*SCOPE, *(each for each in made if each != name)])
            raise PluginConfigError(f"{where}.{name}: {root!r} is not there for its expressions; there are: {known}.")
    try:
        order = tuple(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise PluginConfigError(f"{where}: the calls wait for each other: {' → '.join(error.args[1])}.") from error
    return tuple(
        Call(**{each: getattr(made[name], each) for each in Call.__slots__ if each != "needs"}, needs=needs[name])
        for name in order
    )


def _compile(name: str, call: Mapping[str, Any], where: str, external: str) -> Call:
    if name in SCOPE:
        raise PluginConfigError(f"{where}: {name!r} is a part of the request; give the call another name.")
    url = Text(call["url"], f"{where}.url")
    place = _PLACE.fullmatch(url.fixed[0])
    if place is None or (place[2] is None and len(url.fixed) > 1):  # `https://host{x}` would choose another host
        raise PluginConfigError(
            f"{where}.url: scheme and host are fixed, such as nexus://<namespace>/<service>/… or https://host/…; "
            "expressions stand after them."
        )
    if url.fixed[0].startswith("nexus://") and url.fixed[0].count("/") < (3 if len(url.fixed) == 1 else 4):
        raise PluginConfigError(f"{where}.url: the service is fixed: nexus://<namespace>/<service>/….")
    host = urlsplit(url.fixed[0]).netloc.lower()
    if place[1] != "nexus" and host != external:
        raise PluginConfigError(
            f"{where}.url: {host} may not be called; name a NexusService, or set config.external to it."
        )
    query = {each: Text(text, f"{where}.query.{each}") for each, text in call.get("query", {}).items()}
    headers = {each.lower(): Text(text, f"{where}.headers.{each}") for each, text in call.get("headers", {}).items()}
    forbidden = headers.keys() & _WRITTEN_BY_CALLS
    if forbidden:
        raise PluginConfigError(f"{where}.headers: {min(forbidden)} is written by the gateway; remove it.")
    body = Expression(call["body"], f"{where}.body") if "body" in call else None
    take = Expression(call["take"], f"{where}.take") if "take" in call else None
    if take is not None and take.roots - {"body", "status"}:
        raise PluginConfigError(f"{where}.take: it sees `body` and `status` of the answer alone.")
    texts: list[Text | Expression] = [url, *query.values(), *headers.values(), *([body] if body else [])]
    return Call(
        name, call.get("method", "GET"), url, query, headers, body, take, bool(call.get("required", True)), call.get("default"),
        float(call.get("timeoutSeconds", 2.0)), int(call.get("maxBytes", 2**20)),
        frozenset(each.lower() for each in call.get("replyHeaders", ())) - _WRITTEN_BY_CALLS,
        frozenset(root for text in texts for root in text.roots),
    )  # fmt: skip
