"""The exceptions of the SDK: ours (a bug), the peer's (it broke the protocol), the environment's (away, slow, full).

`fault` says whose turn it is, `retryable` whether the same call may succeed later, `status` what an HTTP handler that
does not catch the exception answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

Fault = Literal["ours", "peer", "environment"]


class NexusError(Exception):
    """Base of all errors raised by the SDK. The text says what, where and how to fix."""

    fault: ClassVar[Fault] = "ours"
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"


class SettingsError(NexusError):
    """An environment variable has a value that cannot be used. Ours: the deployment has to change."""

    reason = "SettingsInvalid"


class UsageError(NexusError):
    """The SDK was called in a way that cannot work. Ours: the code has to change."""

    reason = "UsageInvalid"


class ServiceUnavailable(NexusError):
    """No instance of a service could take the request: none is registered, every circuit is open, or none accepts.

    Environment's: nothing was changed at the peer by the refused attempts.
    """

    fault = "environment"
    retryable = True
    status = 503
    reason = "ServiceUnavailable"


class DeadlineExceeded(NexusError):
    """The time for the whole call ran out. Environment's; a request that is not idempotent may have had its effect."""

    fault = "environment"
    retryable = True
    status = 504
    reason = "DeadlineExceeded"


class ConnectionLost(NexusError):
    """The connection broke after the request was sent, so whether it had its effect is unknown. Environment's."""

    fault = "environment"
    retryable = True
    status = 502
    reason = "ConnectionLost"


class PeerError(NexusError):
    """The peer answered something that is not the protocol: broken HTTP, a body too large, JSON that is none."""

    fault = "peer"
    status = 502
    reason = "PeerInvalid"


class HttpProblem(NexusError):
    """Raise it in a handler to answer with an RFC 9457 problem.

    status: 400..599. reason: CamelCase, stable, what clients switch on. detail: what, where, how to fix.
    """

    def __init__(
        self, status: int, reason: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: object
    ) -> None:
        super().__init__(detail)
        if not 400 <= status <= 599:
            raise UsageError(f"HttpProblem status {status} is no error; use 400..599 or return a web.Response.")
        self.http_status = status
        self.http_reason = reason
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members
