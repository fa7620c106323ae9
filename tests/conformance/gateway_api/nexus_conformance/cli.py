"""`run.py`: Nexus against the Gateway API's conformance suite, on a cluster of its own.

run.py                              every profile, on the standard channel's CRDs: the proof, ends with 0 only if all pass
run.py --channel experimental       with the CRDs that have the experimental fields too (HTTPRoute `retry`)
run.py --profile GATEWAY-GRPC       one profile
run.py --tests 'HTTPRoute.*Mirror'  some tests, of features that are not claimed yet too
run.py --keep --tests SimpleSame    keep the cluster; the next run with --keep takes it again, with the code as it is then
run.py --down                       remove the cluster that was kept
run.py --list                       the tests, with the features they need
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nexus_testbed import cleanup, components, netns, places, preflight
from nexus_testbed.cluster import Cluster, ClusterError

from nexus_conformance import catalogue as catalogues
from nexus_conformance import installation, reports, runs
from nexus_conformance.transcripts import Outcome, Transcript

KEPT = "gwconf"
REPORTS = places.REPOSITORY / "docs" / "conformance"


def _version() -> str:
    project = tomllib.loads((places.REPOSITORY / "pyproject.toml").read_text())["project"]
    return f"v{project['version']}"


def written_reports(directory: Path = REPORTS) -> dict[str, str]:
    """Return the reports in docs/conformance, by their path from its README."""
    return {str(path.relative_to(directory)): path.read_text() for path in directory.glob("*/*.yaml")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channel", choices=components.GATEWAY_API_CHANNELS, default="standard")
    parser.add_argument("--profile", action="append", choices=catalogues.PROFILES, help="may be repeated; default: all")
    parser.add_argument("--tests", metavar="REGEX", help="only tests with such names; proves nothing, writes no report")
    parser.add_argument("--claim", metavar="FEATURES",
                        help="`all` or a comma-separated list, instead of what the GatewayClass claims; writes no report")  # fmt: skip
    parser.add_argument(
        "--patience", type=int, metavar="SECONDS", help="shorten every wait of the suite, to see failures soon"
    )
    parser.add_argument("--fail-fast", action="store_true", help="end at the first failure")
    parser.add_argument("--keep", action="store_true", help="keep the cluster and take it again next time")
    parser.add_argument("--id", type=places.parse_id, help=f"name of the cluster that is kept (default: {KEPT})")
    parser.add_argument("--down", action="store_true", help="remove the cluster that was kept")
    parser.add_argument("--list", action="store_true", help="show the tests of the suite and the features they need")
    parser.add_argument(
        "--logs", type=Path, help="where the logs go (default: a directory of the system's temporary one)"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the report of a whole run to docs/conformance when everything passes",
    )
    for name, default in (
        ("organization", "nexus"), ("project", "nexus"), ("url", "https://nexus.dev"), ("contact", "https://nexus.dev"),
        ("version", _version()),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", default=default, help=f"what the report says (default: {default})")
    return parser


def _logs(args: argparse.Namespace, cluster_id: str) -> Path:
    """Return an empty directory for the logs of this run."""
    path: Path = args.logs or Path(tempfile.gettempdir(), "nexus-conformance", cluster_id)
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


def _tidy(args: argparse.Namespace, logs: Path) -> None:
    """Remove the logs of a run that nobody will look at: it passed, and its cluster is gone."""
    if args.logs is None and not args.keep:
        shutil.rmtree(logs)


@contextlib.contextmanager
def _alone(cluster_id: str) -> Iterator[None]:
    """Hold the cluster for this run. Raises ClusterError if another run has it: two would take each other's objects away."""
    path = Path(tempfile.gettempdir(), "nexus-conformance", f".{cluster_id}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise ClusterError(
                f"another run uses the cluster {cluster_id!r} right now; wait for it, or take one of your own: --id NAME"
            ) from err
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _list(catalogue: catalogues.Catalogue) -> int:
    for test in sorted(catalogue.tests, key=lambda t: t.name):
        inside = [p for p in catalogues.PROFILES if test.features <= catalogue.all_features([p])]
        if inside or not any(f.startswith("Mesh") for f in test.features):
            print(f"{test.name:60} {','.join(sorted(test.features))}   [{' '.join(inside)}]")
    return 0


def _bring_up(
    args: argparse.Namespace, cluster_id: str, base: str, logs: Path
) -> tuple[Cluster, installation.Installation]:
    """Return a cluster with Nexus in it; the kept one if there is one and --keep is given."""
    if args.keep and cluster_id in cleanup.known_ids():
        cluster = Cluster.attach(cluster_id)
    else:
        cluster = Cluster(components=("consul",), cluster_id=cluster_id, detached=args.keep).up()
    installed = installation.Installation(cluster, args.channel)
    try:
        changed = installed.bring_up(base, logs / "cluster")
    except BaseException:
        if not args.keep:
            cluster.down()
        raise
    if args.keep:
        print(
            f"cluster {cluster_id} is kept: " + ("brought up to date" if changed else "nothing has changed since"),
            flush=True,
        )
    return cluster, installed


