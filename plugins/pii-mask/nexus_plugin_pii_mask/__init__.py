"""Personal data masked in events, messages, bodies and log lines. `plugin.yaml` says how it is configured."""

from .plugin import PiiMask

__all__ = ["PiiMask"]
