"""A request on its way through: what the gateway says of itself upstream, and what plugins and filters see of it.

What every request of a connection, or of a host, has in common is made once and kept as bytes. Heads as values
(`RequestHead`) are made only for rules with plugins or filters, and rendered back only when one of those changed them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from nexus_core.hooks import Headers, RequestHead
from nexus_core.match import hosts
from nexus_wire.http1 import RequestBlock, RequestLine

from nexus_gateway.edge.listeners.plans import PLAIN
from nexus_gateway.edge.plugins.checking import render as render_pairs
from nexus_gateway.settings import Network

SAID = frozenset(
    {b"x-real-ip", b"true-client-ip", b"x-client-ip", b"cf-connecting-ip", b"x-cluster-client-ip", b"x-original-host", b"x-host"}
)  # fmt: skip
"""Other names under which proxies tell a client's address or the host it asked for: passed on as trusted ones say it, and lost
otherwise, since services believe them. The gateway itself reads and writes none of them."""
ASIDE = frozenset(
    {b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"traceparent",
     b"tracestate", b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags", b"x-b3-parentspanid",
     b"uber-trace-id", b"x-request-timeout", b"grpc-timeout", b"x-nexus-debug"}
) | SAID  # fmt: skip
"""Headers that the gateway reads and replaces; the wire keeps them out of what is passed on unread."""
ASIDE_PREFIXES = (b"x-forwarded-",)
"""Also X-Forwarded-Port, -Prefix and whatever else services take for a proxy's word."""
DROP = frozenset({b"x-original-url", b"x-rewrite-url", b"x-nexus-mirror"})
"""Taken for a proxy's word by common services, and never written by this one: nobody's is passed on. X-HTTP-Method-Override is:
whether a service goes by it is the service's own matter, and those that offer it have to know who may use it."""

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade", "http2-settings"}
)  # fmt: skip
FRAMING = _HOP_BY_HOP | {"content-length"}
_REMADE = frozenset(name.decode() for name in ASIDE - SAID) - {
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
}

KEPT_OUT = FRAMING | _REMADE
"""Of a request: what frames the message, and what the gateway writes itself. Plugins and filters have no say in it."""


class Peer:
    """What the gateway knows of one client connection, and what it says of it upstream.

    address: text. site, port: where it came in, as `listeners.plans` has it, and the port that the listeners there declare, 0 for
    none. elsewhere: whether clients reach it at another one. own_lines: Host and forwarding lines of the last `authority`, since a
    connection's requests mostly share one.
    """

    __slots__ = ("address", "authority", "elsewhere", "encoded", "own_lines", "port", "scheme", "site", "trusted")

    def __init__(
        self,
        address: str,
        *,
        secure: bool,
        trusted: bool,
        site: str = PLAIN,
        port: int = 0,
        elsewhere: bool = True,
    ) -> None:
        self.address = address
        self.site = site
        self.port = port
        self.elsewhere = elsewhere
        self.encoded = address.encode()
        self.scheme = "https" if secure else "http"
        self.trusted = trusted
        self.authority = b""
        self.own_lines = b""


