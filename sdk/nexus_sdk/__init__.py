"""What authors of services and plugins import. Names load on first use, so that a plugin does not pay for a web server."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_sdk.app import ServiceApp as ServiceApp
    from nexus_sdk.client import ClientResponse as ClientResponse
    from nexus_sdk.client import ServiceClient as ServiceClient
    from nexus_sdk.errors import DeadlineExceeded as DeadlineExceeded
    from nexus_sdk.errors import HttpProblem as HttpProblem
    from nexus_sdk.errors import NexusError as NexusError
    from nexus_sdk.errors import PeerError as PeerError
    from nexus_sdk.errors import ServiceUnavailable as ServiceUnavailable
    from nexus_sdk.errors import SettingsError as SettingsError
    from nexus_sdk.plugin import Plugin as Plugin
    from nexus_sdk.settings import Settings as Settings

_HOMES = {
    "ServiceApp": "nexus_sdk.app",
    "ClientResponse": "nexus_sdk.client",
    "ServiceClient": "nexus_sdk.client",
    "DeadlineExceeded": "nexus_sdk.errors",
    "HttpProblem": "nexus_sdk.errors",
    "NexusError": "nexus_sdk.errors",
    "PeerError": "nexus_sdk.errors",
    "ServiceUnavailable": "nexus_sdk.errors",
    "SettingsError": "nexus_sdk.errors",
    "Plugin": "nexus_sdk.plugin",
    "Settings": "nexus_sdk.settings",
}

__all__ = [  # noqa: PLE0604, RUF100 -- resolved by __getattr__
    "ClientResponse",
    "DeadlineExceeded",
    "HttpProblem",
    "NexusError",
    "PeerError",
    "Plugin",
    "ServiceApp",
    "ServiceClient",
    "ServiceUnavailable",
    "Settings",
    "SettingsError",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
