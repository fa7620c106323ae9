"""Reads the CloudEvents that the event service, or anybody else, pushes here: binary, structured and batch mode. Pure.

Lenient on purpose: what arrives was checked where it was accepted; here only what a message is made of is needed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec


class NotAnEvent(ValueError):
    """The request holds no CloudEvent: what, where, how to fix."""


@dataclass(frozen=True, slots=True)
class Event:
    """data: JSON that becomes the message's data: the event's own JSON, its text as a JSON text, bytes as {"base64": …}."""

    id: str
    source: str
    type: str
    data: msgspec.Raw
    traceparent: str = ""


def parse(headers: Mapping[str, str], body: bytes) -> tuple[Event, ...]:
    """Return the events. headers: case-insensitive. Raises NotAnEvent."""
    content_type = headers.get("content-type", "")
    media = content_type.split(";", 1)[0].strip().lower()
    if media == "application/cloudevents+json":
        return (_structured(_decode(body, dict[str, msgspec.Raw]), ""),)
    if media == "application/cloudevents-batch+json":
        items: list[dict[str, msgspec.Raw]] = _decode(body, list[dict[str, msgspec.Raw]])
        return tuple(_structured(item, f"[{number}]") for number, item in enumerate(items))
    values = {name: unquote(headers.get(f"ce-{name}", "")) for name in ("id", "source", "type", "traceparent")}
    if not headers.get("ce-specversion"):
        raise NotAnEvent("No CloudEvent: send application/cloudevents+json, or the ce-* headers of binary mode.")
    return (_build(values, _data_of(body, media), ""),)


def _data_of(body: bytes, media: str) -> msgspec.Raw:
    if not body:
        return msgspec.Raw(b"null")
    if media == "application/json" or media.endswith("+json"):
        _decode(body, Any)
        return msgspec.Raw(body)
    if media.startswith("text/"):
        return msgspec.Raw(msgspec.json.encode(body.decode("utf-8", "replace")))
    return msgspec.Raw(msgspec.json.encode({"base64": base64.b64encode(body).decode()}))


def _structured(raw: Mapping[str, msgspec.Raw], where: str) -> Event:
    values = {name: _decode(raw[name], Any) for name in ("id", "source", "type", "traceparent") if name in raw}
    if "data" in raw:
        _decode(raw["data"], Any)
        data = msgspec.Raw(bytes(raw["data"]))
    elif "data_base64" in raw:
        media = _decode(raw["datacontenttype"], str) if "datacontenttype" in raw else ""
        try:
            data = _data_of(
                base64.b64decode(_decode(raw["data_base64"], str), validate=True), media.split(";", 1)[0].lower()
            )
        except binascii.Error as err:
            raise NotAnEvent(f"{where}.data_base64 is no Base64 ({err}). Send RFC 4648 with padding.") from err
    else:
        data = msgspec.Raw(b"null")
    return _build(values, data, where)


def _build(values: Mapping[str, Any], data: msgspec.Raw, where: str) -> Event:
    for name in ("id", "source", "type"):
        if not isinstance(values.get(name), str) or not values[name]:
            raise NotAnEvent(f"{where}.{name} is missing or no text. Every CloudEvent needs id, source and type.")
    traceparent = values.get("traceparent")
    return Event(
        values["id"], values["source"], values["type"], data, traceparent if isinstance(traceparent, str) else ""
    )


def _decode(body: bytes | msgspec.Raw, shape: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as err:
        raise NotAnEvent(f"Not the JSON of a CloudEvent ({err}). Send UTF-8 JSON.") from err