class Forwarding:
    """Makes the lines that tell upstreams where a request comes from."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = trusted

    def peer(self, address: str, *, secure: bool, site: str = PLAIN, port: int = 0, elsewhere: bool = True) -> Peer:
        """Return what is known of a new connection."""
        return Peer(address, secure=secure, trusted=self.is_trusted(address), site=site, port=port, elsewhere=elsewhere)

    def is_trusted(self, address: str) -> bool:
        """Return whether the address's forwarding headers are believed."""
        if not self._trusted:
            return False
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)

    def lines(self, peer: Peer, authority: bytes, aside: Mapping[bytes, bytes] | None) -> bytes:
        """Return Host and all forwarding lines of a request."""
        if aside is not None and peer.trusted:
            return self._trusted_lines(peer, authority, aside)
        if peer.authority != authority or not peer.own_lines:
            host = b"host: %b\r\nx-forwarded-host: %b\r\n" % (authority, authority) if authority else b""
            peer.own_lines = b"%bx-forwarded-for: %b\r\nx-forwarded-proto: %b\r\n" % (
                host, peer.encoded, peer.scheme.encode(),
            )  # fmt: skip
            peer.authority = authority
        return peer.own_lines

    def _trusted_lines(self, peer: Peer, authority: bytes, aside: Mapping[bytes, bytes]) -> bytes:
        chain = aside.get(b"x-forwarded-for")
        chain = b"%b, %b" % (chain, peer.encoded) if chain else peer.encoded
        proto = aside.get(b"x-forwarded-proto") or peer.scheme.encode()
        host = aside.get(b"x-forwarded-host") or authority
        lines = [b"host: %b\r\n" % authority if authority else b"", b"x-forwarded-for: %b\r\n" % chain,
                 b"x-forwarded-proto: %b\r\n" % proto, b"x-forwarded-host: %b\r\n" % host if host else b""]  # fmt: skip
        for name, value in aside.items():
            if name in SAID or (name.startswith(b"x-forwarded-") and name not in ASIDE):
                lines.append(b"%b: %b\r\n" % (name, value))
        forwarded = aside.get(b"forwarded")
        if forwarded:
            quoted = b'"[%b]"' % peer.encoded if b":" in peer.encoded else peer.encoded
            lines.append(b"forwarded: %b, for=%b;proto=%b\r\n" % (forwarded, quoted, peer.scheme.encode()))
        return b"".join(lines)

    def client_ip(self, peer: Peer, aside: Mapping[bytes, bytes] | None) -> str:
        """Return the client's address as far as trusted proxies tell it: the last one in the chain that is not one of them."""
        if aside is None or not peer.trusted:
            return peer.address
        found = peer.address
        for part in reversed(aside.get(b"x-forwarded-for", b"").split(b",")):
            text = part.strip().decode("latin-1")
            try:
                ip_address(text)
            except ValueError:
                break
            found = text
            if not self.is_trusted(text):
                break
        return found

    def scheme(self, peer: Peer, aside: Mapping[bytes, bytes] | None) -> str:
        """Return the scheme the client used, as far as trusted proxies tell it."""
        if aside is not None and peer.trusted:
            said = aside.get(b"x-forwarded-proto")
            if said in (b"http", b"https"):
                return said.decode()
        return peer.scheme

    def port(self, peer: Peer, scheme: str, said: int) -> int:
        """Return the port that the client used, 0 for the scheme's own. scheme: as the client used it; said: by its Host header, 0
        for none.

        It is the listener's, unless something in front of it ends TLS, or it is bound elsewhere: these know better.
        """
        if scheme != peer.scheme:
            return said
        return said if said and peer.elsewhere else peer.port


def request_id(aside: Mapping[bytes, bytes] | None) -> bytes | None:
    """Return the client's own request id, if it is one that can be passed on."""
    if aside is None:
        return None
    value = aside.get(b"x-request-id")
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def authority_of(line: RequestLine, block: RequestBlock) -> tuple[bytes, str, int]:
    """Return `(authority as sent, host, port)`; a target in absolute form wins over the Host header (RFC 9112 section 3.2.2)."""
    if not line.authority:
        return block.authority, block.host, block.port
    host, port = hosts.parse(line.authority.decode("latin-1"))
    return line.authority, host, int(port or 0)


def render_start(head: RequestHead) -> bytes:
    """Return the request line for upstream."""
    return f"{head.method} {head.path}{'?' + head.query if head.query else ''} HTTP/1.1\r\n".encode("latin-1")


def render_request(headers: Headers, block: RequestBlock) -> bytes:
    """Return changed request headers as lines. The body's framing stays the message's own, whatever a plugin or filter says:
    another length would make the next message on a shared connection part of this one."""
    if sum(pair[0].lower() == "host" for pair in headers) > 1:
        *_, last = (pair for pair in headers if pair[0].lower() == "host")
        headers = (last, *(pair for pair in headers if pair[0].lower() != "host"))
    lines = render_more(headers)
    if block.length > 0 or (block.length == 0 and block.sized):
        return lines + b"content-length: %d\r\n" % block.length
    return lines + b"transfer-encoding: chunked\r\n" if block.length == -1 else lines


def render_more(headers: Headers) -> bytes:
    """Return request headers as lines, without those that frame the message or that the gateway writes itself."""
    return render_pairs([pair for pair in headers if pair[0] not in KEPT_OUT and pair[0].lower() not in KEPT_OUT])


def has_host(headers: Headers) -> bool:
    """Return whether a host is among them, of which a request has just one."""
    return any(pair[0].lower() == "host" for pair in headers)


def appended(before: Headers, after: Headers) -> Headers | None:
    """Return what was added at the end; None when more than that was changed. Compares pairs by identity where it can."""
    count = len(before)
    return after[count:] if after[:count] == before else None


def render(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return pairs as header lines, without those that frame the message or speak of one connection."""
    return render_pairs([pair for pair in headers if pair[0] not in FRAMING and pair[0].lower() not in FRAMING])


def without(lines: bytes, name: bytes) -> bytes:
    """Return header lines without those of one header. name: lower-case."""
    kept = [line for line in lines.split(b"\r\n") if line.partition(b":")[0].strip().lower() != name]
    return b"\r\n".join(kept)
