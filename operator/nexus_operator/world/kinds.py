"""The kinds the operator watches or writes, and where the API server serves them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. group: empty for the core group. selector: label selector of list and watch, empty for all objects."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    selector: str = ""

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`, as manifests write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection, of one object, or of its subresource."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if namespace and self.namespaced:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NEXUS_GROUP = "nexus.dev"
GATEWAY_GROUP = "gateway.networking.k8s.io"
MANAGED_BY = ("app.kubernetes.io/managed-by", "nexus")
"""The label on every child; the watch of Deployments is limited to it, so that a large cluster's other ones cost nothing."""

NEXUS_SERVICE = Kind(NEXUS_GROUP, "v1alpha1", "nexusservices", "NexusService")
NEXUS_POLICY = Kind(NEXUS_GROUP, "v1alpha1", "nexuspolicies", "NexusPolicy")
NEXUS_PLUGIN = Kind(NEXUS_GROUP, "v1alpha1", "nexusplugins", "NexusPlugin")
NEXUS_MARKETPLACE = Kind(NEXUS_GROUP, "v1alpha1", "nexusmarketplaces", "NexusMarketplace", namespaced=False)
GATEWAY_CLASS = Kind(GATEWAY_GROUP, "v1", "gatewayclasses", "GatewayClass", namespaced=False)
GATEWAY = Kind(GATEWAY_GROUP, "v1", "gateways", "Gateway")
HTTP_ROUTE = Kind(GATEWAY_GROUP, "v1", "httproutes", "HTTPRoute")
REFERENCE_GRANT = Kind(GATEWAY_GROUP, "v1beta1", "referencegrants", "ReferenceGrant")
SERVICE = Kind("", "v1", "services", "Service")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment", selector="=".join(MANAGED_BY))

WATCHED: tuple[Kind, ...] = (
    NEXUS_SERVICE,
    NEXUS_POLICY,
    NEXUS_PLUGIN,
    NEXUS_MARKETPLACE,
    GATEWAY_CLASS,
    GATEWAY,
    HTTP_ROUTE,
    REFERENCE_GRANT,
    SERVICE,
    NAMESPACE,
    ENDPOINT_SLICE,
    DEPLOYMENT,
)
BY_NAME = {kind.kind: kind for kind in WATCHED}

RUNTIME = frozenset({"EndpointSlice", "Deployment"})
"""Kinds whose objects say how things run, not how they should: they never enter the translation."""
