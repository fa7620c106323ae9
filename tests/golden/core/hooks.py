"""A hook on manifests for inputs: it labels, refuses or fails at objects whose names begin with something."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.refusals import Refusal


@dataclass(frozen=True)
class Hook:
    """address: put in place of the addresses of NexusServices. refuses, fails: beginnings of names at which it does so."""

    namespace: str
    name: str
    failure_policy: Literal["open", "closed"] = "open"
    address: str = ""
    refuses: str = ""
    fails: str = ""

    def call(self, manifest: Manifest) -> Manifest | Refusal:
        """See `nexus_core.translate.hooked.ManifestHook`."""
        if self.fails and manifest.name.startswith(self.fails):
            raise ZeroDivisionError("it cannot count")
        if self.refuses and manifest.name.startswith(self.refuses):
            return Refusal("NameNotLiked", f"The name begins with {self.refuses}; choose another")
        if not self.address or manifest.kind != "NexusService":
            return manifest
        return replace(
            manifest.with_spec({**manifest.spec, "backend": {"addresses": [self.address]}}), labels={"seen": "yes"}
        )
