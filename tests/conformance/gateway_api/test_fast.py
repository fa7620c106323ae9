"""A part of the Gateway API's conformance suite that is small enough for every day: each protocol, both sides of TLS, statuses.

The whole is `make conformance`; this proves nothing to others and finds most mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nexus_conformance import catalogue as catalogues
from nexus_conformance import installation, runs
from nexus_conformance.transcripts import Transcript
from nexus_testbed import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

FAST = (
    "BackendTLSPolicy",
    "GRPCExactMethodMatching",
    "GatewayFrontendClientCertificateValidation",
    "GatewayInfrastructureMetadata",
    "GatewayInvalidTLSConfiguration",
    "GatewayModifyListeners",
    "GatewaySecretReferenceGrantSpecific",
    "GatewayStaticAddresses",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteHTTPSListener",
    "HTTPRouteInvalidBackendRefUnknownKind",
    "HTTPRouteMatchingAcrossRoutes",
    "HTTPRouteRequestMirror",
    "HTTPRouteServiceTypes",
    "HTTPRouteSimpleSameNamespace",
    "HTTPRouteWeight",
    "ListenerSetHTTPRouting",
    "TCPRouteParentRefAttachAll",
    "TLSRouteSimpleSameNamespace",
    "TLSRouteTerminateSimpleSameNamespace",
    "UDPRoute",
)
PATIENCE_S = 60
"""Every wait of the suite at most, so that a Nexus that fails does not take an hour to do so; ample on a busy machine."""
WHO = runs.Identity("nexus", "nexus", "https://nexus.dev", "v0.0.0", "https://nexus.dev")


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transcript]:
    """The suite has run the fast part against Nexus on a cluster of its own, standard channel."""
    programs = installation.ensure_programs()
    found = catalogues.load(programs["conformance"])
    logs = tmp_path_factory.mktemp("conformance")
    with Cluster(components=("consul",)) as cluster:
        installed = installation.Installation(cluster, "standard")
        installed.bring_up(found.base, logs / "cluster")
        claimed = installed.claimed()
        assert claimed, "the operator claims no features: GatewayClass.status.supportedFeatures is empty"
        plan = runs.Plan(catalogues.PROFILES, FAST, claimed, PATIENCE_S)
        argv = runs.build_argv(programs["conformance"], plan, WHO, logs / "report.yaml")
        code, transcript = runs.run(cluster, argv, logs / "suite.log", lambda name, outcome: None)
        if code:
            installed.save_state(logs / "cluster")
            print(f"the suite ended with exit code {code}; logs: {logs}")
        yield transcript


@pytest.mark.parametrize("name", FAST)
def test_conformance(name: str, transcript: Transcript) -> None:
    outcome = transcript.outcomes.get(name)
    assert outcome is not None, f"{name} did not run: {transcript.reason('')}"
    assert outcome.verdict == "PASS", f"{outcome.verdict}: {transcript.reason(name)}"
