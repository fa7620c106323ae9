"""The plugin: looks the key up, names the consumer, takes the key out of the request."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_plus

from nexus_sdk.plugin import Plugin, PluginConfigError, Reply, RequestHead

CONSUMER = "x-consumer-name"
_MAX_KEY = 4096


class ApiKey(Plugin):
    """Lets only requests with a known key pass."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._header = str(config.get("header", "x-api-key")).lower()
        if self._header == CONSUMER:
            raise PluginConfigError(
                f"config.header: {CONSUMER} is what the plugin tells the service; choose another header."
            )
        self._query = config.get("query")
        self._keys = tuple((str(key["name"]), bytes.fromhex(key["sha256"])) for key in config["keys"])
        self._pass_key = bool(config.get("passKey", False))
        self._challenge = f'ApiKey realm="{config.get("realm", "nexus")}"'

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request with its consumer named, or 401."""
        key, cleaned = self._take(request)
        if key is None:
            return self._refuse(request, "ApiKeyMissing", "The request carries no API key.")
        consumer = self._find(key)
        if consumer is None:
            return self._refuse(request, "ApiKeyUnknown", "The API key is not known.")
        return (request if self._pass_key else cleaned).with_header(CONSUMER, consumer)

    def _take(self, request: RequestHead) -> tuple[str | None, RequestHead]:
        """Return the key, and the request without it."""
        values = [value for name, value in request.headers if name == self._header]
        cleaned = request.without_header(self._header)
        found: str | None = None
        if len(values) == 1:
            found = values[0].strip()
        if self._query is not None:
            parts = request.query.split("&") if request.query else []
            mine = [part for part in parts if unquote_plus(part.partition("=")[0]) == self._query]
            cleaned = replace(cleaned, query="&".join(part for part in parts if part not in mine))
            if not values and len(mine) == 1:
                found = unquote_plus(mine[0].partition("=")[2])
        return (found if found and len(found) <= _MAX_KEY else None), cleaned

    def _find(self, key: str) -> str | None:
        """Return whose key it is. Every known key is compared, in constant time, so that the time taken tells nothing."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        consumer: str | None = None
        for name, known in self._keys:
            if hmac.compare_digest(digest, known):
                consumer = name
        return consumer

    def _refuse(self, request: RequestHead, reason: str, detail: str) -> Reply:
        body: dict[str, Any] = {
            "type": "about:blank", "title": "A valid API key is needed", "status": 401, "reason": reason, "detail": detail,
        }  # fmt: skip
        request_id = request.header("x-request-id")
        if request_id:
            body["request_id"] = request_id
        headers = (
            ("content-type", "application/problem+json"),
            ("www-authenticate", self._challenge),
            ("cache-control", "no-store"),
        )
        return Reply(401, headers, json.dumps(body).encode())
