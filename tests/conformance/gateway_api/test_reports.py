"""What the runner makes of the suite's list of tests, its output and its report. Above all: what it does not believe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from nexus_conformance import catalogue as catalogues
from nexus_conformance import cli, reports, runs
from nexus_conformance.catalogue import Catalogue
from nexus_conformance.transcripts import Outcome, Transcript
from nexus_testbed import components

HTTP, TLS = "GATEWAY-HTTP", "GATEWAY-TLS"
SMALL = Catalogue.parse({
    "version": "v1.6.3", "base": "", "profiles": {
        HTTP: {"core": ["Gateway", "HTTPRoute"], "extended": ["HTTPRouteRetry", "HTTPRouteCORS", "Untested"]},
        TLS: {"core": ["Gateway", "TLSRoute"], "extended": ["TLSRouteModeMixed"]},
    },
    "tests": [
        {"name": name, "description": "", "features": features} for name, features in (
            ("GatewayA", ["Gateway"]), ("HTTPRouteA", ["Gateway", "HTTPRoute"]), ("HTTPRouteB", ["Gateway", "HTTPRoute"]),
            ("HTTPRouteCORS", ["HTTPRoute", "HTTPRouteCORS"]), ("HTTPRouteRetry", ["HTTPRoute", "HTTPRouteRetry"]),
            ("TLSRouteA", ["Gateway", "TLSRoute"]), ("BothKinds", ["HTTPRoute", "TLSRoute"]), ("MeshA", ["Mesh"]),
        )
    ],
})  # fmt: skip
CLAIMED = frozenset({"HTTPRouteCORS", "HTTPRouteRetry"})
ALL = ("GatewayA", "HTTPRouteA", "HTTPRouteB", "HTTPRouteCORS", "HTTPRouteRetry")


def half(passed: int, failed: int = 0, skipped: int = 0, result: str = "success") -> dict[str, Any]:
    return {"result": result, "statistics": {"Passed": passed, "Failed": failed, "Skipped": skipped}}


def report(**changes: Any) -> str:
    """The report of a perfect run of GATEWAY-HTTP, with changes to its profile, its version or its channel."""
    features = {"supportedFeatures": ["HTTPRouteCORS", "HTTPRouteRetry"], "unsupportedFeatures": ["Untested"]}
    profile = {"name": HTTP, "core": half(3), "extended": {**half(2), **features}}
    top = {"kind": "ConformanceReport", "gatewayAPIVersion": "v1.6.3", "gatewayAPIChannel": "experimental"}
    top |= {key: value for key, value in changes.items() if key.startswith("gateway")}
    profile |= {key: value for key, value in changes.items() if not key.startswith("gateway")}
    return yaml.safe_dump({**top, "profiles": [profile]})


def faults(text: str, verdicts: Mapping[str, str] | None = None, **changes: Any) -> list[str]:
    outcomes = {name: Outcome(verdict, 0.1) for name, verdict in (verdicts or dict.fromkeys(ALL, "PASS")).items()}
    options: dict[str, Any] = {"profiles": [HTTP], "channel": "experimental", "claimed": CLAIMED, **changes}
    return reports.find_faults(reports.Report.parse(text), outcomes, SMALL, **options)


def test_a_perfect_run_is_believed() -> None:
    assert faults(report()) == []


FILTERED = report(core=half(1), extended={**half(0), "supportedFeatures": sorted(CLAIMED)})


def test_a_filtered_run_is_refused_though_its_report_says_success() -> None:
    """The suite counts what ran: `success, Passed: 1`. What did not run is in nobody's numbers."""
    parsed = reports.Report.parse(FILTERED).profiles[HTTP]
    assert (parsed.core.result, parsed.core.passed, parsed.core.failed, parsed.core.skipped) == ("success", 1, 0, 0)
    found = faults(FILTERED, {"HTTPRouteA": "PASS"})
    assert f"{HTTP} core: 1 of 3 passed, 0 failed, 0 skipped" in found
    assert f"{HTTP} extended: 0 of 2 passed, 0 failed, 0 skipped" in found
    assert "HTTPRouteB: did not run" in found
    assert "HTTPRouteA: did not run" not in found


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        pytest.param(report(core=half(2, failed=1, result="failure")), {}, "core: 2 of 3 passed, 1 failed", id="failed"),
        pytest.param(report(core=half(2, skipped=1, result="partial")), {}, "core: 2 of 3 passed, 0 failed, 1 skipped", id="skip"),
        pytest.param(report(core=half(3, result="partial")), {}, "result is 'partial'", id="result"),
        pytest.param(report(core=half(4)), {}, "core: 4 of 3 passed", id="more than there are"),
        pytest.param(report(gatewayAPIVersion="v1.5.0"), {}, "the report is of v1.5.0, the suite of v1.6.3", id="version"),
        pytest.param(report(gatewayAPIChannel="standard"), {}, "is of channel standard", id="channel"),
        pytest.param(report(name="GATEWAY-GRPC"), {}, f"{HTTP}: not in the report", id="profile"),
        pytest.param(report(), {"claimed": {"HTTPRouteCORS"}}, "feature HTTPRouteRetry is not claimed", id="not claimed"),
        pytest.param(report(), {"channel": "standard"}, "HTTPRouteRetry is claimed: the field `retry`", id="wrong channel"),
        pytest.param(report(extended={**half(2), "supportedFeatures": ["HTTPRouteCORS"]}), {},
                     "not those of the GatewayClass: HTTPRouteRetry", id="claimed by hand"),
    ],
)  # fmt: skip
def test_what_is_no_proof_is_named(text: str, changes: dict[str, Any], expected: str) -> None:
    assert [fault for fault in faults(text, **changes) if expected in fault]


