"""Header blocks: the RFC's own examples, what is refused, and what is written."""

from __future__ import annotations

import pytest
from nexus_wire.http2 import hpack, huffman
from nexus_wire.http2.frames import Code, ConnectionBroken

FIRST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
SECOND = [*FIRST, (b"cache-control", b"no-cache")]
THIRD = [
    (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]  # fmt: skip


@pytest.mark.parametrize(
    "blocks",
    [
        ("828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865",
         "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565"),
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf", "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"),
    ],
    ids=["plain", "Huffman"],
)  # fmt: skip
def test_the_requests_of_the_specification_are_read(blocks: tuple[str, ...]) -> None:
    """RFC 7541, appendices C.3 and C.4."""
    decoder = hpack.decoder()
    assert [decoder.decode(bytes.fromhex(block)) for block in blocks] == [FIRST, SECOND, THIRD]


def test_the_responses_of_the_specification_push_old_fields_out_of_a_small_table() -> None:
    """RFC 7541, appendix C.5: a table of 256 bytes."""
    decoder = hpack.decoder(256)
    first = decoder.decode(
        bytes.fromhex(
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a"
            "2f2f7777772e6578616d706c652e636f6d"
        )
    )
    assert first == [
        (b":status", b"302"), (b"cache-control", b"private"), (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        (b"location", b"https://www.example.com"),
    ]  # fmt: skip
    assert decoder.decode(bytes.fromhex("4803333037c1c0bf")) == [(b":status", b"307"), *first[1:]]
    third = decoder.decode(
        bytes.fromhex(
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b4851"
            "4b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"
        )
    )
    assert third[0] == (b":status", b"200")
    assert third[-1] == (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # index 0
        b"\xbe",  # an entry that the table does not have
        b"\xff\x80\x01",  # the same, far away
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a number without end
        b"\x40",  # literals that end too soon
        b"\x40\x01",
        b"\x40\x01a",
        b"\x40\x01a\x02b",
        b"\x04\x7f",
        b"\x82\x20",  # a size behind a field
        b"\x3f\xe1\x3f",  # a size beyond what is allowed
        b"\x00\x81\xff\x00",  # Huffman padding of eight ones
        b"\x00\x81\x00\x00",  # padding of zeros
        b"\x00\x84\xff\xff\xff\xff\x00",  # the end's own word
        b"\x7f",
        b"\x0f",
        b"\x3f",
    ],
)
def test_what_is_no_header_block_ends_the_connection(block: bytes) -> None:
    with pytest.raises(ConnectionBroken) as raised:
        hpack.decoder().decode(block)
    assert raised.value.code is Code.COMPRESSION_ERROR


def test_a_block_of_a_thousand_references_is_taken_for_an_attack() -> None:
    with pytest.raises(ConnectionBroken) as raised:
        hpack.decoder().decode(b"\x82" * 1025)
    assert raised.value.code is Code.ENHANCE_YOUR_CALM


def test_a_field_that_is_larger_than_the_table_empties_it() -> None:
    decoder = hpack.decoder(64)
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe") == [(b"a", b"b")]
    decoder.decode(b"\x40\x01a\x3f" + b"x" * 63)
    with pytest.raises(ConnectionBroken):
        decoder.decode(b"\xbe")


def test_sizes_at_the_beginning_of_a_block_bound_the_table() -> None:
    decoder = hpack.decoder()
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\x20\x3f\xe1\x1f\x82") == [(b":method", b"GET")]
    with pytest.raises(ConnectionBroken):
        decoder.decode(b"\xbe")


@pytest.mark.parametrize(
    ("block", "neutral"),
    [
        (b"\x82\x87", True), (b"\x82\x04\x02/a", True), (b"\x82\x44\x02/a", False), (b"\x82\x14\x02/a", False),
        (b"\x20\x82", False), (b"", True),
    ],
)  # fmt: skip
def test_a_block_is_neutral_when_it_leaves_the_table_and_holds_no_secret(block: bytes, neutral: bool) -> None:
    decoder = hpack.decoder()
    decoder.decode(block)
    assert decoder.neutral is neutral


def test_what_was_digested_is_kept_not_the_field() -> None:
    asked = []

    def digest(name: bytes, value: bytes) -> tuple[bytes, int]:
        asked.append(name)
        return name, len(value)

    statics = hpack.Statics(digest)
    asked.clear()
    decoder = hpack.Decoder(statics)
    assert decoder.decode(b"\x40\x01a\x03bcd") == [(b"a", 3)]
    assert decoder.decode(b"\xbe\xbe\x82") == [(b"a", 3), (b"a", 3), (b":method", 3)]
    assert asked == [b"a"]


def test_every_byte_can_be_huffman_coded() -> None:
    """Appendix B: each word alone, padded with ones."""
    words = {symbol: word for word, symbol in huffman._WORDS.items()}
    for symbol in range(256):
        word = words[symbol]
        padded = word + "1" * (-len(word) % 8)
        coded = int(padded, 2).to_bytes(len(padded) // 8, "big")
        assert huffman.decode(coded) == bytes((symbol,))


# ---- writing


def test_lines_become_fields_that_any_decoder_reads_without_a_table() -> None:
    encoder = hpack.Encoder()
    lines = b"Content-Type: text/plain\r\nx-a:1\r\naccept-encoding: gzip, deflate\r\nx-empty:\r\nX-Long: %b\r\n" % (
        b"v" * 300
    )
    for _ in range(2):
        block = encoder.lines(lines)
        decoder = hpack.decoder()
        assert decoder.decode(block) == [
            (b"content-type", b"text/plain"), (b"x-a", b"1"), (b"accept-encoding", b"gzip, deflate"), (b"x-empty", b""),
            (b"x-long", b"v" * 300),
        ]  # fmt: skip
        assert decoder.neutral


def test_what_belongs_to_http_1_connections_is_left_out() -> None:
    lines = b"connection: close\r\nKeep-Alive: 5\r\ntransfer-encoding: chunked\r\nupgrade: x\r\nproxy-connection: x\r\na: b\r\n"
    assert hpack.decoder().decode(hpack.Encoder().lines(lines)) == [(b"a", b"b")]


def test_secrets_are_marked_and_not_remembered() -> None:
    encoder = hpack.Encoder()
    block, keep = encoder.block(b"set-cookie: a=b\r\nx-api-token: c\r\n")
    assert not keep
    decoder = hpack.decoder()
    assert decoder.decode(block) == [(b"set-cookie", b"a=b"), (b"x-api-token", b"c")]
    assert not decoder.neutral
    assert not encoder._fields


def test_an_encoder_remembers_a_bounded_number_of_lines() -> None:
    encoder = hpack.Encoder(max_kept=3)
    for number in range(10):
        encoder.lines(b"a: %d\r\n" % number)
    assert len(encoder._fields) == 3
    encoder.age()
    assert not encoder._fields


@pytest.mark.parametrize(
    ("block", "lasting", "entered"),
    [
        ("88", True, []),
        ("8876056e67696e78", True, [(b"server", 43, (b"server", b"nginx"))]),
        ("880f0d0130", True, []),
        ("be", False, []),  # an entry of the table
        ("7e0161", False, [(b"custom", 39, (b"custom", b"a"))]),  # the name of one
        ("100178017a", False, []),  # never to be kept
        ("3fe11f88", False, []),  # another size
    ],
)
def test_block_lasts_if_the_table_does_not_matter_to_it(block: str, lasting: bool, entered: list[object]) -> None:
    decoder = hpack.decoder()
    decoder.decode(b"\x40\x06custom\x05value")
    decoder.decode(bytes.fromhex(block))
    assert decoder.lasting == lasting
    assert decoder.entered == entered


def test_what_lasting_blocks_enter_is_there_when_it_is_asked_for() -> None:
    decoder = hpack.decoder()
    decoder.decode(b"\x40\x01n\x01v")
    entered = decoder.entered
    decoder.decode(b"\x5f\x01a")
    for _ in range(1000):
        decoder.again(entered)
    assert decoder.decode(b"\xbe\xbf") == [(b"n", b"v"), (b"n", b"v")]
    with pytest.raises(ConnectionBroken):
        decoder.decode(b"\xff\x40")  # 4,096 bytes hold 120 of them, and nothing older
