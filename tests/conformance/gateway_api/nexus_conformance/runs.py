"""One run of the suite's program in the cluster's network: flags in, transcript and report out."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_testbed.cluster import Cluster

from nexus_conformance.catalogue import Catalogue
from nexus_conformance.installation import CLASS, UNUSABLE_ADDRESS, USABLE_ADDRESS
from nexus_conformance.transcripts import Outcome, Transcript

TIMEOUT = "90m"
"""Bound of a whole run (a test program's own default is ten minutes)."""
TIMEOUT_OF_A_PART = "12m"
"""Bound of a run of some of the tests."""
_WAITS = (
    "CreateTimeout", "GatewayMustHaveAddress", "GatewayMustHaveCondition", "GatewayStatusMustHaveListeners",
    "GatewayListenersMustHaveConditions", "ListenerSetMustHaveCondition", "ListenerSetListenersMustHaveConditions",
    "GWCMustBeAccepted", "HTTPRouteMustNotHaveParents", "HTTPRouteMustHaveCondition", "TLSRouteMustHaveCondition",
    "TCPRouteMustHaveCondition", "UDPRouteMustHaveCondition", "RouteMustHaveParents",
    "MaxTimeToConsistency", "LatestObservedGenerationSet", "DefaultTestTimeout",
)  # fmt: skip
"""Waits of the suite that `patience_s` shortens. Source: utils/config/timeout.go of the suite.

Not `NamespacesMustBeReady`: four data planes and eight backends start at once there, which takes what the machine takes.
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reports: fields of the report that the suite asks for."""

    organization: str
    project: str
    url: str
    version: str
    contact: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    tests: names of the tests to run, None for all there are. Only a run of all proves anything.
    features: claimed by hand; None: the suite reads them from the GatewayClass, as an honest report does.
    patience_s: upper limit of each wait of the suite in seconds; None: the suite's own. For developing only.
    """

    profiles: Sequence[str]
    tests: Collection[str] | None = None
    features: Collection[str] | None = None
    patience_s: int | None = None
    fail_fast: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the suite runs as it is meant to be."""
        return self.tests is None and self.features is None and self.patience_s is None


def choose(catalogue: Catalogue, pattern: str) -> frozenset[str]:
    """Return the names of the tests that a regular expression finds. Raises ValueError if it finds none."""
    gateway = frozenset(t.name for t in catalogue.tests if not any(f.startswith("Mesh") for f in t.features))
    chosen = frozenset(name for name in gateway if re.search(pattern, name))
    if not chosen:
        raise ValueError(f"no test of the suite has a name like {pattern!r}; `--list` shows them all")
    return chosen


def build_argv(program: Path, plan: Plan, who: Identity, report: Path) -> list[str]:
    """Return the command line of the suite."""
    limit = TIMEOUT if plan.tests is None else TIMEOUT_OF_A_PART
    names = f"$/^({'|'.join(sorted(plan.tests))})$" if plan.tests is not None else "$"
    argv = [
        str(program), "-test.v=test2json", f"-test.timeout={limit}", f"-test.run=^TestConformance{names}",
        f"--gateway-class={CLASS}", f"--conformance-profiles={','.join(plan.profiles)}",
        f"--usable-address={USABLE_ADDRESS}", f"--unusable-address={UNUSABLE_ADDRESS}",
        f"--organization={who.organization}", f"--project={who.project}", f"--url={who.url}", f"--version={who.version}",
        f"--contact={who.contact}", f"--report-output={report}",
        # The cluster goes with the run, or is kept to be run again: taking its base away would cost ten seconds.
        "--cleanup-base-resources=false",
    ]  # fmt: skip
    if plan.features is not None:
        argv.append(f"--supported-features={','.join(sorted(plan.features))}")
    if plan.patience_s is not None:
        argv.append("--timeout-config-overrides=" + ";".join(f"{name}:{plan.patience_s}" for name in _WAITS))
    if plan.fail_fast:
        argv.append("--fail-fast")
    return argv


def run(
    cluster: Cluster,
    argv: Sequence[str],
    log: Path,
    told: Callable[[str, Outcome], None],
) -> tuple[int, Transcript]:
    """Run the suite and return its exit code and transcript. Its whole output goes to `log`.

    told: called with each test and its outcome when it ends. Interrupted, the suite is ended.
    """
    transcript = Transcript()
    child = cluster.spawn_in_net(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=log.parent)
    assert child.stdout is not None
    try:
        with log.open("w") as file:
            for line in child.stdout:
                file.write(line.replace("\x16", ""))
                file.flush()
                if ended := transcript.feed(line):
                    told(*ended)
        return child.wait(), transcript
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        child.stdout.close()
