"""How many requests a client, a key or a route may make. `plugin.yaml` says how it is configured."""

from .plugin import RateLimit

__all__ = ["RateLimit"]
