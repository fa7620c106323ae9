"""A rule's filters, sorted; and the decisions of those that are no head filters."""

from __future__ import annotations

import random
from typing import get_args

import pytest
from nexus_core.hooks import RequestHead
from nexus_core.snapshot import (
    Cors,
    DirectReply,
    Fallback,
    Fault,
    Filter,
    HeaderModifier,
    Mirror,
    RateLimit,
    Redirect,
    SizeLimit,
    UrlRewrite,
)
from nexus_gateway.edge import requests
from nexus_gateway.filters import fallbacks, sizes
from nexus_gateway.filters.compiled import CompiledRule, compile_rule
from nexus_gateway.filters.cors import CorsFilter, Origins
from nexus_gateway.filters.fallbacks import Choice
from nexus_gateway.filters.faults import FaultDraw
from nexus_gateway.filters.headers import OWN_REQUEST, OWN_RESPONSE, HeaderFilter
from nexus_gateway.filters.lanes import HeaderEdit, Lane
from nexus_gateway.filters.mirrors import MirrorDraw
from nexus_gateway.filters.redirects import RedirectFilter
from nexus_gateway.filters.sizes import Verdict

SET = HeaderModifier("request", set=(("x", "1"),))
ONE_OF_EACH: dict[type, Filter] = {
    HeaderModifier: SET,
    UrlRewrite: UrlRewrite("other"),
    Redirect: Redirect("https"),
    DirectReply: DirectReply(),
    Cors: Cors(("*",)),
    Mirror: Mirror("shop/shadow"),
    RateLimit: RateLimit("a", 1),
    SizeLimit: SizeLimit(1),
    Fault: Fault(abort_ratio=1.0),
    Fallback: Fallback("shop/other"),
}


def test_every_kind_of_filter_finds_its_place() -> None:
    assert set(ONE_OF_EACH) == set(get_args(Filter))
    for policy in ONE_OF_EACH.values():
        compiled = compile_rule([policy])
        parts = (
            compiled.head_filters,
            compiled.limits,
            compiled.mirrors,
            compiled.size,
            compiled.fault,
            compiled.fallback,
        )
        assert sum(1 for part in parts if part) == 1, policy


def test_nothing_is_an_empty_lane() -> None:
    assert compile_rule([]) == CompiledRule(lane=Lane())


def test_kinds_are_sorted_and_keep_their_order() -> None:
    filters = [RateLimit("b", 1), Redirect("https"), Mirror("m/1"), SET, Mirror("m/2"), RateLimit("a", 1)]
    compiled = compile_rule(filters)
    assert [type(each) for each in compiled.head_filters] == [RedirectFilter, HeaderFilter]
    assert [limit.name for limit in compiled.limits] == ["b", "a"]
    assert [mirror.upstream for mirror in compiled.mirrors] == ["m/1", "m/2"]


def test_of_faults_and_fallbacks_the_first_counts() -> None:
    compiled = compile_rule([Fault(1.0), Fallback("a/1"), Fault(2.0), Fallback("a/2")])
    assert compiled.fault == Fault(1.0)
    assert compiled.fallback == Fallback("a/1")


@pytest.mark.parametrize(
    ("limits", "merged"),
    [
        ((), None),
        ((SizeLimit(),), None),
        ((SizeLimit(10, 20),), SizeLimit(10, 20)),
        ((SizeLimit(10), SizeLimit(5, 7), SizeLimit(0, 9)), SizeLimit(5, 7)),
    ],
)
def test_the_strictest_size_limits_hold(limits: tuple[SizeLimit, ...], merged: SizeLimit | None) -> None:
    assert compile_rule(limits).size == merged


def test_filters_leave_alone_what_the_edge_writes_itself() -> None:
    """Else the two lanes would differ: the edge drops these names from heads it renders."""
    filterable = {"x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"}
    remade = {name.decode() for name in requests.ASIDE - requests.SAID} - filterable
    assert requests.FRAMING | remade <= OWN_REQUEST
    assert requests.FRAMING <= OWN_RESPONSE
    assert not OWN_REQUEST & filterable


@pytest.mark.parametrize("policy", [Redirect(), DirectReply(), Cors(("*",))])
def test_filters_that_look_at_requests_have_no_lane(policy: Filter) -> None:
    assert compile_rule([SET, policy]).lane is None


def test_modifiers_that_name_only_what_is_the_gateways_leave_nothing_to_do() -> None:
    policy = HeaderModifier("request", set=(("host", "evil"), ("content-length", "0")), remove=("te",))
    assert compile_rule([policy]).lane == Lane()


