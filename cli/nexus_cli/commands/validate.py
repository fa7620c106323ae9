"""`nexus validate`."""

from __future__ import annotations

from pathlib import Path

import click

from nexus_cli.options import output_format, output_option

HELP = """Check manifests and say what is wrong with each, where, and how to mend it.

PATHs are files or directories. What would only show when manifests meet (two services on one path, a policy for a
service that is not there) is found too, among all that is named. Configurations of plugins are held against the schemas of their
releases, of plugins that ship with Nexus and of marketplaces whose index `nexus up` has read for these manifests.

\b
Examples:
  nexus validate examples/shop
  nexus validate orders.yaml policies.yaml -o json

Plugins are not run: those that have or may have hooks on manifests are named.
A field of the Gateway API that Nexus does not implement, and that the object works without, is a warning.

Exit codes: 0 all is well but for warnings, 1 problems found, 2 a path cannot be read.
"""


@click.command(help=HELP)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option
@click.pass_context
def validate(ctx: click.Context, paths: tuple[Path, ...]) -> int:
    from nexus_core.problems import sort_problems
    from nexus_core.problems.catalogue import REMARKS

    from nexus_cli import manifests, output
    from nexus_cli.offline import find_unasked, translate
    from nexus_cli.pages import page_of
    from nexus_cli.plugins.configs import cache_beside, find_wrong

    loaded = manifests.load(paths)
    translation = translate(loaded, caches=[cache_beside(path) for path in paths])
    problems = sort_problems([*translation.problems, *find_wrong(loaded, translation.snapshot)])
    unasked = find_unasked(loaded, translation)
    if unasked:
        output.note(
            f"Not run: hooks on manifests (on_manifest), which may change or refuse objects of their namespaces, of {', '.join(unasked)}. "
            "The operator, `nexus up` and `nexus gateway -f` run them."
        )
    errors = sum(problem.reason not in REMARKS for problem in problems)
    warnings = len(problems) - errors
    if output_format(ctx) == "json":
        output.show_json(
            {
                "objects": len(loaded.resources),
                "problems": [
                    {
                        "file": str(loaded.origin(p.where) or (p.where.name if p.where.kind == "File" else "")),
                        "object": str(p.where),
                        "path": p.path,
                        "reason": p.reason,
                        "severity": "warning" if p.reason in REMARKS else "error",
                        "what": p.what,
                        "fix": p.fix,
                        "page": page_of(p.reason),
                    }
                    for p in problems
                ],
            }
        )
    elif problems:
        # In a File's problem the object is the file.
        rows = [
            ((loaded.origin(p.where) or p.where.name, "", "") if p.where.kind == "File" else
             (loaded.origin(p.where) or "", p.where, p.path))
            + (p.what, p.fix, f"{p.reason} (warning)" if p.reason in REMARKS else p.reason)
            for p in problems
        ]  # fmt: skip
        output.show_rows(("file", "object", "path", "what", "fix", "reason"), rows)
        found = ", ".join(f"{n} {what}(s)" for n, what in ((errors, "problem"), (warnings, "warning")) if n)
        output.note(f"{found} in {len(loaded.resources)} objects. `nexus explain REASON` says more.")
    else:
        output.note(f"{len(loaded.resources)} objects in {len(loaded.files)} files: no problems.")
    return 1 if errors else 0
