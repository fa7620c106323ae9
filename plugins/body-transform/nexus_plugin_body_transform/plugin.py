"""The plugin: reads JSON bodies, makes them anew, and puts some of their values into headers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from nexus_sdk.plugin import Headers, Plugin, PluginConfigError, Reply, RequestHead, ResponseHead

from .templates import OMITTED, Expression, Means, Part, Unfit, compile_expression, compile_template

_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_MAX_HEADER = 4096
_OF_FORMER_BODY = frozenset({"content-length", "content-md5", "content-digest", "repr-digest", "digest", "etag"})
"""Headers that speak of the body as it was."""
_UNREADABLE = frozenset({"accept-encoding", "range", "if-range"})
"""What a request asks for that would keep a response from being read: a part of a JSON text is none, and would pass as it is."""


class BodyTransform(Plugin):
    """Makes bodies anew."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._request = Rule(config["request"], "config.request") if "request" in config else None
        self._response = Rule(config["response"], "config.response") if "response" in config else None
        if self._request is None and self._response is None:
            raise PluginConfigError("config: nothing to do; give request, response or both.")

    def on_request(self, request: RequestHead) -> RequestHead:
        """Ask for a whole response without compression when that is to be read; leave no header that only the plugin may set."""
        if self._response is not None:
            request = request.with_headers(tuple([pair for pair in request.headers if pair[0] not in _UNREADABLE]))
        if self._request is not None:
            for name in self._request.headers:
                request = request.without_header(name)
        return request

    def wants_request_body(self, request: RequestHead) -> bool:
        """Return whether there is a rule for requests."""
        return self._request is not None

    def on_request_body(self, request: RequestHead, body: bytes) -> bytes | tuple[RequestHead, bytes] | Reply:
        """Return the new body with the headers made of it, or why it cannot be made."""
        rule = self._request
        if rule is None or not body:
            return body
        means = Means(request, _query(request))
        if not rule.reads(request.headers):
            return (
                body if rule.not_json == "pass" else _refusal(request, 415, "BodyNotJson", "The body has to be JSON.")
            )
        try:
            content, made = rule.apply(body, means)
        except NotJson as error:
            return body if rule.not_json == "pass" else _refusal(request, 400, "BodyNotJson", str(error))
        except Unfit as error:
            return body if rule.failed == "pass" else _refusal(request, 422, "BodyUnfit", str(error))
        return request.with_headers(_renewed(request.headers, made, rule.changes)), content

    def wants_response_body(self, request: RequestHead, response: ResponseHead) -> bool:
        """Return whether there is a rule for this response."""
        if self._response is None or request.method == "HEAD" or response.status in (204, 205, 304):
            return False
        return self._response.is_about(response.status)

    def on_response_body(self, request: RequestHead, response: ResponseHead, body: bytes) -> bytes | Reply:
        """Return the response with its new body, or a 502 when it cannot be made."""
        rule = self._response
        if rule is None or not body:
            return body
        means = Means(request, _query(request), response.status)
        if not rule.reads(response.headers):
            return (
                body
                if rule.not_json == "pass"
                else _refusal(request, 502, "ResponseNotJson", "The service sent no JSON.")
            )
        try:
            content, made = rule.apply(body, means)
        except NotJson as error:
            return body if rule.not_json == "pass" else _refusal(request, 502, "ResponseNotJson", str(error))
        except Unfit as error:
            self.context.log.warning("response to %s %s: %s", request.method, request.path[:256], error)
            return (
                body
                if rule.failed == "pass"
                else _refusal(request, 502, "ResponseUnfit", "The response cannot be made.")
            )
        return Reply(response.status, _renewed(response.headers, made, rule.changes), content)


class NotJson(ValueError):
    """The body is no JSON; the message says why."""


