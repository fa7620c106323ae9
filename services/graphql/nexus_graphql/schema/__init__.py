"""OpenAPI documents → one GraphQL schema. Pure: no sockets, clocks or logs. `read` each document, then `build` all."""

from nexus_graphql.schema.build import Caller, ServiceInfo, State, build
from nexus_graphql.schema.read import read
from nexus_graphql.schema.shapes import Argument, Note, Operation, ServiceModel

__all__ = ["Argument", "Caller", "Note", "Operation", "ServiceInfo", "ServiceModel", "State", "build", "read"]
