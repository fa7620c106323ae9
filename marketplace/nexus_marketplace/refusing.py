"""Why something cannot be published."""

from __future__ import annotations


class PublishRefused(ValueError):
    """The package, the key or the marketplace cannot be used as they are. The text says what, where and how to fix it."""
