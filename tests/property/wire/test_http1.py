"""The HTTP/1.1 core under any bytes: it refuses or reads, the same way however they are cut, and never otherwise than llhttp."""

from __future__ import annotations

import httptools
from hypothesis import assume, example, given
from hypothesis import strategies as st
from nexus_core.match import paths
from nexus_wire.http1 import ChunkScanner, Dechunker, Refused, RequestParser, ResponseParser, targets
from nexus_wire.http1.fields import TEXT, TOKEN, is_secret, pairs
from nexus_wire.http1.testing import Incomplete, read_request, read_response

ASIDE = (b"x-request-id", b"traceparent")
PREFIXES = (b"x-forwarded-",)
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}

# Pieces that mean something to HTTP, so that what is generated comes near to what is dangerous.
pieces = st.sampled_from(
    [
        b"GET ", b"POST ", b"OPTIONS ", b"CONNECT ", b"/", b"/a", b"*", b"http://a", b"?", b"#", b"%2e", b"%2F", b"..", b";", b" ",
        b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\t", b"\x00", b":", b": ", b",", b"Host: a\r\n",
        b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Connection: ", b"close", b"upgrade", b"Upgrade: websocket\r\n",
        b"Expect: 100-continue\r\n", b"X-A: b\r\n", b"0", b"1", b"5", b"ff", b"3\r\nabc\r\n", b"0\r\n\r\n", b";a=b", b'"', b"\xc3\xa9",
        b"\xff", b"HTTP/1.1 200 OK\r\n", b"200", b"x_y", b"Cookie: a\r\n",
    ]
)  # fmt: skip
soups = st.one_of(
    st.binary(max_size=200), st.lists(st.one_of(pieces, st.binary(max_size=3)), max_size=25).map(b"".join)
)
heads = st.lists(pieces, max_size=8).map(
    lambda found: b"POST / HTTP/1.1\r\nHost: a\r\n" + b"".join(found) + b"\r\n\r\n"
)


def parser(*, second_opinion: bool = True) -> RequestParser:
    return RequestParser(aside=ASIDE, aside_prefixes=PREFIXES, second_opinion=second_opinion)


@given(st.one_of(soups, heads))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read, make in ((read_request, parser), (read_response, ResponseParser)):
        try:
            found = read(make(), data)  # type: ignore[operator]
        except (Refused, Incomplete):
            continue
        assert found.rest == b"" or data.endswith(found.rest)


@given(soups)
def test_any_part_alone_is_read_or_refused(data: bytes) -> None:
    requests, responses = parser(), ResponseParser()
    for read in (
        requests.line,
        requests.block,
        responses.status,
        responses.block,
        targets.normalise,
        targets.parse_host,
    ):
        try:
            read(data)  # type: ignore[operator]
        except Refused:
            continue


@given(st.one_of(soups, heads))
def test_what_is_read_twice_is_read_alike(data: bytes) -> None:
    """Whatever the caches hold."""
    one = parser()
    outcomes = []
    for reader in (one, one, parser()):
        try:
            found = read_request(reader, data)
            outcomes.append((found.line.start, found.block.forward, found.block.length, found.body, found.rest))
        except Refused as refused:
            outcomes.append((refused.status, refused.detail))
        except Incomplete:
            outcomes.append(())
    assert outcomes[0] == outcomes[1] == outcomes[2]


# ---- against llhttp


