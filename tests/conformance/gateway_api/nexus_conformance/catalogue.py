"""What the suite holds: its tests, what each asks for, and so what a run must have passed.

The suite's report counts what ran and says nothing of what did not: a run of three tests says `success, Passed: 3`. So the
numbers to expect come from the suite's own list of tests, which its program writes (`TestCatalogue`). Pure, but for `load`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROFILES = ("GATEWAY-HTTP", "GATEWAY-GRPC", "GATEWAY-TLS", "GATEWAY-TCP", "GATEWAY-UDP")

NEEDS_EXPERIMENTAL = {"HTTPRouteRetry": "the field `retry` of an HTTPRoute is in the experimental channel's CRDs only"}
"""Features whose tests need fields that the standard channel's CRDs do not have, and why.

Other features that the suite counts as experimental (HTTPRouteDestinationPortMatching, TLSRouteModeMixed) need no such
field: their tests run on either channel.
"""

NOT_CLAIMED: Mapping[str, str] = {}
"""Features that Nexus does not have, and the decision page that says why. Every other one with a test has to be claimed."""


@dataclass(frozen=True, slots=True)
class Test:
    """One test of the suite. features: all of them have to be supported for it to run."""

    __test__ = False  # for pytest: this is none of its tests

    name: str
    description: str
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class Profile:
    """The features a profile is made of. A test that needs a feature beyond the core ones counts as extended."""

    core: frozenset[str]
    extended: frozenset[str]


@dataclass(frozen=True, slots=True)
class Expected:
    """Names of the tests that a profile's report must count as passed."""

    core: frozenset[str]
    extended: frozenset[str]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All tests and profiles of one version of the suite.

    version: of the Gateway API, as `v1.6.3`. base: YAML of the objects each run starts with, `{GATEWAY_CLASS_NAME}` unfilled.
    """

    version: str
    tests: tuple[Test, ...]
    profiles: Mapping[str, Profile]
    base: str

    @classmethod
    def parse(cls, found: Mapping[str, Any]) -> Catalogue:
        """Return the catalogue from what `TestCatalogue` wrote."""
        return cls(
            found["version"],
            tuple(Test(t["name"], t["description"], frozenset(t["features"] or ())) for t in found["tests"]),
            {name: Profile(frozenset(p["core"]), frozenset(p["extended"])) for name, p in found["profiles"].items()},
            found["base"],
        )

    def all_features(self, profiles: Iterable[str]) -> frozenset[str]:
        """Return the features of the profiles, core and extended."""
        chosen = [self.profiles[name] for name in profiles]
        return frozenset().union(*(p.core | p.extended for p in chosen))

    def testable(self, profiles: Iterable[str], channel: str) -> frozenset[str]:
        """Return the features of the profiles that some test needs and that the channel's CRDs have the fields for."""
        known = self.all_features(profiles)
        needed = frozenset().union(*(t.features for t in self.tests if t.features <= known))
        return needed - (frozenset(NEEDS_EXPERIMENTAL) if channel == "standard" else frozenset())

    def expected(self, profile: str, claimed: Collection[str]) -> Expected:
        """Return what the profile's report must count when these features are claimed (the core ones always are)."""
        p = self.profiles[profile]
        have = p.core | (p.extended & frozenset(claimed))
        core = frozenset(t.name for t in self.tests if t.features <= p.core)
        return Expected(core, frozenset(t.name for t in self.tests if t.features <= have) - core)

    def running(self, profiles: Iterable[str], claimed: Collection[str]) -> frozenset[str]:
        """Return the names of all tests that run with these profiles and features, those that no report counts included."""
        have = frozenset(claimed).union(*(self.profiles[name].core for name in profiles))
        return frozenset(t.name for t in self.tests if t.features <= have)


def load(program: Path) -> Catalogue:
    """Ask the suite's program what it holds. Raises subprocess.CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="nexus-conformance-") as directory:
        target = Path(directory, "catalogue.json")
        subprocess.run(
            [program, "-test.run", "^TestCatalogue$"], env={**os.environ, "CATALOGUE": str(target)},
            cwd=directory, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        return Catalogue.parse(json.loads(target.read_text()))
