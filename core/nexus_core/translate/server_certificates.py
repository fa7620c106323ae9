"""Secrets to certificates of the Snapshot: which may be used, by whom, and which last good ones stay.

A Secret whose content cannot be used (any more) keeps the certificate that it gave last: a botched rotation is told in the
conditions of whoever names it, and stops nothing. A Secret that was deleted, or that its namespace no longer permits, is
gone at once: somebody took it away on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nexus_core.model import gateway_api, kubernetes
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Certificate
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.references import Grants
from nexus_core.translate.worlds import World

if TYPE_CHECKING:
    from nexus_core.certificates.sealing import Sealer

KEPT = "The certificate it held before keeps serving."


@dataclass(frozen=True, slots=True)
class Shown:
    """What a reference gives. id: of the certificate, empty when there is none to show; with a problem it is the last good one."""

    id: str
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """A certificate before it is known who shows it. key: in PEM, in clear."""

    id: str
    source: str
    chain: str
    key: bytes = field(repr=False)


class Certificates:
    """The certificates of one translation, read when first asked for, and sealed when it is known who shows them."""

    def __init__(self, world: World, last: LastGood, grants: Grants, sealer: Sealer | None) -> None:
        self._world, self._last, self._grants, self._sealer = world, last, grants, sealer
        self._known: dict[tuple[str, str], tuple[_Read | None, str]] = {}
        self._used: dict[str, _Read] = {}

    def find(self, owner: ObjectRef, ref: gateway_api.CertificateRef, path: str, reason: str) -> Shown:
        """Return the certificate that `owner` names at `path`. reason: of problems other than a missing permission."""
        if (ref.group, ref.kind) != ("", "Secret"):
            what = f'"{ref.name}" is of kind "{ref.kind}" (group "{ref.group}"), which holds no certificate for Nexus.'
            return Shown("", Problem(owner, f"{path}.kind", reason, what, "Name a Secret of type kubernetes.io/tls."))
        namespace = ref.namespace or owner.namespace
        if not self._grants.permit(owner.kind, owner.namespace, "", "Secret", namespace, ref.name):
            what = f'Namespace "{namespace}" does not permit {owner.kind}s of "{owner.namespace}" to use Secret "{ref.name}".'
            fix = f'Create a ReferenceGrant in "{namespace}", or use a Secret of "{owner.namespace}".'
            return Shown("", Problem(owner, f"{path}.namespace", "RefNotPermitted", what, fix))
        certificate, fault = self._secret(namespace, ref.name)
        problem = None
        if fault:
            what = f'Secret "{ref.name}" in namespace "{namespace}" {fault}.'
            fix = "Put a certificate under tls.crt and its key under tls.key, both in PEM: kubectl create secret tls."
            if certificate is not None:
                fix = f"{fix} {KEPT}"
            problem = Problem(owner, f"{path}.name", reason, what, fix)
        if certificate is None:
            return Shown("", problem)
        self._used[certificate.id] = certificate
        return Shown(certificate.id, problem)

    def keep(self, owner: ObjectRef, certificate_id: str) -> bool:
        """Whether a certificate that a broken owner showed may still be shown. It is read anew, if it can be."""
        _, namespace, name = certificate_id.split("/", 2)
        return bool(self.find(owner, gateway_api.CertificateRef(name=name, namespace=namespace), ".", "").id)

    def seal(self, shown: Iterable[tuple[str, str]]) -> list[Certificate]:
        """Return the certificates that are shown, sorted, each for those that show it. shown: ids of certificates, and
        `<namespace>/<name>` of the Gateway, in any order and as often as they come.
        """
        gateways: dict[str, set[str]] = {}
        for name, gateway in shown:
            gateways.setdefault(name, set()).add(gateway)
        found = []
        for name in sorted(gateways.keys() & self._used.keys()):
            read = self._used[name]
            key, holders = self._get_sealer().seal(read.key, read.id, gateways[name])
            found.append(Certificate(read.id, read.source, read.chain, key, holders))
        return found

    def _secret(self, namespace: str, name: str) -> tuple[_Read | None, str]:
        key = namespace, name
        if key not in self._known:
            self._known[key] = self._read(namespace, name)
        return self._known[key]

    def _read(self, namespace: str, name: str) -> tuple[_Read | None, str]:
        """Return a Secret's certificate, or the last good one and what is wrong, as the end of a sentence."""
        resource = self._world.find("Secret", namespace, name)
        if resource is None:
            return None, "does not exist"
        certificate_id = f"Secret/{namespace}/{name}"
        content = resource.spec
        if not isinstance(content, kubernetes.SecretContent):
            return self._kept(certificate_id), "is broken"
        chain, key = content.find("tls.crt"), content.find("tls.key")
        for entry, value in (("tls.crt", chain), ("tls.key", key)):
            if value is None:
                return self._kept(certificate_id), f"has no {entry}"
        from nexus_core.certificates.pairs import read_pair

        pair = read_pair(chain or b"", key or b"")
        if pair.fault:
            return self._kept(certificate_id), pair.fault
        return _Read(certificate_id, str(resource.ref), pair.chain, (key or b"").strip() + b"\n"), ""

    def _kept(self, certificate_id: str) -> _Read | None:
        from nexus_core.certificates.sealing import SealError

        found = self._last.certificates.get(certificate_id)
        if found is None:
            return None
        try:
            # Opened, as other Gateways may show it now. Sealed with a key that is no longer ours, it is lost.
            key = self._get_sealer().unseal(found)
        except SealError:
            return None
        return _Read(found.id, found.source, found.chain, key)

    def _get_sealer(self) -> Sealer:
        if self._sealer is None:
            from nexus_core.certificates.sealing import process_sealer

            self._sealer = process_sealer()
        return self._sealer
