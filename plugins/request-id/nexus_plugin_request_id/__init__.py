"""A request id on every request and its response. `plugin.yaml` says how it is configured."""

from .plugin import RequestId

__all__ = ["RequestId"]
