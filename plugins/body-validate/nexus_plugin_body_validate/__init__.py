"""Requests and responses that follow their schema. `plugin.yaml` says how it is configured."""

from .plugin import BodyValidate

__all__ = ["BodyValidate"]
