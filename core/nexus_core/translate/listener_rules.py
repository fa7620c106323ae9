"""One listener as its author wrote it, judged by itself: what is wrong with it, and what it refers to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from nexus_core.model import gateway_api
from nexus_core.model.base import HOSTNAME_PATTERN
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Listener, ListenerTls
from nexus_core.translate.client_validation import ClientValidation
from nexus_core.translate.features import ADMIN_PORT, KINDS_OF_PROTOCOL, PROTOCOLS
from nexus_core.translate.listeners import Draft
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.server_certificates import Certificates

MINIMUM_VERSION = "nexus.dev/minimum-version"
"""The one key of `tls.options` that Nexus knows. Values: `1.2` (default), `1.3`."""
_MODES = ("Terminate", "Passthrough")
_HOSTNAME = re.compile(HOSTNAME_PATTERN)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
Minimum = Literal["1.2", "1.3"]
_DEFAULT, _DEFAULT_TLS = Listener("", "", 1), ListenerTls()
"""Their values are used where they hold: the wire leaves out a default that is the very object, not one that is equal to it, and
equal worlds have to give equal bytes.
"""


@dataclass(frozen=True)
class Judge:
    """Judges the listeners of one Gateway and its ListenerSets."""

    gateway: ObjectRef
    certificates: Certificates
    validation: ClientValidation
    last: LastGood

    def draft(self, owner: ObjectRef, index: int, item: gateway_api.ListenerSpec) -> Draft:
        """Return what a listener comes to, but for its conflicts with others."""
        path = f".spec.listeners[{index}]"
        prefix = f"{self.gateway.namespace}/{self.gateway.name}"
        if owner.kind == "ListenerSet":
            prefix += f"/{owner.namespace}/{owner.name}"
        draft = Draft(owner, self.gateway, path, f"{prefix}/{item.name}", item.name, None, item)
        draft.refusal = _refusal(owner, path, item)
        if draft.refusal is not None and draft.refusal.path != f"{path}.name":
            # For routes to name; a protocol that is not known takes none.
            protocol = PROTOCOLS.get(item.protocol, _DEFAULT.protocol)
            draft.listener = Listener(draft.id, str(owner), item.port, (item.hostname or "").lower(), protocol)
        if item.protocol not in KINDS_OF_PROTOCOL:
            return draft
        self._kinds(draft, item)
        if draft.refusal is not None:
            return draft
        tls = None
        if item.protocol in ("HTTPS", "TLS") and item.tls is not None:
            tls = self._tls(draft, item, item.tls)
        hostname = (item.hostname or "").lower()
        if hostname and item.protocol in ("TCP", "UDP"):
            what = f"{item.protocol} knows no host names; the listener takes every client."
            fix = "Remove it, or use protocol TLS, whose clients name the host they want."
            draft.ignored.append(Problem(owner, f"{path}.hostname", "FieldsNotImplemented", what, fix))
            hostname = ""
        draft.listener = Listener(
            draft.id,
            str(owner),
            item.port,
            hostname,
            _DEFAULT.protocol if item.protocol == _DEFAULT.protocol else PROTOCOLS[item.protocol],
            tls,
        )
        return draft

    def kept(self, owner: ObjectRef, listener: Listener) -> Draft:
        """Return the last good version of a listener whose owner is broken."""
        name = listener.id.rsplit("/", 1)[-1]
        draft = Draft(owner, self.gateway, f'.spec.listeners["{name}"]', listener.id, name, listener)
        draft.kinds = KINDS_OF_PROTOCOL[listener.protocol]
        draft.known_routes = self.last.routes_at(listener.id)
        tls = listener.tls
        if tls is not None and tls.mode == "terminate":
            still = tuple(c for c in tls.certificates if self.certificates.keep(owner, c))
            draft.missing = not still
            if still != tls.certificates:
                tls = msgspec.structs.replace(tls, certificates=still)
                draft.listener = msgspec.structs.replace(listener, tls=tls)
        return draft

    def _kinds(self, draft: Draft, item: gateway_api.ListenerSpec) -> None:
        served = KINDS_OF_PROTOCOL[item.protocol]
        wanted = item.allowed_routes.kinds
        good = [k.kind for k in wanted if k.group == gateway_api.GROUP and k.kind in served]
        draft.kinds = tuple(sorted(set(good))) if wanted else served
        if len(good) == len(wanted):
            return
        other = sorted({k.kind for k in wanted if k.group != gateway_api.GROUP or k.kind not in served})
        what = f'Listener "{item.name}" allows routes of kind {", ".join(other)}, which none of protocol {item.protocol} takes.'
        fix = f"Remove them; {item.protocol} takes {' and '.join(served)}."
        draft.unresolved.append(
            Problem(draft.owner, f"{draft.path}.allowedRoutes.kinds", "InvalidRouteKinds", what, fix)
        )

    def _tls(self, draft: Draft, item: gateway_api.ListenerSpec, tls: gateway_api.ListenerTLS) -> ListenerTls:
        path = f"{draft.path}.tls"
        minimum = self._options(draft, tls, path)
        if tls.mode == "Passthrough":
            if MINIMUM_VERSION in tls.options:
                what = "What is passed through is encrypted between client and backend, whose versions of TLS the gateway does not choose."
                fix = "Remove it, or use mode: Terminate."
                place = f'{path}.options["{MINIMUM_VERSION}"]'
                draft.ignored.append(Problem(draft.owner, place, "FieldsNotImplemented", what, fix))
            return ListenerTls("passthrough")
        shown: list[str] = []
        problems: list[Problem] = []
        for index, ref in enumerate(tls.certificate_refs):
            found = self.certificates.find(
                draft.owner, ref, f"{path}.certificateRefs[{index}]", "InvalidCertificateRef"
            )
            if found.id and found.id not in shown:
                shown.append(found.id)
            if found.problem is not None:
                problems.append(found.problem)
        if not tls.certificate_refs:
            what = f'Listener "{item.name}" ends TLS and names no certificate.'
            fix = "Name a Secret of type kubernetes.io/tls under certificateRefs."
            problems.append(Problem(draft.owner, f"{path}.certificateRefs", "InvalidCertificateRef", what, fix))
        draft.unresolved[:0] = problems
        draft.missing = not shown
        authorities, optional = self._clients(draft, item) if item.protocol == "HTTPS" else ("", False)
        return ListenerTls(_DEFAULT_TLS.mode, tuple(shown), authorities, optional, minimum)

    def _options(self, draft: Draft, tls: gateway_api.ListenerTLS, path: str) -> Minimum:
        for key in sorted(tls.options):
            if key != MINIMUM_VERSION:
                what = "Nexus does not know this option of TLS; the listener works as if it were not there."
                fix = f"Remove it; {MINIMUM_VERSION} is the one that is known."
                place = f"{path}.options[{json.dumps(key)}]"
                draft.ignored.append(Problem(draft.owner, place, "FieldsNotImplemented", what, fix))
        minimum = tls.options.get(MINIMUM_VERSION, _DEFAULT_TLS.minimum)
        if minimum == "1.3":
            return "1.3"
        if minimum != _DEFAULT_TLS.minimum:
            what = f'"{minimum[:80]}" is no version of TLS that Nexus can ask for.'
            draft.refusal = Problem(
                draft.owner, f'{path}.options["{MINIMUM_VERSION}"]', "UnsupportedValue", what, 'Write "1.2" or "1.3".'
            )
        return _DEFAULT_TLS.minimum

    def _clients(self, draft: Draft, item: gateway_api.ListenerSpec) -> tuple[str, bool]:
        """Return the authorities that clients' certificates have to come from, and whether clients may do without."""
        found = self.validation.of_port(item.port)
        if found is None:
            return "", False
        if found.refused is not None:
            draft.refusal = draft.refusal or found.refused
            return "", False
        if found.authorities:
            draft.unresolved.extend(found.unresolved)
            return found.authorities, found.optional
        before = self.last.listeners.get(draft.id)
        if found.malformed and before is not None and before.tls is not None and before.tls.client_authorities:
            kept = (replace(p, fix=f"{p.fix} The authorities it held before keep serving.") for p in found.unresolved)
            draft.unresolved.extend(kept)
            return before.tls.client_authorities, found.optional
        draft.unresolved.extend(found.unresolved)
        # Without an authority nobody can be told from anybody: refused, rather than open to all.
        reasons = " ".join(p.what for p in found.unresolved)
        what = f"No authority is left that certificates of clients at port {item.port} could come from. {reasons}"
        draft.refusal = draft.refusal or Problem(
            self.gateway,
            ".spec.tls.frontend",
            "NoValidCACertificate",
            what,
            "Name a ConfigMap that holds one under ca.crt.",
        )
        return "", found.optional


