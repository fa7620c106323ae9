"""What several kinds of the Gateway API have in common: names of objects, and choices by label."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nexus_core.model.base import ForeignModel, ThinModel

GROUP = "gateway.networking.k8s.io"


class ParentRef(ForeignModel):
    """The Gateway (and listener) a route wants to attach to."""

    group: str = GROUP
    kind: str = "Gateway"
    namespace: str | None = None
    name: str
    section_name: str | None = None
    port: int | None = None


class BackendObjectRef(ForeignModel):
    """What is called. namespace: None for the route's own."""

    group: str = ""
    kind: str = "Service"
    name: str
    namespace: str | None = None
    port: int | None = None


class WeightedBackendRef(BackendObjectRef):
    """A share of what comes."""

    weight: int = Field(default=1, ge=0, le=1_000_000)


class Expression(ThinModel):
    """One requirement of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(ThinModel):
    """Which objects are meant, by their labels."""

    match_labels: dict[str, str] = Field(default={})
    match_expressions: tuple[Expression, ...] = ()

    def selects(self, labels: Any) -> bool:
        """Whether an object with these labels is meant. An empty selector means every object."""
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        for e in self.match_expressions:
            holds = {
                "In": labels.get(e.key) in e.values,
                "NotIn": labels.get(e.key) not in e.values,
                "Exists": e.key in labels,
                "DoesNotExist": e.key not in labels,
            }
            if not holds[e.operator]:
                return False
        return True
