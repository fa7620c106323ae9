"""The few fields of core kinds that translation reads."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from nexus_core.model.base import HOSTNAME_PATTERN, ThinModel
from nexus_core.model.rules import ERROR_TYPE, Rule

NOT_BASE64 = "is no base64."
"""How the sentence ends that says so; it never quotes what was written."""


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


def _check_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        fix = "Encode it, or write it as it is under stringData."
        context = {"what": f"What is written there {NOT_BASE64}", "fix": fix, "reason": "InvalidSpec", "field": ""}
        raise PydanticCustomError(ERROR_TYPE, "{what} {fix}", context) from error
    return text


Base64 = Annotated[str, AfterValidator(_check_base64)]


class SecretContent(ThinModel):
    """What a Secret holds. data: base64. string_data: as it is, which wins over data; only files have it. Never printed."""

    type: str = "Opaque"
    data: dict[str, Base64] = Field(default={}, repr=False)
    string_data: dict[str, str] = Field(default={}, repr=False)

    def find(self, key: str) -> bytes | None:
        """Return what is under a key, or None."""
        if key in self.string_data:
            return self.string_data[key].encode("utf-8", "surrogatepass")
        return _decoded(self.data.get(key))


class ConfigMapContent(ThinModel):
    """What a ConfigMap holds. data: texts. binary_data: base64."""

    data: dict[str, str] = Field(default={}, repr=False)
    binary_data: dict[str, Base64] = Field(default={}, repr=False)

    def find(self, key: str) -> bytes | None:
        """Return what is under a key, or None."""
        if key in self.data:
            return self.data[key].encode("utf-8", "surrogatepass")
        return _decoded(self.binary_data.get(key))


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


class EndpointConditions(ThinModel):
    """ready: None counts as true (discovery/v1)."""

    ready: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(ThinModel):
    """addresses: of one endpoint, which are fungible."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()


class SlicePort(ThinModel):
    """name: of the Service's port that it belongs to. port: None for all ports, which nothing can be called at."""

    name: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    protocol: str | None = None


def _is_of(kind: str, address: str) -> bool:
    if kind == "FQDN":
        return re.fullmatch(HOSTNAME_PATTERN, address) is not None and not address.startswith("*")
    try:
        return ipaddress.ip_address(address).version == (4 if kind == "IPv4" else 6)
    except ValueError:
        return False


class EndpointSliceContent(ThinModel):
    """Some endpoints of a Service. Translation reads those of files; in a cluster they change by the second and go to Consul."""

    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="",  # the API server has its own
            what="An address is not of the addressType.",
            fix="Write each as the type says, such as 127.0.0.1 for IPv4; FQDN takes host names.",
            holds=lambda s: all(_is_of(s.address_type, a) for e in s.endpoints or () for a in e.addresses),
            field=".endpoints",
        ),
    )


class NamespaceSpec(ThinModel):
    """A Namespace; its labels are what matters."""
