"""`nexus tour`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_cli.options import DEFAULT_ADMIN, DEFAULT_GATEWAY, output_format, output_option

if TYPE_CHECKING:
    from nexus_cli.plugins.homes import Home

HELP = """Walk the journey of the example shop against a running system and check each step.

On a laptop: start `nexus up examples/shop` first. On a cluster: name its gateway, where its traces are, and how to reach
the API server; the plugin is then switched in the cluster.

\b
Examples:
  nexus tour
  nexus tour --gateway http://127.0.0.1:9000 --admin http://127.0.0.1:9001
  nexus tour --gateway http://10.0.0.7 --jaeger http://10.0.0.8:16686 --context my-cluster

Exit codes: 0 every step showed what it should, 1 one did not, 2 not usable as given.
"""


@click.command(help=HELP)
@click.option("--gateway", default=DEFAULT_GATEWAY, show_default=True, metavar="URL", help="The gateway.")
@click.option("--admin", default=DEFAULT_ADMIN, show_default=True, metavar="URL", help="Its admin API, for the trace.")
@click.option("--jaeger", default=None, metavar="URL", help="Jaeger's query API, where traces are sent there.")
@click.option(
    "-f",
    "--filename",
    "path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The manifests that are running, for switching the plugin. [default: examples/shop]",
)
@click.option("--kubeconfig", metavar="FILE", help="The cluster it runs in, instead of -f.")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
@click.option(
    "--api-key", default="shop-demo-key", show_default=True, metavar="KEY", help="Key that the api-key plugin takes."
)
@output_option
@click.pass_context
def tour(
    ctx: click.Context,
    gateway: str,
    admin: str,
    jaeger: str | None,
    path: Path | None,
    kubeconfig: str | None,
    context: str | None,
    api_key: str,
) -> int:
    from nexus_cli.admin import check_url

    gateway, admin = check_url(gateway, "--gateway"), check_url(admin, "--admin")
    jaeger = check_url(jaeger, "--jaeger") if jaeger else None
    home = _home(path, kubeconfig, context)
    as_json = output_format(ctx) == "json"
    return asyncio.run(_walk(gateway, admin, jaeger, home, api_key, as_json=as_json))


def _home(path: Path | None, kubeconfig: str | None, context: str | None) -> Home | None:
    from nexus_cli.errors import UserError
    from nexus_cli.plugins.homes import ClusterHome, FilesHome

    if kubeconfig or context:
        if path is not None:
            raise UserError("-f names manifests and --kubeconfig a cluster. Give one of them.")
        return ClusterHome(kubeconfig, context)
    if path is not None and not path.exists():
        raise UserError(f"{path} does not exist. Name the directory that `nexus up` runs.")
    path = path or Path("examples/shop")
    return FilesHome(path) if path.exists() else None


async def _walk(gateway: str, admin: str, jaeger: str | None, home: Home | None, api_key: str, *, as_json: bool) -> int:
    import aiohttp

    from nexus_cli import output
    from nexus_cli.tour import traces
    from nexus_cli.tour.steps import STEPS
    from nexus_cli.tour.world import StepError, World

    told: list[dict[str, Any]] = []
    failed = False
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        reader = traces.from_jaeger(session, jaeger) if jaeger else traces.from_admin(session, admin)
        world = World(session, gateway, reader, home, api_key)
        try:
            for number, step in enumerate(STEPS, start=1):
                began = time.monotonic()
                entry: dict[str, Any] = {"step": number, "title": step.title, "ok": True}
                try:
                    seen = await step.walk(world)
                    entry.update(request=seen.request, result=seen.result, detail=seen.detail)
                except StepError as error:
                    failed = True
                    entry.update(ok=False, request="", result=str(error), detail="")
                entry["ms"] = round((time.monotonic() - began) * 1000, 1)
                told.append(entry)
                if not as_json:
                    _show(entry, len(STEPS))
                if failed:
                    break  # later steps need what this one should have given
        finally:
            if "listener" in world.found:
                await world.found["listener"].close()
    if as_json:
        output.show_json({"ok": not failed, "gateway": gateway, "steps": told})
    elif failed:
        output.note(f"\nThe tour ended at step {len(told)} of {len(STEPS)}.")
    else:
        click.echo(f"\nAll {len(STEPS)} steps showed what they should.")
    return 1 if failed else 0


def _show(entry: dict[str, Any], total: int) -> None:
    mark = (
        ("✓" if entry["ok"] else "✗")
        if (sys.stdout.encoding or "").lower().startswith("utf")
        else ("ok" if entry["ok"] else "FAILED")
    )
    styled = click.style(mark, fg="green" if entry["ok"] else "red", bold=True)
    click.echo(
        f"\n{styled} {entry['step']}/{total} "
        + click.style(str(entry["title"]), bold=True)
        + f"  ({entry['ms']:.0f} ms)"
    )
    if entry["request"]:
        click.echo(f"    {entry['request']}")
    click.echo(f"    → {entry['result']}")
    for line in str(entry["detail"]).splitlines():
        click.echo(f"      {line}")