class Heard:
    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def check_agreement(data: bytes) -> None:
    """An accepted head is to llhttp the same head: method, target, version, and every header."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return
    head = data[: end + 4]
    raw_line, _, raw_block = data[:end].partition(b"\r\n")
    reader = parser(second_opinion=False)
    try:
        line, block = reader.line(raw_line), reader.block(raw_block)
        reader.check(line, block, head, missed=True)
    except Refused:
        return
    heard = Heard()
    theirs = httptools.HttpRequestParser(heard)
    try:
        theirs.feed_data(head)
    except httptools.HttpParserUpgrade:
        assert b"upgrade" in head.lower()
    except httptools.HttpParserError:
        # It may refuse more than we do: then nothing passes. Never the other way round.
        return
    sent_method, sent_target, version = raw_line.split(b" ")
    assert (theirs.get_method(), heard.url, theirs.get_http_version()) == (
        sent_method,
        sent_target,
        version[5:].decode(),
    )
    assert sent_method.decode() == line.method
    ours = list(pairs(raw_block))
    assert [name.lower().decode() for name, _ in heard.headers] == [name for name, _ in ours]
    for (_, theirs_value), (_, our_value) in zip(heard.headers, ours, strict=True):
        assert theirs_value.strip(b" \t") in (our_value.encode(), our_value.encode("latin-1", "replace"))


names = st.text(alphabet=TOKEN.decode(), min_size=1, max_size=12).map(str.encode)
values = st.lists(st.sampled_from(sorted(TEXT)), max_size=16).map(bytes)
safe_values = st.text(alphabet='abc ,;=\t"é', max_size=12).map(lambda text: text.encode().strip(b" \t"))
targets_ = st.text(alphabet="ab/.;%2e?=&:@~", max_size=16).map(lambda text: b"/" + text.encode())
lines = st.tuples(names, values).map(lambda pair: b"%b: %b" % pair)


@given(st.one_of(soups, heads))
def test_what_we_accept_llhttp_reads_alike(data: bytes) -> None:
    check_agreement(data)


@given(
    st.sampled_from([b"GET", b"POST", b"DELETE"]), targets_, st.lists(lines, max_size=6), st.sampled_from([b"0", b"1"])
)
def test_well_formed_heads_are_read_alike(method: bytes, target: bytes, headers: list[bytes], minor: bytes) -> None:
    check_agreement(b"%b %b HTTP/1.%b\r\n%b\r\n\r\n" % (method, target, minor, b"\r\n".join([b"Host: a", *headers])))


# ---- round trips


@given(
    st.sampled_from([b"GET", b"POST", b"PATCH", b"REPORT", b"X-MADE-UP"]),
    st.lists(st.tuples(names, safe_values), max_size=10),
    st.one_of(st.none(), st.just(-1), st.integers(0, 10**12)),
)
def test_sound_heads_come_out_as_they_went_in(
    method: bytes, headers: list[tuple[bytes, bytes]], length: int | None
) -> None:
    special = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"http2-settings", *ASIDE}
    headers = [
        (name, value)
        for name, value in headers
        if name.lower() not in special and not name.lower().startswith((b"x-forwarded-", b"proxy-"))
    ]
    plain = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    framing = b""
    if length is not None:
        framing = b"transfer-encoding: chunked\r\n" if length < 0 else b"content-length: %d\r\n" % length
    block = plain + framing
    reader = parser()
    raw_line = b"%b /x?y HTTP/1.1" % method
    raw_block = (b"Host: Shop.example:80\r\n" + block)[:-2]
    line, read = reader.line(raw_line), reader.block(raw_block)
    reader.check(line, read, raw_line + b"\r\n" + raw_block + b"\r\n\r\n", missed=True)
    assert line.start + b"Host: Shop.example:80\r\n" + read.forward == raw_line + b"\r\n" + raw_block + b"\r\n"
    assert read.length == (length or 0)
    assert (read.host, read.port) == ("shop.example", 80)
    assert [(name.encode(), value.encode()) for name, value in read.headers[1 : len(headers) + 1]] == [
        (name.lower(), value) for name, value in headers
    ]
    if any(is_secret(name.lower()) for name, _ in headers):
        assert raw_block not in reader.blocks
    # The same read again from what goes upstream changes nothing any more.
    again = parser().block(
        b"Host: Shop.example:80\r\n" + read.forward[:-2] if read.forward else b"Host: Shop.example:80"
    )
    assert again.forward == read.forward


@given(soups)
def test_what_goes_upstream_is_read_by_us_again(data: bytes) -> None:
    """A head that was accepted and rewritten is itself acceptable, and rewriting it again changes nothing."""
    try:
        found = read_request(parser(), data)
    except (Refused, Incomplete):
        return
    start = found.line.start
    block = b"Host: a\r\n" + found.block.forward
    again = read_request(parser(), start + block + b"\r\n" + found.body)
    assert (again.line.start, again.block.forward, again.body) == (start, found.block.forward, found.body)
    assert (again.line.path, again.line.query) == (found.line.path, found.line.query)


# ---- chunks

extensions = st.sampled_from([b"", b"", b"", b";a", b";a=b", b';a="b;\\"c"'])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A chunked body, and its content."""
    chunks = draw(st.lists(st.tuples(st.binary(min_size=1, max_size=40), extensions), max_size=6))
    trailers = draw(st.sampled_from([b"", b"X-Sum: 1\r\n", b"a: b\r\nc:\r\n"]))
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks)
    return framed + b"0" + draw(extensions) + b"\r\n" + trailers + b"\r\n", b"".join(data for data, _ in chunks)


