"""A bounded map that forgets what was used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class DocumentCache(Generic[Value]):
    """Plans by document text, bounded in number and in characters of text (parsed documents weigh in proportion)."""

    def __init__(self, most: int = 1_000, most_chars: int = 4_000_000) -> None:
        self._most, self._most_chars = most, most_chars
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._chars = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, text: str) -> Value | None:
        value = self._values.get(text)
        if value is None:
            self.misses += 1
            return None
        self.hits += 1
        self._values.move_to_end(text)
        return value

    def put(self, text: str, value: Value) -> None:
        if len(text) > self._most_chars or self._most < 1:
            return
        if text in self._values:
            self._values.move_to_end(text)
        else:
            self._chars += len(text)
        self._values[text] = value
        while len(self._values) > self._most or self._chars > self._most_chars:
            old, _ = self._values.popitem(last=False)
            self._chars -= len(old)
