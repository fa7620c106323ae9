"""CloudEvents 1.0 over HTTP: parse and serialise in binary, structured and batch mode. Pure, and total on bytes.

Sources: CloudEvents 1.0.2 core, JSON event format 1.0.2, HTTP protocol binding 1.0.2. Knows nothing of sockets, stores
and traces. What is refused says where (`[3].source`), what and how to fix; every problem of a request is listed at once.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
JSON = "application/json"
MAX_PROBLEMS = 20
"""Problems reported for one request; a batch of a thousand broken events must not make an answer of a megabyte."""
LONGEST_NAME = 64
"""Characters of an extension's name. The specification says SHOULD 20; longer ones exist, endless ones are an attack."""

Value = str | int | bool

_NAME = re.compile(r"[a-z0-9]+\Z")
# Core, "String": no control characters, no lone surrogates, no Unicode non-characters.
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17))
    + "]"
)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_URI_REFERENCE = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%\u00a0-\U0010ffff]+\Z")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:.+\Z")
_JSON_TYPE = re.compile(r"[^/;\s]+/(?:[^;\s]*\+)?json\s*(?:;|\Z)", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*(?:;.*)?\Z")
_REQUIRED = ("id", "source", "type")
_RESERVED = frozenset({"specversion", "data", "data_base64", *_REQUIRED})


@dataclass(frozen=True, slots=True)
class Problem:
    """where: `.source`, `[2].time`, or `body`. what: what is wrong with it. fix: what to send instead."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.fix}"


class Refused(Exception):
    """The request is no CloudEvent that can be taken. status: 400, 413 or 415. problems: one or more, in order of the input."""

    def __init__(self, status: int, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.status = status
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event, independent of the mode it came in.

    attributes: every other context attribute by its name (`time`, `subject`, `datacontenttype`, `dataschema` and
    extensions), never empty strings for the optional core ones. data: the payload's bytes as the media type in
    `datacontenttype` has them (JSON is UTF-8 text); None: no data. text: data came as a text and goes out as one.
    """

    id: str
    source: str
    type: str
    attributes: Mapping[str, Value] = field(default_factory=dict)
    data: bytes | None = None
    is_text: bool = False

    @property
    def content_type(self) -> str | None:
        value = self.attributes.get("datacontenttype")
        return value if isinstance(value, str) else None

    def with_attribute(self, name: str, value: Value) -> CloudEvent:
        return replace(self, attributes={**self.attributes, name: value})


@dataclass(frozen=True, slots=True)
class Limits:
    """event_bytes: of one event in structured form; 256 KiB: four times what every intermediary has to forward. batch: events."""

    event_bytes: int = 256 * 1024
    batch: int = 1000


def is_json(content_type: str | None) -> bool:
    """Return whether data of that media type is JSON; no media type means JSON (JSON format, 3.1)."""
    return content_type is None or _JSON_TYPE.match(content_type) is not None


# --- in ---------------------------------------------------------------------------------------------------------------


def parse(headers: Iterable[tuple[str, str]], body: bytes, limits: Limits = Limits()) -> tuple[CloudEvent, ...]:
    """Return the events of one HTTP request, in its order; a batch may hold none. All of them or Refused.

    headers: as received, any case, repeats kept.
    """
    pairs = [(name.lower(), value) for name, value in headers]
    content_type = next((value for name, value in pairs if name == "content-type"), "")
    media = content_type.split(";", 1)[0].strip().lower()
    if media in (STRUCTURED, BATCH):
        _check_charset(content_type)
    if media == STRUCTURED:
        return (_all([_parse_one(_decode(body), "", limits)])[0],)
    if media == BATCH:
        return _parse_batch(body, limits)
    if media.startswith("application/cloudevents"):
        raise Refused(
            415,
            [
                Problem(
                    "content-type",
                    f"{media!r} is an event format that is not supported.",
                    f"Use {STRUCTURED} or {BATCH}.",
                )
            ],
        )
    if not any(name == "ce-specversion" for name, _ in pairs):
        raise Refused(415, [Problem(
            "content-type", f"{media or 'no content type'!r} without the header ce-specversion is no CloudEvent.",
            f"Send {STRUCTURED} with the event as JSON, {BATCH} with a list, or the ce-* headers of binary mode.",
        )])  # fmt: skip
    return (_all([_parse_binary(pairs, content_type, body, limits)])[0],)


def from_json(body: bytes) -> CloudEvent:
    """Return the event that `to_json` made; stores read with it. Raises Refused if it is none."""
    return _all([_parse_one(_decode(body), "", Limits(event_bytes=len(body)))])[0]


def _all(results: Sequence[CloudEvent | list[Problem]]) -> tuple[CloudEvent, ...]:
    problems = [p for r in results if isinstance(r, list) for p in r]
    if problems:
        status = 413 if all(p.what.startswith("larger") for p in problems) else 400
        raise Refused(status, problems[:MAX_PROBLEMS])
    return tuple(r for r in results if isinstance(r, CloudEvent))


def _check_charset(content_type: str) -> None:
    for parameter in content_type.split(";")[1:]:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8", "us-ascii"):
            raise Refused(415, [Problem("content-type", f"charset {value.strip()!r} is not supported.", "Send UTF-8.")])


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as err:
        raise Refused(
            400, [Problem("body", f"not a JSON object ({err}).", "Send one event as a JSON object in UTF-8.")]
        ) from err


def _parse_batch(body: bytes, limits: Limits) -> tuple[CloudEvent, ...]:
    try:
        items = msgspec.json.decode(body, type=list[dict[str, msgspec.Raw]])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as err:
        raise Refused(
            400, [Problem("body", f"not a JSON list of objects ({err}).", "Send a list of events in UTF-8.")]
        ) from err
    if len(items) > limits.batch:
        raise Refused(
            413, [Problem("body", f"larger than {limits.batch} events ({len(items)}).", "Send smaller batches.")]
        )
    return _all([_parse_one(item, f"[{number}]", limits) for number, item in enumerate(items)])


def _parse_one(raw: Mapping[str, msgspec.Raw], where: str, limits: Limits) -> CloudEvent | list[Problem]:
    size = sum(len(value) + len(key) for key, value in raw.items())
    if size > limits.event_bytes:
        return [
            Problem(
                where or "body",
                f"larger than {limits.event_bytes} bytes ({size}).",
                "Keep the data elsewhere and send a link to it.",
            )
        ]
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in raw.items():
        if name == "data":
            continue
        try:
            decoded = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as err:
            problems.append(Problem(f"{where}.{name}", f"not JSON ({err}).", "Send UTF-8 JSON."))
            continue
        if decoded is not None:  # JSON format, 2.2: null is the same as absent
            values[name] = decoded
    encoded = values.pop("data_base64", None)
    event = _check(values, where, problems)
    plain = raw.get("data")
    if plain is not None and bytes(plain).strip() == b"null":
        plain = None
    data: bytes | None = None
    content_type, is_text = event.content_type, False
    if plain is not None and encoded is not None:
        problems.append(Problem(f"{where}.data_base64", "stands beside data.", "Send one of the two."))
    elif plain is not None and is_json(content_type):
        try:
            msgspec.json.decode(plain)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as err:
            problems.append(Problem(f"{where}.data", f"not JSON ({err}).", "Send UTF-8 JSON."))
        data = bytes(plain)
        if content_type is None:  # implied by the JSON format; binary mode needs it said
            event = event.with_attribute("datacontenttype", JSON)
    elif plain is not None:
        try:
            data, is_text = msgspec.json.decode(plain, type=str).encode(), True
        except (msgspec.DecodeError, UnicodeError) as err:
            fix = "Send a text, data_base64, or a JSON datacontenttype."
            problems.append(Problem(f"{where}.data", f"of datacontenttype {content_type!r} is no text ({err}).", fix))
    elif encoded is not None:
        try:
            data = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else None
        except (binascii.Error, ValueError):
            data = None
        if data is None:
            problems.append(Problem(f"{where}.data_base64", "is no Base64 text.", "Send RFC 4648 Base64 with padding."))
    return problems or replace(event, data=data, is_text=is_text)


def _parse_binary(
    pairs: Sequence[tuple[str, str]], content_type: str, body: bytes, limits: Limits
) -> CloudEvent | list[Problem]:
    size = len(body) + sum(len(name) + len(value) for name, value in pairs if name.startswith("ce-"))
    if size > limits.event_bytes:
        return [
            Problem(
                "body",
                f"larger than {limits.event_bytes} bytes ({size}).",
                "Keep the data elsewhere and send a link to it.",
            )
        ]
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in pairs:
        if not name.startswith("ce-"):
            continue
        attribute = name[3:]
        if attribute in ("datacontenttype", "data", "data_base64"):
            problems.append(
                Problem(name, "is no header of binary mode.", "Use content-type, and the body for the data.")
            )
        elif attribute in values:
            problems.append(Problem(name, "is there more than once.", "Send one header for each attribute."))
        else:
            try:
                values[attribute] = decode_header(value)
            except UnicodeError:
                problems.append(
                    Problem(name, "is not percent-encoded UTF-8.", "Encode it as HTTP binding 3.1.3.2 says.")
                )
    if content_type:
        values["datacontenttype"] = content_type
    event = _check(values, "", problems, binary=True)
    data = body or None
    if data is not None and content_type and is_json(content_type):
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as err:
            problems.append(
                Problem(
                    "body", f"not JSON, though content-type says so ({err}).", "Send JSON, or its real content type."
                )
            )
    return problems or replace(event, data=data, is_text=data is not None and _is_text(content_type, data))


def _is_text(content_type: str, data: bytes) -> bool:
    """Whether the structured form should show the data as a text and not as Base64."""
    if not content_type.lower().startswith("text/") or is_json(content_type):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check(values: Mapping[str, Any], where: str, problems: list[Problem], *, binary: bool = False) -> CloudEvent:
    """Check the context attributes; adds to `problems`. What is returned is usable only if none was added."""
    place = "ce-" if binary else f"{where}."

    def bad(name: str, what: str, fix: str) -> None:
        label = "content-type" if binary and name == "datacontenttype" else f"{place}{name[:80]}"
        problems.append(Problem(label, what, fix))

    version = values.get("specversion")
    if version != "1.0":
        what = "is missing." if version is None else f"{str(version)[:20]!r} is not supported."
        bad("specversion", what, 'Send "1.0".')
    for name in _REQUIRED:
        if name not in values:
            bad(name, "is missing.", f"Every event needs {', '.join(_REQUIRED)}.")
    for name, value in values.items():
        if not _NAME.match(name) or len(name) > LONGEST_NAME:
            bad(name, "is no attribute name.", f"Use a-z and 0-9, at most {LONGEST_NAME} characters.")
        elif name in _REQUIRED or name in _CHECKS:
            if not isinstance(value, str) or not value:
                bad(name, "has to be a text that is not empty.", "Correct it, or leave an optional attribute out.")
            elif _FORBIDDEN.search(value):
                bad(name, "holds a character that is not allowed (control, surrogate or non-character).", "Remove it.")
            elif name in _CHECKS and not _CHECKS[name][0](value):
                bad(name, f"{value[:80]!r} {_CHECKS[name][1]}", _CHECKS[name][2])
        elif isinstance(value, str):
            if _FORBIDDEN.search(value):
                bad(name, "holds a character that is not allowed (control, surrogate or non-character).", "Remove it.")
        elif isinstance(value, int) and not isinstance(value, bool):
            if not -(2**31) <= value < 2**31:
                bad(name, f"{value} does not fit 32 bits.", "Send it as a text.")
        elif not isinstance(value, bool):
            bad(
                name,
                f"is {_kind(value)}.",
                "An extension is a text, a whole number or a boolean; put the rest into data.",
            )
    attributes = {k: v for k, v in values.items() if k not in _RESERVED}
    return CloudEvent(str(values.get("id", "")), str(values.get("source", "")), str(values.get("type", "")), attributes)


def _kind(value: object) -> str:
    return {"list": "a list", "dict": "an object", "float": "a fraction"}.get(
        type(value).__name__, "of an unknown kind"
    )


def is_time(text: str) -> bool:
    """Return whether text is an RFC 3339 date-time (offset needed, leap second allowed)."""
    found = _TIME.match(text)
    if found is None:
        return False
    second = min(int(found[3]), 59) if found[3] == "60" else int(found[3])
    zone = "+00:00" if found[5] in "Zz" else found[5]
    try:
        datetime.fromisoformat(f"{found[1]}T{found[2]}:{second:02d}{zone}")
    except ValueError:
        return False
    return True


_CHECKS: Mapping[str, tuple[Callable[[str], bool], str, str]] = {
    "source": (
        lambda v: _URI_REFERENCE.match(v) is not None, "is no URI reference.",
        "Use such as '/shop/orders' or 'https://shop.example/orders', without spaces."),
    "time": (is_time, "is no RFC 3339 time.", "Use such as '2026-11-21T08:00:00Z'."),
    "dataschema": (
        lambda v: _ABSOLUTE.match(v) is not None and _URI_REFERENCE.match(v) is not None, "is no absolute URI.",
        "Use such as 'https://shop.example/schemas/order.json'."),
    "subject": (lambda v: True, "", ""),
    "datacontenttype": (lambda v: _MEDIA_TYPE.match(v) is not None, "is no media type.", "Use such as 'application/json'."),
}  # fmt: skip


# --- out --------------------------------------------------------------------------------------------------------------


def to_json(event: CloudEvent) -> bytes:
    """Return the structured form: required attributes first, then the others by name, then data. Same event, same bytes."""
    head: dict[str, Any] = {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.type}
    head.update(sorted(event.attributes.items()))
    if event.data is not None:
        if event.is_text:
            head["data"] = event.data.decode()
        elif event.content_type is not None and is_json(event.content_type):
            head["data"] = msgspec.Raw(event.data)
        else:
            head["data_base64"] = base64.b64encode(event.data).decode()
    return msgspec.json.encode(head)


def to_batch(events: Iterable[CloudEvent]) -> bytes:
    """Return the JSON list of the structured forms."""
    return b"[" + b",".join(map(to_json, events)) + b"]"


def to_binary(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Return the headers (lower-case) and the body of binary mode. Attribute values become texts (HTTP binding, 3.1.3)."""
    headers = {"ce-specversion": "1.0"}
    named = {"id": event.id, "source": event.source, "type": event.type, **event.attributes}
    for name, value in named.items():
        if name == "datacontenttype":
            headers["content-type"] = str(value)
        else:
            headers[f"ce-{name}"] = encode_header(_text(value))
    return headers, event.data or b""


def _text(value: Value) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def encode_header(text: str) -> str:
    """Percent-encode what may not stand in a header: space, `"`, `%` and all that is not printable ASCII (3.1.3.2)."""
    return quote(text, safe="!#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def decode_header(value: str) -> str:
    """Undo `encode_header`; also takes off the quotes of a quoted string. Raises UnicodeError."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    if "%" not in value:
        return value.encode("utf-8", "surrogateescape").decode("utf-8")
    return unquote_to_bytes(value.encode("utf-8", "surrogateescape")).decode("utf-8")
