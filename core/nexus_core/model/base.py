"""What all models share: camelCase names, no unknown fields, frozen values, rules with remedies."""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError

from nexus_core.model.rules import ERROR_TYPE, Rule

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
        self._check_keys_of_lists()
        return self

    def _check_keys_of_lists(self) -> None:
        """Two items with one key: the API server refuses them for `x-kubernetes-list-type: map`, in these words."""
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if not isinstance(extra, dict) or extra.get("x-kubernetes-list-type") != "map":
                continue
            (key,) = cast("list[str]", extra["x-kubernetes-list-map-keys"])
            seen: set[str] = set()
            for item in getattr(self, name) or ():
                value = getattr(item, key)
                if value in seen:
                    what = f'Duplicate value: "{value}" is listed twice.'
                    context = {"what": what, "fix": "Remove one of the two.", "reason": "InvalidSpec"}
                    raise PydanticCustomError(
                        ERROR_TYPE, "{what} {fix}", context | {"field": f".{field.alias or name}"}
                    )
                seen.add(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        if cls.cel_rules:
            handler.resolve_ref_schema(found)["x-kubernetes-validations"] = [rule.as_schema() for rule in cls.cel_rules]
        return found


class ForeignModel(Model):
    """Base of kinds that others define. Fields we do not know are kept, so that the loader can name them."""

    model_config = ConfigDict(extra="allow")

    @property
    def unread(self) -> tuple[str, ...]:
        """The names of fields that are written here and that we do not know, sorted. Empty ones say nothing."""
        return tuple(name for name, value in sorted((self.model_extra or {}).items()) if value not in (None, [], {}))


class ThinModel(Model):
    """Base of kinds of which we read a few fields and rightly leave the rest to others."""

    model_config = ConfigDict(extra="ignore")
