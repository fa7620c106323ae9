"""What a hook on manifests sees. It runs where manifests are translated: in the operator, or beside a gateway that reads files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object as it was applied. spec: JSON values; a hook returns a changed copy."""

    kind: str
    namespace: str
    name: str
    spec: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def with_spec(self, spec: Mapping[str, Any]) -> Manifest:
        """Return a copy with another spec."""
        return replace(self, spec=spec)
