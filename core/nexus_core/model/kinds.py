"""The table of kinds: which are read, and which model their spec has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nexus_core.model import gateway_api, gateway_parameters, kubernetes, plugins, policies, services
from nexus_core.model.base import Model
from nexus_core.model.rules import Rule

GROUP = "nexus.dev"
VERSION = "v1alpha1"
CONTROLLER_NAME = "nexus.dev/gateway-controller"
"""`spec.controllerName` of the GatewayClasses that Nexus serves."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of manifest.

    versions: the ones read. ours: defined by `crds/`. missing_spec: the kind has none, or it may be left out.
    whole: the kind has no `spec`; its model reads the manifest's other fields (Secret, ConfigMap). discreet: what is wrong with
    one is told without what was written there: it may be a secret.
    rules: about the whole object, for what lies in its metadata; `holds` takes the manifest as it was written.
    """

    kind: str
    group: str
    versions: tuple[str, ...]
    spec: type[Model]
    scope: Literal["Namespaced", "Cluster"] = "Namespaced"
    missing_spec: bool = False
    whole: bool = False
    discreet: bool = False
    rules: tuple[Rule, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether Nexus defines the kind."""
        return self.group == GROUP


def _name(manifest: Any) -> str:
    return str(manifest["metadata"]["name"])


SERVICE_NAME_IS_LABEL = Rule(
    cel="!self.metadata.name.contains('.')",
    what="The name of a NexusService holds a dot.",
    fix="Use letters, digits and '-' only: its Service and its name in the registry (name.namespace) are made from it.",
    holds=lambda manifest: "." not in _name(manifest),
)
SERVICE_NAME_IS_SHORT = Rule(
    cel="self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]')",
    what="The name of a NexusService is no name for a Kubernetes Service.",
    fix="Begin it with a letter and use 63 characters at most.",
    holds=lambda manifest: len(_name(manifest)) <= 63 and "a" <= _name(manifest)[:1] <= "z",
)

_OURS = (
    Kind(
        "NexusService",
        GROUP,
        (VERSION,),
        services.NexusServiceSpec,
        rules=(SERVICE_NAME_IS_LABEL, SERVICE_NAME_IS_SHORT),
    ),
    Kind("NexusPolicy", GROUP, (VERSION,), policies.NexusPolicySpec),
    Kind("NexusPlugin", GROUP, (VERSION,), plugins.NexusPluginSpec),
    Kind("NexusMarketplace", GROUP, (VERSION,), plugins.NexusMarketplaceSpec, scope="Cluster"),
    Kind("NexusGatewayParameters", GROUP, (VERSION,), gateway_parameters.NexusGatewayParametersSpec),
)
_GATEWAY_API = (
    Kind("GatewayClass", gateway_api.GROUP, ("v1", "v1beta1"), gateway_api.GatewayClassSpec, scope="Cluster"),
    Kind("Gateway", gateway_api.GROUP, ("v1", "v1beta1"), gateway_api.GatewaySpec),
    Kind("ListenerSet", gateway_api.GROUP, ("v1",), gateway_api.ListenerSetSpec),
    Kind("HTTPRoute", gateway_api.GROUP, ("v1", "v1beta1"), gateway_api.HTTPRouteSpec),
    Kind("GRPCRoute", gateway_api.GROUP, ("v1",), gateway_api.GRPCRouteSpec),
    Kind("TLSRoute", gateway_api.GROUP, ("v1",), gateway_api.TLSRouteSpec),
    Kind("TCPRoute", gateway_api.GROUP, ("v1",), gateway_api.TCPRouteSpec),
    Kind("UDPRoute", gateway_api.GROUP, ("v1",), gateway_api.UDPRouteSpec),
    Kind("BackendTLSPolicy", gateway_api.GROUP, ("v1",), gateway_api.BackendTLSPolicySpec),
    Kind("ReferenceGrant", gateway_api.GROUP, ("v1", "v1beta1"), gateway_api.ReferenceGrantSpec),
)
_CORE = (
    Kind("Service", "", ("v1",), kubernetes.ServiceSpec),
    Kind("Secret", "", ("v1",), kubernetes.SecretContent, whole=True, discreet=True),
    Kind("ConfigMap", "", ("v1",), kubernetes.ConfigMapContent, whole=True, discreet=True),
    Kind("EndpointSlice", "discovery.k8s.io", ("v1",), kubernetes.EndpointSliceContent, whole=True),
    Kind("Namespace", "", ("v1",), kubernetes.NamespaceSpec, scope="Cluster", missing_spec=True),
)

KINDS: Mapping[tuple[str, str], Kind] = {(k.group, k.kind): k for k in (*_OURS, *_GATEWAY_API, *_CORE)}
"""By (group, kind)."""
