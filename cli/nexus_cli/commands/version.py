"""`nexus version`."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from nexus_cli.options import output_format, output_option


@click.command(help="Print the versions of Nexus and of its interfaces.\n\n\b\nExample:\n  nexus version -o json")
@output_option
@click.pass_context
def version(ctx: click.Context) -> None:
    from nexus_core.hooks.http import API_VERSION

    from nexus_cli import output

    rows = [
        ("nexus", metadata.version("nexus-gateway-platform")),
        ("manifests", "nexus.dev/v1alpha1"),
        ("plugin API", API_VERSION),
        ("python", platform.python_version()),
    ]
    made = {output.key(name): value for name, value in rows}
    output.show_rows(("what", "version"), rows, as_json=made) if output_format(ctx) == "json" else output.show_rows(
        ("what", "version"), rows
    )
