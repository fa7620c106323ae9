"""`nexus diff`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_cli.options import admin_option, output_format, output_option

if TYPE_CHECKING:
    from nexus_core.match.replay import Report
    from nexus_core.snapshot import Snapshot
    from nexus_core.snapshot.differences import Difference

HELP = """Say what manifests would change in a running gateway, and with --replay what they would do to its requests.

The manifests named with -f are taken for the whole configuration: what they leave out counts as removed. Nothing is changed.
With --replay the requests that the gateway sampled (NEXUS_SAMPLE_REQUESTS) run through both configurations.

\b
Examples:
  nexus diff -f examples/shop
  nexus diff -f examples/shop --replay
  nexus diff -f examples/shop --replay --fail-on lose-auth,no-route

Exit codes: 0 no change, 1 changes (with --fail-on: one of these kinds was found), 2 not usable as given.
"""

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(help=HELP)
@click.option(
    "-f",
    "--filename",
    "paths",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Manifests: all that the gateway would run.",
)
@click.option("--replay", is_flag=True, help="Run the gateway's sample of requests through both configurations.")
@click.option(
    "--fail-on",
    default="",
    metavar="KINDS",
    help="With --replay: exit with 1 only when a request becomes one of these, separated by commas, such as lose-auth,no-route.",
)
@click.option("--examples", type=click.IntRange(0, 1000), default=5, show_default=True, help="Shown of each kind.")
@admin_option
@output_option
@click.pass_context
def diff(ctx: click.Context, paths: tuple[Path, ...], replay: bool, fail_on: str, examples: int, admin: str) -> int:
    from nexus_core.match import replay as replaying
    from nexus_core.snapshot.differences import find_differences

    from nexus_cli import manifests, output

    kinds = _kinds(fail_on, replay=replay)
    running, generation = _running(admin)
    candidate, problems = _candidate(manifests.load(paths), running)
    if problems:
        output.note(
            f"The manifests have {problems} problem(s): what is broken keeps its last good version. See `nexus validate`."
        )
    differences = find_differences(running, candidate)
    report = replaying.compare(_samples(admin), running, candidate, examples=examples) if replay else None
    if output_format(ctx) == "json":
        output.show_json(_as_json(generation, problems, differences, report))
    else:
        click.echo("\n".join([*_differences(differences), *(_replayed(report) if report is not None else ())]))
    if kinds:
        assert report is not None
        return 1 if any(report.counts[kind] for kind in replaying.KINDS if kind in kinds) else 0
    return 1 if differences else 0


def _kinds(text: str, *, replay: bool) -> frozenset[str]:
    from nexus_core.match.replay import KINDS

    from nexus_cli.errors import UserError

    found = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(found.difference(KINDS))
    if unknown:
        raise UserError(f"--fail-on does not know {', '.join(unknown)}. Known: {', '.join(KINDS)}.")
    if found and not replay:
        raise UserError("--fail-on speaks of requests. Add --replay.")
    return found


def _running(admin: str) -> tuple[Snapshot, int]:
    """Return what the gateway runs, without secrets, and its generation."""
    import msgspec
    from nexus_gateway.telemetry.shown import read_shown

    from nexus_cli.admin import get
    from nexus_cli.errors import UserError

    found = get(admin, "/config")
    try:
        return read_shown(found["snapshot"]), int(found["generation"])
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise UserError(
            f"What {admin} runs cannot be read: {error}. Use the `nexus` of the gateway's release."
        ) from error


def _candidate(loaded: Any, running: Snapshot) -> tuple[Snapshot, int]:
    from nexus_core.problems.catalogue import REMARKS
    from nexus_core.snapshot.differences import align
    from nexus_gateway.telemetry.shown import redact_snapshot

    from nexus_cli.offline import translate

    translation = translate(loaded, previous=running)
    errors = sum(problem.reason not in REMARKS for problem in translation.problems)
    return align(redact_snapshot(translation.snapshot), running), errors


def _samples(admin: str) -> Any:
    import msgspec
    from nexus_core.snapshot.samples import Sample

    from nexus_cli import output
    from nexus_cli.admin import get
    from nexus_cli.errors import UserError

    found = get(admin, "/samples")
    try:
        samples = msgspec.convert(found["samples"], tuple[Sample, ...])
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise UserError(
            f"The sample of {admin} cannot be read: {error}. Use the `nexus` of the gateway's release."
        ) from error
    if not samples:
        output.note("The gateway has no sampled requests yet, or NEXUS_SAMPLE_REQUESTS is 0.")
    return samples


def _differences(differences: Sequence[Difference]) -> list[str]:
    if not differences:
        return ["The gateway runs what the manifests say."]
    lines = []
    for each in differences:
        fields = f": {', '.join(each.fields)}" if each.fields else ""
        lines.append(f"{_SIGNS[each.change]} {each.section.removesuffix('s')} {each.id}{fields}")
    return lines


def _replayed(report: Report) -> list[str]:
    lines = ["", report.summary() + "."]
    for kind, examples in report.examples.items():
        lines.append(f"  {kind} ({report.counts[kind]:,})")
        lines += [f"    {each.method} {each.host}{each.path}: {each.detail}" for each in examples]
    return lines


def _as_json(
    generation: int, problems: int, differences: Sequence[Difference], report: Report | None
) -> Mapping[str, Any]:
    from dataclasses import asdict

    return {
        "generation": generation,
        "problems": problems,
        "differences": [asdict(each) for each in differences],
        "replay": {**asdict(report), "summary": report.summary()} if report is not None else None,
    }
