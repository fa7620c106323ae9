"""The fast lane on bytes gives what the filters on heads give."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Headers, RequestHead, ResponseHead
from nexus_core.snapshot import Filter, HeaderModifier, UrlRewrite
from nexus_gateway.filters.compiled import compile_rule
from nexus_gateway.filters.headers import OWN_REQUEST, OWN_RESPONSE
from nexus_gateway.filters.lanes import Lane
from nexus_gateway.filters.place import Place

PLAIN = ("x-a", "x-ab", "a", "x-a-b", "accept", "cookie", "set-cookie", "x-b")
OWN = tuple(sorted(OWN_REQUEST | OWN_RESPONSE))
NAMES = st.one_of(st.sampled_from(PLAIN), st.sampled_from(OWN))
# Values that look like header lines: what is inside a value is no name.
VALUES = st.sampled_from(("", "1", "x-a: 2", "a:b", "höher", "x" * 300, "0, x-a:")) | st.text(
    st.characters(
        min_codepoint=0x21, max_codepoint=0x17F, exclude_characters="\x7f", exclude_categories=("Cc", "Cs", "Z")
    ),
    max_size=12,
)
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@st.composite
def modifiers(draw: st.DrawFn) -> HeaderModifier:
    names = st.lists(NAMES, max_size=3, unique=True)
    pairs = draw(st.lists(st.tuples(NAMES, VALUES), max_size=3, unique_by=lambda pair: pair[0]))
    added = draw(st.lists(st.tuples(NAMES, VALUES), max_size=3, unique_by=lambda pair: pair[0]))
    return HeaderModifier(
        draw(st.sampled_from(("request", "response"))), tuple(pairs), tuple(added), tuple(draw(names))
    )


REWRITES = st.builds(
    UrlRewrite,
    st.sampled_from(("", "inner.example")),
    st.sampled_from(("none", "full", "prefix")),
    st.sampled_from(("", "/", "/v1", "/v1/", "/a/b")),
)


@st.composite
def chains(draw: st.DrawFn) -> list[Filter]:
    """Modifiers, with one rewrite at most: a second one of the path has no lane."""
    found: list[Filter] = list(draw(st.lists(modifiers(), max_size=3)))
    rewrite = draw(st.none() | REWRITES)
    if rewrite is not None:
        found.insert(draw(st.integers(0, len(found))), rewrite)
    return found


def as_lines(headers: Headers) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in headers)


def as_pairs(lines: bytes) -> Headers:
    found = []
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b":")
            found.append((name.decode().lower(), value.strip(b" ").decode()))
    return tuple(found)


@st.composite
def cased(draw: st.DrawFn) -> Headers:
    """Headers as clients write them: names in any case."""
    found = draw(PAIRS)
    return tuple(("".join(draw(st.sampled_from((c.lower(), c.upper()))) for c in name), value) for name, value in found)


def lower(headers: Headers) -> Headers:
    return tuple((name.lower(), value) for name, value in headers)


@given(chains(), chains(), cased(), cased(), st.sampled_from(("/", "/o", "/o/p")), st.sampled_from(("", "/", "/x", "/x/")),
       st.sampled_from(("", "a=/b?c", "/")), st.booleans())  # fmt: skip
def test_the_lane_equals_the_filters(
    rule: list[Filter],
    backend: list[Filter],
    sent: Headers,
    answered: Headers,
    matched: str,
    rest: str,
    query: str,
    star: bool,
) -> None:
    ruled, backed = compile_rule(rule), compile_rule(backend)
    assert ruled.lane is not None
    assert backed.lane is not None
    lane = ruled.lane.then(backed.lane)
    if lane is None:
        assert ruled.lane.target is not None
        assert backed.lane.target is not None
        return
    path = (matched if matched != "/" else "") + rest or "/"
    if star and matched == "/":
        path = "*"  # of `OPTIONS *`, where nothing before it ends in a slash
    head = RequestHead("GET", path, query, "shop", lower(sent))
    response = ResponseHead(200, lower(answered))
    place = Place(matched)
    filters = (*ruled.head_filters, *backed.head_filters)
    for each in filters:
        result = each.on_request(head, place)
        assert isinstance(result, RequestHead)
        head = result
    for each in reversed(filters):
        response = each.on_response(head, response)

    start = f"GET {path}{'?' + query if query else ''} HTTP/1.1\r\n".encode()
    if lane.target is not None:
        start = lane.target.apply_bytes(start, matched)
    assert start == f"GET {head.path}{'?' + query if query else ''} HTTP/1.1\r\n".encode()
    lines = as_lines(sent)
    changed = lane.request.apply_bytes(lines) if lane.request is not None else lines
    assert as_pairs(changed) == head.headers
    lines = as_lines(answered)
    changed = lane.response.apply_bytes(lines) if lane.response is not None else lines
    assert as_pairs(changed) == response.headers


@given(chains(), cased())
def test_what_no_filter_names_stays_as_it_came(rule: list[Filter], sent: Headers) -> None:
    lane = compile_rule(rule).lane
    assert isinstance(lane, Lane)
    edit = lane.request
    gone = {name.decode() for name in edit.gone} if edit is not None else set()
    lines = as_lines(sent)
    changed = edit.apply_bytes(lines) if edit is not None else lines
    kept = as_lines(tuple(pair for pair in sent if pair[0].lower() not in gone))
    assert changed.startswith(kept)
    assert edit is None or changed == kept + edit.lines
