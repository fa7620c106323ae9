"""What follows from one attempt."""

from __future__ import annotations

import random

import pytest
from nexus_events.ports import Outcome
from nexus_events.protocol import Refused
from nexus_events.subscriptions import Delivery, Sink, SinkRules, parse
from nexus_events.verdicts import Verdict, counts, judge, parse_retry_after

DONE, RETRY, BURY, GONE = Verdict.DONE, Verdict.RETRY, Verdict.BURY, Verdict.GONE


@pytest.mark.parametrize(
    ("status", "failed", "age_s", "expected"),
    [
        (200, 0, 0, DONE), (204, 0, 1e9, DONE), (410, 1, 0, GONE), (500, 1, 0, RETRY), (500, 3, 0, BURY), (404, 1, 0, RETRY),
        (301, 1, 0, RETRY), (400, 1, 0, BURY), (422, 1, 0, BURY), (503, 0, 0, RETRY), (429, 0, 99, RETRY), (0, 0, 99, RETRY),
        (0, 0, 101, BURY), (503, 0, 101, BURY), (500, 1, 101, BURY),
    ],
)  # fmt: skip
def test_verdicts(status: int, failed: int, age_s: float, expected: Verdict) -> None:
    decision = judge(
        Outcome(status),
        Delivery(max_attempts=3, max_age_s=100),
        failed=failed,
        tries=1,
        age_s=age_s,
        rng=random.Random(1),
    )
    assert decision.verdict is expected
    assert bool(decision.cause) == (expected is not DONE)


def test_an_away_subscriber_uses_up_no_attempts() -> None:
    assert [s for s in (0, 429, 503, 500, 404) if counts(Outcome(s))] == [500, 404]


def test_retry_after_is_honoured_for_busy_subscribers_within_bounds() -> None:
    def wait(status: int, asked: float | None) -> float:
        return judge(Outcome(status, "", asked), Delivery(), failed=0, tries=1, age_s=0, rng=random.Random(1)).wait_s

    assert wait(503, 7.0) == 7.0
    assert wait(429, 1e9) == 3600.0
    assert wait(500, 7.0) < 0.1
    assert wait(503, 0.0) > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str | None, expected: float | None) -> None:
    assert parse_retry_after(text, now=10.0) == expected


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ([], "body"), ({}, ".sink"), ({"sink": "ftp://x", "types": ["a"]}, ".sink"), ({"sink": "http://", "types": ["a"]}, ".sink"),
        ({"sink": "http://u:p@x/", "types": ["a"]}, ".sink"),
        ({"sink": "http://169.254.169.254/latest", "types": ["a"]}, ".sink"),
        ({"sink": "http://[::ffff:169.254.169.254]/", "types": ["a"]}, ".sink"),
        ({"sink": {"service": "A B"}, "types": ["a"]}, ".sink.service"),
        ({"sink": {"service": "a", "path": "x"}, "types": ["a"]}, ".sink.path"),
        ({"sink": "http://x", "types": []}, ".types"),
        ({"sink": "http://x", "types": ["a*b"]}, ".types[0]"), ({"sink": "http://x", "types": ["a", 5]}, ".types[1]"),
        ({"sink": "http://x", "types": ["a"], "ttlSeconds": 0}, ".ttlSeconds"),
        ({"sink": "http://x", "types": ["a"], "colour": 1}, ".colour"),
        ({"sink": "http://x", "types": ["a"], "delivery": {"maxAttempts": 0}}, ".delivery.maxAttempts"),
        ({"sink": "http://x", "types": ["a"], "start": "now"}, ".start"),
        ({"sink": "http://x", "types": ["a"], "start": {"after": -1}}, ".start"),
    ],
)  # fmt: skip
def test_subscriptions_that_are_refused_say_where(document: object, where: str) -> None:
    with pytest.raises(Refused) as stop:
        parse("id", document, SinkRules(), now=0.0)
    assert where in [p.where for p in stop.value.problems]


def test_a_subscription_as_users_write_it() -> None:
    document = {"sink": {"service": "orders", "path": "/in"}, "types": ["a.*", "b"], "ttlSeconds": 60}
    subscription, start = parse("my-id", document, SinkRules(), now=100.0)
    assert (subscription.sink, subscription.expires_at, start.after) == (
        Sink(service="orders", path="/in"),
        160.0,
        None,
    )
    assert [subscription.wants(t) for t in ("a.x", "a", "b", "b.c")] == [True, False, True, False]


def test_allowed_hosts() -> None:
    rules = SinkRules(hosts=("*.shop.svc", "hooks.example", "10.0.0.0/8"))
    asked = (
        "http://a.shop.svc/",
        "http://hooks.example:81/x",
        "http://10.9.8.7/",
        "http://shop.svc.evil/",
        "http://192.168.0.1/",
    )
    assert [not rules.refusal(url) for url in asked] == [True, True, True, False, False]


@pytest.mark.parametrize(
    "text", ["Fri, 01 Jan 99999999999999 00:00:00 GMT", "Fri, 01 Jan 2030 00:00:00 +99999999999999999999", "-5", "1e9"]
)
def test_an_absurd_retry_after_is_none_at_all(text: str) -> None:
    assert parse_retry_after(text, 0.0) is None


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "2852039166", "169.254.169.254.", "0251.0376.0251.0376", "169.16689662", "１６９.254.169.254",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_no_spelling_of_a_denied_address_is_a_sink(host: str) -> None:
    assert SinkRules().refusal_of_host(host)


@pytest.mark.parametrize("host", ["10.0.0.7", "billing", "1password.example", "64:ff9b::a00:1", "2001:db8::1"])
def test_private_addresses_and_names_are_sinks(host: str) -> None:
    assert not SinkRules().refusal_of_host(host)


@pytest.mark.parametrize(
    "change", [{"sink": "http://h/\ud800"}, {"sink": {"service": "s", "path": "/\ud800"}}, {"types": ["\ud800"]}]
)
def test_text_that_is_not_unicode_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Refused):
        parse("a", {"sink": "http://h/", "types": ["*"], **change}, SinkRules(), now=0.0)
