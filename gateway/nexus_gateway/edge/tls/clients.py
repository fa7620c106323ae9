"""The certificate that this gateway shows to upstreams that ask for one: its Gateway's."""

from __future__ import annotations

import logging

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Snapshot

from nexus_gateway.edge.tls.keyring import Keyring, KeyUnusable, Opened
from nexus_gateway.edge.tls.origination import Originations

log = logging.getLogger("nexus.gateway.tls")

REASON = "ClientCertificateUnusable"


class ClientCertificates:
    """Connections to an upstream are shared by all listeners of the process. So there is one certificate, or none where several Gateways
    of one process name different ones: shown under another Gateway's name it would prove the wrong thing."""

    def __init__(self, keyring: Keyring, originations: Originations) -> None:
        self._keyring = keyring
        self._originations = originations
        self._found: tuple[Problem, ...] = ()
        self.problems: tuple[Problem, ...] = ()

    def build(self, snapshot: Snapshot) -> Opened | None:
        """Return the certificate of a Snapshot, None for none. Blocks for about a millisecond. Raises nothing: see `problems`."""
        self._found = ()
        named = [each for each in snapshot.gateways if each.client_certificate]
        if not named:
            return None
        first = named[0]
        where = ObjectRef("Gateway", *first.id.split("/", 1))
        path = ".spec.tls.backend.clientCertificateRef"
        if len({each.client_certificate for each in named}) > 1:
            others = ", ".join(each.id for each in named[1:])
            self._found = (
                Problem(
                    where, path, REASON,
                    f"One process serves this Gateway and {others}, which have other client certificates: none is shown.",
                    "Run a gateway for each (NEXUS_GATEWAY), as the operator does, or give all the same certificate.",
                ),
            )  # fmt: skip
            return None
        certificate = next((each for each in snapshot.certificates if each.id == first.client_certificate), None)
        try:
            if certificate is None:
                raise KeyUnusable(f"{first.client_certificate} is not in the Snapshot.")
            opened = self._keyring.open(certificate)
            self._originations.try_out(opened)
        except KeyUnusable as error:
            what, _, fix = str(error).partition(". ")
            self._found = (Problem(where, path, REASON, f"{what}.", fix or "Name another Secret."),)
            return None
        return opened

    def use(self, opened: Opened | None) -> bool:
        """Show this one from now on; return whether it is another one than before."""
        for problem in self._found:
            if problem not in self.problems:
                log.warning("%s", problem)
        self.problems = self._found
        return self._originations.show(opened)