def test_a_test_that_no_report_counts_has_to_pass_too() -> None:
    """HTTPRouteDisallowedKind needs features of two profiles, so it belongs to none."""
    both = dict.fromkeys((*ALL, "TLSRouteA"), "PASS")
    expected = SMALL.running([HTTP, TLS], CLAIMED)
    assert "BothKinds" in expected
    assert not any(
        "BothKinds" in SMALL.expected(p, CLAIMED).core | SMALL.expected(p, CLAIMED).extended for p in (HTTP, TLS)
    )
    assert "BothKinds: did not run" in faults(report(), both, profiles=[HTTP, TLS])
    assert "BothKinds: FAIL" in faults(report(), {**both, "BothKinds": "FAIL"}, profiles=[HTTP, TLS])


def test_what_is_testable_depends_on_the_channel() -> None:
    assert SMALL.testable([HTTP], "experimental") == {"Gateway", "HTTPRoute", "HTTPRouteCORS", "HTTPRouteRetry"}
    assert SMALL.testable([HTTP], "standard") == {"Gateway", "HTTPRoute", "HTTPRouteCORS"}


def test_the_table_shows_every_profile() -> None:
    table = reports.build_table(reports.Report.parse(FILTERED), SMALL, profiles=[HTTP, TLS], claimed=CLAIMED)
    lines = [line.split() for line in table.splitlines()]
    assert lines[2] == [HTTP, "1/3", "0/2", "0", "0", "0"]
    assert lines[3] == [TLS, "not", "run"]


@pytest.mark.parametrize("text", ["", "[]", "kind: Pod"])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ConformanceReport"):
        reports.Report.parse(text)


def test_the_page_lists_the_reports_that_are_there() -> None:
    """Rewritten by each run with `--write`; a report that is put there or edited by hand shows."""
    page = (cli.REPORTS / "README.md").read_text()
    assert reports.replace_index(page, cli.written_reports()) == page


def test_each_report_that_is_there_is_a_proof() -> None:
    """Of every profile, nothing failed or skipped, as many tests as the suite has for what it says is supported."""
    for path, text in cli.written_reports().items():
        found = reports.Report.parse(text)
        assert set(found.profiles) == set(catalogues.PROFILES), path
        for profile in found.profiles.values():
            for counts in (profile.core, profile.extended):
                assert (counts.result, counts.failed, counts.skipped) == ("success", 0, 0), path


def test_an_index_has_a_line_for_each_report() -> None:
    text = yaml.safe_dump({**yaml.safe_load(report()), "implementation": {"version": "v0.1.0"}, "mode": "default"})
    lines = reports.build_index({"v1.6.3/b.yaml": text, "v1.6.3/a.yaml": text}).splitlines()
    assert lines[2] == (
        "| experimental | v0.1.0 | default | [v1.6.3 report](./v1.6.3/a.yaml)"
        " | GATEWAY-HTTP: 3 passed, 0 failed | GATEWAY-HTTP: 2 passed, 0 failed |"
    )
    assert len(lines) == 4
    with pytest.raises(ValueError, match="has no lines"):
        reports.replace_index("# A page", {})


# --- the suite's output --------------------------------------------------------------------------------------------------------

OUTPUT = """\
\x16=== RUN   TestConformance
    suite.go:389: Test Setup
\x16=== RUN   TestConformance/HTTPRouteA
    helpers.go:1: about A
\x16=== RUN   TestConformance/HTTPRouteA/first_part
\x16=== PAUSE TestConformance/HTTPRouteA/first_part
\x16=== RUN   TestConformance/HTTPRouteB
\x16    --- SKIP: TestConformance/HTTPRouteB (0.00s)
\x16=== CONT  TestConformance/HTTPRouteA/first_part
    http.go:2: Response expectation failed for request: {} not ready yet: expected 200, got 404 (after 1s)
no newline at the end of what it prints\x16\x16    --- FAIL: TestConformance/HTTPRouteA/first_part (1.00s)
\x16--- FAIL: TestConformance/HTTPRouteA (1.10s)
\x16=== NAME  TestConformance
    conformance.go:158: Conformance report:
\x16--- FAIL: TestConformance (2.00s)
"""


