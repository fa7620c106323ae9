"""What is wrong with a message, and the reply that says so (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nexus_sdk.plugin import Reply, RequestHead


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    detail: what it has to be; never the value itself, which may be long or private. pointer: where in the body, as JSON pointer in
    a URI fragment (`#/items/0`), empty for a parameter. place, name: of a parameter.
    """

    detail: str
    pointer: str = ""
    place: str = ""
    name: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the member of the problem's `errors`."""
        where = {"in": self.place, "name": self.name} if self.place else {"pointer": self.pointer}
        return {"detail": self.detail, **where}


def pointer(path: Iterable[object]) -> str:
    """Return the place in a document as a URI fragment. Source: RFC 6901 sections 3 and 6, without percent-encoding."""
    return "#" + "".join("/" + str(part)[:128].replace("~", "~0").replace("/", "~1") for part in path)


def problem(
    request: RequestHead,
    status: int,
    reason: str,
    title: str,
    detail: str,
    faults: Iterable[Fault] = (),
    headers: tuple[tuple[str, str], ...] = (),
) -> Reply:
    """Return the reply that says what is wrong."""
    body: dict[str, Any] = {
        "type": "about:blank", "title": title, "status": status, "reason": reason, "detail": detail,
    }  # fmt: skip
    errors = [fault.as_json() for fault in faults]
    if errors:
        body["errors"] = errors
    request_id = request.header("x-request-id")
    if request_id:
        body["request_id"] = request_id
    return Reply(status, (("content-type", "application/problem+json"), *headers), json.dumps(body).encode())
