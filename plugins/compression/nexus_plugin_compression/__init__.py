"""Compressed responses. `plugin.yaml` says how it is configured."""

from .plugin import Compression

__all__ = ["Compression"]
