"""A shared HTTP cache in front of routes. `plugin.yaml` says how it is configured."""

from .plugin import ResponseCache

__all__ = ["ResponseCache"]
