"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import click

Function = TypeVar("Function", bound=Callable[..., Any])
Format = Literal["table", "json"]
_KEY = "nexus.output"

DEFAULT_GATEWAY = "http://127.0.0.1:8080"
DEFAULT_ADMIN = "http://127.0.0.1:8081"


def _remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.find_root().meta[_KEY] = value


def output_option(function: Function) -> Function:
    """Add `-o`; it may stand before or after the command's name, the last one wins. Read it with `output_format`."""
    decorate = click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default=None,
        expose_value=False,
        callback=_remember,
        help="How results are printed: a table for people (default) or JSON for programs.",
    )
    return decorate(function)


def output_format(ctx: click.Context | None = None) -> Format:
    """Return what `-o` says, else `table`."""
    context = ctx or click.get_current_context()
    return cast("Format", context.find_root().meta.get(_KEY, "table"))


def admin_option(function: Function) -> Function:
    """Add `--admin URL`, of a gateway's admin API."""
    return click.option(
        "--admin", default=DEFAULT_ADMIN, show_default=True, metavar="URL", help="Admin API of a running gateway."
    )(function)
