"""Who may pass, and a memory of who did: hashing takes tens of milliseconds, and clients send their password with every request."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping

from .credentials import Credentials
from .hashes import Hash


class Users:
    """The hashes, by user."""

    __slots__ = ("_hashes", "_key", "_kinds")

    def __init__(self, hashes: Mapping[str, Hash]) -> None:
        """hashes: one or more."""
        self._hashes = dict(hashes)
        self._key = secrets.token_bytes(32)
        by_cost = {(each.kind, each.cost): each for each in hashes.values()}
        self._kinds = [by_cost[cost] for cost in sorted(by_cost)]

    def check(self, given: Credentials) -> bool:
        """Return whether user and password belong together. Slow; may run in any thread.

        For a user who does not exist a hash is computed, too: time does not tell who does. Where hashes cost differently, it costs what
        one of them does, the same one for the same name.
        """
        known = self._hashes.get(given.user)
        if known is not None:
            return known.is_of(given.password)
        digest = hmac.digest(self._key, given.user.encode("utf-8", "surrogateescape"), "sha256")
        self._kinds[digest[0] % len(self._kinds)].like(digest).is_of(given.password)
        return False


class Memory:
    """What was found of credentials, for a while. Holds no password, only HMACs under a key that never leaves the process.

    Good and wrong ones have room of their own: who guesses pushes out no one who may pass.
    """

    __slots__ = ("_capacity", "_good", "_key", "_wrong")

    def __init__(self, capacity: int) -> None:
        """capacity: of good ones, and again of wrong ones."""
        self._capacity = capacity
        self._key = secrets.token_bytes(32)
        self._good: OrderedDict[bytes, float] = OrderedDict()
        self._wrong: OrderedDict[bytes, float] = OrderedDict()

    def key(self, given: Credentials) -> bytes:
        """Return what stands for the credentials."""
        user = given.user.encode("utf-8", "surrogateescape")
        return hmac.digest(self._key, b"%d:%b%b" % (len(user), user, given.password), hashlib.sha256)

    def find(self, key: bytes, now: float) -> bool | None:
        """Return whether they are good, None when that is not known any more."""
        for found, good in ((self._good, True), (self._wrong, False)):
            until = found.get(key)
            if until is None:
                continue
            if now < until:
                found.move_to_end(key)
                return good
            del found[key]
        return None

    def put(self, key: bytes, good: bool, until: float) -> None:
        """Remember until then; what was not asked for longest, of its sort, goes when there is no more room."""
        found, other = (self._good, self._wrong) if good else (self._wrong, self._good)
        other.pop(key, None)
        found[key] = until
        found.move_to_end(key)
        if len(found) > self._capacity:
            found.popitem(last=False)
