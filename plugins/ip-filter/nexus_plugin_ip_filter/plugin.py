"""The plugin: looks the client's address up, and answers those that may not pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import Plugin, Reply, RequestHead

from .networks import Networks, parse_address, parse_network

_REMEMBERED = 4096
"""Addresses whose verdict is kept: parsing an address takes ten times as long as looking one up."""


class IpFilter(Plugin):
    """Lets clients of some networks pass, or all but those of others."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._allow = self._networks("allow")
        self._deny = self._networks("deny")
        self._status = int(config["status"])
        self._body = str(config["body"]).encode()
        self._type = str(config["contentType"])
        self._verdicts: dict[str, bool] = {}

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request, or the refusal when its client's address is not one of those that may pass."""
        passes = self._verdicts.get(request.client_ip)
        if passes is None:
            passes = self._judge(request.client_ip)
        return request if passes else self._refuse(request)

    def _networks(self, key: str) -> Networks:
        return Networks(parse_network(text, f"config.{key}[{index}]") for index, text in enumerate(self.config[key]))

    def _judge(self, client_ip: str) -> bool:
        """Return whether an address passes: it is not denied, and is allowed if anything is. What is no address never passes."""
        address = parse_address(client_ip)
        passes = address is not None and address not in self._deny and (not self._allow or address in self._allow)
        if len(self._verdicts) >= _REMEMBERED:
            self._verdicts.clear()
        self._verdicts[client_ip] = passes
        return passes

    def _refuse(self, request: RequestHead) -> Reply:
        if self._body:
            return Reply(self._status, (("content-type", self._type), ("cache-control", "no-store")), self._body)
        problem: dict[str, Any] = {
            "type": "about:blank", "title": "Requests from this address are not accepted", "status": self._status,
            "reason": "AddressRefused",
        }  # fmt: skip
        request_id = request.header("x-request-id")
        if request_id:
            problem["request_id"] = request_id
        headers = (("content-type", "application/problem+json"), ("cache-control", "no-store"))
        return Reply(self._status, headers, json.dumps(problem).encode())
