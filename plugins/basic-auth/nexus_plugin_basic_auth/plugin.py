"""The plugin: checks user and password, names the consumer, takes the credentials out of the request.

Passwords are hashed in threads, a few at a time: OpenSSL lets the event loop run meanwhile. What was found is remembered, so that this
happens once in a while for each user, and not for each request.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from nexus_sdk.plugin import Plugin, PluginConfigError, Reply, RequestHead

from .credentials import Credentials, parse
from .hashes import BadHash, Hash
from .hashes import parse as parse_hash
from .users import Memory, Users

CONSUMER = "x-consumer-name"
_WRONG_S = 10.0
"""How long wrong credentials are remembered: clients that are configured wrongly send them again and again."""
_THREADS = 2
_MOST_WAITING = 16
_LOOK_S = 0.002
"""How often a thread's result is looked for: a plugin has no event loop of its own that a thread could wake."""


class BasicAuth(Plugin):
    """Lets only known users pass."""

    clock: Callable[[], float] = staticmethod(time.monotonic)
    """Seconds; tests set their own."""
    patience_s = 0.4
    """How long a request waits for its turn and its hash. Less than a gateway allows a call: being busy is an answer, not a failure."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._users = Users(dict(_hashes(config)))
        self._pass_credentials = bool(config["passCredentials"])
        self._remember_s = float(config["rememberSeconds"])
        self._memory = Memory(int(config["rememberUsers"]))
        realm = str(config["realm"])
        self._challenge = f'Basic realm="{realm}", charset="UTF-8"'
        self._threads = ThreadPoolExecutor(_THREADS, "basic-auth")
        self._checking: dict[bytes, Future[bool]] = {}

    async def stop(self) -> None:
        """End the threads; what they are at takes some milliseconds more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def on_request(self, request: RequestHead) -> RequestHead | Reply | Coroutine[Any, Any, RequestHead | Reply]:
        """Return the request with its consumer named, or 401."""
        values = [value for name, value in request.headers if name == "authorization"]
        given = parse(values[0]) if len(values) == 1 else None
        if given is None:
            return self._refuse(request, "CredentialsMissing", "The request carries no user name and password.")
        key = self._memory.key(given)
        good = self._memory.find(key, self.clock())
        if good is None:
            return self._check(request, given, key)
        return self._answer(request, given, good)

    async def _check(self, request: RequestHead, given: Credentials, key: bytes) -> RequestHead | Reply:
        self._take_results()
        good = self._memory.find(key, self.clock())
        if good is not None:
            return self._answer(request, given, good)
        checking = self._checking.get(key)
        if checking is None:
            if len(self._checking) >= _MOST_WAITING:
                return self._busy(request)
            checking = self._checking[key] = self._threads.submit(self._users.check, given)
        try:
            async with asyncio.timeout(self.patience_s):
                while not checking.done():  # noqa: ASYNC110 -- a thread cannot set an event of this loop, see `_LOOK_S`
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            return self._busy(request)
        self._take_results()
        return self._answer(request, given, checking.result())

    def _take_results(self) -> None:
        """Remember what the threads found, also for those who did not wait: they come again."""
        for key, checking in [each for each in self._checking.items() if each[1].done()]:
            del self._checking[key]
            good = checking.result()
            lasting_s = self._remember_s if good else min(self._remember_s, _WRONG_S)
            if lasting_s:
                self._memory.put(key, good, self.clock() + lasting_s)

    def _answer(self, request: RequestHead, given: Credentials, good: bool) -> RequestHead | Reply:
        if not good:
            return self._refuse(request, "CredentialsWrong", "User name and password do not belong together.")
        named = request if self._pass_credentials else request.without_header("authorization")
        return named.with_header(CONSUMER, given.user)

    def _refuse(self, request: RequestHead, reason: str, detail: str) -> Reply:
        return _problem(
            request, 401, "A user name and a password are needed", reason, detail, ("www-authenticate", self._challenge)
        )

    def _busy(self, request: RequestHead) -> Reply:
        detail = "Too many passwords are being checked. Try again in a second."
        return _problem(
            request, 503, "Passwords cannot be checked now", "CredentialsBusy", detail, ("retry-after", "1")
        )


def _hashes(config: Mapping[str, Any]) -> Iterator[tuple[str, Hash]]:
    """Yield the users, of `users` and of `htpasswd`. Raises PluginConfigError."""
    entries = [
        (f"config.users[{index}]", str(each["name"]), str(each["hash"])) for index, each in enumerate(config["users"])
    ]
    for number, line in enumerate(str(config.get("htpasswd", "")).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            name, _, text = line.strip().partition(":")
            entries.append((f"config.htpasswd line {number}", name, text))
    seen: set[str] = set()
    for where, name, text in entries:
        given = parse_name(name)
        if given is None:
            raise PluginConfigError(
                f"{where}: the name has to be of letters, digits and ._@- (1 to 128), since services get it in a header."
            )
        if given in seen:
            raise PluginConfigError(f"{where}: there is a user {name} already; remove one.")
        seen.add(given)
        try:
            yield given, parse_hash(text)
        except BadHash as error:
            raise PluginConfigError(f"{where}: The hash {error}") from error
    if not entries:
        raise PluginConfigError("config: there is no user; name some in config.users or config.htpasswd.")


def parse_name(name: str) -> str | None:
    """Return a user's name, None for one that cannot stand in a header, or in credentials."""
    fits = 1 <= len(name) <= 128 and name.isascii() and all(char.isalnum() or char in "._@-" for char in name)
    return name if fits else None


def _problem(request: RequestHead, status: int, title: str, reason: str, detail: str, header: tuple[str, str]) -> Reply:
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "reason": reason, "detail": detail}
    request_id = request.header("x-request-id")
    if request_id:
        body["request_id"] = request_id
    headers = (("content-type", "application/problem+json"), header, ("cache-control", "no-store"))
    return Reply(status, headers, json.dumps(body).encode())
