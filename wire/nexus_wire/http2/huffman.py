"""HPACK's Huffman code, one way: strings that peers encoded. What we write ourselves is never Huffman-coded.

Source: RFC 7541 section 5.2 and appendix B. The code is canonical, so the lengths of its 257 words say all of it. A byte at a time is
followed through a machine whose steps are made when they are first taken: all 65,536 would hold 4 MB, real strings need a few
thousand.
"""

from __future__ import annotations

from typing import Any

_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505"
    "050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f050605"
    "06050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817"
    "1717171516171617171816151416161717151716161815161717151516151716171714161616171616171a1a141316171619"
    "1a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c"
    "1b1b1b1b1b1a1e"
)
"""Bits of each byte's word, and of the end's, which is the last."""
_END = 256


class BadHuffman(Exception):
    """The string holds the end's word, or is padded with anything but its first bits, fewer than eight of them."""


_Step = tuple[bytes, list[Any]]
"""What a byte decodes to in a state, and the next state."""
_FINAL, _PREFIX = 256, 257
"""Behind a state's steps by byte: whether a string may end there, and which bits of a word have come."""


def _state(prefix: str) -> list[Any]:
    return [*[None] * 256, len(prefix) < 8 and "0" not in prefix, prefix]


def _take(state: list[Any], byte: int) -> _Step:
    """Make a step that was not taken yet."""
    prefix = state[_PREFIX]
    decoded = bytearray()
    for bit in format(byte, "08b"):
        prefix += bit
        found = _WORDS.get(prefix)
        if found is not None:
            if found == _END:
                raise BadHuffman
            decoded.append(found)
            prefix = ""
    if prefix not in _STATES:
        _STATES[prefix] = _state(prefix)
    step = state[byte] = (bytes(decoded), _STATES[prefix])
    return step


def _build_words() -> dict[str, int]:
    words = {}
    code = length = 0
    for bits, symbol in sorted((bits, symbol) for symbol, bits in enumerate(_LENGTHS)):
        code <<= bits - length
        length = bits
        words[format(code, f"0{bits}b")] = symbol
        code += 1
    return words


_WORDS = _build_words()
_BEGIN = _state("")
_STATES: dict[str, list[Any]] = {"": _BEGIN}


def decode(encoded: bytes) -> bytes:
    """Return a decoded string. Raises `BadHuffman`."""
    state = _BEGIN
    pieces = []
    for byte in encoded:
        piece, state = state[byte] or _take(state, byte)
        pieces.append(piece)
    if not state[_FINAL]:
        raise BadHuffman
    return b"".join(pieces)
