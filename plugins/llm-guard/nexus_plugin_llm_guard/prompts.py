"""What a request to an OpenAI-compatible API asks for: its texts, its model, and about how many tokens it will take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

_TEXT_KEYS = ("messages", "prompt", "input", "instructions", "system", "tools", "functions")
_LIMIT_KEYS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_MAX_CHOICES = 128
_MAX_DEPTH = 32


class NotUnderstood(ValueError):
    """The request is none that can be judged; the message says why."""


def parse(body: bytes) -> dict[str, Any]:
    """Return a request's object. Raises `NotUnderstood`; also for a member that stands twice, of which the provider may read the other."""
    try:
        value = json.loads(body, object_pairs_hook=_unique)
    except NotUnderstood:
        raise
    except (ValueError, RecursionError) as error:
        raise NotUnderstood("The body is not JSON.") from error
    if not isinstance(value, dict):
        raise NotUnderstood("The body is not a JSON object.")
    if not isinstance(value.get("model", ""), str):
        raise NotUnderstood("model is not a text.")
    if not isinstance(value.get("stream") or False, bool):
        raise NotUnderstood("stream is neither true nor false.")
    return value


def texts(request: dict[str, Any]) -> Iterator[str]:
    """Yield all texts that the model reads, names and descriptions of tools among them. Raises `NotUnderstood` for too deep ones."""
    for key in _TEXT_KEYS:
        if key in request:
            yield from _texts(request[key], 0)


def change_texts(request: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return the request with its texts changed."""
    return {key: _changed(value, change) if key in _TEXT_KEYS else value for key, value in request.items()}


def estimate(text: str) -> int:
    """Return about how many tokens a text is: four ASCII characters or one other are taken for one. Errs on the high side for most."""
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // 4) + len(text) - plain


def output_limit(request: dict[str, Any], default: int) -> int:
    """Return how many tokens the answers may have together. Raises `NotUnderstood` for a limit that is not a positive number."""
    limits = [_positive(request[key], key) for key in _LIMIT_KEYS if request.get(key) is not None]
    choices = _positive(request["n"], "n") if request.get("n") is not None else 1
    if choices > _MAX_CHOICES:
        raise NotUnderstood(f"n is more than {_MAX_CHOICES}.")
    # Of several limits the provider takes one; which one is not known here.
    return max(limits, default=default) * choices


def with_output_limit(request: dict[str, Any], most: int) -> dict[str, Any]:
    """Return the request in which no answer may have more tokens."""
    found = [key for key in _LIMIT_KEYS if request.get(key) is not None]
    if not found:
        return {**request, ("max_output_tokens" if "input" in request else "max_tokens"): most}
    return {**request, **{key: min(request[key], most) for key in found}}


def _positive(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 10**9:
        raise NotUnderstood(f"{name} is not a positive whole number.")
    return value


def _texts(value: Any, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise NotUnderstood(f"The body is nested deeper than {_MAX_DEPTH} levels.")
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, depth + 1)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "image_url" or key == "input_audio":
                continue  # data, not text; a provider counts it otherwise
            yield from _texts(each, depth + 1)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(each, change) for each in value]
    if isinstance(value, dict):
        return {
            key: _changed(each, change) if key not in ("role", "type", "image_url", "input_audio") else each
            for key, each in value.items()
        }
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotUnderstood("The body names one member of an object twice.")
    return found
