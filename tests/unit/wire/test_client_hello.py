"""What is read from a ClientHello, and what is refused before it is whole."""

import ssl
import struct

import pytest
from nexus_wire.client_hello import MAX_BYTES, MAX_RECORDS, NEED_MORE, Hello, NotTls, parse


def vector(prefix: int, data: bytes) -> bytes:
    return len(data).to_bytes(prefix, "big") + data


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, content)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def message(
    extensions: bytes | None = b"", *, session: bytes = b"", ciphers: bytes = b"\x13\x01", rest: bytes = b""
) -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, ciphers) + vector(1, b"\x00")
    if extensions is not None:
        body += vector(2, extensions)
    return b"\x01" + vector(3, body + rest)


def records(data: bytes, size: int = 2**14) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, part) for part in parts)


def real_hello(name: str | None, protocols: list[str], maximum: ssl.TLSVersion) -> bytes:
    """Return what Python's own TLS client sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = maximum
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("protocols", [[], ["h2", "http/1.1"]])
@pytest.mark.parametrize("name", [None, "shop.example"])
def test_a_real_client_is_understood_and_each_beginning_of_it_asks_for_more(
    name: str | None, protocols: list[str], maximum: ssl.TLSVersion
) -> None:
    data = real_hello(name, protocols, maximum)
    hello = parse(data)
    assert isinstance(hello, Hello)
    assert (hello.server_name, hello.alpn) == (name or "", tuple(each.encode() for each in protocols))
    assert (0x0304 in hello.versions) == (maximum is ssl.TLSVersion.TLSv1_3)
    assert [parse(data[:size]) for size in range(len(data))] == [NEED_MORE] * len(data)


def test_a_hello_over_several_records_is_the_same_hello() -> None:
    whole = message(server_name(b"shop.example") + alpn(b"h2"))
    for size in (2, 3, 4, 5, 50, len(whole) - 1):
        data = records(whole, size)
        assert parse(data) == parse(records(whole)), size
        assert all(parse(data[:end]) is NEED_MORE for end in range(len(data))), size


def test_what_follows_is_not_looked_at() -> None:
    assert parse(bytearray(records(message(server_name(b"a.b")))) + b"\xff" * 50) == Hello("a.b")


def test_unknown_extensions_protocols_and_versions_are_stepped_over() -> None:
    grease = extension(0x0A0A, b"") + extension(0xFAFA, b"\x00")
    versions = extension(43, vector(1, b"\x3a\x3a\x03\x04\x03\x03"))
    found = parse(records(message(grease + server_name(b"x.y") + versions + alpn(b"\x8a\x8a", b"h2"))))
    assert found == Hello("x.y", (b"\x8a\x8a", b"h2"), (0x3A3A, 0x0304, 0x0303))


def test_names_are_lower_case_without_a_dot_at_the_end() -> None:
    assert parse(records(message(server_name(b"Shop.EXAMPLE.")))) == Hello("shop.example")


def test_a_name_of_an_unknown_kind_is_no_host_name() -> None:
    assert parse(records(message(server_name(b"\x00\xff", kind=7)))) == Hello("")


def test_a_client_without_extensions_names_nothing() -> None:
    assert parse(records(message(None))) == parse(records(message(b""))) == Hello("")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"G",
        b"PRI * HTTP/2.0",
        b"\x80\x2e\x01\x03\x01",
        b"\x15\x03\x01\x00\x02\x01\x00",
        b"\x16\x02",
        b"\x00",
    ],
)
def test_other_protocols_are_told_by_their_first_bytes(data: bytes) -> None:
    found = parse(data)
    assert isinstance(found, NotTls)
    assert not found.speaks_tls
    assert found.why


@pytest.mark.parametrize(
    "whole",
    [
        message(server_name(b"a.b") + server_name(b"a.b")),
        message(server_name(b"a.b", b"c.d")),
        message(server_name(b"")),
        message(server_name(b"a" * 256)),
        message(server_name(b"a\x00b")),
        message(server_name("ü.de".encode())),
        message(server_name(b"a b")),
        message(extension(0, b"")),
        message(extension(0, vector(2, b""))),
        message(extension(0, b"\x00\x09\x00\x00\x01a")),
        message(extension(0, vector(2, b"\x00\x00\x01a") + b"x")),
        message(alpn(b"")),
        message(alpn(b"h2") + alpn(b"h2")),
        message(extension(43, vector(1, b"\x03"))),
        message(b"\x00"),
        message(rest=b"x"),
        message(session=bytes(33)),
        message(ciphers=b""),
        message(ciphers=b"\x13"),
        b"\x01" + vector(3, b"\x02\x00" + bytes(40)),
        b"\x01" + vector(3, b"\x03\x03"),
        b"\x01\x00\x00\x00" + b"x",
        b"\x01\x00\x40\x00" + bytes(100),
        b"\x01\xff\xff\xff",
    ],
)  # fmt: skip
def test_malformed_hellos_are_refused(whole: bytes) -> None:
    found = parse(records(whole))
    assert isinstance(found, NotTls)
    assert found.speaks_tls
    assert found.why


def test_the_first_message_is_a_client_hello() -> None:
    found = parse(records(b"\x02" + message()[1:]))
    assert isinstance(found, NotTls)
    assert not found.speaks_tls


@pytest.mark.parametrize("header", [b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x40\x01"])
def test_records_that_are_empty_or_too_long_are_refused(header: bytes) -> None:
    assert isinstance(parse(header), NotTls)


def test_a_hello_may_be_16_kib_and_no_more() -> None:
    room = MAX_BYTES - 5 - len(message(extension(21, b"")))
    assert isinstance(parse(records(message(extension(21, bytes(room))))), Hello)
    too_long = records(message(extension(21, bytes(room + 1))))
    # Refused by its length, not once all of it has come.
    assert isinstance(parse(too_long[:9]), NotTls)
    in_many = records(message(extension(21, bytes(room))), 500)
    assert isinstance(parse(in_many[:MAX_BYTES]), NotTls)


def test_a_hello_in_very_many_records_is_refused() -> None:
    whole = message(server_name(b"shop.example"))
    data = records(whole, 1)
    assert len(whole) > MAX_RECORDS
    assert parse(data[: 6 * MAX_RECORDS - 1]) is NEED_MORE
    assert isinstance(parse(data[: 6 * MAX_RECORDS]), NotTls)
