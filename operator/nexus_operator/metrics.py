"""Counters and gauges of the operator, in the Prometheus text format.

Ten numbers need no client library; the operator's image stays without one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class Metrics:
    """One operator replica's numbers. The metadata of each field is its help text; `_total` marks counters."""

    leader: int = field(default=0, metadata={"help": "1 while this replica writes."})
    reconciliations_total: int = field(default=0, metadata={"help": "Reconciliations begun."})
    step_failures_total: int = field(
        default=0, metadata={"help": "Steps of reconciliations that failed and were tried again."}
    )
    publications_total: int = field(default=0, metadata={"help": "Snapshots published."})
    generation: int = field(default=0, metadata={"help": "Generation of the published snapshot."})
    gateways: int = field(default=0, metadata={"help": "Live gateway replicas."})
    gateways_current: int = field(
        default=0, metadata={"help": "Live gateway replicas that serve the published snapshot."}
    )
    mirrored_endpoints: int = field(default=0, metadata={"help": "Endpoints the Consul catalog should hold."})
    mirror_writes_total: int = field(
        default=0, metadata={"help": "Registrations and deregistrations written to Consul."}
    )
    status_writes_total: int = field(default=0, metadata={"help": "Statuses written to Kubernetes objects."})
    child_writes_total: int = field(default=0, metadata={"help": "Deployments and Services applied or deleted."})
    problems: int = field(default=0, metadata={"help": "Problems found in the manifests."})
    reconcile_seconds_total: float = field(default=0.0, metadata={"help": "Seconds spent reconciling."})

    def render(self) -> str:
        """Return all numbers as text, in field order."""
        lines: list[str] = []
        for entry in fields(self):
            name = f"nexus_operator_{entry.name}"
            kind = "counter" if entry.name.endswith("_total") else "gauge"
            lines += [
                f"# HELP {name} {entry.metadata['help']}",
                f"# TYPE {name} {kind}",
                f"{name} {getattr(self, entry.name)}",
            ]
        return "\n".join(lines) + "\n"
