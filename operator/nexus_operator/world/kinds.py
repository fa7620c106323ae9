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


FIELD_MANAGER = "nexus-operator"
"""The operator's name in managedFields, of all that it writes."""
NEXUS_GROUP = "nexus.dev"
GATEWAY_GROUP = "gateway.networking.k8s.io"
MANAGED_BY = ("app.kubernetes.io/managed-by", "nexus")
"""The label on every child; the watch of Deployments is limited to it, so that a large cluster's other ones cost nothing."""
RENDERED = f"{NEXUS_GROUP}/rendered"
"""Annotation of what is made for Gateways with a digest of what was rendered: a field that is wanted no more shows in it, too."""
GATEWAY_NAME = f"{GATEWAY_GROUP}/gateway-name"
GATEWAY_CLASS_NAME = f"{GATEWAY_GROUP}/gateway-class-name"
"""The Gateway API's labels on what a controller makes for a Gateway."""

NEXUS_SERVICE = Kind(NEXUS_GROUP, "v1alpha1", "nexusservices", "NexusService")
NEXUS_POLICY = Kind(NEXUS_GROUP, "v1alpha1", "nexuspolicies", "NexusPolicy")
NEXUS_PLUGIN = Kind(NEXUS_GROUP, "v1alpha1", "nexusplugins", "NexusPlugin")
NEXUS_GATEWAY_PARAMETERS = Kind(NEXUS_GROUP, "v1alpha1", "nexusgatewayparameters", "NexusGatewayParameters")
NEXUS_MARKETPLACE = Kind(NEXUS_GROUP, "v1alpha1", "nexusmarketplaces", "NexusMarketplace", namespaced=False)
GATEWAY_CLASS = Kind(GATEWAY_GROUP, "v1", "gatewayclasses", "GatewayClass", namespaced=False)
GATEWAY = Kind(GATEWAY_GROUP, "v1", "gateways", "Gateway")
LISTENER_SET = Kind(GATEWAY_GROUP, "v1", "listenersets", "ListenerSet")
HTTP_ROUTE = Kind(GATEWAY_GROUP, "v1", "httproutes", "HTTPRoute")
GRPC_ROUTE = Kind(GATEWAY_GROUP, "v1", "grpcroutes", "GRPCRoute")
TLS_ROUTE = Kind(GATEWAY_GROUP, "v1", "tlsroutes", "TLSRoute")
TCP_ROUTE = Kind(GATEWAY_GROUP, "v1", "tcproutes", "TCPRoute")
UDP_ROUTE = Kind(GATEWAY_GROUP, "v1", "udproutes", "UDPRoute")
BACKEND_TLS_POLICY = Kind(GATEWAY_GROUP, "v1", "backendtlspolicies", "BackendTLSPolicy")
REFERENCE_GRANT = Kind(GATEWAY_GROUP, "v1beta1", "referencegrants", "ReferenceGrant")
SERVICE = Kind("", "v1", "services", "Service")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
SECRET = Kind("", "v1", "secrets", "Secret")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment", selector="=".join(MANAGED_BY))
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount", selector="=".join(MANAGED_BY))
DISRUPTION_BUDGET = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", selector="=".join(MANAGED_BY))
AUTOSCALER = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
"""All of them: one that somebody else made for a Deployment of ours says how many replicas that has."""
POD = Kind("", "v1", "pods", "Pod", selector=f"{'='.join(MANAGED_BY)},{GATEWAY_NAME}")
EVENT = Kind("", "v1", "events", "Event")
"""Written, not watched."""
CRD = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
"""Looked at one by one, by name: not watched."""

ROUTES: tuple[Kind, ...] = (HTTP_ROUTE, GRPC_ROUTE, TLS_ROUTE, TCP_ROUTE, UDP_ROUTE)
"""The kinds of routes of the Gateway API."""
CHILDREN: tuple[Kind, ...] = (SERVICE_ACCOUNT, SECRET, DEPLOYMENT, SERVICE, DISRUPTION_BUDGET, AUTOSCALER)
"""What the operator makes, in the order in which it does: a Deployment finds its Secret and its account, an autoscaler its Deployment."""
WATCHED: tuple[Kind, ...] = (
    NEXUS_SERVICE,
    NEXUS_POLICY,
    NEXUS_PLUGIN,
    NEXUS_MARKETPLACE,
    NEXUS_GATEWAY_PARAMETERS,
    GATEWAY_CLASS,
    GATEWAY,
    LISTENER_SET,
    *ROUTES,
    BACKEND_TLS_POLICY,
    REFERENCE_GRANT,
    SERVICE,
    NAMESPACE,
    SECRET,
    CONFIG_MAP,
    ENDPOINT_SLICE,
    DEPLOYMENT,
    SERVICE_ACCOUNT,
    DISRUPTION_BUDGET,
    AUTOSCALER,
    POD,
)
BY_NAME = {kind.kind: kind for kind in WATCHED}

RUNTIME = frozenset(
    {"EndpointSlice", "Deployment", "ServiceAccount", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Pod"}
)
"""Kinds whose objects say how things run, not how they should: they never enter the translation."""