def _refusal(owner: ObjectRef, path: str, item: gateway_api.ListenerSpec) -> Problem | None:
    """Return why a listener is not accepted whatever it refers to, or None."""
    if item.protocol not in KINDS_OF_PROTOCOL:
        what = f'Listener "{item.name}" asks for protocol "{item.protocol[:80]}", which Nexus does not serve.'
        fix = f"Write one of: {', '.join(KINDS_OF_PROTOCOL)}."
        return Problem(owner, f"{path}.protocol", "UnsupportedProtocol", what, fix)
    if len(item.name) > 253 or not _NAME.fullmatch(item.name):
        what, fix = f'"{item.name[:80]}" is no listener name.', "Use lower-case letters, digits and '-'."
        return Problem(owner, f"{path}.name", "InvalidSpec", what, fix)
    if item.port == ADMIN_PORT and item.protocol != "UDP":
        what = f'Listener "{item.name}" asks for port {ADMIN_PORT}, where Nexus itself tells of its health and metrics.'
        return Problem(owner, f"{path}.port", "PortUnavailable", what, "Choose another port.")
    given = item.allowed_routes.namespaces.from_
    if given not in ("Same", "All", "Selector"):
        what = f'Listener "{item.name}" allows routes from "{given[:80]}", which Nexus does not know.'
        place = f"{path}.allowedRoutes.namespaces.from"
        return Problem(owner, place, "UnsupportedValue", what, "Write Same, All or Selector.")
    if given == "Selector" and item.allowed_routes.namespaces.selector is None:
        what = f'Listener "{item.name}" allows routes from the namespaces that a selector chooses, and has none.'
        place = f"{path}.allowedRoutes.namespaces.selector"
        return Problem(owner, place, "UnsupportedValue", what, "Write it, with matchLabels, or from: Same or All.")
    if item.hostname and not (len(item.hostname) <= 253 and _HOSTNAME.fullmatch(item.hostname.lower())):
        what = f'"{item.hostname[:80]}" is no host name.'
        fix = "Write a DNS name, such as shop.example, or one with a wildcard, such as *.shop.example."
        return Problem(owner, f"{path}.hostname", "UnsupportedValue", what, fix)
    return _tls_refusal(owner, path, item)