def _plan(args: argparse.Namespace, catalogue: catalogues.Catalogue, claimed: frozenset[str]) -> runs.Plan:
    profiles = args.profile or list(catalogues.PROFILES)
    features: frozenset[str] | None = None
    tests = None
    if args.claim:
        features = (
            catalogue.testable(profiles, args.channel) if args.claim == "all" else frozenset(args.claim.split(","))
        )
    if args.tests:
        tests = runs.choose(catalogue, args.tests)
        # Of features nobody claims yet too: whoever names a test wants to see it run.
        needed = frozenset().union(*(t.features for t in catalogue.tests if t.name in tests))
        features = (claimed if features is None else features) | needed
    return runs.Plan(profiles, tests, features, args.patience, args.fail_fast)


def _show(number: list[int], total: int) -> Callable[[str, Outcome], None]:
    def told(name: str, outcome: Outcome) -> None:
        if outcome.verdict != "SKIP":  # the suite skips, by this word, what needs a feature that is not claimed
            number[0] += 1
            print(f"  [{number[0]:3}/{total}] {outcome.verdict} {name} ({outcome.seconds:.1f} s)", flush=True)

    return told


def _tell_failures(transcript: Transcript, logs: Path) -> None:
    for name in transcript.failed():
        path = logs / "failed" / f"{name}.log"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(transcript.output.get(name, ())) + "\n")
        print(f"  FAIL {name}: {transcript.reason(name)}\n       {path}")
    if not transcript.outcomes:
        print(f"  no test was run: {transcript.reason('')}")


def _judge(
    args: argparse.Namespace, plan: runs.Plan, catalogue: catalogues.Catalogue, claimed: frozenset[str],
    code: int, transcript: Transcript, report_path: Path,
) -> list[str]:  # fmt: skip
    """Print the table and return the faults of the run."""
    faults = [f"the suite ended with exit code {code}"] if code else []
    if plan.tests is not None:
        names = sorted(name for name in plan.tests if name not in transcript.outcomes)
        bad = [name for name in transcript.failed() if name in plan.tests]
        return [*faults, *(f"{n}: did not run" for n in names), *(f"{n}: FAIL" for n in bad)]
    if not report_path.exists():
        return [*faults, "the suite wrote no report"]
    report = reports.Report.parse(report_path.read_text())
    have = claimed if plan.features is None else frozenset(plan.features)
    print("\n" + reports.build_table(report, catalogue, profiles=plan.profiles, claimed=have))
    return faults + reports.find_faults(
        report, transcript.outcomes, catalogue, profiles=plan.profiles, channel=args.channel, claimed=have
    )


def _conform(args: argparse.Namespace) -> int:
    programs = installation.ensure_programs()
    catalogue = catalogues.load(programs["conformance"])
    if args.list:
        return _list(catalogue)
    cluster_id = (args.id or KEPT) if args.keep else places.new_id()
    with _alone(cluster_id):
        return _run(args, programs["conformance"], catalogue, cluster_id)


def _run(args: argparse.Namespace, program: Path, catalogue: catalogues.Catalogue, cluster_id: str) -> int:
    logs = _logs(args, cluster_id)
    began = time.monotonic()
    cluster, installed = _bring_up(args, cluster_id, catalogue.base, logs)
    try:
        claimed = installed.claimed()
        plan = _plan(args, catalogue, claimed)
        have = claimed if plan.features is None else frozenset(plan.features)
        total = len(plan.tests) if plan.tests is not None else len(catalogue.running(plan.profiles, have))
        print(
            f"cluster and Nexus are up after {time.monotonic() - began:.1f} s; {total} tests; logs: {logs}", flush=True
        )
        report_path = logs / "report.yaml"
        who = runs.Identity(args.organization, args.project, args.url, args.version, args.contact)
        argv = runs.build_argv(program, plan, who, report_path)
        code, transcript = runs.run(cluster, argv, logs / "suite.log", _show([0], total))
        faults = _judge(args, plan, catalogue, claimed, code, transcript, report_path)
        if faults:
            installed.save_state(logs / "cluster")
    finally:
        if not args.keep:
            cluster.down()
    print(f"\n{time.monotonic() - began:.0f} s in all")
    if faults:
        _tell_failures(transcript, logs)
        faults = [fault for fault in faults if not fault.endswith(": FAIL")] or ["the tests above failed"]
        print(
            f"{'NOT CONFORMANT' if plan.is_whole else 'FAILED'}, {len(faults)} reasons:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
        )
        print(f"logs: {logs} (suite.log, failed/, cluster/ with objects and the logs of operator and gateways)")
        return 1
    if not plan.is_whole:
        print("passed, and no proof: only a run of everything, with the suite's own waits, is one")
        _tidy(args, logs)
        return 0
    print(f"CONFORMANT: {', '.join(plan.profiles)} on the {args.channel} channel of {catalogue.version}")
    if args.write and set(plan.profiles) == set(catalogues.PROFILES):
        target = REPORTS / catalogue.version / f"{args.channel}-{args.version}-default-report.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(report_path, target)
        page = REPORTS / "README.md"
        page.write_text(reports.replace_index(page.read_text(), written_reports()))
        print(f"report: {target}, listed in {page}")
        _tidy(args, logs)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; return the exit code. What the user can mend is printed without a traceback."""
    args = _parser().parse_args(argv)
    try:
        if args.down:
            cleanup.remove(args.id or KEPT)
            print(f"removed cluster {args.id or KEPT}")
            return 0
        return _conform(args)
    except (
        ClusterError, components.BuildError, preflight.PreflightError, netns.NetnsError, ValueError, TimeoutError,
        subprocess.CalledProcessError,
    ) as err:  # fmt: skip
        print(f"run.py: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
