"""What a GatewayClass of ours says it can do: the Gateway API's names of features, each with tests in its conformance suite."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nexus_core.snapshot.listeners import Protocol

ADMIN_PORT = 15020
"""Where data planes in a cluster tell how they are: no listener can have it. The same holds for files, which may go to a cluster."""

Field = tuple[str, str]
"""(plural of a kind, path of a field with dots, lists passed over)"""

SUPPORTED_FEATURES = (
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructure",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
)
"""Sorted, as the API asks for. What is not here is either not done or belongs to meshes."""

RETRY = ("httproutes", "spec.rules.retry")
NEEDED_FIELDS: Mapping[str, Field] = {
    "HTTPRouteRetry": RETRY,
    "HTTPRouteRetryBackendTimeout": RETRY,
    "HTTPRouteRetryConnectionError": RETRY,
}
"""Features that are said with a field which the experimental channel of the Gateway API alone has: without it, the API server drops
the field, and nobody could ask for what is claimed. Other releases draw that line elsewhere, so it is the field that counts, not the
channel's name.
"""
NEEDED_KINDS: Mapping[str, str] = {
    "BackendTLSPolicy": "BackendTLSPolicy",
    "BackendTLSPolicySANValidation": "BackendTLSPolicy",
    "GRPCRoute": "GRPCRoute",
    "GRPCRouteNamedRouteRule": "GRPCRoute",
    "ListenerSet": "ListenerSet",
    "ReferenceGrant": "ReferenceGrant",
    "TCPRoute": "TCPRoute",
    "TLSRoute": "TLSRoute",
    "TLSRouteModeMixed": "TLSRoute",
    "TLSRouteModeTerminate": "TLSRoute",
    "UDPRoute": "UDPRoute",
}
"""Features of kinds that not every release of the Gateway API has."""


def lacking(fields: Collection[Field], kinds: Collection[str]) -> frozenset[str]:
    """Return the features that cannot be asked for in a cluster. fields: those of `NEEDED_FIELDS` that it has. kinds: that it has."""
    without_field = {name for name, field in NEEDED_FIELDS.items() if field not in fields}
    return frozenset(without_field | {name for name, kind in NEEDED_KINDS.items() if kind not in kinds})


def fields_in(plural: str, schema: object) -> frozenset[Field]:
    """Return which of the `NEEDED_FIELDS` of a kind its schema has. schema: OpenAPI v3, as in a CustomResourceDefinition."""
    return frozenset(
        field for field in NEEDED_FIELDS.values() if field[0] == plural and _has(schema, field[1].split("."))
    )


def _has(schema: object, path: list[str]) -> bool:
    for name in path:
        while isinstance(schema, Mapping) and "items" in schema:
            schema = schema["items"]
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if not isinstance(properties, Mapping) or name not in properties:
            return False
        schema = properties[name]
    return True


PROTOCOLS: Mapping[str, Protocol] = {"HTTP": "HTTP", "HTTPS": "HTTPS", "TLS": "TLS", "TCP": "TCP", "UDP": "UDP"}
"""Protocols that listeners may have, by their names."""

KINDS_OF_PROTOCOL: Mapping[str, tuple[str, ...]] = {
    "HTTP": ("GRPCRoute", "HTTPRoute"),
    "HTTPS": ("GRPCRoute", "HTTPRoute"),
    "TLS": ("TLSRoute",),
    "TCP": ("TCPRoute",),
    "UDP": ("UDPRoute",),
}
"""Kinds of routes that a listener of each protocol takes, sorted."""
