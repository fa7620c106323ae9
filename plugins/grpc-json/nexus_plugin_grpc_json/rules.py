"""`google.api.http` of a method, read from the bytes of its options: descriptors then need not bring google/api/*.proto along.

Source: google/api/http.proto (fields of HttpRule), google/api/annotations.proto (the extension's number).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_EXTENSION = 72295728
_VERBS = {2: "GET", 3: "PUT", 4: "POST", 5: "DELETE", 6: "PATCH"}
_BODY, _CUSTOM, _ADDITIONAL, _RESPONSE_BODY = 7, 8, 11, 12


class NotReadable(ValueError):
    """The bytes are no protocol buffer."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One binding. body: a field, `*` for the whole message, empty for none. response_body: a field, empty for the whole message."""

    verb: str
    path: str
    body: str = ""
    response_body: str = ""


def rules_of(options: bytes) -> list[Rule]:
    """Return the bindings in the serialized MethodOptions, the additional ones behind their first. Raises `NotReadable`."""
    return [
        rule for number, value in _fields(options) if number == _EXTENSION for rule in _rules(value, additional=False)
    ]


def _rules(data: bytes, *, additional: bool) -> Iterator[Rule]:
    verb = path = body = response_body = ""
    more: list[bytes] = []
    for number, value in _fields(data):
        if number in _VERBS:
            verb, path = _VERBS[number], value.decode()
        elif number == _CUSTOM:
            custom = {each: text.decode() for each, text in _fields(value)}
            verb, path = custom.get(1, "").upper(), custom.get(2, "")
        elif number == _BODY:
            body = value.decode()
        elif number == _RESPONSE_BODY:
            response_body = value.decode()
        elif number == _ADDITIONAL and not additional:  # they do not nest
            more.append(value)
    if verb and path:
        yield Rule(verb, path, body, response_body)
    for each in more:
        yield from _rules(each, additional=True)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each length-delimited field; others are skipped. Source: the Protocol Buffers encoding."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise NotReadable("a field ends behind the bytes")
            yield key >> 3, data[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise NotReadable(f"there is no wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise NotReadable("a number has no end")
