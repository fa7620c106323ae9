"""Why a plugin is not run, as the report says it."""

from __future__ import annotations


class PluginRejected(Exception):
    """The plugin cannot run as the Snapshot wants it. reason: of the problems catalogue. retryable: it may work later by itself."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable
