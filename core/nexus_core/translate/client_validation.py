"""What clients of a Gateway's HTTPS listeners have to prove: `spec.tls.frontend`, by port."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from nexus_core.model import gateway_api, kubernetes
from nexus_core.problems import ObjectRef, Problem
from nexus_core.translate.references import Grants
from nexus_core.translate.worlds import World

MODES = ("AllowValidOnly", "AllowInsecureFallback")
KINDS = (("", "ConfigMap"), ("", "Secret"))


@dataclass(frozen=True, slots=True)
class Validation:
    """authorities: PEM, empty when none can be used. unresolved: one problem for each reference that gives none.
    malformed: all that is wrong is the content of objects that are there: their last good content may stay.
    refused: the mode is unknown.
    """

    authorities: str
    optional: bool
    unresolved: tuple[Problem, ...] = ()
    malformed: bool = False
    refused: Problem | None = None


class ClientValidation:
    """The validation of one Gateway's clients."""

    def __init__(self, world: World, grants: Grants, gateway: ObjectRef, tls: gateway_api.GatewayTLS | None) -> None:
        self._world, self._grants, self._gateway = world, grants, gateway
        frontend = tls.frontend if tls is not None else None
        self._default: gateway_api.ClientValidation | None = None
        self._by_port: dict[int, tuple[int, gateway_api.ClientValidation | None]] = {}
        if frontend is not None:
            self._default = frontend.default.validation
            for index, entry in enumerate(frontend.per_port):
                self._by_port.setdefault(entry.port, (index, entry.tls.validation))
        self._known: dict[int | None, Validation | None] = {}

    def of_port(self, port: int) -> Validation | None:
        """Return what holds for HTTPS listeners of a port; None asks clients for nothing."""
        key = port if port in self._by_port else None
        if key not in self._known:
            path, spec = ".spec.tls.frontend.default.validation", self._default
            if key is not None:
                index, spec = self._by_port[key]
                path = f".spec.tls.frontend.perPort[{index}].tls.validation"
            self._known[key] = None if spec is None else self._read(spec, path)
        return self._known[key]

    def insecure_places(self) -> list[str]:
        """Return where clients without a valid certificate are let in, in words."""
        places = []
        if self._default is not None and self._default.mode == "AllowInsecureFallback":
            places.append("by default")
        for port, (_, spec) in sorted(self._by_port.items()):
            if spec is not None and spec.mode == "AllowInsecureFallback":
                places.append(f"at port {port}")
        return places

    def unused(self, ports: Collection[int]) -> list[Problem]:
        """Return a problem for each entry of `perPort` without effect. ports: those of the Gateway's HTTPS listeners."""
        found = []
        for port, (index, _) in self._by_port.items():
            if port not in ports:
                what = f"The Gateway has no HTTPS listener at port {port}; what is said of its clients has no effect."
                fix = "Name the port of one, or remove the entry."
                path = f".spec.tls.frontend.perPort[{index}].port"
                found.append(Problem(self._gateway, path, "FieldsNotImplemented", what, fix))
        return found

    def _read(self, spec: gateway_api.ClientValidation, path: str) -> Validation:
        if spec.mode not in MODES:
            what = f'The mode "{spec.mode[:80]}" of validating clients is not known.'
            fix = f"Write {' or '.join(MODES)}."
            refused = Problem(self._gateway, f"{path}.mode", "UnsupportedValue", what, fix)
            return Validation("", False, refused=refused)
        found: list[str] = []
        unresolved: list[Problem] = []
        malformed = 0
        for index, ref in enumerate(spec.ca_certificate_refs):
            authorities, problem, is_content = self._authorities(ref, f"{path}.caCertificateRefs[{index}]")
            if problem is None:
                found.append(authorities)
            else:
                unresolved.append(problem)
                malformed += is_content
        if not spec.ca_certificate_refs:
            what, fix = "No authority is named that clients' certificates have to come from.", "Name a ConfigMap."
            unresolved.append(Problem(self._gateway, f"{path}.caCertificateRefs", "InvalidCACertificateRef", what, fix))
        pem = "".join(dict.fromkeys(found))
        only_content = bool(unresolved) and malformed == len(unresolved)
        return Validation(pem, spec.mode == "AllowInsecureFallback", tuple(unresolved), only_content)

    def _authorities(self, ref: gateway_api.AuthorityRef, path: str) -> tuple[str, Problem | None, bool]:
        """Return the PEM, or what is wrong and whether it is the object's content."""
        gateway = self._gateway
        if (ref.group, ref.kind) not in KINDS:
            what = f'"{ref.name}" is of kind "{ref.kind}" (group "{ref.group}"), which holds no authorities for Nexus.'
            fix = 'Name a ConfigMap (group: "") with a key ca.crt.'
            return "", Problem(gateway, f"{path}.kind", "InvalidCACertificateKind", what, fix), False
        namespace = ref.namespace or gateway.namespace
        if not self._grants.permit("Gateway", gateway.namespace, "", ref.kind, namespace, ref.name):
            what = f'Namespace "{namespace}" does not permit Gateways of "{gateway.namespace}" to use {ref.kind} "{ref.name}".'
            fix = f'Create a ReferenceGrant in "{namespace}", or use a {ref.kind} of "{gateway.namespace}".'
            return "", Problem(gateway, f"{path}.namespace", "RefNotPermitted", what, fix), False
        resource = self._world.find(ref.kind, namespace, ref.name)
        # Without that key it is as if it were not there: the operator keeps of ConfigMaps no others.
        fault, pem, is_there = "does not exist, or has no ca.crt", "", False
        if resource is not None:
            fault, pem, is_there = _read_bundle(resource.spec)
        if not fault:
            return pem, None, False
        what = f'{ref.kind} "{ref.name}" in namespace "{namespace}" {fault}.'
        fix = "Put the authorities' certificates, in PEM, under its key ca.crt."
        return "", Problem(gateway, f"{path}.name", "InvalidCACertificateRef", what, fix), is_there


def _read_bundle(content: object) -> tuple[str, str, bool]:
    """Return what is wrong with a ConfigMap or Secret, as the end of a sentence, its authorities, and whether it is meant to have some."""
    if not isinstance(content, kubernetes.SecretContent | kubernetes.ConfigMapContent):
        return "is broken", "", True
    text = content.find("ca.crt")
    if text is None:
        return "has no ca.crt", "", False
    from nexus_core.certificates import authorities

    return authorities.fault_of(text), authorities.normal_form(text), True
