"""What Gateways and their classes say of data planes: addresses, labels, NexusGatewayParameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from nexus_core.model import autoscaling, gateway_api
from nexus_core.model.gateway_parameters import NexusGatewayParametersSpec
from nexus_core.model.kinds import CONTROLLER_NAME, GROUP
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.translate.features import SUPPORTED_FEATURES
from nexus_core.translate.translation import ClassStatus, Infrastructure, Verdict
from nexus_core.translate.worlds import World

KIND = "NexusGatewayParameters"
ADDRESS_TYPES = ("IPAddress", "Hostname")
ACCEPTED = Verdict(True, "Accepted")


@dataclass(frozen=True, slots=True)
class Found:
    """problem: why the data plane cannot be made as its author wants it, the Gateway's own faults before those of its class."""

    infrastructure: Infrastructure
    problem: Problem | None = None


class Infrastructures:
    """Reads for all Gateways. statuses: of the GatewayClasses that are ours, sorted. problems: what is wrong with those."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._of_class: dict[str, tuple[NexusGatewayParametersSpec | None, Problem | None]] = {}
        self.statuses: list[ClassStatus] = []
        self.problems: list[Problem] = []
        for resource in world.all("GatewayClass"):
            spec = resource.spec
            if isinstance(spec, gateway_api.GatewayClassSpec) and spec.controller_name == CONTROLLER_NAME:
                self._read_class(resource, spec)

    def of_gateway(self, resource: Resource, spec: gateway_api.GatewaySpec) -> Found:
        """Return what a Gateway says of its data plane, with empty ports."""
        ref = resource.ref
        wanted = spec.infrastructure or gateway_api.GatewayInfrastructure()
        base, problem = self._of_class.get(spec.gateway_class_name, (None, None))
        parameters = base
        if problem is not None:
            what = f'The parameters of GatewayClass "{spec.gateway_class_name}" cannot be used: {problem.what}'
            problem = Problem(ref, ".spec.gatewayClassName", "InvalidParameters", what, problem.fix)
        if wanted.parameters_ref is not None:
            path = ".spec.infrastructure.parametersRef"
            own, fault = self._find(ref, path, wanted.parameters_ref, ref.namespace)
            problem = fault or problem
            if own is not None:
                merged = _merge(base, own, ref, path)
                if isinstance(merged, Problem):
                    problem = merged
                else:
                    parameters = merged
        problem = _unsupported_address(ref, spec) or problem or _unscalable(ref, wanted, parameters)
        infrastructure = Infrastructure(
            labels=dict(sorted(wanted.labels.items())),
            annotations=dict(sorted(wanted.annotations.items())),
            parameters=parameters,
            addresses=tuple((a.type, a.value) for a in spec.addresses if a.type in ADDRESS_TYPES),
            usable=problem is None,
        )
        return Found(infrastructure, problem)

    def _read_class(self, resource: Resource, spec: gateway_api.GatewayClassSpec) -> None:
        ref, wanted = resource.ref, spec.parameters_ref
        parameters: NexusGatewayParametersSpec | None = None
        problem: Problem | None = None
        if wanted is not None:
            path = ".spec.parametersRef"
            if not wanted.namespace:
                what = f'The reference to "{wanted.name}" names no namespace.'
                fix = "Set namespace: a GatewayClass is of no namespace itself."
                problem = Problem(ref, f"{path}.namespace", "InvalidParameters", what, fix)
            else:
                parameters, problem = self._find(ref, path, wanted, wanted.namespace)
        self._of_class[ref.name] = parameters, problem
        accepted = ACCEPTED
        if problem is not None:
            self.problems.append(problem)
            accepted = Verdict(False, problem.reason, f"{problem.what} {problem.fix}")
        self.statuses.append(ClassStatus(ref, resource.generation, accepted, SUPPORTED_FEATURES))

    def _find(
        self, owner: ObjectRef, path: str, ref: gateway_api.ParametersRef, namespace: str
    ) -> tuple[NexusGatewayParametersSpec | None, Problem | None]:
        if (ref.group, ref.kind) != (GROUP, KIND):
            what = f'"{ref.name}" is of kind "{ref.kind}" (group "{ref.group}"), which says nothing of data planes.'
            fix = f"Name a {KIND} (group: {GROUP})."
            return None, Problem(owner, f"{path}.kind", "InvalidParameters", what, fix)
        resource = self._world.find(KIND, namespace, ref.name)
        if resource is None:
            known = ", ".join(self._world.names(KIND, namespace))
            what = f'There is no {KIND} "{ref.name}" in namespace "{namespace}".'
            fix = f"Create it, or name one of: {known}." if known else "Create it."
            return None, Problem(owner, f"{path}.name", "InvalidParameters", what, fix)
        if not isinstance(resource.spec, NexusGatewayParametersSpec):
            what = f'{KIND} "{ref.name}" in namespace "{namespace}" is broken.'
            told = next((f"{p.path}: {p.what} {p.fix}" for p in resource.problems), "Mend it.")
            return None, Problem(owner, f"{path}.name", "InvalidParameters", what, told)
        return resource.spec, None


def _merge(
    base: NexusGatewayParametersSpec | None, own: NexusGatewayParametersSpec, ref: ObjectRef, path: str
) -> NexusGatewayParametersSpec | Problem:
    """Return both, `own` winning field by field; maps are joined, lists replaced."""
    if base is None:
        return own
    dumped = (each.model_dump(by_alias=True, exclude_unset=True, exclude_none=True) for each in (base, own))
    try:
        return NexusGatewayParametersSpec.model_validate(_joined(*dumped))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"With those of its GatewayClass, the parameters say what cannot be: {first['msg']}"
        fix = "Set the field that differs in the Gateway's own parameters."
        return Problem(ref, f"{path}.name", "InvalidParameters", what, fix)


def _joined(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in own.items():
        before = found.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        found[key] = _joined(before, value) if both else value  # type: ignore[arg-type]  # both are maps
    return found


def _unscalable(
    ref: ObjectRef, wanted: gateway_api.GatewayInfrastructure, parameters: NexusGatewayParametersSpec | None
) -> Problem | None:
    fault = autoscaling.fault_of(parameters.autoscaling, parameters.resources) if parameters is not None else None
    if fault is None:
        return None
    path = ".spec.infrastructure.parametersRef.name" if wanted.parameters_ref is not None else ".spec.gatewayClassName"
    return Problem(ref, path, "InvalidParameters", f"The parameters cannot be used: {fault[0]}", fault[1])


def _unsupported_address(ref: ObjectRef, spec: gateway_api.GatewaySpec) -> Problem | None:
    for index, address in enumerate(spec.addresses):
        if address.type not in ADDRESS_TYPES:
            what = f'An address of type "{address.type[:80]}" cannot be given to a Gateway of Nexus.'
            fix = f"Use type {' or '.join(ADDRESS_TYPES)}, or remove the address."
            return Problem(ref, f".spec.addresses[{index}].type", "UnsupportedAddress", what, fix)
    return None
