"""What plugins cost in services: in event hubs and GraphQL gateways, which run plugins of their own beside the gateway's.

Each instance answers for itself at `/plugins`; those of one service are added up, as a gateway's workers are.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_core.translate.service_plugins import KINDS
from nexus_gateway.edge.workers import merging

TIMEOUT_S = 3.0
MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """rows: as a gateway's `/plugins` has them, each with its `service`, `<namespace>/<name>`. unheard: of each instance
    that did not say what its plugins cost, by its URL, a sentence.
    """

    rows: tuple[dict[str, Any], ...] = ()
    unheard: Mapping[str, str] = field(default_factory=dict)


def instances_of(directory: Path) -> tuple[str, ...]:
    """Return the base URLs of what `nexus up DIR` runs now that has plugins of its own; none where it does not run, or has a Consul."""
    try:
        listed = json.loads((directory / ".nexus" / "discovery.json").read_bytes())["services"]
        return tuple(
            f"http://{_host(endpoint['address'])}:{endpoint['port']}"
            for _, service in sorted(listed.items())
            if service["meta"].get("nexus-type") in KINDS
            for endpoint in service["endpoints"]
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # It may end at any moment, and what is in the file is for services to find each other: there is nothing to mend for anybody.
        return ()


def ask(urls: Iterable[str]) -> Found:
    """Return what the plugins of services cost. urls: of instances, without a slash at the end; the same one twice counts once."""
    answers: dict[str, list[dict[str, Any]]] = {}
    unheard: dict[str, str] = {}
    for url in dict.fromkeys(urls):
        try:
            with urllib.request.urlopen(f"{url}/plugins", timeout=TIMEOUT_S) as reply:
                answer = json.loads(reply.read(MAX_BYTES))
            answers.setdefault(str(answer["service"]), []).append({"plugins": list(answer["plugins"])})
        except urllib.error.HTTPError as error:
            unheard[url] = (
                f"{url}/plugins answered {error.code}: no event hub or GraphQL gateway of this release is there."
            )
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = getattr(error, "reason", error)
            unheard[url] = f"{url}/plugins did not say what plugins cost: {reason}."
    rows = [{**row, "service": name} for name, said in sorted(answers.items()) for row in _merged(said)]
    return Found(tuple(rows), unheard)


def _merged(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = merging.plugins(answers)["plugins"]
    return found


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
