"""Routes for some networks, or for all but some. `plugin.yaml` says how it is configured."""

from .plugin import IpFilter

__all__ = ["IpFilter"]
