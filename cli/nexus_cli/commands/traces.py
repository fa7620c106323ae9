"""`nexus traces`."""

from __future__ import annotations

import re

import click

from nexus_cli.options import admin_option, output_format, output_option

HELP = """Show the last traces a gateway keeps in memory, newest first, as trees.

A gateway started by `nexus up` without --otlp keeps them; with --otlp they are in Jaeger.

\b
Examples:
  nexus traces --last 3
  nexus traces 4bf92f3577b34da6a3ce929d0e0e4736

Exit codes: 0 shown, 1 there is no such trace, 2 no gateway answers.
"""


@click.command(help=HELP)
@click.argument("trace_id", metavar="[ID]", required=False)
@click.option("--last", type=click.IntRange(1, 200), default=5, show_default=True, help="How many.")
@admin_option
@output_option
@click.pass_context
def traces(ctx: click.Context, trace_id: str | None, last: int, admin: str) -> int:
    from nexus_cli import output
    from nexus_cli.admin import get
    from nexus_cli.errors import StepFailed, UserError
    from nexus_cli.trees import render_trace

    if trace_id is not None and not re.fullmatch(r"[0-9a-fA-F]{32}", trace_id):
        raise UserError(f"{trace_id!r} is not a trace id. It has 32 hexadecimal digits, as in `traceparent`.")
    try:
        found = (
            get(admin, f"/traces/{trace_id.lower()}") if trace_id else get(admin, "/traces", limit=str(last))["traces"]
        )
    except UserError as error:
        if " answered 404" not in str(error):
            raise
        missing = (
            "has no such trace in memory" if trace_id else "keeps no traces in memory; they are where --otlp sent them"
        )
        raise StepFailed(f"The gateway at {admin} {missing}.") from error
    if output_format(ctx) == "json":
        output.show_json(found)
        return 0
    listed = [found] if trace_id else found
    if not listed:
        output.note("No traces yet. Send a request through the gateway first.")
    for trace in listed:
        click.echo(render_trace(trace) + "\n")
    return 0
