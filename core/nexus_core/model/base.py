"""What all models share: camelCase names, no unknown fields, frozen values, rules with remedies."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from nexus_core.model.rules import Rule

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
"""A Kubernetes object name (DNS subdomain)."""

LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
"""A DNS label."""

HOSTNAME_PATTERN = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""A host name as Gateway API takes it, the first label possibly a wildcard."""


class Model(BaseModel):
    """Base of every model of ours. Values are strict: `"2"` is no number."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = ()
    """What has to hold between the fields."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in self.cel_rules:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        if cls.cel_rules:
            handler.resolve_ref_schema(found)["x-kubernetes-validations"] = [rule.as_schema() for rule in cls.cel_rules]
        return found


class ForeignModel(Model):
    """Base of kinds that others define. Fields we do not know are kept, so that the loader can name them."""

    model_config = ConfigDict(extra="allow")


class ThinModel(Model):
    """Base of kinds of which we read a few fields and rightly leave the rest to others."""

    model_config = ConfigDict(extra="ignore")
