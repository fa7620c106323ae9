"""Protection against requests that other sites make in a user's name. `plugin.yaml` says how it is configured."""

from .plugin import Csrf

__all__ = ["Csrf"]
