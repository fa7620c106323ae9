"""Where an address leads, and whether a plugin may go there."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_hosting.hosts import is_permitted, parse_target

CONFIG: dict[str, Any] = {
    "url": "https://auth.example.com/verify",
    "redis": {"url": "rediss://:secret@cache:6380/1", "plain": "cache:7000"},
    "providers": [{"url": "https://one.example.com"}, {"url": "https://two.example.com:8443"}],
    "hosts": ["three.example.com", "http://four.example.com"],
    "number": 5,
    "broken": "http://good@evil\\.example.com",
}


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://api.example.com/a?b#c", "api.example.com", 443),
        ("HTTP://API.Example.COM", "api.example.com", 80),
        ("http://api.example.com.:8080/", "api.example.com", 8080),
        ("http://[::1]:8080/", "::1", 8080),
        ("http://[0:0:0:0:0:0:0:1]/", "::1", 80),
        ("http://[::FFFF:127.0.0.1]/", "::ffff:7f00:1", 80),
        ("http://127.0.0.1", "127.0.0.1", 80),
        ("http://good@evil.example.com/", "evil.example.com", 80),
        ("http://good.example.com:80@evil.example.com/", "evil.example.com", 80),
        ("http://evil.example.com/@good.example.com", "evil.example.com", 80),
        ("http://evil.example.com?@good.example.com", "evil.example.com", 80),
        ("http://evil.example.com#@good.example.com", "evil.example.com", 80),
        ("http://xn--bcher-kva.example/", "xn--bcher-kva.example", 80),
    ],
)
def test_the_host_is_the_one_that_is_dialled(url: str, host: str, port: int) -> None:
    target = parse_target(url)
    assert (target.host, target.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "http://good.example.com\\@evil.example.com/", "http://good.example.com\\.evil.example.com", "http://exa mple.com/",
        "http://a\tb/", "http://a\n.example.com/", "//example.com/", "example.com", "http:///path", "http://", "http://[::1/", "http://[::g]/",
        "http://[fe80::1%25eth0]/", "http://bücher.example/", "http://ex%61mple.com/", "http://example..com/", "http://-a.example.com/",
        "http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://127.0.0.1.:80x/", "http://0177.0.0.1/", "http://1.2.3.4.5/",
        "http://example.com:0/", "http://example.com:99999/", "http://example.com:/", "http://a@b@c/", "ftp://example.com/", "http://\uff41.example/",
    ],
)  # fmt: skip
def test_what_two_readers_could_take_for_two_hosts_is_no_address(url: str) -> None:
    with pytest.raises(ValueError):
        parse_target(url)


@pytest.mark.parametrize(
    ("url", "pattern", "permitted"),
    [
        ("https://api.example.com", "api.example.com", True),
        ("https://api.example.com", "API.example.com.", True),
        ("https://api.example.com:9", "api.example.com", True),
        ("https://api.example.com:9", "api.example.com:443", False),
        ("https://api.example.com", "api.example.com:443", True),
        ("http://api.example.com", "api.example.com:443", False),
        ("https://api.example.com.", "api.example.com", True),
        ("https://api.example.com.evil.org", "api.example.com", False),
        ("https://evilapi.example.com", "api.example.com", False),
        ("https://a.example.com", "*.example.com", True),
        ("https://a.b.example.com:8443", "*.example.com:8443", True),
        ("https://a.b.example.com", "*.example.com:8443", False),
        ("https://example.com", "*.example.com", False),
        ("https://evilexample.com", "*.example.com", False),
        ("https://1.2.3.4", "*.4", False),
        ("https://anything.example", "*", False),
        ("http://[::1]:80", "[::1]:80", True),
        ("http://[::1]", "::1", True),
        ("http://[::0:1]", "[::1]", True),
        ("http://[::2]", "::1", False),
        ("http://127.0.0.1", "127.0.0.1", True),
        ("http://[::ffff:127.0.0.1]", "127.0.0.1", False),
        ("https://auth.example.com/x", "config:url", True),
        ("http://auth.example.com/x", "config:url", False),
        ("https://auth.example.com:444/x", "config:url", False),
        ("rediss://cache:6380", "config:redis.url", True),
        ("redis://cache:7000", "config:redis.plain", True),
        ("https://one.example.com", "config:providers.url", True),
        ("https://two.example.com:8443", "config:providers.url", True),
        ("https://two.example.com", "config:providers.url", False),
        ("https://three.example.com", "config:hosts", True),
        ("http://four.example.com", "config:hosts", True),
        ("https://auth.example.com", "config:missing.path", False),
        ("https://auth.example.com", "config:number", False),
        ("https://evil.example.com", "config:broken", False),
        ("https://good", "config:broken", False),
        ("https://a.example.com", "not a host", False),
    ],
)  # fmt: skip
def test_patterns(url: str, pattern: str, permitted: bool) -> None:
    assert is_permitted(parse_target(url), [pattern], CONFIG) is permitted
    assert is_permitted(parse_target(url), ["other.example.org", pattern], CONFIG) is permitted
    assert not is_permitted(parse_target(url), [], CONFIG)
