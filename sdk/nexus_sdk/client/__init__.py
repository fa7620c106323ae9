"""The client for calls between services."""

from __future__ import annotations

from nexus_sdk.client.calls import ClientResponse, ClientSettings, ServiceClient

__all__ = ["ClientResponse", "ClientSettings", "ServiceClient"]
