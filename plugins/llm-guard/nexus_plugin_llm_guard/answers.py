"""What a provider answered: tokens that it counted, texts of its choices; whole, or as server-sent events while they pass."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .prompts import estimate
from .rules import plain

_MAX_TOKENS = 10**9
_WINDOW = 2048
_MAX_LINE = 1 << 20
_DENIED = (
    b'data: {"error":{"message":"The answer had something that is not allowed.","type":"guard_error","code":"ResponseDenied"}}\n\n'
    b"data: [DONE]\n\n"
)


@dataclass(slots=True)
class Usage:
    """Tokens of one exchange. counted: what the provider said, None before it did. seen: of the answer so far, by estimate."""

    counted: int | None = None
    seen: int = 0


def usage_of(answer: Any) -> int | None:
    """Return the tokens that an answer says it took, None when it does not."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if usage is None and isinstance(answer, dict) and isinstance(answer.get("response"), dict):
        usage = answer["response"].get("usage")  # the last event of a streamed response
    if not isinstance(usage, dict):
        return None
    total = usage.get("total_tokens")
    if not isinstance(total, int) or isinstance(total, bool):
        parts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")]
        numbers = [part for part in parts if isinstance(part, int) and not isinstance(part, bool)]
        total = sum(numbers) if numbers else None
    return min(max(total, 0), _MAX_TOKENS) if total is not None else None


def text_of(event: Any) -> str:
    """Return the text that an answer, or an event of a streamed one, holds for people: contents, refusals, arguments of calls."""
    if not isinstance(event, dict):
        return ""
    if isinstance(event.get("delta"), str):
        return str(event["delta"])
    found: list[str] = []
    for choice in event.get("choices") or event.get("output") or ():
        if isinstance(choice, dict):
            _collect(choice.get("message") or choice.get("delta") or choice.get("text") or choice.get("content"), found)
    return "".join(found)


def _collect(value: Any, found: list[str], depth: int = 0) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, list) and depth < 16:
        for each in value:
            _collect(each, found, depth + 1)
    elif isinstance(value, dict) and depth < 16:
        for key in ("content", "text", "refusal", "tool_calls", "function", "arguments"):
            if key in value:
                _collect(value[key], found, depth + 1)


def redacted(answer: Any, change: Callable[[str], str]) -> Any:
    """Return an answer whose texts are changed; all else stays."""
    if isinstance(answer, list):
        return [redacted(each, change) for each in answer]
    if isinstance(answer, dict):
        return {
            key: change(value)
            if key in ("content", "text", "refusal", "arguments") and isinstance(value, str)
            else redacted(value, change)
            for key, value in answer.items()
        }
    return answer


class EventStream:
    """Passes server-sent events on, and reads along: tokens, and texts that are not allowed. These end the stream."""

    def __init__(self, usage: Usage, deny: list[re.Pattern[str]]) -> None:
        self._usage = usage
        self._deny = deny
        self._rest = b""
        self._recent = ""
        self._over = False

    def feed(self, data: bytes) -> bytes:
        """Return the whole lines that may go on; a line that is not whole waits."""
        if self._over:
            return b""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        made: list[bytes] = []
        for line in lines:
            if not self._passes(line):
                self._over = True
                self._rest = b""
                return b"".join([*made, _DENIED])
            made.append(line + b"\n")
        if len(self._rest) > _MAX_LINE:
            raise ValueError(f"the provider sent a line of more than {_MAX_LINE} bytes")
        return b"".join(made)

    def finish(self) -> bytes:
        """Return what waits."""
        rest, self._rest = self._rest, b""
        if self._over or not rest:
            return b""
        return rest if self._passes(rest) else _DENIED

    def _passes(self, line: bytes) -> bool:
        """Read a line; return whether it may go on."""
        if not line.startswith(b"data:"):
            return True
        data = line[5:].strip()
        if data == b"[DONE]":
            return True
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            return not self._deny or not self._matches(data.decode("utf-8", "replace"))
        counted = usage_of(event)
        if counted is not None:
            self._usage.counted = counted
        text = text_of(event)
        self._usage.seen += estimate(text)
        return not self._deny or not text or not self._matches(text)

    def _matches(self, text: str) -> bool:
        """Return whether the latest text, with what was just before it, has something that is not allowed."""
        recent = self._recent + plain(text)
        self._recent = recent[-_WINDOW:]
        return any(pattern.search(recent) for pattern in self._deny)
