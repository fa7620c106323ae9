"""The plugin: makes events of failed requests, and sends what the SDK makes of them in the background."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any

from nexus_sdk.plugin import CallFailed, Done, NotGranted, Plugin, PluginConfigError, RequestHead
from sentry_sdk import Client
from sentry_sdk.consts import EndpointType
from sentry_sdk.scrubber import EventScrubber
from sentry_sdk.utils import BadDsn, Dsn

from .events import event_of
from .limits import Allowance, Pauses
from .transport import Queue

_HEADERS = ("accept", "content-length", "content-type", "referer", "user-agent")
_TELL_EVERY_S = 60.0


class Sentry(Plugin):
    """Reports failed requests."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        try:
            auth = Dsn(str(config["dsn"])).to_auth(f"nexus-plugin-sentry/{self.context.version}")
        except (BadDsn, ValueError) as error:
            # Not the DSN itself: it holds a key.
            raise PluginConfigError(
                "config.dsn: it is no DSN; copy it from the project's settings in Sentry."
            ) from error
        self._url = auth.get_api_url(EndpointType.ENVELOPE)
        self._headers = (
            ("content-type", "application/x-sentry-envelope"),
            ("content-encoding", "gzip"),
            ("x-sentry-auth", auth.to_header()),
            ("user-agent", f"nexus-plugin-sentry/{self.context.version}"),
        )
        self._statuses = tuple(str(each).lower() for each in config.get("statuses", ("5xx",)))
        self._reasons = frozenset(config.get("reasons", ()))
        self._ignored = frozenset(config.get("ignoreReasons", ()))
        self._share = float(config.get("sampleRate", 1.0))
        self._allowed = frozenset(name.lower() for name in config.get("headers", _HEADERS))
        self._query = bool(config.get("sendQuery", False))
        self._client_ip = bool(config.get("sendClientIp", False))
        self._tags = (*config.get("tags", {}).items(), ("plugin", self.context.plugin))
        self._timeout_s = float(config.get("timeoutSeconds", 5.0))
        self._allowance = Allowance(int(config.get("maxPerMinute", 60)))
        self._queue = Queue(int(config.get("maxQueue", 100)))
        self._pauses = Pauses()
        self._client = Client(
            dsn=str(config["dsn"]), transport=self._queue, environment=config.get("environment", "production"),
            release=config.get("release"), server_name=config.get("serverName", "nexus-gateway"), default_integrations=False,
            auto_enabling_integrations=False, max_breadcrumbs=0, auto_session_tracking=False,
            send_client_reports=False, enable_backpressure_handling=False,
            event_scrubber=EventScrubber(send_default_pii=self._client_ip), spotlight=False, shutdown_timeout=0,
        )  # fmt: skip
        self._sending = False
        self._told_at = float("-inf")
        self.clock = time.monotonic
        self.chance = random.random

    async def stop(self) -> None:
        """Send what still waits, as far as that goes in two seconds."""
        try:
            async with asyncio.timeout(2.0):
                await self._send()
        except TimeoutError:
            self._tell(f"{self._queue.clear()} reports were not sent before the end")
        finally:
            self._client.close(timeout=0)

    def on_done(self, request: RequestHead, done: Done) -> None:
        """Make a report of a request that failed."""
        if not self._is_wanted(done) or (self._share < 1 and self.chance() >= self._share):
            return
        now = self.clock()
        if not self._pauses.is_open(now) or not self._allowance.take(now):
            return
        self._client.capture_event(
            event_of(request, done, self._allowed, query=self._query, client_ip=self._client_ip, tags=self._tags)
        )
        if not self._sending and len(self._queue):
            self._sending = True
            self.context.spawn(self._send(), "sentry")

    def _is_wanted(self, done: Done) -> bool:
        if done.reason in self._ignored:
            return False
        return (
            str(done.status) in self._statuses or f"{done.status // 100}xx" in self._statuses or done.reason in self._reasons
        )  # fmt: skip

    async def _send(self) -> None:
        """Send what waits, one after the other. What fails is lost: a report is not worth a growing row of others."""
        self._sending = True
        try:
            while (envelope := self._queue.next()) is not None:
                if not self._pauses.is_open(self.clock()):
                    self._tell(f"Sentry asked to wait; {self._queue.clear() + 1} reports are lost")
                    return
                try:
                    called = await self.context.call(
                        "POST", self._url, headers=self._headers, body=envelope, timeout_s=self._timeout_s
                    )
                except (CallFailed, NotGranted) as error:
                    self._tell(f"a report is lost: {error}")
                    continue
                headers = dict(reversed(called.headers))
                self._pauses.note(called.status, headers, self.clock())
                if not 200 <= called.status < 300:
                    why = headers.get("x-sentry-error", "")[:200]
                    self._tell(f"a report is lost: Sentry answered {called.status} {why}".rstrip())
        finally:
            self._sending = False

    def _tell(self, what: str) -> None:
        """Log a trouble, at most once a minute."""
        now = self.clock()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            self.context.log.warning("%s (and %d for lack of room so far)", what, self._queue.lost)
