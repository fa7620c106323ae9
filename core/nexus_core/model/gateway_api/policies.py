"""BackendTLSPolicy: how connections to a Service are encrypted, and what the Service has to prove."""

from __future__ import annotations

from pydantic import Field

from nexus_core.model.base import ForeignModel


class PolicyTargetRef(ForeignModel):
    """An object of the policy's namespace. section_name: of a Service, the name of one port; None for all."""

    group: str = ""
    kind: str
    name: str
    section_name: str | None = None


class LocalRef(ForeignModel):
    """An object of the same namespace."""

    group: str
    kind: str
    name: str


class SubjectAltName(ForeignModel):
    """A name that the Service's certificate has to bear. type: `Hostname` or `URI`, with the field of that name."""

    type: str
    hostname: str = ""
    uri: str = ""


class BackendValidation(ForeignModel):
    """What a Service has to prove. well_known_ca_certificates: `System`, or None."""

    ca_certificate_refs: tuple[LocalRef, ...] = Field(default=(), alias="caCertificateRefs")
    well_known_ca_certificates: str | None = Field(default=None, alias="wellKnownCACertificates")
    hostname: str
    subject_alt_names: tuple[SubjectAltName, ...] = ()


class BackendTLSPolicySpec(ForeignModel):
    """TLS towards Services."""

    target_refs: tuple[PolicyTargetRef, ...]
    validation: BackendValidation
    options: dict[str, str] = Field(default={})