class Rule:
    """What becomes of the bodies of one direction. headers: lower-case names that it sets. changes: whether it changes the body."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        if "expression" in config and "template" in config:
            raise PluginConfigError(f"{where}: expression and template are two ways; keep one of them.")
        self._part: Part | None = None
        if "expression" in config:
            self._part = compile_expression(config["expression"], f"{where}.expression").value
        elif "template" in config:
            self._part = compile_template(config["template"], f"{where}.template")
        self.headers: dict[str, Expression] = {
            name.lower(): compile_expression(text, f"{where}.headers.{name}")
            for name, text in config.get("headers", {}).items()
        }
        if self._part is None and not self.headers:
            raise PluginConfigError(f"{where}: nothing to do; give expression, template or headers.")
        self.changes = self._part is not None
        self.not_json = str(config.get("notJson", "pass"))
        self.failed = str(config.get("failed", "refuse"))
        self._statuses = tuple(str(each).lower() for each in config.get("statuses", ("2xx",)))
        self._max_bytes = int(config.get("maxBytes", 4 * 2**20))

    def is_about(self, status: int) -> bool:
        """Return whether responses of this status are changed."""
        return str(status) in self._statuses or f"{status // 100}xx" in self._statuses

    def reads(self, headers: Headers) -> bool:
        """Return whether a body with these headers can be read: JSON, not compressed."""
        media_type, encoding = "", "identity"
        for name, value in headers:
            if name == "content-type":
                media_type = value.partition(";")[0].strip().lower()
            elif name == "content-encoding":
                encoding = value.strip().lower()
        return encoding == "identity" and (media_type == "application/json" or media_type.endswith("+json"))

    def apply(self, body: bytes, means: Means) -> tuple[bytes, dict[str, str]]:
        """Return the new body, and headers made of the former. Raises `NotJson`, `Unfit`."""
        try:
            value = json.loads(body)
        except RecursionError as error:
            raise NotJson("The body is nested too deeply.") from error
        except ValueError as error:
            raise NotJson("The body is not JSON.") from error
        headers = {}
        for name, expression in self.headers.items():
            text = _header_text(expression.value(value, means), expression.text)
            if text is not None:
                headers[name] = text
        if self._part is None:
            return body, headers
        made = self._part(value, means)
        try:
            content = json.dumps(
                None if made is OMITTED else made, ensure_ascii=False, separators=(",", ":"), allow_nan=False
            ).encode()
        except (ValueError, TypeError) as error:  # infinities, halves of surrogate pairs, references to functions
            raise Unfit("The new body cannot be written as JSON.") from error
        if len(content) > self._max_bytes:
            raise Unfit(f"The new body has {len(content)} bytes; at most {self._max_bytes} are sent (maxBytes).")
        return content, headers


def _header_text(value: Any, expression: str) -> str | None:
    """Return a value as a header has it, None for none. Raises `Unfit` for what cannot stand in one."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise Unfit(
            f"The expression {expression[:200]!r} gives {type(value).__name__}, which cannot stand in a header."
        )
    if _UNSENDABLE.search(value) or len(value) > _MAX_HEADER:
        raise Unfit(f"The expression {expression[:200]!r} gives a text that cannot stand in a header.")
    return value.strip()


def _renewed(headers: Headers, made: Mapping[str, str], changed: bool) -> Headers:
    """Return the headers with those that were made, without those that speak of the former body."""
    kept = [
        pair for pair in headers if pair[0] not in made and not (changed and pair[0] in _OF_FORMER_BODY)
    ]  # fmt: skip
    return (*kept, *made.items())


def _query(request: RequestHead) -> dict[str, str]:
    return dict(parse_qsl(request.query, keep_blank_values=True)) if request.query else {}


def _refusal(request: RequestHead, status: int, reason: str, detail: str) -> Reply:
    body: dict[str, Any] = {
        "type": "about:blank", "title": "The body cannot be transformed", "status": status, "reason": reason, "detail": detail,
    }  # fmt: skip
    request_id = request.header("x-request-id")
    if request_id:
        body["request_id"] = request_id
    return Reply(status, (("content-type", "application/problem+json"),), json.dumps(body).encode())