def test_a_transcript_tells_who_ended_how_and_why() -> None:
    transcript = Transcript()
    ended = [found for line in OUTPUT.splitlines() if (found := transcript.feed(line))]
    assert ended == [("HTTPRouteB", Outcome("SKIP", 0.0)), ("HTTPRouteA", Outcome("FAIL", 1.1))]
    assert dict(ended) == transcript.outcomes
    assert list(transcript.failed()) == ["HTTPRouteA"]
    assert transcript.reason("HTTPRouteA") == "first part: expected 200, got 404 (after 1s)"
    assert "    helpers.go:1: about A" in transcript.output["HTTPRouteA"]
    assert transcript.output[""] == [
        "=== RUN   TestConformance", "    suite.go:389: Test Setup", "=== NAME  TestConformance",
        "    conformance.go:158: Conformance report:", "--- FAIL: TestConformance (2.00s)",
    ]  # fmt: skip


def test_a_reason_is_what_testify_says() -> None:
    transcript = Transcript()
    for line in (
        "\x16=== RUN   TestConformance/GatewayA", "        \tError Trace:\thelpers.go:312", "        \t            \tsuite.go:443",
        "        \tError:      \tReceived unexpected error:", "        \t            \tcontext deadline exceeded",
        "        \tTest:       \tTestConformance/GatewayA", "        \tMessages:   \terror waiting for the Gateway",
        "\x16--- FAIL: TestConformance/GatewayA (9.00s)",
    ):  # fmt: skip
        transcript.feed(line)
    assert transcript.reason("GatewayA") == (
        "error waiting for the Gateway: Received unexpected error: context deadline exceeded"
    )


# --- the command line ----------------------------------------------------------------------------------------------------------


def test_only_the_suite_as_it_is_meant_to_be_run_is_whole() -> None:
    assert runs.Plan([HTTP]).is_whole
    assert not runs.Plan([HTTP], tests={"HTTPRouteA"}).is_whole
    assert not runs.Plan([HTTP], features={"HTTPRoute"}).is_whole
    assert not runs.Plan([HTTP], patience_s=5).is_whole


def test_the_suite_is_given_what_the_plan_says(tmp_path: Any) -> None:
    who = runs.Identity("org", "project", "https://example.com", "v1.2.3", "@someone")
    whole = runs.build_argv(tmp_path / "suite", runs.Plan([HTTP, TLS]), who, tmp_path / "report.yaml")
    assert "-test.run=^TestConformance$" in whole
    assert f"--conformance-profiles={HTTP},{TLS}" in whole
    assert not any(
        flag.startswith(("--supported-features", "--timeout", "--skip", "--run-test", "--exempt")) for flag in whole
    )
    part = runs.build_argv(
        tmp_path / "suite", runs.Plan([HTTP], {"B", "A"}, {"Gateway"}, 5), who, tmp_path / "report.yaml"
    )
    assert "-test.run=^TestConformance$/^(A|B)$" in part
    assert "--supported-features=Gateway" in part
    assert any("GatewayMustHaveAddress:5" in flag for flag in part)


def test_tests_are_chosen_by_name_and_never_those_of_meshes() -> None:
    assert runs.choose(SMALL, "^HTTPRoute[AB]$") == {"HTTPRouteA", "HTTPRouteB"}
    assert "MeshA" not in runs.choose(SMALL, "A$")
    with pytest.raises(ValueError, match="'Nothing'"):
        runs.choose(SMALL, "Nothing")


# --- the suite itself ----------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.timeout(600)  # the first build
def test_the_suite_holds_the_tests_that_nexus_promises_to_pass() -> None:
    """A new version of the suite with other numbers is a change to be looked at, not to be taken along."""
    found = catalogues.load(components.ensure(["conformance"])["conformance"])
    everything = {name: found.expected(name, found.profiles[name].extended) for name in catalogues.PROFILES}
    assert {name: (len(e.core), len(e.extended)) for name, e in everything.items()} == {
        "GATEWAY-HTTP": (36, 58), "GATEWAY-GRPC": (14, 11), "GATEWAY-TLS": (19, 16), "GATEWAY-TCP": (18, 11),
        "GATEWAY-UDP": (19, 11),
    }  # fmt: skip
    every = frozenset().union(*(e.core | e.extended for e in everything.values()))
    running = found.running(catalogues.PROFILES, found.testable(catalogues.PROFILES, "experimental"))
    assert running - every == {"HTTPRouteDisallowedKind"}
    lost = running - found.running(catalogues.PROFILES, found.testable(catalogues.PROFILES, "standard"))
    assert lost == {"HTTPRouteRetry"}
    assert (len(found.tests), found.version) == (153, f"v{components.GATEWAY_API_VERSION}")
    for namespace in ("infra", "app-backend", "web-backend"):
        assert f"gateway-conformance-{namespace}" in found.base
