"""Whatever bytes a client sends, and in whatever pieces, the answer is one of three and never changes its mind."""

import ssl

from hypothesis import given
from hypothesis import strategies as st
from nexus_wire.client_hello import MAX_BYTES, NEED_MORE, Hello, NotTls, parse

LABELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20)
NAMES = st.lists(LABELS, min_size=2, max_size=5).map(".".join).filter(lambda name: not name[-1].isdigit())
PROTOCOLS = st.lists(st.sampled_from(["h2", "http/1.1", "grpc-exp", "acme-tls/1", "x" * 255]), max_size=4, unique=True)


def hello_of(name: str, protocols: list[str], maximum: ssl.TLSVersion) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = maximum
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


def body_of(data: bytes) -> bytes:
    """Return the handshake message of one record."""
    assert int.from_bytes(data[3:5], "big") == len(data) - 5
    return data[5:]


@given(NAMES, PROTOCOLS, st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]), st.data())
def test_real_hellos_say_the_same_however_they_are_cut(
    name: str, protocols: list[str], maximum: ssl.TLSVersion, draw: st.DataObject
) -> None:
    data = hello_of(name, protocols, maximum)
    found = parse(data)
    assert isinstance(found, Hello)
    assert (found.server_name, found.alpn) == (name, tuple(each.encode() for each in protocols))
    message = body_of(data)
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(message) - 1), max_size=40)))
    parts = [message[a:b] for a, b in zip([0, *cuts], [*cuts, len(message)], strict=True)]
    cut = b"".join(b"\x16\x03\x03" + len(part).to_bytes(2, "big") + part for part in parts)
    assert parse(cut) == found
    end = draw.draw(st.integers(0, len(cut) - 1))
    assert parse(cut[:end]) is NEED_MORE


@given(NAMES, st.data())
def test_a_hello_with_changed_bytes_is_answered_and_more_bytes_do_not_change_the_answer(
    name: str, draw: st.DataObject
) -> None:
    data = bytearray(hello_of(name, ["h2"], ssl.TLSVersion.TLSv1_3))
    for at, value in draw.draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[at] = value
    settled = None
    for end in range(len(data) + 1):
        found = parse(data[:end])
        assert found is NEED_MORE or isinstance(found, Hello | NotTls)
        if settled is not None:
            assert found == settled, end
        elif found is not NEED_MORE:
            settled = found


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_answered(noise: bytes, as_record: bool) -> None:
    data = b"\x16\x03\x01" + len(noise).to_bytes(2, "big") + noise if as_record else noise
    found = parse(data)
    assert found is NEED_MORE or isinstance(found, Hello | NotTls)


@given(st.integers(0, 2**24 - 1), st.integers(1, 2**14))
def test_nobody_is_asked_for_more_than_the_bound(claimed: int, record: int) -> None:
    message = b"\x01" + claimed.to_bytes(3, "big") + bytes(MAX_BYTES)
    parts = [message[at : at + record] for at in range(0, len(message), record)]
    data = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)
    assert isinstance(parse(data[:MAX_BYTES]), NotTls | Hello)
