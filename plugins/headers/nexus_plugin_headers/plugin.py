"""The plugin: runs its rules over the headers of requests and responses, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import Plugin, RequestHead, ResponseHead

from .rules import Rule
from .templates import Moment


class HeaderRules(Plugin):
    """Sets, adds, removes and renames headers."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._request = self._rules("request", response=False)
        self._response = self._rules("response", response=True)

    def on_request(self, request: RequestHead) -> RequestHead:
        """Return the request with its headers changed. Values are taken from the request as it came to this plugin."""
        if not self._request:
            return request
        headers, moment = request.headers, Moment(request)
        for rule in self._request:
            headers = rule.apply(headers, moment)
        return request if headers is request.headers else request.with_headers(headers)

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        """Return the response with its headers changed. request: with the changes that this plugin made to it."""
        headers, moment = response.headers, Moment(request, response)
        for rule in self._response:
            headers = rule.apply(headers, moment)
        return response if headers is response.headers else response.with_headers(headers)

    def _rules(self, key: str, *, response: bool) -> tuple[Rule, ...]:
        values: Mapping[str, str] = self.config["values"]
        return tuple(
            Rule(rule, f"config.{key}[{index}]", values, response=response)
            for index, rule in enumerate(self.config[key])
        )
