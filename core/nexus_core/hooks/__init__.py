"""What a plugin may do, as types. `nexus_sdk.plugin` gives authors a base class, the gateway calls it."""

from nexus_core.hooks.http import API_VERSION, Headers, HttpPlugin, Reply, RequestHead, ResponseHead

__all__ = ["API_VERSION", "Headers", "HttpPlugin", "Reply", "RequestHead", "ResponseHead"]
