"""Where TLS records end, without a socket."""

from __future__ import annotations

import pytest
from nexus_wire.tls import whole_records

SMALL = b"\x17\x03\x03\x00\x05hello"
LARGE = b"\x17\x03\x03\x40\x00" + bytes(2**14)

ROWS = {
    "one": (SMALL, 0, len(SMALL)),
    "a handshake's": (b"\x16\x03\x01\x00\x02ab", 0, 7),
    "several small ones at once": (SMALL * 3, 0, 3 * len(SMALL)),
    "from the middle": (SMALL * 3, len(SMALL), 3 * len(SMALL)),
    "a large one alone": (LARGE + SMALL, 0, len(LARGE)),
    "small ones and a large one": (SMALL + LARGE + SMALL, 0, len(SMALL) + len(LARGE)),
    "not yet all of it": (SMALL[:-1], 0, 0),
    "one and not yet all of the next": (SMALL + SMALL[:-1], 0, len(SMALL)),
    "nothing but a header": (SMALL[:5], 0, 0),
    "not even a header": (SMALL[:3], 0, 0),
    "an empty one": (b"\x17\x03\x03\x00\x00", 0, 5),
    "the longest": (b"\x17\x03\x03\x48\x00" + bytes(2**14 + 2048), 0, 5 + 2**14 + 2048),
}


@pytest.mark.parametrize("name", ROWS)
def test_whole_records_are_fed_and_the_rest_waits(name: str) -> None:
    data, at, end = ROWS[name]
    assert whole_records(data, at) == end


REFUSED = {
    "plain HTTP": b"GET / HTTP/1.1\r\n",
    "its first byte": b"G",
    "too long for any version": b"\x17\x03\x03\x48\x01ab",
    "another major version": b"\x16\x04\x00\x00\x05ab",
    "no such type": b"\x19\x03\x03\x00\x05ab",
    "after a whole one": SMALL + b"junk",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_record_goes_to_openssl_at_once(name: str) -> None:
    """Waiting for the rest of something that is not TLS would be waiting for ever."""
    assert whole_records(REFUSED[name], 0) == len(REFUSED[name])
