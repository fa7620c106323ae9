"""BackendTLSPolicies: which ports of Services are spoken to over TLS, and what they have to prove.

A policy that cannot be carried out costs the port it is on: it is not spoken to at all, never in clear. A target that is not there is no
port that it is on: the policy is not attached to it (Gateway API, LocalPolicyTargetReferenceWithSectionName), and says so.

Of two policies on one port the one that names the port by its section comes before one on the whole Service; between two that
are equally close the older one holds, then the first by name, and the other is told (Gateway API: GEP-713, GEP-1897).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import pydantic

from nexus_core.model import gateway_api, kubernetes
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import UpstreamTls
from nexus_core.translate.translation import AncestorStatus, BackendTlsStatus, Remark, Verdict
from nexus_core.translate.unread import remark_of, tolerate
from nexus_core.translate.worlds import World, precedence

ACCEPTED = Verdict(True, "Accepted")
RESOLVED = Verdict(True, "ResolvedRefs")
MAX_ANCESTORS = 16
"""The CRD's limit of `status.ancestors`."""
SYSTEM = "System"

Target = tuple[str, str, str]
"""(namespace, Service, name of a port or empty for all of them)"""
Port = tuple[str, str, int]
"""(namespace, Service, port)"""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why something cannot be an upstream. reason: of the condition ResolvedRefs. what, fix: one sentence each."""

    reason: str
    what: str
    fix: str


@dataclass
class _Policy:
    """tls: None when the policy cannot be carried out. lost: targets that other policies have, with those. vain: targets that are not
    there, with what is wrong; of those, the policy has none.
    """

    resource: Resource
    accepted: Verdict = ACCEPTED
    resolved: Verdict = RESOLVED
    tls: UpstreamTls | None = None
    targets: list[Target] = field(default_factory=list)
    lost: dict[Target, ObjectRef] = field(default_factory=dict)
    vain: dict[Target, Problem] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()


class BackendTls:
    """All BackendTLSPolicies, by what they target. They depend on ConfigMaps, and on nothing else."""

    def __init__(self, world: World) -> None:
        self.problems: list[Problem] = []
        self._world = world
        self._by_target: dict[Target, _Policy] = {}
        self._all = [self._read(r) for r in sorted(world.all("BackendTLSPolicy"), key=precedence)]

    def find(self, namespace: str, service: str, port: str) -> UpstreamTls | Refused | None:
        """Return how a Service's port is spoken to; None when no policy says so. port: its name, empty for the only one."""
        policy = (self._by_target.get((namespace, service, port)) if port else None) or self._by_target.get(
            (namespace, service, "")
        )
        if policy is None:
            return None
        if policy.tls is not None:
            return policy.tls
        what = f'{policy.resource.ref} on Service "{service}" cannot be carried out, so the Service is not spoken to.'
        return Refused("InvalidBackendTLS", what, "Mend the policy; its own conditions say how.")

    def statuses(self, uses: Mapping[Port, Iterable[ObjectRef]]) -> Iterator[BackendTlsStatus]:
        """Yield the statuses, sorted. uses: the Gateways whose routes name a Service's port."""
        if not self._all:
            return
        gateways: dict[Target, set[ObjectRef]] = {}
        for (namespace, service, number), found in uses.items():
            name = self._port_name(namespace, service, number)
            for section in {"", name}:
                gateways.setdefault((namespace, service, section), set()).update(found)
        for policy in sorted(self._all, key=lambda each: each.resource.ref):
            using = {g for target in policy.targets for g in gateways.get(target, ())}
            for namespace, service, _ in policy.vain:
                using |= gateways.get((namespace, service, ""), set())
            ancestors = tuple(self._at(policy, gateway, gateways) for gateway in sorted(using)[:MAX_ANCESTORS])
            yield BackendTlsStatus(policy.resource.ref, policy.resource.generation, ancestors, policy.remarks)

    def _at(self, policy: _Policy, gateway: ObjectRef, gateways: Mapping[Target, set[ObjectRef]]) -> AncestorStatus:
        lost = [target for target in policy.lost if gateway in gateways.get(target, ())]
        accepted = policy.accepted
        if lost:
            accepted = Verdict(False, "Conflicted", "\n".join(_conflict(t, policy.lost[t]) for t in lost))
        if not policy.vain:
            return AncestorStatus(gateway, accepted, policy.resolved)
        missing = "\n".join(f"{p.path}: {p.what} {p.fix}" for p in policy.vain.values())
        if not any(gateway in gateways.get(target, ()) for target in policy.targets):
            # Whatever else is wrong with it, nothing here is closed because of it.
            also = f"\n{accepted.message}" if accepted.reason == "Invalid" else ""
            accepted = Verdict(False, "TargetNotFound", missing + also)
        resolved = Verdict(False, "TargetNotFound", missing)
        if not policy.resolved.ok:
            resolved = replace(policy.resolved, message=f"{policy.resolved.message}\n{missing}")
        return AncestorStatus(gateway, accepted, resolved)

    def _port_name(self, namespace: str, service: str, number: int) -> str:
        resource = self._world.find("Service", namespace, service)
        spec = resource.spec if resource is not None else None
        ports = spec.ports if isinstance(spec, kubernetes.ServiceSpec) else ()
        return next((p.name for p in ports if p.port == number), "")

    def _read(self, resource: Resource) -> _Policy:
        policy = _Policy(resource)
        ignored, refused = tolerate(resource)
        self.problems.extend((*ignored, *refused))
        spec = resource.spec
        if isinstance(spec, gateway_api.BackendTLSPolicySpec):
            policy.remarks = remark_of([*ignored, *self._options(resource.ref, spec)])
            self._claim(policy, spec.target_refs)
            if not refused:
                self._validation(policy, spec.validation)
        else:
            self._claim(policy, _readable_targets(resource))
        if refused:
            first = refused[0]
            policy.accepted = Verdict(False, "Invalid", f"{first.path}: {first.what} {first.fix}")
        return policy

    def _options(self, ref: ObjectRef, spec: gateway_api.BackendTLSPolicySpec) -> list[Problem]:
        found = [
            Problem(
                ref,
                f'.spec.options["{name[:80]}"]',
                "FieldsNotImplemented",
                f'Nexus knows no option "{name[:80]}"; TLS is spoken as if it were not there.',
                "Remove it.",
            )
            for name in sorted(spec.options)
        ]
        self.problems.extend(found)
        return found

    def _claim(self, policy: _Policy, refs: Iterable[gateway_api.PolicyTargetRef]) -> None:
        """Take the targets that are free. A policy that is broken takes them too: what it protects must not go out in clear."""
        ref = policy.resource.ref
        for index, target in enumerate(refs):
            path = f".spec.targetRefs[{index}]"
            if (target.group, target.kind) != ("", "Service"):
                what = f'A BackendTLSPolicy on a {target.kind} (group "{target.group}") has no effect.'
                fix = 'Target a Service, with group: ""; a NexusService has its own policy.tls.'
                self.problems.append(Problem(ref, f"{path}.kind", "UnsupportedValue", what, fix))
                continue
            key = (ref.namespace, target.name, target.section_name or "")
            if key in policy.targets or key in policy.vain:
                continue
            missing = self._missing(ref, target, path)
            if missing is not None:
                policy.vain[key] = missing
                self.problems.append(missing)
                continue
            policy.targets.append(key)
            owner = self._by_target.setdefault(key, policy)
            if owner is not policy:
                policy.lost[key] = owner.resource.ref
                what = _conflict(key, owner.resource.ref)
                self.problems.append(Problem(ref, path, "Conflicted", what, "Remove one of the two policies."))

    def _missing(self, ref: ObjectRef, target: gateway_api.PolicyTargetRef, path: str) -> Problem | None:
        """Return what of a target is not there, and what that means for those who meant to protect it."""
        service = self._world.find("Service", ref.namespace, target.name)
        if service is None:
            what = f'There is no Service "{target.name}" in namespace "{ref.namespace}".'
            fix = "Create it, or name another; targets are of the same namespace as the policy."
            return Problem(ref, f"{path}.name", "TargetNotFound", what, fix)
        if not target.section_name or not isinstance(service.spec, kubernetes.ServiceSpec):
            return None
        names = sorted(p.name for p in service.spec.ports if p.name)
        if target.section_name in names:
            return None
        what = (
            f'Service "{target.name}" has no port of the name "{target.section_name}", so this target protects nothing: '
            "a port that no policy is on is spoken to in clear."
        )
        fix = f"Name one of: {', '.join(names)}." if names else "Leave sectionName out, or name the port."
        return Problem(ref, f"{path}.sectionName", "TargetNotFound", what, fix)

    def _validation(self, policy: _Policy, said: gateway_api.BackendValidation) -> None:
        ref = policy.resource.ref
        path = ".spec.validation"
        names = tuple(self._names(ref, said, path))
        known = said.well_known_ca_certificates or ""
        bundle = ""
        fault: Problem | None = None
        if said.ca_certificate_refs and known:
            what = "validation names both caCertificateRefs and wellKnownCACertificates."
            fault = Problem(ref, path, "InvalidSpec", what, "Keep one of the two.")
        elif said.ca_certificate_refs:
            bundle = self._bundle(policy, said.ca_certificate_refs, f"{path}.caCertificateRefs")
            if not bundle:
                return
        elif not known:
            what = "validation names no authority that the Service's certificate must come from."
            fault = Problem(
                ref, path, "InvalidSpec", what, "Set caCertificateRefs, or wellKnownCACertificates: System."
            )
        elif known != SYSTEM:
            what = f'Nexus knows no set of authorities "{known[:80]}".'
            fault = Problem(ref, f"{path}.wellKnownCACertificates", "UnsupportedValue", what, "Write System.")
        if len(names) < len(said.subject_alt_names):
            # Told just now: looked for from the end.
            fault = next(
                p for p in reversed(self.problems) if p.where == ref and p.path.startswith(f"{path}.subjectAltNames")
            )
        if not said.hostname:
            fault = Problem(
                ref,
                f"{path}.hostname",
                "InvalidSpec",
                "hostname is empty.",
                "Write the Service's name in its certificate.",
            )
        if fault is not None:
            self.problems.append(fault)
            policy.accepted = Verdict(False, "Invalid", f"{fault.path}: {fault.what} {fault.fix}")
            return
        policy.tls = UpstreamTls(said.hostname.lower(), bundle, subject_alt_names=names)

    def _names(
        self, ref: ObjectRef, said: gateway_api.BackendValidation, path: str
    ) -> Iterator[tuple[Literal["dns", "uri"], str]]:
        for index, name in enumerate(said.subject_alt_names):
            if name.type == "Hostname" and name.hostname:
                yield "dns", name.hostname.lower()
            elif name.type == "URI" and name.uri:
                yield "uri", name.uri
            else:
                what = f'A name of type "{name.type[:40]}" needs the field of that type: hostname or uri.'
                fix = "Write type: Hostname with hostname, or type: URI with uri."
                self.problems.append(Problem(ref, f"{path}.subjectAltNames[{index}]", "InvalidSpec", what, fix))

    def _bundle(self, policy: _Policy, refs: Iterable[gateway_api.LocalRef], path: str) -> str:
        """Return the authorities of all references that work, as PEM; empty when none does."""
        ref = policy.resource.ref
        found: list[str] = []
        for index, item in enumerate(refs):
            here = f"{path}[{index}]"
            pem = self._authorities(ref, item, here)
            if isinstance(pem, Problem):
                self.problems.append(pem)
                if policy.resolved.ok:
                    policy.resolved = Verdict(False, pem.reason, f"{pem.what} {pem.fix}")
            else:
                found.append(pem)
        if not found:
            what = "No caCertificateRef works, so the Service is not spoken to."
            self.problems.append(Problem(ref, path, "NoValidCACertificate", what, "Mend them; ResolvedRefs says how."))
            policy.accepted = Verdict(False, "NoValidCACertificate", f"{what} {policy.resolved.message}")
        return "".join(found)

    def _authorities(self, ref: ObjectRef, item: gateway_api.LocalRef, path: str) -> str | Problem:
        if (item.group, item.kind) != ("", "ConfigMap"):
            what = f'Authorities of kind "{item.kind}" (group "{item.group}") are not known.'
            return Problem(ref, f"{path}.kind", "InvalidKind", what, "Name a ConfigMap with a key ca.crt.")
        resource = self._world.find("ConfigMap", ref.namespace, item.name)
        content = resource.spec if resource is not None else None
        if not isinstance(content, kubernetes.ConfigMapContent):
            # The operator keeps of ConfigMaps those with that key alone.
            what = f'There is no ConfigMap "{item.name}" with a key ca.crt in namespace "{ref.namespace}".'
            fix = "Create it, with the authority's certificate under that key, as PEM."
            return Problem(ref, f"{path}.name", "InvalidCACertificateRef", what, fix)
        text = content.find("ca.crt")
        from nexus_core.certificates import authorities

        fault = "has no key ca.crt" if text is None else authorities.fault_of(text)
        if text is None or fault:
            what = f'ConfigMap "{item.name}" {fault}.'
            fix = "Put the authority's certificate under ca.crt, as PEM."
            return Problem(ref, f"{path}.name", "InvalidCACertificateRef", what, fix)
        return authorities.normal_form(text)


def _conflict(target: Target, owner: ObjectRef) -> str:
    _, service, section = target
    of = f'port "{section}" of Service "{service}"' if section else f'Service "{service}"'
    return f"{owner} is already on {of} and has precedence (it is older, or first by name)."


def _readable_targets(resource: Resource) -> Iterator[gateway_api.PolicyTargetRef]:
    """Yield the targets of a policy whose spec is broken, as far as they can be read."""
    spec = resource.raw.get("spec")
    refs = spec.get("targetRefs") if isinstance(spec, dict) else None
    for item in refs if isinstance(refs, list) else []:
        try:
            yield gateway_api.PolicyTargetRef.model_validate(item)
        except pydantic.ValidationError:
            continue
