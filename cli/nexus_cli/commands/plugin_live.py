"""`nexus plugin top` and `nexus plugin logs`: what plugins do in a gateway that runs. Added to `nexus plugin`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_cli.options import admin_option, output_format, output_option

if TYPE_CHECKING:
    from nexus_cli.plugins.services import Found

TOP_HELP = """Show what plugins cost: calls, failures, times, CPU and memory; those that hold an event loop longest come first.

Numbers are of the last half minute, over all workers of one gateway; a version that is tried beside another is counted in.
A plugin that runs in a service too, an event hub or a GraphQL gateway, has a row for each service, over its instances that are
asked: those that `nexus up` runs (`-f DIR`, by default where you are), and those that `--service` names.
`--once` prints the table once, as does `-o json`.

\b
Examples:
  nexus plugin top
  nexus plugin top --once -o json --admin http://127.0.0.1:8081
  kubectl -n shop port-forward svc/events 8090:80 & nexus plugin top --service http://127.0.0.1:8090

Exit codes: 0 shown, 2 no gateway answers, or a service that `--service` names does not.
"""
LOGS_HELP = """Show what a plugin says, and what the gateway says of it: the last 200 lines, and with --follow those that come.

\b
Examples:
  nexus plugin logs api-key
  nexus plugin logs shop/api-key --follow

Exit codes: 0 shown, 1 there is no such plugin, 2 no gateway answers.
"""
_COLUMNS = ("plugin", "in", "version", "state", "calls/s", "errors/s", "p50", "p99", "CPU", "memory")


@click.command(help=TOP_HELP)
@click.option("--once", is_flag=True, help="Print it once, rather than until Ctrl-C.")
@click.option(
    "--every", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, metavar="SECONDS", help="How often."
)
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="URL",
    help="Of an instance of a service, to be asked too; repeat it.",
)
@click.option(
    "-f", "--file", "directory", type=click.Path(path_type=Path), default=".", metavar="DIR",
    help="Directory that `nexus up` serves: its services are asked. [default: here]",
)  # fmt: skip
@admin_option
@output_option
@click.pass_context
def top(ctx: click.Context, once: bool, every: float, services: tuple[str, ...], directory: Path, admin: str) -> None:
    import sys

    from nexus_cli import output
    from nexus_cli.admin import check_url

    named = tuple(check_url(url, "--service") for url in services)
    as_json = output_format(ctx) == "json"
    found = _read(admin, named, directory)
    if once or as_json or not sys.stdout.isatty():
        output.show_rows(
            _COLUMNS,
            [_texts(row) for row in found.rows],
            as_json=[_values(row) for row in found.rows],
            empty="No plugins run.",
        )
        for each in found.unheard.values():
            click.echo(each, err=True)
        return
    _watch(admin, named, directory, every)


def _watch(admin: str, services: tuple[str, ...], directory: Path, every: float) -> None:
    import time

    from rich.console import Console
    from rich.live import Live

    with Live(_table(_read(admin, services, directory)), console=Console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                live.update(_table(_read(admin, services, directory)), refresh=True)
        except KeyboardInterrupt:
            return


def _read(admin: str, services: tuple[str, ...], directory: Path) -> Found:
    """Return the plugins of a gateway and of services, the costliest first. services: that have to answer. Raises UserError."""
    from nexus_cli.admin import get
    from nexus_cli.errors import UserError
    from nexus_cli.plugins.services import Found, ask, instances_of

    rows: list[dict[str, Any]] = get(admin, "/plugins")["plugins"]
    found = ask((*services, *instances_of(directory)))
    missing = [found.unheard[url] for url in services if url in found.unheard]
    if missing:
        raise UserError(f"{' '.join(missing)} Correct --service, or forward a port to the service.")
    rows = [*rows, *found.rows]
    rows.sort(key=lambda row: (-row.get("cpu_percent", 0.0), -row.get("calls_per_s", 0.0), row["id"], _place(row)))
    return Found(tuple(rows), found.unheard)


def _place(row: dict[str, Any]) -> str:
    return str(row.get("service") or "gateway")


def _table(found: Found) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from nexus_cli.output import STYLES

    caption = "\n".join(found.unheard.values()) or None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", caption=caption)
    for index, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if index < 4 else "right", no_wrap=index != 3)
    for row in found.rows:
        texts = _texts(row)
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in texts))
    return table


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    version = str(row["running_version"] or row["version"])
    candidate = row.get("candidate")
    if candidate is not None:
        version = f"{version} ({candidate['version']} {_TRIED[candidate['state']]})"
    return (
        str(row["id"]),
        _place(row),
        version,
        str(row["state"]),
        f"{row.get('calls_per_s', 0.0):.1f}",
        f"{row.get('errors_per_s', 0.0):.1f}",
        show_seconds(row.get("p50_s", 0.0)),
        show_seconds(row.get("p99_s", 0.0)),
        f"{row.get('cpu_percent', 0.0):.1f} %",
        f"{row.get('memory_bytes', 0) / 2**20:.1f} MB",
    )


_TRIED = {"running": "tried", "passed": "passed", "refused": "refused"}
_SHOWN = (
    "id", "running_version", "state", "calls_per_s", "errors_per_s", "p50_s", "p99_s", "cpu_percent", "memory_bytes", "calls", "errors",
    "candidate", "service",
)  # fmt: skip
"""`service` is null in a gateway's rows."""


def _values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in _SHOWN}


def show_seconds(seconds: float) -> str:
    """Return a duration in the unit that suits it; `-` for none."""
    if not seconds:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.2g} µs"


@click.command(help=LOGS_HELP)
@click.argument("name")
@click.option("-n", "--namespace", metavar="NAME", help="Of the NexusPlugin, if several have the name.")
@click.option("--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@admin_option
@output_option
@click.pass_context
def logs(ctx: click.Context, name: str, namespace: str | None, follow: bool, admin: str) -> None:
    import json

    from nexus_cli.admin import lines

    plugin = _find(name, namespace, admin)
    as_json = output_format(ctx) == "json"
    try:
        for line in lines(admin, f"/plugins/{plugin}/logs", follow=follow):
            if as_json:
                click.echo(json.dumps(line, ensure_ascii=False))
                continue
            if line.get("dropped"):
                click.echo(f"… {line['dropped']} lines are missing: they came faster than they were read")
            worker = f" worker {line['worker']}" if "worker" in line else ""
            # A plugin says what clients send: nothing of it may steer the terminal.
            click.echo(f"{line['at']} {line['level']}{worker} {_printable(str(line['message']))}")
    except KeyboardInterrupt:
        return


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text)


def _find(name: str, namespace: str | None, admin: str) -> str:
    """Return the id of a plugin that runs. name: or its id."""
    from nexus_cli.admin import get
    from nexus_cli.errors import StepFailed, UserError

    known = [str(row["id"]) for row in get(admin, "/plugins")["plugins"]]
    wanted = name if "/" in name else None
    found = [
        each
        for each in known
        if each == wanted
        or (wanted is None and each.partition("/")[2] == name and namespace in (None, each.partition("/")[0]))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"Several namespaces have {name}: {', '.join(found)}. Choose with -n.")
    raise StepFailed(f"No plugin {name!r} runs in the gateway at {admin}. Those that do: {', '.join(known) or 'none'}.")
