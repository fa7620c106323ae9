"""The certificates that clients are shown: chosen by SNI, read again while the gateway runs.

There is one context for the listener, and it holds no certificate: for each handshake it asks the table and takes the
context found. OpenSSL encrypts session tickets with the keys of the context a connection *began* with, so sessions are
resumed whatever certificates come and go (measured; TLS 1.2 and 1.3). Connections that are open keep what they have.

A pair that cannot be used costs itself alone: its last good version stays, and `problems` says what is wrong. Ticket keys
are made by OpenSSL with the listener's context and Python has no way to set them: processes do not share them, so a client
that comes back to another worker shakes hands in full.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from nexus_core.problems import ObjectRef, Problem

from nexus_gateway.edge.tls import files
from nexus_gateway.edge.tls.files import Certificate, Pair, PairInvalid, Stamp
from nexus_gateway.edge.tls.policy import SERVER_ALPN, harden

log = logging.getLogger("nexus.gateway.tls")

POLL_S = 1.0
DEFAULT = "default"
"""Name of the pair that clients without SNI, or with a name that no certificate has, are shown."""
REASON = "CertificateInvalid"


class Table:
    """The certificates at one moment. Immutable; a reload makes another."""

    __slots__ = ("_exact", "_wildcards", "certificates", "default")

    def __init__(self, certificates: tuple[Certificate, ...], now_utc: datetime) -> None:
        """now_utc: of two certificates for one name the one that is valid (longer) is shown."""
        self.certificates = certificates
        by_name = {each.name: each for each in certificates}
        self.default = by_name.get(DEFAULT) or (certificates[0] if certificates else None)
        self._exact: dict[str, Certificate] = {}
        self._wildcards: dict[str, Certificate] = {}
        # Of equals the first by name: sorting keeps their order.
        best_first = sorted(
            certificates, key=lambda each: (each.not_after_utc > now_utc, each.not_after_utc), reverse=True
        )
        for certificate in best_first:
            for name in certificate.names:
                if name.startswith("*."):
                    self._wildcards.setdefault(name[2:], certificate)
                else:
                    self._exact.setdefault(name, certificate)

    def find(self, server_name: str | None) -> Certificate | None:
        """Return the certificate for a host name: exact, then a wildcard for its first label, then the default.

        None only when there is no certificate at all.
        """
        if server_name:
            name = server_name.lower().rstrip(".")
            found = self._exact.get(name) or self._wildcards.get(name.partition(".")[2])
            if found is not None:
                return found
        return self.default


class Certificates:
    """The certificates of one directory.

    context: give it to the listener (`ssl=`); it stays the same through all reloads. table: what is shown now.
    """

    def __init__(self, directory: Path, *, poll_s: float = POLL_S) -> None:
        self._directory = directory
        self._poll_s = poll_s
        self._loaded: dict[str, tuple[Stamp, Certificate]] = {}
        self._problems: dict[str, Problem] = {}
        self._doubtful: set[str] = set()
        self.table = Table((), datetime.now(UTC))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        harden(self.context, SERVER_ALPN)
        self.context.sni_callback = self._choose

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the directory now, in the order of names."""
        return tuple(problem for _, problem in sorted(self._problems.items()))

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, server_name: str | None, _: ssl.SSLContext
    ) -> int | None:
        """Called within each handshake, also without SNI. Returns the TLS alert to refuse with, None to go on."""
        certificate = self.table.find(server_name)
        if certificate is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = certificate.context
        return None

    def reload(self) -> bool:
        """Read what changed since the last call; return whether another table is in use now. Blocks: it reads files.

        Raises nothing: what is wrong goes to `problems` and, once, to the log.
        """
        try:
            pairs = files.find_pairs(self._directory)
        except OSError as error:
            fix = "Name a directory with pairs NAME.crt and NAME.key in NEXUS_TLS_CERTIFICATES, readable by the gateway's user."
            self._tell({"": self._problem("", f"The directory cannot be read: {error.strerror or error}.", fix)})
            return False
        found: dict[str, tuple[Stamp, Certificate]] = {}
        problems: dict[str, Problem] = {}
        doubtful: set[str] = set()
        for pair in pairs:
            former = self._loaded.get(pair.name)
            try:
                found[pair.name] = self._read(pair, former)
            except PairInvalid as error:
                if former is None:
                    problems[pair.name] = self._problem(pair.name, error.what, error.fix)
                    continue
                found[pair.name] = former
                doubtful.add(pair.name)
                # Told at the second look: whoever writes two files leaves a moment in which they do not match.
                if pair.name in self._doubtful:
                    what = f"{error.what} Its last good version stays in use."
                    problems[pair.name] = self._problem(pair.name, what, error.fix)
        self._doubtful = doubtful
        now_utc = datetime.now(UTC)
        for name, (_, certificate) in found.items():
            if certificate.not_after_utc <= now_utc and name not in problems:
                what = (
                    f"It is not valid any more since {certificate.not_after_utc.isoformat()}; clients will refuse it."
                )
                problems[name] = self._problem(
                    name, what, "Put a new certificate in its place; it is read within a second."
                )
        if not found:
            fix = "Put at least one pair NAME.crt and NAME.key there; it is read within a second."
            problems.setdefault("", self._problem("", "There is no certificate: TLS handshakes are refused.", fix))
        self._tell(problems)
        certificates = tuple(certificate for _, (_, certificate) in sorted(found.items()))
        self._loaded = found
        if certificates == self.table.certificates:
            return False
        self.table = Table(certificates, now_utc)
        names = ", ".join(f"{each.name} ({', '.join(each.names) or 'no names'})" for each in certificates)
        log.info("certificates in use: %s", names or "none")
        return True

    def _read(self, pair: Pair, former: tuple[Stamp, Certificate] | None) -> tuple[Stamp, Certificate]:
        """Return the pair as it is now; the former object when its bytes are the same. Raises `PairInvalid`."""
        try:
            stamp = pair.stamp()
        except OSError as error:
            raise PairInvalid(
                f"{error.filename} cannot be read: {error.strerror or error}.",
                "Write both halves of the pair, readable by the gateway's user.",
            ) from error
        if former is not None:
            if former[0] == stamp:
                return former
            if files.read_digest(pair) == former[1].digest:
                return stamp, former[1]
        return stamp, files.load(pair)

    def _problem(self, name: str, what: str, fix: str) -> Problem:
        return Problem(ObjectRef("File", "", str(self._directory / name)), ".", REASON, what, fix)

    def _tell(self, problems: Mapping[str, Problem]) -> None:
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                log.warning("%s", problem)
        self._problems = dict(problems)

    async def watch(self) -> None:
        """Read changes every `poll_s` seconds, off the event loop, until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            await asyncio.to_thread(self.reload)
