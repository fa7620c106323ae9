"""Changes of request and response headers. `plugin.yaml` says how they are configured."""

from .plugin import HeaderRules

__all__ = ["HeaderRules"]
