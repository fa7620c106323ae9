"""Writes docs/reference/cli.md from the commands themselves: `python -m nexus_cli.reference FILE [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from nexus_cli.app import cli

HEAD = """# The `nexus` command

<!-- Generated from the commands by `make generate`. Do not edit. -->

- `-o json` works with every command, before or after its name: results go to stdout as JSON, everything else to stderr.
- Tables are coloured on a terminal and plain in a pipe.
- Every option can be set by the environment variable beside it; the command line wins.
- Exit codes: **0** all is well, **1** problems were found or a step failed, **2** the command was not usable as given.
  A mistake is one line on stderr that says what, where and how to fix it.
"""


def render() -> str:
    """Return the page."""
    context = click.Context(cli, info_name="nexus", auto_envvar_prefix="NEXUS")
    parts = [HEAD]
    for command, ctx in _walk(cli, context):
        parts.append(_section(command, ctx))
    return "\n".join(parts)


def _walk(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    if command is not cli:
        yield command, ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield from _walk(found, click.Context(found, info_name=name, parent=ctx))


def _section(command: click.Command, ctx: click.Context) -> str:
    lines = [f"## `{ctx.command_path}`", "", *_prose(command.help or "")]
    pieces = " ".join(command.collect_usage_pieces(ctx))
    lines += ["```", f"{ctx.command_path} {pieces}", "```", ""]
    options = [p for p in command.params if isinstance(p, click.Option) and p.name != "output"]
    if options:
        lines += ["| option | environment | meaning |", "|---|---|---|"]
        for option in options:
            metavar = "" if option.is_flag else f" {option.make_metavar(ctx)}"
            names = ", ".join(option.opts) + metavar
            meaning = (option.help or "").replace("|", "\\|")
            if option.show_default and option.default is not None:
                meaning += f" Default: `{option.default}`."
            variable = ctx.auto_envvar_prefix and f"{ctx.auto_envvar_prefix}_{(option.name or '').upper()}"
            lines.append(f"| `{names}` | `{variable}` | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _prose(text: str) -> Iterator[str]:
    """Return a help text as Markdown: what stands below a backspace is a block that keeps its lines."""
    for block in text.strip().split("\n\n"):
        if block.startswith("\b"):
            title, *rest = block.removeprefix("\b").strip("\n").split("\n")
            yield from (title, "", "```sh", *(line.removeprefix("  ") for line in rest), "```", "")
        else:
            yield from (" ".join(block.split()), "")


def main(argv: list[str]) -> int:
    """Write the file, or with --check say whether it is as it should be."""
    path, text = Path(argv[0]), render()
    if "--check" in argv:
        return 0 if path.exists() and path.read_text() == text else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
