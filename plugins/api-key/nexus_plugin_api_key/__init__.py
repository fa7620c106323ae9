"""API keys in front of routes. `plugin.yaml` says how it is configured."""

from .plugin import ApiKey

__all__ = ["ApiKey"]