def test_two_replaced_paths_have_no_lane() -> None:
    rewrite = UrlRewrite(path_kind="prefix", path="/x")
    assert compile_rule([rewrite, rewrite]).lane is None
    rule, backend = compile_rule([rewrite]).lane, compile_rule([rewrite]).lane
    assert rule is not None
    assert backend is not None
    assert rule.then(backend) is None


@pytest.mark.parametrize(
    ("lines", "changed"),
    [
        (b"", b"x-new: 1\r\n"),
        (b"X-Gone: 1\r\n", b"x-new: 1\r\n"),
        (b"a: x-gone: 1\r\n", b"a: x-gone: 1\r\nx-new: 1\r\n"),
        (b"x-gone-not: 1\r\nA: 2\r\n", b"x-gone-not: 1\r\nA: 2\r\nx-new: 1\r\n"),
        (b"a: \xff\xfe\r\nX-GONE:2\r\nx-gone: 3\r\nb:\r\n", b"a: \xff\xfe\r\nb:\r\nx-new: 1\r\n"),
    ],
)
def test_lines_are_taken_out_by_whole_names(lines: bytes, changed: bytes) -> None:
    assert HeaderEdit(("x-gone",), (("x-new", "1"),)).apply_bytes(lines) == changed


ORIGINS = [
    # pattern, origin, allowed
    ("https://a.example", "https://a.example", True),
    ("https://a.example", "https://A.EXAMPLE", True),
    ("https://a.example", "https://a.example:443", True),
    ("https://a.example:443", "https://a.example", True),
    ("http://a.example:80", "http://a.example", True),
    ("https://a.example", "http://a.example", False),
    ("https://a.example", "https://a.example:8443", False),
    ("https://a.example", "https://a.example.evil", False),
    ("https://a.example", "https://evil-a.example", False),
    ("https://a.example", "null", False),
    ("https://*.example", "https://a.example", True),
    ("https://*.example", "https://a.b.example", True),
    ("https://*.example", "https://example", False),
    ("https://*.example", "https://.example", False),
    ("https://*.example", "https://evilexample", False),
    ("https://*.example", "https://a.example:444", False),
    ("https://*.example", "https://evil.com:1.example", False),
    ("https://*.example", "https://evil.com/.example", False),
    ("https://*.example", "https://evil.com#.example", False),
    ("https://*.example", "https://user@a.example", False),
    ("https://*.example:8443", "https://a.example:8443", True),
    ("https://*.example:8443", "https://a.example", False),
    ("https://*", "https://anything", True),
    ("https://*", "https://anything:444", False),
    ("https://*", "http://anything", False),
    ("*", "https://anything:444", True),
    ("*", "null", True),
    ("*", "https://a b", False),
    ("*", "https://a\r\nx: 1", False),
    ("*", "anything", False),
    ("*", "", False),
    ("http://[::1]:8080", "http://[::1]:8080", True),
]


@pytest.mark.parametrize(("pattern", "origin", "allowed"), ORIGINS)
def test_origins(pattern: str, origin: str, allowed: bool) -> None:
    assert Origins((pattern,)).allow(origin) is allowed


def test_a_rules_cors_puts_its_headers_on_the_gateways_own_answers() -> None:
    cors = compile_rule([SET, Cors(("https://a.example",))]).cors
    assert isinstance(cors, CorsFilter)
    assert cors.headers("https://a.example") == (
        ("access-control-allow-origin", "https://a.example"),
        ("vary", "origin"),
    )
    assert cors.headers("https://b.example") == cors.headers(None) == (("vary", "origin"),)
    assert cors.preflight(RequestHead("GET", "/")) is None


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.1, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("phase", [0.0, 0.5, 0.999])
def test_copies_are_never_more_than_one_off_their_share(ratio: float, phase: float) -> None:
    draw = MirrorDraw(Mirror("m", ratio), phase)
    copies = 0
    for sent in range(1, 3001):
        copies += draw.next()
        assert abs(copies - sent * ratio) <= 1.0 + 1e-2
    # The rounding of a third to hundred-thousandths, and nothing else.
    assert abs(copies - 3000 * ratio) <= 1


def test_draws_made_anew_all_the_time_keep_the_share_when_their_phase_is_drawn() -> None:
    rng = random.Random(7)
    copies = sum(MirrorDraw(Mirror("m", 0.1), rng.random()).next() for _ in range(10_000))
    assert 850 < copies < 1150
    assert not any(MirrorDraw(Mirror("m", 0.1)).next() for _ in range(100))


