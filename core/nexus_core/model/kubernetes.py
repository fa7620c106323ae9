"""The few fields of core kinds that translation reads."""

from __future__ import annotations

from nexus_core.model.base import ThinModel


class ServicePort(ThinModel):
    """name: empty for the only port of a Service."""

    name: str = ""
    port: int
    protocol: str = "TCP"


class ServiceSpec(ThinModel):
    """A Kubernetes Service: which ports it has, and whether it is another name for an outside host."""

    type: str = "ClusterIP"
    external_name: str = ""
    ports: tuple[ServicePort, ...] = ()


class NamespaceSpec(ThinModel):
    """A Namespace; its labels are what matters."""
