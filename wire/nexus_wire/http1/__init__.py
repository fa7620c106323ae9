"""HTTP/1.1 without I/O: heads and chunks, parsed and checked. Bytes in, values out."""

from nexus_wire.http1.chunks import ChunkScanner, Dechunker, trailer_lines
from nexus_wire.http1.refusals import Refused
from nexus_wire.http1.requests import RequestBlock, RequestLine, RequestParser
from nexus_wire.http1.responses import ResponseBlock, ResponseParser, StatusLine

__all__ = [
    "ChunkScanner",
    "Dechunker",
    "Refused",
    "RequestBlock",
    "RequestLine",
    "RequestParser",
    "ResponseBlock",
    "ResponseParser",
    "StatusLine",
    "trailer_lines",
]
