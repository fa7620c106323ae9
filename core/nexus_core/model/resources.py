"""`Resource`: one manifest after parsing, good or bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nexus_core.model.base import Model
from nexus_core.problems import ObjectRef, Problem


@dataclass(frozen=True, slots=True)
class Resource:
    """One object as its author wrote it.

    ref: its name. group: API group, empty for core kinds. generation: 0 when there is none (files).
    created_at: RFC 3339, empty when there is none. spec: None when it is broken or of a kind that is not read.
    problems: what is wrong with it, sorted; a spec may stand beside problems that cost only a part of it.
    raw: the manifest itself, not to be changed; never printed, it may be a Secret.
    """

    ref: ObjectRef
    generation: int = 0
    created_at: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    spec: Model | None = None
    problems: tuple[Problem, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    group: str = ""

    @property
    def readable(self) -> bool:
        """Whether there is a spec. To be asked for rather than the spec itself, which may have to be read first (`model.lean`)."""
        return self.spec is not None
