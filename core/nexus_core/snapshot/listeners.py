"""Where gateways accept requests."""

from __future__ import annotations

from typing import Literal

import msgspec


class Listener(msgspec.Struct, frozen=True, omit_defaults=True):
    """One listener of one Gateway.

    id: `<gateway namespace>/<gateway name>/<listener name>`.
    port: as the Gateway declares it; the process may bind another (`--listen`, or the chart's container port).
    hostname: lower-case; empty for any; `*.example.com` covers one or more labels.
    """

    id: str
    source: str
    port: int
    hostname: str = ""
    protocol: Literal["HTTP"] = "HTTP"
