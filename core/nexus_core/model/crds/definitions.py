"""One CustomResourceDefinition a kind: names, columns, and the schema of the whole object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nexus_core.model import status
from nexus_core.model.base import Model
from nexus_core.model.crds.structural import structural
from nexus_core.model.kinds import GROUP, KINDS, VERSION, Kind


@dataclass(frozen=True, slots=True)
class Facts:
    """What a definition says beyond the schema of the spec. columns: (name, type, JSON path)."""

    plural: str
    short: str
    status: type[Model]
    columns: tuple[tuple[str, str, str], ...]


def _condition(kind: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].status'


AGE = ("Age", "date", ".metadata.creationTimestamp")
READY = ("Ready", "string", _condition("Ready"))

FACTS: Mapping[str, Facts] = {
    "NexusService": Facts(
        "nexusservices",
        "nsvc",
        status.NexusServiceStatus,
        (
            ("Type", "string", ".spec.type"),
            READY,
            ("Endpoints", "string", ".status.endpoints"),
            ("URL", "string", ".status.url"),
            AGE,
        ),
    ),
    "NexusPolicy": Facts(
        "nexuspolicies",
        "npol",
        status.NexusPolicyStatus,
        (("Targets", "string", ".status.targets"), ("Accepted", "string", _condition("Accepted")), AGE),
    ),
    "NexusPlugin": Facts(
        "nexusplugins",
        "nplug",
        status.NexusPluginStatus,
        (
            ("Plugin", "string", ".status.plugin"),
            ("Version", "string", ".status.version"),
            ("State", "string", ".status.state"),
            ("Calls/s", "number", ".status.callsPerSecond"),
            ("p99(ms)", "number", ".status.p99Milliseconds"),
            READY,
            AGE,
        ),
    ),
    "NexusMarketplace": Facts(
        "nexusmarketplaces",
        "nmkt",
        status.NexusMarketplaceStatus,
        (
            ("Plugins", "integer", ".status.plugins"),
            READY,
            ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason'),
            AGE,
        ),
    ),
    "NexusGatewayParameters": Facts(
        "nexusgatewayparameters",
        "ngwp",
        status.NexusGatewayParametersStatus,
        (("Replicas", "integer", ".spec.replicas"), ("Service", "string", ".spec.service.type"), AGE),
    ),
}

API_VERSION_TEXT = "Version of this schema, always nexus.dev/v1alpha1."
KIND_TEXT = "The kind, always {}."


def build_crds() -> dict[str, dict[str, Any]]:
    """Return the definitions of all our kinds by kind, sorted."""
    return {kind.kind: _crd(kind, FACTS[kind.kind]) for kind in sorted(_ours(), key=lambda k: k.kind)}


def file_name(crd: Mapping[str, Any]) -> str:
    """Return the name of a definition's file in `crds/`."""
    return f"{GROUP}_{crd['spec']['names']['plural']}.yaml"


def to_yaml(crd: Mapping[str, Any]) -> str:
    """Return the file's text."""
    head = "# Generated from nexus_core.model by `make generate`; do not edit.\n"
    return head + yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes equal objects in full: the API server's tools know no YAML aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _ours() -> list[Kind]:
    return [kind for kind in KINDS.values() if kind.ours]


def _crd(kind: Kind, facts: Facts) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{facts.plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "nexus"}},
        "spec": {
            "group": GROUP,
            "scope": kind.scope,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": facts.plural,
                "singular": kind.kind.lower(),
                "shortNames": [facts.short],
                "categories": ["nexus"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path} for name, type_, path in facts.columns
                    ],
                    "schema": {"openAPIV3Schema": _schema(kind, facts)},
                }
            ],
        },
    }


def _schema(kind: Kind, facts: Facts) -> dict[str, Any]:
    spec = structural(kind.spec)
    found: dict[str, Any] = {
        "type": "object",
        "description": spec["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION_TEXT},
            "kind": {"type": "string", "description": KIND_TEXT.format(kind.kind)},
            # The length bounds the cost of the rules on the name.
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
            "spec": spec,
            "status": structural(facts.status),
        },
    }
    if kind.rules:
        found["x-kubernetes-validations"] = [rule.as_schema() for rule in kind.rules]
    return found
