"""JSON bodies made anew by JMESPath expressions. `plugin.yaml` says how it is configured."""

from .plugin import BodyTransform

__all__ = ["BodyTransform"]