def _tls_refusal(owner: ObjectRef, path: str, item: gateway_api.ListenerSpec) -> Problem | None:
    is_tls = item.protocol in ("HTTPS", "TLS")
    if item.tls is None:
        if not is_tls:
            return None
        what = f'Listener "{item.name}" is of protocol {item.protocol} and says nothing of TLS.'
        fix = "Name a Secret of type kubernetes.io/tls under tls.certificateRefs."
        return Problem(owner, f"{path}.tls", "UnsupportedValue", what, fix)
    if not is_tls:
        what = f'Listener "{item.name}" is of protocol {item.protocol}, which knows no TLS.'
        return Problem(owner, f"{path}.tls", "UnsupportedValue", what, "Remove tls, or use protocol HTTPS or TLS.")
    if item.tls.mode not in _MODES:
        what = f'"{item.tls.mode[:80]}" is no mode of TLS.'
        return Problem(owner, f"{path}.tls.mode", "UnsupportedValue", what, f"Write {' or '.join(_MODES)}.")
    if item.protocol == "HTTPS" and item.tls.mode != "Terminate":
        what = f'Listener "{item.name}" passes TLS through, so nothing can be read of its HTTP.'
        fix = "Use mode: Terminate, or protocol TLS and TLSRoutes."
        return Problem(owner, f"{path}.tls.mode", "UnsupportedValue", what, fix)
    return None
