"""One reply made of several upstream calls. `plugin.yaml` says how it is configured."""

from .plugin import Aggregate

__all__ = ["Aggregate"]
