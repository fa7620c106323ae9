"""Service models → one executable GraphQL schema. The only module that joins our shapes to graphql-core's types.

Resolvers do no I/O: a root field hands its operation and arguments to the `Caller` in the request's context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from graphql import (
    GraphQLArgument,
    GraphQLBoolean,
    GraphQLEnumType,
    GraphQLEnumValue,
    GraphQLError,
    GraphQLField,
    GraphQLFloat,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInt,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLString,
    validate_schema,
)

from nexus_graphql.schema import scalars
from nexus_graphql.schema.settle import Names, settle
from nexus_graphql.schema.shapes import (
    EnumShape,
    Field,
    ListOf,
    Named,
    ObjectShape,
    Operation,
    Scalar,
    ServiceModel,
    TypeRef,
)

State = Literal["live", "stale", "broken", "waiting"]


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What `_services` says of one service.

    state: live (document read), stale (away; its last good document still serves), broken (its document cannot be
    used), waiting (never answered). url: logical, `http://orders.shop/openapi.json`, never an address.
    operations: root fields. problem: the first thing to mend, or None. notes: what could not be carried over.
    """

    name: str
    url: str
    state: State
    operations: int
    problem: str | None = None
    notes: tuple[str, ...] = ()


class Caller(Protocol):
    """The context value of an execution: sends one operation to its service and lists what is known."""

    async def call(self, operation: Operation, arguments: Mapping[str, Any]) -> Any:
        """Return the decoded answer. arguments: by GraphQL name, given ones only. Raises GraphQLError."""
        ...

    def services(self) -> Sequence[ServiceInfo]: ...


def build(models: Sequence[ServiceModel]) -> GraphQLSchema:
    """Return the schema over all usable models. Total and deterministic: equal models, equal SDL.

    Raises AssertionError only for a bug of ours: what models hold is legal by construction.
    """
    usable = sorted((m for m in models if not m.is_broken), key=lambda m: m.service)
    builder = _Builder(usable, settle(usable))
    schema = builder.schema()
    errors = validate_schema(schema)
    assert not errors, f"the built schema is not valid: {errors[0].message}"
    return schema


class _Builder:
    def __init__(self, models: Sequence[ServiceModel], names: Names) -> None:
        self._models, self._names = models, names
        self._scalars: dict[str, GraphQLScalarType] = {
            "String": GraphQLString, "Int": GraphQLInt, "Float": GraphQLFloat, "Boolean": GraphQLBoolean,
            **scalars.build(),
        }  # fmt: skip
        self._types: dict[tuple[str, str], Any] = {}

    def schema(self) -> GraphQLSchema:
        for model in self._models:
            for key, shape in model.types.items():
                if (model.service, key) in self._names.types:
                    self._types[model.service, key] = self._type(model.service, shape)
        roots: dict[str, dict[str, GraphQLField]] = {"query": {}, "mutation": {}}
        for model in self._models:
            for operation in model.operations:
                name = self._names.fields[model.service, operation.at]
                roots[operation.root][name] = self._root(operation)
        query = dict(sorted(roots["query"].items()))
        query["_services"] = _services_field()
        mutation = dict(sorted(roots["mutation"].items()))
        return GraphQLSchema(
            query=GraphQLObjectType("Query", query),
            mutation=GraphQLObjectType("Mutation", mutation) if mutation else None,
        )

    # -- types ---------------------------------------------------------------------------------------------------

    def _type(self, service: str, shape: ObjectShape | EnumShape) -> Any:
        name, description = self._names.types[service, shape.key], shape.description or None
        if isinstance(shape, EnumShape):
            values = {n: GraphQLEnumValue(v) for n, v in shape.values}
            return GraphQLEnumType(name, values, description=description)
        fields = shape.fields
        if shape.is_input:
            return GraphQLInputObjectType(
                name, lambda: {f.name: self._input_field(service, f) for f in fields}, description=description
            )
        return GraphQLObjectType(
            name, lambda: {f.name: self._output_field(service, f, name) for f in fields}, description=description
        )

    def _input_field(self, service: str, field: Field) -> GraphQLInputField:
        return GraphQLInputField(
            self._ref(service, field.ref), description=field.description or None,
            deprecation_reason=field.deprecated or None, out_name=field.source,
        )  # fmt: skip

    def _output_field(self, service: str, field: Field, owner: str) -> GraphQLField:
        return GraphQLField(
            self._ref(service, field.ref), resolve=_read_key(service, owner, field.source),
            description=field.description or None, deprecation_reason=field.deprecated or None,
        )  # fmt: skip

    def _ref(self, service: str, ref: TypeRef) -> Any:
        inner: Any
        if isinstance(ref.type, Scalar):
            inner = self._scalars[ref.type.name]
        elif isinstance(ref.type, Named):
            inner = self._types[service, ref.type.key]
        else:
            assert isinstance(ref.type, ListOf)
            inner = GraphQLList(self._ref(service, ref.type.item))
        return inner if ref.nullable else GraphQLNonNull(inner)

    def _root(self, operation: Operation) -> GraphQLField:
        arguments = {
            a.name: GraphQLArgument(
                self._ref(operation.service, a.ref), description=a.description or None,
                deprecation_reason=a.deprecated or None,
            )
            for a in operation.arguments
        }  # fmt: skip
        return GraphQLField(
            self._ref(operation.service, operation.returns), args=arguments, resolve=_call(operation),
            description=operation.description or None, deprecation_reason=operation.deprecated or None,
        )  # fmt: skip


