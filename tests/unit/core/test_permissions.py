"""What is asked for, what is granted, and what of it is missing."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from nexus_core.marketplace import permissions
from nexus_core.snapshot import Release
from nexus_core.snapshot.plugins import Permissions


def asks(**fields: Any) -> Permissions:
    return Permissions(**{"read_headers": (), "write_headers": (), **fields})


@pytest.mark.parametrize(
    ("grant", "asked", "covered"),
    [
        ("api.example.com", "api.example.com", True),
        ("api.example.com", "API.example.com", True),
        ("api.example.com", "api.example.com:443", True),
        ("api.example.com:443", "api.example.com", False),
        ("api.example.com:443", "api.example.com:443", True),
        ("api.example.com:443", "api.example.com:80", False),
        ("*.example.com", "api.example.com", True),
        ("*.example.com", "a.b.example.com:8443", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*.example.com", "*.api.example.com", True),
        ("*.api.example.com", "*.example.com", False),
        ("*.example.com:443", "api.example.com:443", True),
        ("*.example.com:443", "api.example.com", False),
        ("*", "anything:1", True),
        ("api.example.com", "*", False),
        ("[::1]", "[::1]:8080", True),
        ("[::1]:80", "[::1]:8080", False),
        ("nothing", "config:redis.url", True),
    ],
)
def test_hosts(grant: str, asked: str, covered: bool) -> None:
    assert permissions.covers_host(grant, asked) is covered
    assert permissions.is_empty(permissions.find_missing(asks(network=(asked,)), asks(network=(grant,)))) is covered


@pytest.mark.parametrize(
    ("field", "grant", "asked", "covered"),
    [
        ("read_headers", "*", "x-a", True),
        ("read_headers", "*", "*", True),
        ("read_headers", "x-acme-*", "x-acme-id", True),
        ("read_headers", "x-acme-*", "x-acme-id-*", True),
        ("write_headers", "x-acme-*", "*", False),
        ("write_headers", "x-acme-*", "x-other", False),
        ("write_headers", "x-a", "x-a", True),
        ("services", "*", "shop/orders", True),
        ("services", "shop/orders", "shop/orders", True),
        ("secrets", "token", "token", True),
        ("secrets", "token", "tokens", False),
        ("consul", "config/", "config/app", True),
        ("consul", "config/app", "config/", False),
        ("modules", "os", "os", True),
        ("modules", "os", "os.path", True),
        ("modules", "os", "ossaudiodev", False),
    ],
)
def test_other_patterns(field: str, grant: str, asked: str, covered: bool) -> None:
    missing = permissions.find_missing(asks(**{field: (asked,)}), asks(**{field: (grant,)}))
    assert permissions.is_empty(missing) is covered
    assert getattr(missing, field) == (() if covered else (asked,))


def test_whichever_services_are_granted_and_secrets_that_are_optional() -> None:
    asked = asks(services=("*",), secrets=("token", "spare?"))
    missing = permissions.find_missing(asked, asks())
    assert (missing.services, missing.secrets) == ((), ("token",))
    grants = asks(services=("shop/orders",), secrets=("token", "spare", "other"))
    mine = permissions.narrow(asked, grants)
    assert (mine.services, mine.secrets) == (("shop/orders",), ("token", "spare"))
    assert permissions.narrow(asked, asks()).services == ()
    assert permissions.narrow(asked, asks(secrets=("token",))).secrets == ("token",)


def test_compiled_code_has_to_be_granted() -> None:
    assert permissions.find_missing(asks(native=True), asks()).native
    assert permissions.is_empty(permissions.find_missing(asks(native=True), asks(native=True)))


def test_the_configuration_grants_its_own_hosts_without_any_grant() -> None:
    assert permissions.is_empty(permissions.find_missing(asks(network=("config:redis.url",)), asks()))


def test_a_release_without_permissions_asks_for_headers_alone() -> None:
    """As those of before API 1.1."""
    assert permissions.is_empty(permissions.find_missing(Permissions(), Permissions()))
    assert permissions.find_missing(Permissions(), asks()).read_headers == ("*",)


def test_libraries_ask_for_what_they_need_but_headers() -> None:
    def of(name: str, **fields: Any) -> Release:
        return Release(
            name=name, version="1", api="", package="p", entry_point="p:P", sha256="", url="",
            permissions=Permissions(**fields),
        )  # fmt: skip

    a = of("a", network=("x",), read_headers=("x-a",))
    found = permissions.asked_of(a, [of("lib", network=("x", "y"), native=True), of("more", modules=("os",))])
    assert found == Permissions(network=("x", "y"), read_headers=("x-a",), modules=("os",), native=True)


def test_what_is_granted_is_the_narrower_of_both() -> None:
    asked = asks(network=("*.example.com", "config:url", "other"), read_headers=("*",), modules=("os",), native=True)
    grants = asks(network=("api.example.com", "unasked"), read_headers=("x-a", "x-b-*"), modules=("os", "socket"))
    assert permissions.narrow(asked, grants) == Permissions(
        network=("config:url", "api.example.com"),
        read_headers=("x-a", "x-b-*"),
        write_headers=(),
        modules=("os",),
    )
    assert permissions.narrow(asked, asked) == asked


def test_the_yaml_to_add_can_be_read_and_keeps_what_is_granted() -> None:
    asked = asks(
        network=("api.example.com:443", "*.other.com"), secrets=("token",), read_headers=("*",), modules=("os",),
        native=True,
    )  # fmt: skip
    grants = asks(network=("first",), read_headers=("x-a",))
    missing = permissions.find_missing(asked, grants)
    assert yaml.safe_load(permissions.grants_yaml(missing, grants)) == {
        "grants": {
            "network": ["first", "api.example.com:443", "*.other.com"],
            "secrets": [{"name": "token", "secretRef": {"name": "SECRET", "key": "KEY"}}],
            "modules": ["os"],
            "headers": {"read": ["x-a", "*"]},
            "nativeCode": True,
        }
    }
    assert permissions.list_words(missing) == [
        "network api.example.com:443", "network *.other.com", "secret token", "reading header *", "module os",
        "compiled code",
    ]  # fmt: skip
