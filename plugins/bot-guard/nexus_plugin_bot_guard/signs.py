"""What a request's headers give away: the names of tools, and browsers that do not send what browsers send. Pure; heuristics all."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nexus_sdk.plugin import RequestHead

KNOWN_BAD = (
    "acunetix", "ahrefsbot", "blexbot", "bytespider", "dataforseobot", "dirbuster", "dotbot", "fimap", "gobuster", "havij", "jorgee",
    "masscan", "megaindex", "mj12bot", "nessus", "netsparker", "nikto", "nmap", "nuclei", "openvas", "petalbot", "semrushbot", "seznambot",
    "sqlmap", "w3af", "webinspect", "wpscan", "zgrab", "zmeu",
)  # fmt: skip
"""In user agents of scanners and of crawlers that bring most sites nothing; lower-case."""

_LONGEST = 512
"""Characters of a user agent that are looked at."""
_BROWSER = re.compile(r"(?:chrome|chromium|edg|firefox)/([0-9]{1,4})")
_FETCH_SINCE = {"chrome": 80, "chromium": 80, "edg": 80, "firefox": 90}
"""The versions that send Sec-Fetch-* with every request to https."""


class Words:
    """A list of texts, any of which is looked for in user agents, without regard to case."""

    __slots__ = ("_pattern",)

    def __init__(self, words: Sequence[str]) -> None:
        # One alternation of plain texts: it cannot backtrack far, whatever is sent.
        self._pattern = re.compile("|".join(sorted({re.escape(word.lower()) for word in words}))) if words else None

    def found_in(self, agent: str) -> bool:
        """Return whether one of the words is in a user agent, lower-case."""
        return self._pattern is not None and self._pattern.search(agent) is not None


def agent_of(request: RequestHead) -> str:
    """Return the user agent, lower-case and bounded; empty for none."""
    return (request.header("user-agent") or "").strip()[:_LONGEST].lower()


def points(request: RequestHead, agent: str) -> int:
    """Return how little a request looks like a browser's, 0 to 7.

    Browsers send Accept, Accept-Language and Accept-Encoding: 1 point for each that is not there. What says it is a Chrome, Edge or
    Firefox of a version that sends Sec-Fetch-* and does not (2), or whose Sec-Fetch-* contradict each other (2), is something else.
    """
    found = 0
    site = mode = dest = None
    seen = 0
    for name, value in request.headers:
        if name == "accept" and value:
            seen |= 1
        elif name == "accept-language" and value:
            seen |= 2
        elif name == "accept-encoding" and value:
            seen |= 4
        elif name == "sec-fetch-site":
            site = value
        elif name == "sec-fetch-mode":
            mode = value
        elif name == "sec-fetch-dest":
            dest = value
    found += (~seen & 1) + (~seen >> 1 & 1) + (~seen >> 2 & 1)
    match = _BROWSER.search(agent)
    if match is not None and int(match[1]) >= _FETCH_SINCE[agent[match.start() : match.start(1) - 1]] and site is None:
        found += 2
    if (mode == "navigate" and dest in ("empty", "script", "style", "image", "font")) or (
        mode == "cors" and dest == "document"
    ):
        found += 2
    return found
