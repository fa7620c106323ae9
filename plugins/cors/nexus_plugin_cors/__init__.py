"""Which origins' scripts may call a route, told to browsers. `plugin.yaml` says how it is configured."""

from .plugin import Cors

__all__ = ["Cors"]
