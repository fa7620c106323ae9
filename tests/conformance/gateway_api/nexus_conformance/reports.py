"""The suite's report: read, judged against what had to run, and shown as a table. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from nexus_conformance.catalogue import NEEDS_EXPERIMENTAL, NOT_CLAIMED, Catalogue
from nexus_conformance.transcripts import Outcome


@dataclass(frozen=True, slots=True)
class Counts:
    """One half (core or extended) of a profile's report."""

    result: str
    passed: int
    failed: int
    skipped: int
    failed_tests: tuple[str, ...]
    skipped_tests: tuple[str, ...]

    @classmethod
    def parse(cls, found: Mapping[str, Any]) -> Counts:
        numbers = found.get("statistics") or {}
        return cls(
            found.get("result", ""), numbers.get("Passed", 0), numbers.get("Failed", 0), numbers.get("Skipped", 0),
            tuple(found.get("failedTests") or ()), tuple(found.get("skippedTests") or ()),
        )  # fmt: skip


NONE = Counts("", 0, 0, 0, (), ())


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """What the report says of one profile."""

    core: Counts
    extended: Counts
    supported: frozenset[str]
    unsupported: frozenset[str]


@dataclass(frozen=True, slots=True)
class Report:
    """A conformance report of the suite. version and channel are those of the installed CRDs."""

    version: str
    channel: str
    profiles: Mapping[str, ProfileReport]

    @classmethod
    def parse(cls, text: str) -> Report:
        """Read a report. Raises ValueError if it is none."""
        found = yaml.safe_load(text)
        if not isinstance(found, dict) or found.get("kind") != "ConformanceReport":
            raise ValueError("not a ConformanceReport")
        profiles = {}
        for profile in found.get("profiles") or ():
            extended = profile.get("extended") or {}
            profiles[profile["name"]] = ProfileReport(
                Counts.parse(profile.get("core") or {}), Counts.parse(extended) if extended else NONE,
                frozenset(extended.get("supportedFeatures") or ()), frozenset(extended.get("unsupportedFeatures") or ()),
            )  # fmt: skip
        return cls(found.get("gatewayAPIVersion", ""), found.get("gatewayAPIChannel", ""), profiles)


def find_faults(
    report: Report,
    outcomes: Mapping[str, Outcome],
    catalogue: Catalogue,
    *,
    profiles: Sequence[str],
    channel: str,
    claimed: Collection[str],
) -> list[str]:
    """Return every reason why the run does not prove conformance; empty if it does.

    outcomes: of each test that ended, from the transcript: it has names where the report has numbers.
    claimed: features of the GatewayClass. One that has tests must be claimed, or stand in NOT_CLAIMED.
    """
    faults = []
    if report.version != catalogue.version:
        faults.append(f"the report is of {report.version}, the suite of {catalogue.version}")
    if report.channel != channel:
        faults.append(f"the report is of channel {report.channel}, wanted was {channel}")
    core = frozenset().union(*(catalogue.profiles[name].core for name in profiles))
    unclaimed = catalogue.testable(profiles, channel) - core - frozenset(claimed) - frozenset(NOT_CLAIMED)
    faults += [f"feature {feature} is not claimed" for feature in sorted(unclaimed)]
    if channel == "standard":
        faults += [f"feature {f} is claimed: {why}" for f, why in NEEDS_EXPERIMENTAL.items() if f in claimed]
    faults += [f"{name}: not in the report" for name in sorted(set(profiles) - set(report.profiles))]
    for name in profiles:
        if name not in report.profiles:
            continue
        expected = catalogue.expected(name, claimed)
        for half, counts, tests in (
            ("core", report.profiles[name].core, expected.core),
            ("extended", report.profiles[name].extended, expected.extended),
        ):
            if counts.failed or counts.skipped or counts.passed != len(tests):
                faults.append(
                    f"{name} {half}: {counts.passed} of {len(tests)} passed, {counts.failed} failed,"
                    f" {counts.skipped} skipped"
                )
            if tests and counts.result != "success":
                faults.append(f"{name} {half}: the report's result is {counts.result or 'missing'!r}")
        wanted = frozenset(claimed) & catalogue.profiles[name].extended
        if report.profiles[name].supported != wanted:
            differing = ", ".join(sorted(report.profiles[name].supported ^ wanted))
            faults.append(f"{name}: the report's supported features are not those of the GatewayClass: {differing}")
    for test in sorted(catalogue.running(profiles, claimed)):
        verdict = outcomes[test].verdict if test in outcomes else "did not run"
        if verdict != "PASS":
            faults.append(f"{test}: {verdict}")
    return faults


def build_table(report: Report, catalogue: Catalogue, *, profiles: Sequence[str], claimed: Collection[str]) -> str:
    """Return the report as a table for people: passed of expected, and of all tests that there are."""
    rows = [("profile", "core", "extended", "failed", "skipped", "extended tests not claimed")]
    for name in profiles:
        expected = catalogue.expected(name, claimed)
        every = catalogue.expected(name, catalogue.profiles[name].extended)
        if (found := report.profiles.get(name)) is None:
            rows.append((name, "not run", "", "", "", ""))
            continue
        rows.append((
            name, f"{found.core.passed}/{len(expected.core)}", f"{found.extended.passed}/{len(expected.extended)}",
            str(found.core.failed + found.extended.failed), str(found.core.skipped + found.extended.skipped),
            str(len(every.extended) - len(expected.extended)),
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


INDEX_BEGIN = "<!-- reports: written by tests/conformance/gateway_api/run.py --write -->\n"
INDEX_END = "<!-- end of reports -->\n"


def build_index(texts: Mapping[str, str]) -> str:
    """Return the list of reports for docs/conformance/README.md, in the form that the Gateway API project asks for.

    texts: the reports, by their path from the page.
    """
    if not texts:
        return "No report has been written yet.\n"
    lines = ["| API channel | implementation version | mode | report | core | extended |", "|---|---|---|---|---|---|"]
    for path, text in sorted(texts.items()):
        found, report = yaml.safe_load(text), Report.parse(text)
        version = found["implementation"]["version"]
        profiles = sorted(report.profiles.items())
        core = "<br>".join(f"{name}: {p.core.passed} passed, {p.core.failed} failed" for name, p in profiles)
        extended = "<br>".join(
            f"{name}: {p.extended.passed} passed, {p.extended.failed} failed" for name, p in profiles
        )
        lines.append(
            f"| {report.channel} | {version} | {found['mode']} | [{report.version} report](./{path})"
            f" | {core} | {extended} |"
        )
    return "\n".join(lines) + "\n"


def replace_index(page: str, texts: Mapping[str, str]) -> str:
    """Return the page with its list of reports made anew. Raises ValueError if it has no place for it."""
    before, begin, rest = page.partition(INDEX_BEGIN)
    _, end, after = rest.partition(INDEX_END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {INDEX_BEGIN!r} and {INDEX_END!r}")
    return before + begin + build_index(texts) + end + after