def run(scanner: ChunkScanner, data: bytes, cuts: list[int]) -> tuple[bytes, bytes | None, bool]:
    passed = b""
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    for index in range(len(edges) - 1):
        try:
            got, rest = scanner.take(data[edges[index] : edges[index + 1]])
        except Refused:
            return passed, None, True
        passed += got
        if rest is not None:
            return passed, rest + data[edges[index + 1] :], False
    return passed, None, False


cuts_ = st.lists(st.integers(0, 300), max_size=12)


@given(bodies(), st.binary(max_size=5), cuts_)
def test_sound_bodies_pass_whole(body: tuple[bytes, bytes], behind: bytes, cuts: list[int]) -> None:
    framed, content = body
    assert run(ChunkScanner(), framed + behind, cuts) == (framed, behind, False)
    assert run(Dechunker(), framed + behind, cuts) == (content, behind, False)


@given(st.one_of(bodies().map(lambda pair: pair[0]), soups), soups, st.integers(0, 200), cuts_)
@example(b"", b"3\nabc", 0, [1])
@example(b"", b"3\r\nabc\r", 0, [1])
def test_cutting_changes_nothing(body: bytes, soup: bytes, at: int, cuts: list[int]) -> None:
    """Neither whether it is refused, nor what has passed when it is not; and nothing passes that did not come."""
    data = body[:at] + soup + body[at:]
    for make in (ChunkScanner, Dechunker):
        whole = run(make(), data, [])
        cut = run(make(), data, cuts)
        assert cut[1:] == whole[1:]
        if not whole[2]:
            assert cut[0] == whole[0]
    passed, rest, _ = run(ChunkScanner(), data, cuts)
    assert data.startswith(passed)
    if rest is not None:
        assert passed + rest == data


@given(st.one_of(bodies().map(lambda pair: pair[0]), soups), soups, st.integers(0, 200), cuts_)
def test_what_passes_a_second_scanner_passes_too(body: bytes, soup: bytes, at: int, cuts: list[int]) -> None:
    """Whatever was let through so far is the beginning of a sound body: no reader behind us sees anything else."""
    passed, rest, _ = run(ChunkScanner(), body[:at] + soup + body[at:], cuts)
    again = run(ChunkScanner(), passed, [])
    assert again[2] is False
    assert again[0] == passed
    assert (again[1] is not None) == (rest is not None)


@given(bodies(), soups, st.integers(0, 200))
def test_an_accepted_body_is_the_same_to_llhttp(body: tuple[bytes, bytes], soup: bytes, at: int) -> None:
    data = body[0][:at] + soup + body[0][at:]
    content, rest, _ = run(Dechunker(underscores=False), data, [])
    assume(rest is not None)
    got: list[bytes] = []

    class Body:
        def on_body(self, piece: bytes) -> None:
            got.append(piece)

    framed = data[: len(data) - len(rest or b"")]
    httptools.HttpRequestParser(Body()).feed_data(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + framed
    )
    assert b"".join(got) == content


# ---- paths

path_texts = st.one_of(
    st.text(alphabet="ab/.;%2eEfF5cC0\\", max_size=24),
    st.lists(st.sampled_from(["/", "//", ".", "..", "a", "b.c", ";", ";x=1", "%20", "%2e", "%2F", "%", "~", "\\", "é", "|"]), max_size=10)
    .map("".join),
    st.text(max_size=12),
).map(lambda text: "/" + text)  # fmt: skip


@given(st.one_of(path_texts, st.text(max_size=6)))
@example("/a/..")
@example("/..;")
@example("/.")
@example("//")
@example("")
def test_paths_have_the_normal_form_that_routes_are_matched_with(path: str) -> None:
    try:
        expected: str | None = paths.normalise(path)
    except paths.PathRefused:
        expected = None
    try:
        found: bytes | None = targets.normalise(path.encode())
    except Refused:
        found = None
    assert found == (None if expected is None else expected.encode())


@given(path_texts)
def test_request_lines_have_that_form_too(path: str) -> None:
    """Also where the line is read by one expression."""
    try:
        expected: str | None = paths.normalise(path)
    except paths.PathRefused:
        expected = None
    try:
        found: str | None = parser().line(b"GET " + path.encode() + b" HTTP/1.1").path
    except Refused:
        found = None
    assume("?" not in path)
    assert found == expected
    if found is not None:
        assert (
            parser().line(b"GET " + found.encode() + b" HTTP/1.1").start == b"GET " + found.encode() + b" HTTP/1.1\r\n"
        )
