"""The plugin: scores each request by heuristics, and lets it pass, challenges the browser, or refuses it."""

from __future__ import annotations

import ipaddress
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from nexus_sdk.plugin import Plugin, PluginConfigError, Reply, RequestHead

from .challenge import Challenges
from .signs import KNOWN_BAD, Words, agent_of, points
from .wandering import Wandering

_NAVIGATIONS = ("GET", "HEAD")
_NAMELESS = 3
"""Points for a request without a user agent."""
_WANDERING = 4
"""Points for a client that asks for more different paths than configured."""


class BotGuard(Plugin):
    """Keeps unwanted bots from a route, as far as heuristics can."""

    clock: Callable[[], float] = staticmethod(time.time)
    """Seconds since 1970; tests set their own."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._bad = Words([*(KNOWN_BAD if config["knownBadBots"] else ()), *config["denyAgents"]])
        self._good = Words(config["allowAgents"])
        self._good_networks = tuple(_network(text, index) for index, text in enumerate(config["allowNetworks"]))
        self._empty = str(config["emptyAgent"])
        self._heuristics = bool(config["heuristics"])
        self._most_paths = int(config["pathsPerWindow"])
        self._wandering = Wandering(float(config["windowSeconds"]), int(config["maxClients"]), secrets.randbits(64))
        self._refuse_at = int(config["refuseAt"])
        self._challenge_at = int(config["challengeAt"])
        self._exempt = tuple(str(path) for path in config["exempt"])
        self._challenges: Challenges | None = None
        challenge: Mapping[str, Any] = config["challenge"]
        self._secure = not challenge.get("insecure", False)
        self._cookie = ("__Host-" if self._secure else "") + "nexus-guard"
        if challenge.get("enabled", False):
            if not challenge.get("secret"):
                raise PluginConfigError(
                    "config.challenge.secret: challenges are signed; set one of 32 characters or more, from a Secret."
                )
            self._challenges = Challenges(
                str(challenge["secret"]), int(challenge.get("bits", 16)), int(challenge.get("lifetimeSeconds", 86400))
            )

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request, a page that challenges the browser, or 403."""
        if self._exempt and self._is_exempt(request.path):
            return request
        agent = agent_of(request)
        if agent and self._good.found_in(agent) and self._is_from_good_network(request.client_ip):
            return request
        if self._bad.found_in(agent):
            return self._refuse(request, "BotRefused")
        if not agent and self._empty == "refuse":
            return self._refuse(request, "AgentMissing")
        score = self._score(request, agent)
        if score < self._challenge_at and score < self._refuse_at:
            return request
        if self._challenges is None:
            return self._refuse(request, "BotSuspected") if score >= self._refuse_at else request
        # Whoever did the work is believed to be a browser; what it does with it still counts.
        is_solved = self._is_solved(request, agent, self._challenges)
        if score >= self._refuse_at + (_WANDERING if is_solved else 0):
            return self._refuse(request, "BotSuspected")
        return request if is_solved else self._ask(request, agent, self._challenges)

    def _score(self, request: RequestHead, agent: str) -> int:
        score = points(request, agent) if self._heuristics else 0
        if not agent and self._empty == "suspect":
            score += _NAMELESS
        if self._most_paths and self._wandering.add(request.client_ip, request.path, self.clock()) > self._most_paths:
            score += _WANDERING
        return score

    def _is_exempt(self, path: str) -> bool:
        return any(path.startswith(each[:-1]) if each.endswith("*") else path == each for each in self._exempt)

    def _is_from_good_network(self, client_ip: str) -> bool:
        """Return whether an address is one of the good bots', or none are listed: a name alone anybody can send."""
        if not self._good_networks:
            return True
        try:
            address = ipaddress.ip_address(client_ip.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address.version == each.version and address in each for each in self._good_networks)

    def _is_solved(self, request: RequestHead, agent: str, challenges: Challenges) -> bool:
        found = [
            value.strip()
            for name, line in request.headers
            if name == "cookie"
            for key, _, value in [pair.partition("=") for pair in line.split(";")]
            if key.strip() == self._cookie
        ]
        return len(found) == 1 and challenges.is_solved(found[0], _client(request, agent), self.clock())

    def _ask(self, request: RequestHead, agent: str, challenges: Challenges) -> Reply:
        if request.method not in _NAVIGATIONS or "text/html" not in (request.header("accept") or "text/html"):
            # A script or a form cannot do anything with a page, and loading it again would lose what was sent.
            return self._refuse(request, "ChallengeUnsolved")
        page, policy = challenges.page(_client(request, agent), self.clock(), self._cookie, secure=self._secure)
        headers = (
            ("content-type", "text/html; charset=utf-8"),
            ("cache-control", "no-store"),
            ("content-security-policy", policy),
            ("referrer-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
        )
        return Reply(403, headers, page)

    def _refuse(self, request: RequestHead, reason: str) -> Reply:
        problem: dict[str, Any] = {
            "type": "about:blank", "title": "The request looks like an unwanted bot's", "status": 403, "reason": reason,
        }  # fmt: skip
        request_id = request.header("x-request-id")
        if request_id:
            problem["request_id"] = request_id
        headers = (("content-type", "application/problem+json"), ("cache-control", "no-store"))
        return Reply(403, headers, json.dumps(problem).encode())


def _client(request: RequestHead, agent: str) -> str:
    """Return what a challenge is bound to. JSON keeps address and agent apart, whatever is in them."""
    return json.dumps([request.host, request.client_ip, agent])


def _network(text: str, index: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise PluginConfigError(
            f"config.allowNetworks[{index}]: {error}; write it like 192.0.2.0/24 or 2001:db8::/32."
        ) from error
