"""Structured logs: one JSON object a line on stderr, with the trace and span that the line belongs to."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

from opentelemetry import trace

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_OWN = frozenset({"exc_info", "stack_info", "stacklevel", "extra"})
_WRITTEN = frozenset({"time", "level", "logger", "trace_id", "span_id", "error", "stack"})
_LONGEST = 16_384
"""Characters of one text value; a runaway value must not make a line that collectors refuse."""


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, trace_id, span_id, the constant fields and the line's own."""

    def __init__(self, constant: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._constant = dict(constant or {})

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_LONGEST],
            **self._constant,
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
            line["span_id"] = f"{context.span_id:016x}"
        line.update((k, v) for k, v in vars(record).items() if k not in _STANDARD and k not in line)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["stack"] = "".join(traceback.format_exception(*record.exc_info))[-_LONGEST:]
        return json.dumps(line, default=_text, ensure_ascii=False)


def _text(value: object) -> str:
    return str(value)[:_LONGEST]


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger whose keyword arguments become fields: `log.info("order stored", order=7)`."""

    # Positional only, so that `level=` can be a field: the inherited `info(msg, **kwargs)` calls this with the kwargs.
    def log(self, level: int, msg: object, /, *args: object, **kwargs: Any) -> None:  # type: ignore[override]
        if self.isEnabledFor(level):
            text, passed = self.process(msg, kwargs)
            passed["stacklevel"] = passed.get("stacklevel", 1) + 1
            self.logger.log(level, text, *args, **passed)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        passed = {k: kwargs.pop(k) for k in [k for k in kwargs if k in _OWN]}
        fields = {**(passed.pop("extra", None) or {}), **kwargs}
        # A field may not shadow what logging itself writes into a record: it would raise KeyError at the call.
        passed["extra"] = {f"{k}_" if k in _STANDARD or k in _WRITTEN else k: v for k, v in fields.items()}
        return msg, passed


def make(name: str) -> Log:
    """Return the log of one service. Where its lines go is decided by `install`, or by the tests' own handlers."""
    return Log(logging.getLogger(f"nexus.{name}"), {})


def install(level: str, constant: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (default stderr) as JSON. Only `ServiceApp.run` calls it."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(constant))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The access line of the SDK is richer; the OTLP exporter repeats every failed try of a receiver that is away.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
