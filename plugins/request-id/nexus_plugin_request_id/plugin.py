"""The plugin: sets the id on the request, and on the response."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import Plugin, RequestHead, ResponseHead

from .ids import ulid, uuid4

_SANE = re.compile(r"[\x21-\x7e]{1,128}")
"""What of a client's id is kept: printable, no spaces, bounded. It ends up in logs and headers."""


class RequestId(Plugin):
    """Gives every request an id."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._header = str(config.get("header", "x-request-id")).lower()
        self._ulid = config.get("format", "uuid4") == "ulid"
        self._trust = bool(config.get("trustClient", True))
        self._response = bool(config.get("response", True))

    def on_request(self, request: RequestHead) -> RequestHead:
        """Keep the client's id if it is trusted and sane, else make one."""
        sent = request.header(self._header)
        if self._trust and sent is not None and _SANE.fullmatch(sent):
            return request.with_header(self._header, sent)
        return request.with_header(self._header, self._new())

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return the id to the client."""
        sent = request.header(self._header)
        return response.with_header(self._header, sent) if self._response and sent is not None else response

    def _new(self) -> str:
        if self._ulid:
            return ulid(time.time_ns() // 1_000_000, secrets.token_bytes(10))
        return uuid4(secrets.token_bytes(16))
