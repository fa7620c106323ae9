"""OTLP in protobuf, written by hand: an eighth of what building the messages through the library costs.

Field numbers: opentelemetry-proto 1.x, `trace/v1/trace.proto`, `common/v1/common.proto`. The tests read every byte back with
opentelemetry-proto's own messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct

from nexus_gateway.telemetry.spans import Span, Value

_TIMES = Struct("<BQBQ").pack
_TIME = Struct("<BQ").pack
_DOUBLE = Struct("<d").pack
_ERROR = b"\x7a\x02\x18\x02"  # status { code: ERROR }
# flags: bits 0..7 W3C's, bit 8: the next is known, bit 9: the parent is remote.
_FLAGS = {
    (sampled, remote): b"\x85\x01" + (0x100 | (0x200 if remote else 0) | int(sampled)).to_bytes(4, "little")
    for sampled in (False, True)
    for remote in (False, True)
}


def encode_request(resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """Return an `ExportTraceServiceRequest` of encoded parts (`encode_resource`, `encode_scope`, `encode_span`)."""
    scoped = b"".join((scope, *spans))
    return _field(b"\x0a", resource + _field(b"\x12", scoped))


def encode_resource(attributes: Mapping[str, Value]) -> bytes:
    """Return the `resource` field of `ResourceSpans`."""
    return _field(b"\x0a", b"".join(_attribute(b"\x0a", key, value) for key, value in attributes.items()))


def encode_scope(name: str, version: str) -> bytes:
    """Return the `scope` field of `ScopeSpans`."""
    return _field(b"\x0a", _text(b"\x0a", name) + (_text(b"\x12", version) if version else b""))


def encode_span(span: Span) -> bytes:
    """Return one `spans` field of `ScopeSpans`."""
    parts = [
        b"\x0a\x10", bytes.fromhex(span.trace_id.decode()), b"\x12\x08", bytes.fromhex(span.span_id.decode()),
    ]  # fmt: skip
    if span.state:
        parts.append(_field(b"\x1a", span.state))
    if span.parent_id:
        parts += (b"\x22\x08", bytes.fromhex(span.parent_id.decode()))
    parts += (
        _kept_text(b"\x2a", span.name),
        b"\x30",
        bytes((span.kind,)),
        _TIMES(0x39, span.start_ns, 0x41, span.end_ns),
    )
    fixed = span.fixed
    if not fixed.encoded:
        fixed.encoded = b"".join(_attribute(b"\x4a", key, value) for key, value in fixed.values.items())
    parts.append(fixed.encoded)
    for key, value in span.varied.items():
        parts.append(_attribute(b"\x4a", key, value))
    if span.error:
        parts.append(_ERROR)
    parts.append(_FLAGS[span.sampled, span.remote])
    return _field(b"\x12", b"".join(parts))


def _field(tag: bytes, value: bytes) -> bytes:
    size = len(value)
    return b"".join((tag, bytes((size,)) if size < 128 else _varint(size), value))


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _text(tag: bytes, value: str) -> bytes:
    return _field(tag, value.encode("utf-8", "replace"))


def _attribute(tag: bytes, key: str, value: Value) -> bytes:
    if isinstance(value, str):
        any_value = _field(b"\x0a", value.encode("utf-8", "replace"))
    elif isinstance(value, bool):
        any_value = b"\x10\x01" if value else b"\x10\x00"
    elif isinstance(value, int):
        any_value = b"\x18" + _varint(value & 0xFFFFFFFFFFFFFFFF)
    else:
        any_value = b"\x21" + _DOUBLE(value)
    return _field(tag, _kept_text(b"\x0a", key) + _field(b"\x12", any_value))


# Names of spans are few: routes, upstreams, methods.
_kept_text = lru_cache(8192)(_text)
