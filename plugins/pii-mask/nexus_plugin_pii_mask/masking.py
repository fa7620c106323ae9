"""Texts and JSON values without the personal data in them."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from .finders import KINDS, Finder, custom, is_card, may_hold

Change = Callable[[str, str], str]
"""From kind and found text to what stands in its place."""
_PIECE = 16_384
FIELD = "field"


def label(kind: str, text: str) -> str:
    """Return what kind of thing was there, and nothing of it."""
    return f"[{kind}]"


def partial(kind: str, text: str) -> str:
    """Return so much that a person can tell two apart: a card's last four digits, an address's network or domain."""
    if kind == "email":
        return "***@" + text.rpartition("@")[2]
    if kind in ("card", "iban"):
        return "****" + re.sub(r"[ -]", "", text)[-4:]
    if kind == "phone":
        return "***" + text[-2:]
    if kind == "ip":
        return ".".join(text.split(".")[:3]) + ".*" if ":" not in text else ":".join(text.split(":")[:2]) + ":*"
    return "***"


def hashed(key: bytes) -> Change:
    """Return a change that gives equal data equal names, which without the key cannot be guessed: HMAC-SHA-256, 80 bits of it."""

    def change(kind: str, text: str) -> str:
        normal = (
            text.casefold()
            if kind == "email"
            else re.sub(r"[ ()./-]", "", text)
            if kind in ("card", "iban", "phone")
            else text
        )
        return f"{kind}:{hmac.new(key, f'{kind}:{normal}'.encode('utf-8', 'surrogatepass'), hashlib.sha256).hexdigest()[:20]}"

    return change


class Masker:
    """Masks what it is told to."""

    def __init__(
        self,
        kinds: Iterable[str],
        patterns: Sequence[tuple[str, re.Pattern[str]]],
        fields: Iterable[str],
        change: Change,
    ) -> None:
        """fields: names of members at any depth, without regard to case, or dotted paths in which `*` is any member or item."""
        self._finders: list[tuple[str, Finder]] = [(kind, KINDS[kind]) for kind in kinds]
        self._custom: list[tuple[str, Finder]] = [(name, custom(pattern)) for name, pattern in patterns]
        self._names = {field.casefold() for field in fields if "." not in field}
        self._paths = [tuple(field.casefold().split(".")) for field in fields if "." in field]
        self._cards = "card" in {kind for kind, _ in self._finders}
        self._change = change

    def text(self, text: str) -> str:
        """Return the text masked; the same object when there is nothing to mask."""
        found = [
            (start, -end, kind) for kind, finder in self._finders if may_hold(kind, text) for start, end in finder(text)
        ]
        if self._custom:
            at = 0
            for piece in _pieces(text):
                found += [(at + s, -(at + e), name) for name, finder in self._custom for s, e in finder(piece)]
                at += len(piece)
        if not found:
            return text
        made: list[str] = []
        at = 0
        for start, negative_end, kind in sorted(found):
            if start < at:
                continue  # inside what was masked just before: the longest of those that begin first wins
            made += (text[at:start], self._change(kind, text[start:-negative_end]))
            at = -negative_end
        return "".join([*made, text[at:]])

    def value(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """Return a JSON value masked. Raises RecursionError for one that is nested very deeply."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {name: self._member(name, each, path) for name, each in value.items()}
        if isinstance(value, list):
            return [self._member(str(index), each, path) for index, each in enumerate(value)]
        if self._cards and isinstance(value, int) and not isinstance(value, bool) and is_card(str(value)):
            return self._change("card", str(value))
        return value

    def field(self, value: Any) -> str:
        """Return what stands in the place of a member that is masked whatever it holds."""
        return self._change(FIELD, value if isinstance(value, str) else json.dumps(value, sort_keys=True))

    def body(self, data: bytes, media_type: str) -> bytes:
        """Return a body masked; the same object when nothing is in it. What is neither JSON, form nor UTF-8 text stays as it is."""
        if media_type == "application/json" or media_type.endswith("+json"):
            return self._json(data)
        if media_type == "application/x-www-form-urlencoded":
            try:
                text = data.decode()
            except UnicodeDecodeError:
                return data
            masked = self.query(text)
            return data if masked == text else masked.encode()
        if not media_type or media_type.startswith("text/") or media_type.endswith(("xml", "/x-ndjson", "/jsonl")):
            return self._plain(data)
        return data

    def query(self, query: str) -> str:
        """Return a query or form masked: values as they are when decoded; the same text when nothing is in it."""
        pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
        masked = [(name, self.field(text) if self._is_named(name, ()) else self.text(text)) for name, text in pairs]
        return query if masked == pairs else urlencode(masked, safe="*[]@:", errors="surrogateescape")

    def path(self, path: str) -> str:
        """Return a path masked, segment by segment as they are when decoded."""
        made = []
        for segment in path.split("/"):
            plain = unquote(segment, errors="surrogateescape")
            masked = self.text(plain)
            made.append(segment if masked == plain else quote(masked, safe="*[]@:", errors="surrogateescape"))
        return "/".join(made)

    def _json(self, data: bytes) -> bytes:
        repeated = False

        def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal repeated
            made = dict(pairs)
            repeated = repeated or len(made) != len(pairs)
            return made

        try:
            value = json.loads(data, object_pairs_hook=members)
            masked = self.value(value)
            # A member that stands twice: what the first one holds was not looked at, so it does not go on.
            if masked == value and not repeated:
                return data
            return json.dumps(masked, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            return self._plain(data)

    def _plain(self, data: bytes) -> bytes:
        text = data.decode("utf-8", "surrogateescape")
        masked = self.text(text)
        return data if masked is text else masked.encode("utf-8", "surrogateescape")

    def _member(self, name: str, value: Any, path: tuple[str, ...]) -> Any:
        here = (*path, name.casefold()) if self._paths else ()
        if value is not None and self._is_named(name, here):
            return self.field(value)
        return self.value(value, here)

    def _is_named(self, name: str, path: tuple[str, ...]) -> bool:
        if name.casefold() in self._names:
            return True
        return any(
            len(each) == len(path) and all(want in ("*", part) for want, part in zip(each, path, strict=True))
            for each in self._paths
        )


def _pieces(text: str) -> Iterable[str]:
    """Cut a long text where there is a space, so that an author's expression never sees more than some thousand characters."""
    at = 0
    while len(text) - at > _PIECE:
        cut = text.rfind(" ", at + _PIECE // 2, at + _PIECE)
        cut = cut if cut > 0 else at + _PIECE
        yield text[at:cut]
        at = cut
    yield text[at:]
