"""User names and passwords in front of routes. `plugin.yaml` says how it is configured."""

from .plugin import BasicAuth

__all__ = ["BasicAuth"]
