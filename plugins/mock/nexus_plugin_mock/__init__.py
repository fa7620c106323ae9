"""Answers from the examples of an OpenAPI document. `plugin.yaml` says how it is configured."""

from .plugin import Mock

__all__ = ["Mock"]
