"""GatewayClass, Gateway and ListenerSet."""

from __future__ import annotations

from pydantic import Field

from nexus_core.model.base import ForeignModel, ThinModel
from nexus_core.model.gateway_api.shared import GROUP, LabelSelector


class AllowedNamespaces(ForeignModel):
    """from: `Same`, `All` or `Selector`; `None` too where ListenerSets are meant."""

    from_: str = Field(default="Same", alias="from")
    selector: LabelSelector | None = None


class RouteGroupKind(ForeignModel):
    """A kind of route."""

    group: str = GROUP
    kind: str


class AllowedRoutes(ForeignModel):
    """Which routes may attach to a listener."""

    namespaces: AllowedNamespaces = AllowedNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class CertificateRef(ForeignModel):
    """Names a Secret that holds a certificate and its key. namespace: None for that of whoever names it."""

    group: str = ""
    kind: str = "Secret"
    name: str
    namespace: str | None = None


class AuthorityRef(ForeignModel):
    """Names an object that holds certificates of authorities. namespace: None for that of whoever names it."""

    group: str
    kind: str
    name: str
    namespace: str | None = None


class ListenerTLS(ForeignModel):
    """mode: `Terminate` or `Passthrough`. options: see `docs/reference/gateway-api.md`."""

    mode: str = "Terminate"
    certificate_refs: tuple[CertificateRef, ...] = ()
    options: dict[str, str] = Field(default={})


class ListenerSpec(ForeignModel):
    """A listener as its author wrote it."""

    name: str
    hostname: str | None = None
    port: int = Field(ge=1, le=65535)
    protocol: str
    tls: ListenerTLS | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class ClientValidation(ForeignModel):
    """What a client's certificate has to prove. mode: `AllowValidOnly` or `AllowInsecureFallback`."""

    ca_certificate_refs: tuple[AuthorityRef, ...] = Field(alias="caCertificateRefs")
    mode: str = "AllowValidOnly"


class FrontendTLSConfig(ForeignModel):
    """TLS towards clients. validation: None asks clients for no certificate."""

    validation: ClientValidation | None = None


class PortTLS(ForeignModel):
    """TLS towards clients of one port."""

    port: int = Field(ge=1, le=65535)
    tls: FrontendTLSConfig


class FrontendTLS(ForeignModel):
    """TLS towards clients: of all HTTPS listeners, and of those of some ports."""

    default: FrontendTLSConfig = FrontendTLSConfig()
    per_port: tuple[PortTLS, ...] = ()


class BackendTLS(ForeignModel):
    """TLS towards backends."""

    client_certificate_ref: CertificateRef | None = None


class GatewayTLS(ForeignModel):
    """TLS of a Gateway as a whole."""

    frontend: FrontendTLS | None = None
    backend: BackendTLS | None = None


class GatewayAddress(ForeignModel):
    """An address that a Gateway asks for. type: `IPAddress` or `Hostname`. value: empty for any of that type."""

    type: str = "IPAddress"
    value: str = ""


class ParametersRef(ForeignModel):
    """Names an object with settings. namespace: only of a GatewayClass."""

    group: str
    kind: str
    name: str
    namespace: str | None = None


class GatewayInfrastructure(ForeignModel):
    """What is made for a Gateway."""

    labels: dict[str, str] = Field(default={})
    annotations: dict[str, str] = Field(default={})
    parameters_ref: ParametersRef | None = None


class AllowedListeners(ForeignModel):
    """Which ListenerSets may add to a Gateway."""

    namespaces: AllowedNamespaces = AllowedNamespaces.model_validate({"from": "None"})


class GatewaySpec(ForeignModel):
    """The listeners of a Gateway, and whose they are."""

    gateway_class_name: str
    listeners: tuple[ListenerSpec, ...]
    addresses: tuple[GatewayAddress, ...] = ()
    infrastructure: GatewayInfrastructure | None = None
    allowed_listeners: AllowedListeners = AllowedListeners()
    tls: GatewayTLS | None = None


class GatewayClassSpec(ThinModel):
    """Which controller serves the Gateways of a class."""

    controller_name: str
    parameters_ref: ParametersRef | None = None


class ParentGatewayRef(ForeignModel):
    """The Gateway that a ListenerSet adds to. namespace: None for the set's own."""

    group: str = GROUP
    kind: str = "Gateway"
    namespace: str | None = None
    name: str


class ListenerSetSpec(ForeignModel):
    """More listeners for a Gateway."""

    parent_ref: ParentGatewayRef
    listeners: tuple[ListenerSpec, ...]
