"""The vocabulary between OpenAPI and GraphQL: what one service offers, before names are settled across services.

Everything here is a value: equal documents give equal models. Knows nothing of graphql-core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Location = Literal["path", "query", "header", "body"]
Root = Literal["query", "mutation"]
Answer = Literal["json", "text", "empty"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar by its GraphQL name: a built-in one or one of `scalars.SCALARS`."""

    name: str


@dataclass(frozen=True, slots=True)
class Named:
    """An object, input or enum type of the same service, by its key in `ServiceModel.types`."""

    key: str


@dataclass(frozen=True, slots=True)
class ListOf:
    item: TypeRef


@dataclass(frozen=True, slots=True)
class TypeRef:
    """A type in a place. nullable: False becomes `!`."""

    type: Scalar | Named | ListOf
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class Field:
    """One property. name: GraphQL name, unique in its type. source: the JSON key. deprecated: a reason, or empty."""

    name: str
    source: str
    ref: TypeRef
    description: str = ""
    deprecated: str = ""


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """An output (`is_input` False) or input object type. wanted: the name it gets if nobody else wants it."""

    key: str
    wanted: str
    fields: tuple[Field, ...]
    is_input: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class EnumShape:
    """An enum of strings. values: (GraphQL name, the string in JSON), in document order."""

    key: str
    wanted: str
    values: tuple[tuple[str, str], ...]
    description: str = ""


Shape = ObjectShape | EnumShape


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a root field and where its value travels.

    source: the parameter's name in the request; empty for the body. style, explode: OpenAPI serialisation; style
    `json` for a parameter with `content`. form: the body travels as application/x-www-form-urlencoded, else JSON.
    """

    name: str
    source: str
    location: Location
    ref: TypeRef
    style: str = "simple"
    explode: bool = False
    form: bool = False
    description: str = ""
    deprecated: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One path and method as a root field. service: registry name. path: the template, with the server's base path.

    at: JSON pointer in the document, for messages.
    """

    service: str
    wanted: str
    root: Root
    method: str
    path: str
    arguments: tuple[Argument, ...]
    returns: TypeRef
    answer: Answer = "json"
    description: str = ""
    deprecated: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """What could not be carried over, and where: a JSON pointer.

    fatal: the whole document is left out. lost: an operation is left out, or not what its author meant. Neither: it is
    there with a weaker type.
    """

    at: str
    what: str
    fix: str
    fatal: bool = False
    lost: bool = False

    def __str__(self) -> str:
        return f"{self.at or '/'}: {self.what} {self.fix}"


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """One service's whole contribution. title: of its document. operations: in order of path and method."""

    service: str
    title: str
    operations: tuple[Operation, ...]
    types: dict[str, Shape]
    notes: tuple[Note, ...] = ()

    @property
    def is_broken(self) -> bool:
        return any(note.fatal for note in self.notes)


def find_named(ref: TypeRef) -> Named | None:
    """Return the named type under the lists of `ref`, None for a scalar."""
    inner: Any = ref.type
    while isinstance(inner, ListOf):
        inner = inner.item.type
    return inner if isinstance(inner, Named) else None
