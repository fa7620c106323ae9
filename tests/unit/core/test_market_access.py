"""Logins of marketplaces: found in Secrets of their own type, and in nothing that is shown."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from nexus_core.model.load import parse
from nexus_core.model.plugins import Source
from nexus_core.model.resources import Resource
from nexus_core.translate.market_access import Access, Locked, Way, find_accesses, find_ways

KEY = "A" * 43 + "="
TYPE = "nexus.dev/marketplace-login"


def market(**source: Any) -> Resource:
    return parse(
        {
            "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusMarketplace", "metadata": {"name": "acme"},
            "spec": {"source": source, "publishers": [{"name": "me", "publicKey": KEY}]},
        }
    )  # fmt: skip


def secret(kind: str = TYPE, namespace: str = "nexus", **values: str) -> Resource:
    data = {name: base64.b64encode(value.encode("latin-1")).decode() for name, value in values.items()}
    metadata = {"name": "login", "namespace": namespace}
    return parse({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data})


REF = {"namespace": "nexus", "name": "login"}
MARKET = market(url="https://market.example/plugins/", secretRef=REF)


@pytest.mark.parametrize(
    ("values", "access", "authorization"),
    [
        ({"token": "t0ken.abc\n"}, Access(token="t0ken.abc"), "Bearer t0ken.abc"),
        ({"token": "t0ken", "username": "a", "password": "b"}, Access(token="t0ken"), "Bearer t0ken"),
        ({"username": "reader", "password": "pa:ss\n"}, Access(user="reader", password="pa:ss"), "Basic cmVhZGVyOnBhOnNz"),
    ],
)  # fmt: skip
def test_a_login_is_read_of_its_secret(values: dict[str, str], access: Access, authorization: str) -> None:
    found = find_accesses([secret(**values), MARKET])
    assert found == {"acme": access}
    assert access.authorization == authorization


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ([], 'There is no Secret "login" in namespace "nexus"'),
        ([secret(namespace="other", token="t0ken")], 'There is no Secret "login" in namespace "nexus"'),
        ([secret("Opaque", token="t0ken")], "is of type Opaque, and not for logins of marketplaces"),
        ([secret("kubernetes.io/service-account-token", token="t0ken")], "is of type kubernetes.io/service-account-token"),
        ([secret(token="two words")], "characters that no token has"),
        ([secret(token="a\r\nx-evil: b")], "characters that no token has"),
        ([secret(username="reader")], "neither a token nor both"),
        ([secret(username="a:b", password="c")], "has a colon"),
        ([secret(token="\xff\xfe")], "neither a token nor both"),
    ],
)  # fmt: skip
def test_a_login_that_cannot_be_read_is_told_without_its_content(resources: list[Resource], text: str) -> None:
    found = find_accesses([*resources, MARKET])["acme"]
    assert isinstance(found, Locked)
    assert text in found.what
    assert f"--type={TYPE}" in found.fix
    assert "t0ken" not in str(found)


def test_marketplaces_without_a_login_have_none() -> None:
    assert find_accesses([secret(token="t0ken"), market(url="https://market.example/")]) == {}


def test_nothing_of_a_login_is_shown() -> None:
    for access in (Access(token="t0ken-abc"), Access(user="reader", password="pass-word")):
        header = access.authorization
        text = f"it answered: {header} {access.password}"
        for shown in (repr(access), str([access]), access.hide(text)):
            assert not any(each in shown for each in ("t0ken", "pass-word", header.split()[1]))


def test_how_to_fetch_is_found_by_the_address_that_snapshots_have() -> None:
    access = Access(token="t0ken")
    sources = [
        (Source(url="https://u:p@host/a/index.json"), None),
        (Source(url="https://open/"), None),
        (MARKET.spec.source, access),  # type: ignore[union-attr]
        (Source.model_validate({"oci": "ghcr.io/acme/plugins", "secretRef": REF}), Locked("a", "b")),
    ]
    assert find_ways(sources) == {
        "https://host/a/": Way("https://u:p@host/a/"),
        "https://market.example/plugins/": Way("https://market.example/plugins/", access),
        "oci://ghcr.io/acme/plugins/": Way("oci://ghcr.io/acme/plugins/"),
    }


@pytest.mark.parametrize(
    "source",
    [{"bundled": True, "secretRef": REF}, {"directory": "/srv", "secretRef": REF}, {"url": "https://a:b@host/", "secretRef": REF}],
)  # fmt: skip
def test_a_login_is_for_servers_and_just_one(source: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="secretRef"):
        Source.model_validate(source)
