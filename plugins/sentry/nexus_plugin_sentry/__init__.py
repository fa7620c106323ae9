"""Failed requests reported to Sentry. `plugin.yaml` says how it is configured."""

from .plugin import Sentry

__all__ = ["Sentry"]
