"""Between JSON requests and messages: the rules of google/api/http.proto, by the JSON mapping of Protocol Buffers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from .services import Binding, field_of

_TEXTS = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"})
"""Messages that are texts in JSON."""
_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_MAX_DEPTH = 64
HTTP_BODY = "google.api.HttpBody"


class NotFitting(ValueError):
    """The request has no message; the message says what does not fit."""


class Transcoder:
    """Makes messages of requests, and JSON of messages."""

    def __init__(
        self, pool: DescriptorPool, *, proto_names: bool, defaults: bool, enum_numbers: bool, ignore_unknown: bool
    ) -> None:
        self._pool = pool
        self._proto_names = proto_names
        self._defaults = defaults
        self._enum_numbers = enum_numbers
        self._ignore_unknown = ignore_unknown

    def request(
        self, binding: Binding, variables: Mapping[str, str], query: Iterable[tuple[str, str]], body: bytes
    ) -> bytes:
        """Return the serialized message of a request. Raises `NotFitting`. The path wins over the body."""
        message = binding.new_request()
        rule = binding.rule
        if body and rule.body:
            self._read_body(message, rule.body, body)
        elif body:
            raise NotFitting("The operation takes no body.")
        if rule.body != "*":
            taken = {name.partition(".")[0] for name in [rule.body] if name}
            self._read_query(message, query, taken | set(variables))
        for name, text in variables.items():
            self._set(message, name, [text], "path")
        serialized: bytes = message.SerializeToString()
        return serialized

    def response(self, binding: Binding, data: bytes) -> tuple[Any, str, bytes | None]:
        """Return a message as JSON value; or, of a google.api.HttpBody, its content type and data. Raises DecodeError, ValueError."""
        message = binding.response()
        message.ParseFromString(data)
        if message.DESCRIPTOR.full_name == HTTP_BODY:
            raw: Any = message
            return None, raw.content_type, raw.data
        try:
            value = json_format.MessageToDict(
                message, preserving_proto_field_name=self._proto_names, always_print_fields_with_no_presence=self._defaults,
                use_integers_for_enums=self._enum_numbers, descriptor_pool=self._pool,
            )  # fmt: skip
        except (json_format.SerializeToJsonError, TypeError) as error:
            raise ValueError(f"the message has no JSON form: {error}") from error
        if binding.rule.response_body:
            field = field_of(message.DESCRIPTOR, binding.rule.response_body)
            assert field is not None  # checked with the configuration
            key = field.name if self._proto_names else field.json_name
            value = value.get(key, [] if field.is_repeated else None)
        return value, "", None

    def _read_body(self, message: Message, field: str, body: bytes) -> None:
        try:
            value = json.loads(body, object_pairs_hook=_unique)
        except NotFitting:
            raise
        except (ValueError, RecursionError) as error:
            raise NotFitting("The body is not JSON.") from error
        if field != "*":
            for name in reversed(field.split(".")):
                value = {name: value}
        elif not isinstance(value, dict):
            raise NotFitting("The body is not a JSON object.")
        self._merge(message, value, "The body")

    def _read_query(self, message: Message, query: Iterable[tuple[str, str]], taken: set[str]) -> None:
        values: dict[str, list[str]] = {}
        for name, text in query:
            values.setdefault(name, []).append(text)
        for name, texts in values.items():
            if name in taken or name.partition(".")[0] in taken:
                raise NotFitting(f"The query parameter {name[:128]!r} is given by path or body.")
            self._set(message, name, texts, "query")

    def _set(self, message: Message, name: str, texts: list[str], place: str) -> None:
        field = field_of(message.DESCRIPTOR, name)
        if field is None:
            if self._ignore_unknown and place == "query":
                return
            raise NotFitting(f"The {place} parameter {name[:128]!r} is not known.")
        if not field.is_repeated and len(texts) > 1:
            raise NotFitting(f"The {place} parameter {name[:128]!r} is given more than once.")
        values = [_value(field, text, name) for text in texts]
        value: Any = values if field.is_repeated else values[0]
        for part in reversed(_names(message.DESCRIPTOR, name)):
            value = {part: value}
        self._merge(message, value, f"The {place} parameter {name[:128]!r}")

    def _merge(self, message: Message, value: dict[str, Any], what: str) -> None:
        try:
            json_format.ParseDict(
                value,
                message,
                ignore_unknown_fields=self._ignore_unknown,
                descriptor_pool=self._pool,
                max_recursion_depth=_MAX_DEPTH,
            )
        except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError, DecodeError) as error:
            raise NotFitting(f"{what} does not fit: {str(error)[:300]}") from error


def _value(field: FieldDescriptor, text: str, name: str) -> Any:
    """Return a parameter as the JSON mapping has its type."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        message = field.message_type
        if message.full_name in _TEXTS:
            return text
        if message.full_name in _WRAPPERS:
            return _value(message.fields_by_name["value"], text, name)
        raise NotFitting(f"The parameter {name[:128]!r} is a message; name one of its fields: {name[:128]}.<field>.")
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if text not in ("true", "false"):
            raise NotFitting(f"The parameter {name[:128]!r} is neither true nor false.")
        return text == "true"
    if kind == FieldDescriptor.CPPTYPE_ENUM and text.lstrip("-").isascii() and text.lstrip("-").isdigit():
        return int(text[:12])
    return text


def _names(message: Descriptor, path: str) -> list[str]:
    """Return a dotted path with the proto's own names, as one message may hold each field once."""
    names = []
    for part in path.split("."):
        field = message.fields_by_name.get(part) or message.fields_by_camelcase_name[part]
        names.append(field.name)
        message = field.message_type
    return names


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotFitting("The body names one member of an object twice.")
    return found
