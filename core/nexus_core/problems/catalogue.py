"""Every reason Nexus gives, with the condition that shows it and its page. Tests walk the code, this list and `docs/errors/`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasonInfo:
    """condition: type of the condition that shows it; `File` for texts that are no object yet; `Gateway` for what one
    gateway says of the machine it runs on; `Reply` for answers to clients of the gateway. summary: one sentence.
    page: file name in `docs/errors/`.
    """

    condition: str
    summary: str
    page: str


def slug(reason: str) -> str:
    """Return a reason in kebab-case: `PathConflict` → `path-conflict`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", reason).lower()


_SUMMARIES: Mapping[str, Mapping[str, str]] = {
    "File": {
        "InvalidYaml": "A file is not YAML.",
        "InvalidManifest": "A document in a file is not a Kubernetes manifest.",
    },
    "Accepted": {
        "Conflicted": "Another BackendTLSPolicy on the same Service, or port of it, has precedence.",
        "DuplicateObject": "The same object is defined more than once.",
        "HostnameConflict": "Two listeners share port and host name, or an HTTPRoute and a GRPCRoute a host name of one listener.",
        "IncompatibleFilters": "Filters of one rule exclude each other.",
        "InvalidParameters": "The parameters of a Gateway or GatewayClass do not exist or cannot be used.",
        "InvalidRegex": "A regular expression cannot be read, or could take very long to match.",
        "InvalidSpec": "A field of the object is missing, unknown or has a value that is not allowed.",
        "NoMatchingListener": "No Gateway of class nexus has a listener that works.",
        "NoMatchingListenerHostname": "No listener serves any of the object's host names.",
        "NoMatchingParent": "A route names a Gateway or listener that does not exist.",
        "NoValidCACertificate": "None of the authorities that a policy or Gateway names can be used.",
        "NotAllowed": "A Gateway takes no ListenerSets from the namespace of this one.",
        "NotAllowedByListeners": "No listener allows routes from the object's namespace.",
        "PathConflict": "Another NexusService, or an HTTPRoute, that has precedence has the same path.",
        "PluginRefused": "A plugin of the namespace does not accept an object.",
        "PolicyConflict": "Two policies set one field of one target to different values.",
        "PortUnavailable": "A listener asks for a port that Nexus needs for itself.",
        "ProtocolConflict": "Listeners of different protocols ask for one port.",
        "UnknownKind": "The group nexus.dev has no such kind.",
        "UnsupportedAddress": "A Gateway asks for an address of a type that Nexus cannot give.",
        "UnsupportedProtocol": "A listener, or the port of a Service, asks for a protocol that Nexus does not speak there.",
        "UnsupportedValue": "A field or value is valid, but Nexus does not implement it.",
    },
    "ResolvedRefs": {
        "BackendNotFound": "A backend that a route or service names does not exist.",
        "InvalidBackendTLS": "The BackendTLSPolicy of a backend cannot be carried out.",
        "InvalidCACertificateKind": "Authorities are named by a kind of object that holds none.",
        "InvalidCACertificateRef": "An authority that a policy or Gateway names does not exist or is no certificate.",
        "InvalidCertificateRef": "The certificate that a listener names does not exist or cannot be used.",
        "InvalidClientCertificateRef": "The certificate that a Gateway shows to backends does not exist or cannot be used.",
        "InvalidKind": "A backend or an authority is of a kind that cannot be one.",
        "InvalidRouteKinds": "A listener allows kinds of routes that none of its protocol takes.",
        "MarketplaceNotFound": "A plugin names a NexusMarketplace that does not exist or is broken.",
        "MarketplaceUnreachable": "The index of a marketplace could not be read.",
        "PluginConflict": "A plugin cannot be installed together with the others of its namespace.",
        "PluginIncompatible": "No version of a plugin in the range works with this plugin API.",
        "PluginNotFound": "The marketplace does not list the plugin.",
        "PluginNotPermitted": "A plugin asks for something that it was not granted.",
        "PluginVersionNotFound": "No version of a plugin is in the range.",
        "PublisherNotTrusted": "A plugin's publisher is not among those the marketplace trusts.",
        "RefNotPermitted": "An object of another namespace is named, which has not permitted it.",
        "SecretNotFound": "A plugin names a Secret, or a key of one, that is not there.",
        "TargetNotFound": "A policy or plugin targets an object that does not exist.",
    },
    "OverlappingTLSConfig": {
        "OverlappingHostnames": "Host names of two TLS listeners of one port have clients in common.",
    },
    "InsecureFrontendValidationMode": {
        "ConfigurationChanged": "Clients without a valid certificate are let in.",
    },
    "nexus.dev/Shadowed": {
        "RouteShadowed": "Another TLSRoute, TCPRoute or UDPRoute that has precedence takes what this one asks for.",
    },
    "nexus.dev/UnsupportedFields": {
        "FieldsNotImplemented": "A field of an object of the Gateway API has no effect, because Nexus does not implement it.",
    },
    "Fetched": {
        "MarketplaceExpired": "The metadata of a marketplace is older than it may be.",
        "MarketplaceInvalid": "The index of a marketplace is not one.",
        "MarketplaceNotTrusted": "The metadata of a marketplace is not signed by the keys that are pinned for it.",
        "MarketplaceRolledBack": "A marketplace shows an older state than it has shown before.",
    },
    "WorkloadReady": {
        "ChildConflict": "An object that Nexus wants to create exists already and belongs to somebody else.",
        "ChildRefused": "The API server refuses what Nexus makes of a workload or a Gateway.",
        "NotOnKubernetes": "A NexusService says how `nexus up` runs it, and nothing runs it on Kubernetes.",
        "WorkloadFailed": "Replicas of a workload do not start.",
        "WorkloadProgressing": "Replicas of a workload are starting.",
    },
    "Programmed": {
        "AddressNotAssigned": "The Service in front of the gateways has no address.",
        "AddressNotUsable": "A Gateway asks for an address that its load balancer did not give.",
        "ConsulUnreachable": "The operator cannot publish, because Consul does not answer.",
        "HostRequirementMissing": "A plugin needs a distribution that is not installed beside Nexus.",
        "NoGateways": "No gateway replica is running, or none reaches Consul.",
        "NotProgrammed": "Nothing of the object is in the gateways' configuration.",
        "Pending": "Not every gateway replica serves this version yet.",
        "PluginArtefactInvalid": "A plugin's artefact is not the zip of one package.",
        "PluginConfigInvalid": "A plugin's configuration does not fit its schema.",
        "PluginDigestMismatch": "A plugin's artefact is not the one its release names.",
        "PluginDisabled": "A plugin went beyond one of its budgets and is disabled for a while.",
        "PluginFailed": "A plugin does not run on every gateway, and no more is known.",
        "PluginFetchFailed": "A plugin's artefact could not be fetched.",
        "PluginHooksInvalid": "A plugin has a hook that does not exist or that its release does not list.",
        "PluginLoadFailed": "A plugin's code could not be imported or constructed.",
        "PluginSignatureInvalid": "A plugin's release is not signed by the key its marketplace pins.",
        "PluginStartFailed": "A plugin refused to start.",
        "PythonIncompatible": "A plugin does not work with the Python that the gateway runs on.",
        "WheelInvalid": "A wheel that a plugin needs cannot be used.",
    },
    "Updated": {
        "PluginRolledBack": "A new version of a plugin did worse than the running one and was taken back.",
    },
    "Preview": {
        "CandidateInvalid": "A previewed object would not be accepted as it is.",
        "ReplayCompared": "A previewed object is not applied; what it would change for sampled requests is told.",
        "SamplePending": "A previewed object is not applied, and no gateway has told of any request yet.",
    },
    "Gateway": {
        "CertificateInvalid": "A certificate for clients of the gateway, or its key, cannot be used.",
        "ClientCertificateUnusable": "The certificate that a Gateway shows to upstreams cannot be shown.",
        "NoEndpointSlice": "A Service has no endpoints, because manifests in files have no cluster that would find them.",
        "ListenerNotOpen": "A listener is not served, or not with all of its certificates.",
    },
    "Reply": {
        "BadRequest": "The request is malformed.",
        "BadVersion": "The request speaks a version of HTTP that this port does not.",
        "BodyTimeout": "The request's body stopped coming.",
        "BodyTooLarge": "The request's body is larger than the route takes.",
        "CircuitOpen": "All endpoints of the service failed lately and are left alone for a moment.",
        "ExpectationFailed": "The request expects what the gateway does not know.",
        "FaultInjected": "A policy has this share of requests fail on purpose.",
        "HeadTimeout": "The request's head took too long.",
        "HeadTooLarge": "The request line or headers are too large.",
        "InternalError": "The gateway failed.",
        "MethodRefused": "The gateway does not pass this method on.",
        "MisdirectedRequest": "The request is for another host than the one its connection was made to.",
        "NoBackends": "The route has no backend that takes requests.",
        "NoEndpoints": "The service has no live endpoint.",
        "NotConfigured": "The gateway has no configuration yet.",
        "Overloaded": "The gateway serves as many requests as it can.",
        "PluginUnavailable": "A plugin that the route needs is not running.",
        "RateLimited": "The client, or all clients together, sent more requests than a policy allows.",
        "RequestTimeout": "The service did not answer in time.",
        "ResponseTooLarge": "The service's answer is larger than the route passes on.",
        "RouteNotFound": "No route matches the request.",
        "UpstreamConnectFailure": "The service could not be reached.",
        "UpstreamNotVerified": "The service did not prove to be the host that was asked for.",
        "UpstreamOverloaded": "The service is serving as many requests as it may.",
        "UpstreamProtocolError": "The service's answer is not valid HTTP.",
        "UpstreamReset": "The service broke the connection.",
    },
}

REASONS: Mapping[str, ReasonInfo] = {
    reason: ReasonInfo(condition, summary, f"{slug(reason)}.md")
    for condition, summaries in _SUMMARIES.items()
    for reason, summary in sorted(summaries.items())
}
"""By reason."""

REMARKS = frozenset(
    reason
    for reason, info in REASONS.items()
    if info.condition in ("nexus.dev/UnsupportedFields", "OverlappingTLSConfig", "InsecureFrontendValidationMode")
)
"""Reasons of what is worth to know of objects that are accepted and work."""

HEALTHY = frozenset(
    {
        "Accepted", "Canary", "Disabled", "Fetched", "Held", "NoConflicts", "Programmed", "Ready", "ResolvedRefs", "Updated",
        "WorkloadReady",
    }
)  # fmt: skip
"""Reasons of conditions that say all is well, or that a plugin's new version is tried or waits for its time; they have no page."""

GATEWAY_API = frozenset({"Invalid", "ListenersNotResolved", "ListenersNotValid", "NoResources", "ParentNotAccepted"})
"""Reasons the Gateway API prescribes for conditions of Gateways whose cause stands in a listener's own condition."""
