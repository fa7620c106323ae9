"""Structs whose wire form is no longer than it has to be."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def sparse(kind: type[T], **fields: Any) -> T:
    """Return a struct of these fields. One that equals its default is made the default itself: `omit_defaults` leaves out of the wire
    form what is the same object, so that an equal number or tuple would be written.
    """
    defaults = _defaults(kind)
    return kind(**{name: value for name, value in fields.items() if value != defaults[name]})


@functools.cache
def _defaults(kind: type[msgspec.Struct]) -> Mapping[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(kind)}