@pytest.mark.parametrize(
    ("fault", "delayed", "aborted"),
    [
        (Fault(), 0, 0),
        (Fault(delay_s=1.0, delay_ratio=1.0), 1000, 0),
        (Fault(abort_ratio=1.0), 0, 1000),
        (Fault(delay_ratio=1.0), 0, 0),
        (Fault(delay_s=1.0, delay_ratio=0.3, abort_status=418, abort_ratio=0.5), 300, 500),
    ],
)
def test_faults_strike_their_share(fault: Fault, delayed: int, aborted: int) -> None:
    draw = FaultDraw(fault, random.Random(1))
    found = [draw.decide() for _ in range(1000)]
    assert abs(sum(delay_s == fault.delay_s > 0 for delay_s, _ in found) - delayed) <= (60 if 0 < delayed < 1000 else 0)
    assert abs(sum(status == fault.abort_status for _, status in found) - aborted) <= (60 if 0 < aborted < 1000 else 0)
    assert {delay_s for delay_s, _ in found} <= {0.0, fault.delay_s}
    assert {status for _, status in found} <= {0, fault.abort_status}


def test_delay_and_abort_are_drawn_independently() -> None:
    draw = FaultDraw(Fault(delay_s=1.0, delay_ratio=0.5, abort_ratio=0.5), random.Random(2))
    found = [draw.decide() for _ in range(4000)]
    for delay_s in (0.0, 1.0):
        for status in (0, 503):
            assert 900 < found.count((delay_s, status)) < 1100


def test_the_same_seed_strikes_the_same_requests() -> None:
    fault = Fault(delay_s=1.0, delay_ratio=0.5, abort_ratio=0.5)
    one, two = FaultDraw(fault, random.Random(3)), FaultDraw(fault, random.Random(3))
    assert [one.decide() for _ in range(50)] == [two.decide() for _ in range(50)]


@pytest.mark.parametrize(
    ("limit", "length", "seen", "refused"),
    [
        (SizeLimit(10), 10, 0, False),
        (SizeLimit(10), 11, 0, True),
        (SizeLimit(10), -1, 10, False),
        (SizeLimit(10), -1, 11, True),
        (SizeLimit(0, 1), 1 << 40, 1 << 40, False),
    ],
)
def test_requests_are_refused_as_soon_as_they_are_known_to_be_too_large(
    limit: SizeLimit, length: int, seen: int, refused: bool
) -> None:
    assert sizes.refuses_request(limit, length, seen) is refused


@pytest.mark.parametrize(
    ("length", "seen", "begun", "verdict"),
    [
        (10, 0, False, Verdict.PASS),
        (11, 0, False, Verdict.REFUSE),
        (-1, 10, True, Verdict.PASS),
        (-1, 11, True, Verdict.BREAK_OFF),
        (-2, 11, False, Verdict.REFUSE),
        (0, 0, False, Verdict.PASS),
    ],
)
def test_responses_that_are_too_large(length: int, seen: int, begun: bool, verdict: Verdict) -> None:
    assert sizes.judge_response(SizeLimit(0, 10), length, seen, begun=begun) is verdict
    assert sizes.judge_response(SizeLimit(10), length, seen, begun=begun) is Verdict.PASS


REPLY = DirectReply(503, "later")
FALLBACKS = [
    # policy, status, what differs from a GET that was sent and may be repeated → choice
    (Fallback("o", REPLY), 503, {}, Choice.UPSTREAM),
    (Fallback("o", REPLY), 502, {}, Choice.UPSTREAM),
    (Fallback("o", REPLY), 504, {}, Choice.UPSTREAM),
    (Fallback("o", REPLY), 500, {}, Choice.NONE),
    (Fallback("o", REPLY), 404, {}, Choice.NONE),
    (Fallback("o", REPLY), 413, {}, Choice.NONE),
    (Fallback("o", REPLY), 503, {"tried": True}, Choice.REPLY),
    (Fallback("o"), 503, {"tried": True}, Choice.NONE),
    (Fallback("", REPLY), 503, {}, Choice.REPLY),
    (Fallback(), 503, {}, Choice.NONE),
    (Fallback("o", REPLY), 503, {"replayable": False}, Choice.REPLY),
    (Fallback("o", REPLY), 503, {"idempotent": False}, Choice.REPLY),
    (Fallback("o", REPLY), 503, {"idempotent": False, "nothing_sent": True}, Choice.UPSTREAM),
]


@pytest.mark.parametrize(("policy", "status", "differs", "choice"), FALLBACKS)
def test_fallbacks(policy: Fallback, status: int, differs: dict[str, bool], choice: Choice) -> None:
    facts = {"tried": False, "idempotent": True, "replayable": True, "nothing_sent": False} | differs
    assert fallbacks.choose(policy, status, **facts) is choice
