"""The few fields of core kinds that translation reads."""

from __future__ import annotations

import base64
import binascii

from pydantic import Field

from nexus_core.model.base import ThinModel


class ServicePort(ThinModel):
    """name: empty for the only port of a Service. app_protocol: what is spoken on it, as its author says; empty when nothing is said."""

    name: str = ""
    port: int
    protocol: str = "TCP"
    app_protocol: str = ""


class ServiceSpec(ThinModel):
    """A Kubernetes Service: which ports it has, and whether it is another name for an outside host."""

    type: str = "ClusterIP"
    external_name: str = ""
    ports: tuple[ServicePort, ...] = ()


class SecretContent(ThinModel):
    """What a Secret holds. data: base64. string_data: as it is, which wins over data; only files have it. Never printed."""

    type: str = "Opaque"
    data: dict[str, str] = Field(default={}, repr=False)
    string_data: dict[str, str] = Field(default={}, repr=False)

    def find(self, key: str) -> bytes | None:
        """Return what is under a key, or None. What is no base64 is none either, as the API server would have it."""
        if key in self.string_data:
            return self.string_data[key].encode("utf-8", "surrogatepass")
        return _decoded(self.data.get(key))


class ConfigMapContent(ThinModel):
    """What a ConfigMap holds. data: texts. binary_data: base64."""

    data: dict[str, str] = Field(default={}, repr=False)
    binary_data: dict[str, str] = Field(default={}, repr=False)

    def find(self, key: str) -> bytes | None:
        """Return what is under a key, or None."""
        if key in self.data:
            return self.data[key].encode("utf-8", "surrogatepass")
        return _decoded(self.binary_data.get(key))


def _decoded(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


class NamespaceSpec(ThinModel):
    """A Namespace; its labels are what matters."""
