"""Prints results: JSON, a Rich table on a terminal, aligned plain text in a pipe. Results go to stdout, the rest to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from nexus_cli.options import output_format

Row = Sequence[object]


def show_json(value: Any) -> None:
    """Print a value as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def show_rows(columns: Sequence[str], rows: Sequence[Row], *, as_json: Any = None, empty: str = "") -> None:
    """Print rows under columns. as_json: printed instead with `-o json`; None makes objects of the rows.

    empty: the line that says there are none.
    """
    if output_format() == "json":
        made = [dict(zip((key(c) for c in columns), row, strict=True)) for row in rows]
        show_json(made if as_json is None else as_json)
    elif not rows and empty:
        sys.stdout.write(empty + "\n")
    else:
        sys.stdout.write(render_rows(columns, rows, rich=sys.stdout.isatty()))
        sys.stdout.flush()


def key(column: str) -> str:
    """Return a column's title as a JSON key: `Why not` → `whyNot`."""
    first, *rest = column.lower().split()
    return first + "".join(word.capitalize() for word in rest)


def render_rows(columns: Sequence[str], rows: Sequence[Row], *, rich: bool) -> str:
    """Return the table as text that ends with a newline."""
    texts = [[_text(cell) for cell in row] for row in rows]
    if not rich:
        widths = [max(len(line[i]) for line in ([*columns], *texts)) for i in range(len(columns))]
        lines = ([c.upper() for c in columns], *texts)
        return "".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
        )
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in texts:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in line))
    console = Console(file=sys.stdout)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


STYLES = {
    "ready": "green", "ok": "green", "loaded": "green", "yes": "green", "starting": "yellow", "restarting": "yellow",
    "unhealthy": "red", "crash loop": "red", "failed": "red", "no": "dim", "disabled": "dim", "not run here": "dim",
}  # fmt: skip
"""Cells with a meaning, in a terminal's colours."""


def _text(cell: object) -> str:
    if cell is None:
        return ""
    return str(cell).replace("\n", " ")


def note(text: str) -> None:
    """Print a line for people, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
