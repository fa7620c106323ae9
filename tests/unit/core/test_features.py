"""What a GatewayClass claims, by what the cluster's own definitions of the Gateway API can say."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.translate.features import (
    NEEDED_FIELDS,
    NEEDED_KINDS,
    RETRY,
    SUPPORTED_FEATURES,
    fields_in,
    lacking,
)

KINDS = frozenset(NEEDED_KINDS.values())


def schema(*fields: str) -> dict[str, Any]:
    rule = {"type": "object", "properties": {field: {"type": "object"} for field in fields}}
    spec = {"type": "object", "properties": {"rules": {"type": "array", "items": rule}}}
    return {"type": "object", "properties": {"spec": spec}}


def test_all_is_claimed_where_every_field_and_kind_is() -> None:
    assert lacking({RETRY}, KINDS) == frozenset()
    assert set(SUPPORTED_FEATURES) >= NEEDED_FIELDS.keys() | NEEDED_KINDS.keys()


def test_what_the_standard_channel_has_no_field_for_is_not_claimed() -> None:
    assert lacking((), KINDS) == {
        "HTTPRouteRetry",
        "HTTPRouteRetryBackendTimeout",
        "HTTPRouteRetryConnectionError",
    }


def test_features_of_kinds_that_are_not_installed_are_not_claimed() -> None:
    assert lacking({RETRY}, KINDS - {"TLSRoute", "UDPRoute"}) == {
        "TLSRoute",
        "TLSRouteModeMixed",
        "TLSRouteModeTerminate",
        "UDPRoute",
    }


@pytest.mark.parametrize(
    ("plural", "given", "found"),
    [
        ("httproutes", schema("name", "retry"), {RETRY}),
        ("httproutes", schema("name"), set()),
        ("grpcroutes", schema("retry"), set()),
        ("httproutes", None, set()),
        ("httproutes", {"properties": {"spec": {"properties": ["rules"]}}}, set()),
        ("httproutes", {"x-kubernetes-preserve-unknown-fields": True}, set()),
    ],
)
def test_fields_are_looked_up_in_the_schema(plural: str, given: object, found: set[tuple[str, str]]) -> None:
    assert fields_in(plural, given) == found