def _call(operation: Operation) -> Callable[..., Any]:
    # Positional-only, because an argument of the operation may be called `source` or `info`.
    async def resolve(source: Any, info: GraphQLResolveInfo[Any], /, **arguments: Any) -> Any:
        caller: Caller = info.context
        return await caller.call(operation, arguments)

    return resolve


def _read_key(service: str, owner: str, key: str) -> Callable[..., Any]:
    def resolve(source: Any, info: GraphQLResolveInfo[Any], /) -> Any:
        if type(source) is dict:
            return source.get(key)
        raise GraphQLError(
            f"{service} answered {_kind(source)} where its document promises an object ({owner}).",
            extensions={"service": service, "reason": "ContractBroken"},
        )

    return resolve


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}.get(
        type(value), "something else"
    )


def _services_field() -> GraphQLField:
    text, required = GraphQLNonNull(GraphQLString), GraphQLNonNull
    state = GraphQLEnumType(
        "_ServiceState",
        {
            "live": GraphQLEnumValue("live", description="Its document was read at the last look."),
            "stale": GraphQLEnumValue("stale", description="It is away; its last good document still serves."),
            "broken": GraphQLEnumValue("broken", description="Its document cannot be used; `problem` says why."),
            "waiting": GraphQLEnumValue("waiting", description="It has not handed out its document yet."),
        },
    )
    service = GraphQLObjectType(
        "_Service",
        {
            "name": GraphQLField(text, description="Its name in the registry, such as orders.shop."),
            "url": GraphQLField(text, description="Where its OpenAPI document is, by its logical name."),
            "state": GraphQLField(required(state)),
            "operations": GraphQLField(required(GraphQLInt), description="How many root fields come from it."),
            "problem": GraphQLField(GraphQLString, description="The first thing to mend, if there is one."),
            "notes": GraphQLField(required(GraphQLList(text)), description="What could not be carried over."),
        },
        description="A service that this schema was built from.",
    )

    def resolve(source: Any, info: GraphQLResolveInfo[Any], /) -> Sequence[ServiceInfo]:
        caller: Caller = info.context
        return caller.services()

    return GraphQLField(
        required(GraphQLList(required(service))), resolve=resolve,
        description="The services that this schema is built from, and what is wrong with them.",
    )  # fmt: skip
