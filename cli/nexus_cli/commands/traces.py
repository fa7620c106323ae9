"""`nexus traces`."""

from __future__ import annotations

import re
import time
from typing import Any

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
    from nexus_cli.errors import StepFailed, UserError
    from nexus_cli.trees import render_trace

    if trace_id is not None and not re.fullmatch(r"[0-9a-fA-F]{32}", trace_id):
        raise UserError(f"{trace_id!r} is not a trace id. It has 32 hexadecimal digits, as in `traceparent`.")
    try:
        found = _whole(admin, trace_id, last)
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


RECENT_S, QUIET_S, LONGEST_S, POLL_S = 3.0, 0.7, 4.0, 0.1
"""Services export what they did every 0.3 s, and an event is delivered after its request was answered: a trace that
ended less than RECENT_S ago is waited for until nothing was added for QUIET_S, LONGEST_S at most."""


def _whole(admin: str, trace_id: str | None, last: int) -> Any:
    """Return the trace or the traces; recent ones when they are whole. Raises UserError as `admin.get`."""
    began = time.monotonic()
    found = _read(admin, trace_id, last)
    traces = [found] if trace_id else found
    grown_at, size = began, _size(traces)
    while any(_ended_s_ago(trace) < RECENT_S for trace in traces) and time.monotonic() - began < LONGEST_S:
        if time.monotonic() - grown_at >= QUIET_S:
            break
        time.sleep(POLL_S)
        found = _read(admin, trace_id, last)
        traces = [found] if trace_id else found
        if _size(traces) != size:
            grown_at, size = time.monotonic(), _size(traces)
    return found


def _read(admin: str, trace_id: str | None, last: int) -> Any:
    from nexus_cli.admin import get

    if trace_id:
        return get(admin, f"/traces/{trace_id.lower()}")
    return get(admin, "/traces", limit=str(last))["traces"]


def _size(traces: list[Any]) -> list[tuple[Any, Any]]:
    return [(trace.get("trace_id"), trace.get("span_count")) for trace in traces]


def _ended_s_ago(trace: Any) -> float:
    """By the wall clock, which is the gateway's too when it runs here; one elsewhere may make us wait or not, no more."""
    ended_ms = float(trace.get("start_unix_ms", 0.0)) + float(trace.get("duration_ms", 0.0))
    return time.time() - ended_ms / 1000
