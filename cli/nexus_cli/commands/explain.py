"""`nexus explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nexus_cli.options import DEFAULT_ADMIN, output_format, output_option

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")

HELP = """Say where a request goes and why, or what an error reason means.

METHOD URL asks the gateway at --admin, or with -f the manifests themselves, without sending the request.
REASON is what a condition or `nexus validate` printed, such as PathConflict.

\b
Examples:
  nexus explain POST http://127.0.0.1:8080/orders
  nexus explain GET /catalog/items -f examples/shop
  nexus explain PathConflict

Exit codes: 0 explained, 1 no route takes the request or no such reason, 2 not usable as given.
"""


@click.command(help=HELP)
@click.argument("what", metavar="METHOD|REASON")
@click.argument("url", required=False)
@click.option(
    "-f", "--filename", "paths", multiple=True, type=click.Path(path_type=Path), metavar="PATH", help="Manifests."
)
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the request.")
@click.option(
    "--admin", default=DEFAULT_ADMIN, show_default=True, metavar="URL", help="Admin API of a running gateway."
)
@output_option
@click.pass_context
def explain(
    ctx: click.Context, what: str, url: str | None, paths: tuple[Path, ...], headers: tuple[str, ...], admin: str
) -> int:
    from nexus_cli import output
    from nexus_cli.errors import UserError

    if url is None:
        return _explain_reason(what, as_json=output_format(ctx) == "json")
    if what.upper() not in METHODS:
        raise UserError(f"{what!r} is not a method. Write `nexus explain GET {url}`.")
    for line in headers:
        if ":" not in line:
            raise UserError(f"--header {line!r} is not 'NAME: VALUE'.")
    found = _offline(what.upper(), url, headers, paths) if paths else _online(what.upper(), url, headers, admin)
    if output_format(ctx) == "json":
        output.show_json(found)
    else:
        click.echo(render(found))
    return 0 if found["route"] else 1


def _online(method: str, url: str, headers: tuple[str, ...], admin: str) -> dict[str, Any]:
    from urllib.parse import urlencode

    from nexus_cli.admin import get

    query = urlencode([("method", method), ("url", url), *(("header", line) for line in headers)])
    found: dict[str, Any] = get(admin, f"/explain?{query}")
    return found


def _offline(method: str, url: str, headers: tuple[str, ...], paths: tuple[Path, ...]) -> dict[str, Any]:
    from nexus_cli import manifests, output
    from nexus_cli.offline import explain_request, translate

    loaded = manifests.load(paths)
    translation = translate(loaded)
    if translation.problems:
        output.note(
            f"The manifests have {len(translation.problems)} problem(s), which may be why; see `nexus validate`."
        )
    return explain_request(translation.snapshot, method, url, headers)


def render(found: dict[str, Any]) -> str:
    """Return the answer of the admin API's /explain for people."""
    request = found["request"]
    shown = f"{request['method']} {request['host'] or '(any host)'}{request['path']}"
    if not found["route"]:
        lines = [f"{shown}: no route takes it. The gateway answers 404."]
    else:
        lines = [f"{shown} goes to {found['route']} (rule {found['rule']}).", f"  why       {found['why']}"]
        for plugin in found["plugins"]:
            lines.append(f"  plugin    {plugin['id']} {plugin.get('version', '')} {plugin.get('state', '')}".rstrip())
        for each in found.get("filters", []):
            lines.append("  filter    " + ", ".join(f"{k}={v}" for k, v in each.items()))
        for row in found["upstreams"]:
            lines.append(
                f"  upstream  {row['upstream'] or '(not found: its share is answered 500)'} weight {row['weight']}"
            )
            for endpoint in row.get("endpoints", []):
                lines.append(
                    f"    endpoint  {endpoint['endpoint']}, circuit {endpoint['circuit']}, {endpoint['active']} active"
                )
            if row.get("found") and "endpoints" in row and not row["endpoints"]:
                lines.append("    no endpoint is healthy now: requests are answered 503")
    others = found.get("others", [])[:8]
    if others:
        lines.append("  others")
        lines.extend(f"    {other['route']}: {other['why']}" for other in others)
    return "\n".join(lines)


def _explain_reason(reason: str, *, as_json: bool) -> int:
    import difflib

    from nexus_core.problems.catalogue import REASONS

    from nexus_cli import output
    from nexus_cli.errors import StepFailed
    from nexus_cli.pages import page_of

    info = REASONS.get(reason)
    if info is None:
        near = difflib.get_close_matches(reason, REASONS, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(sorted(REASONS))}."
        raise StepFailed(f"There is no reason {reason!r}.{hint} For a request, write METHOD and URL.")
    if as_json:
        output.show_json(
            {"reason": reason, "condition": info.condition, "summary": info.summary, "page": page_of(reason)}
        )
        return 0
    click.echo(f"{reason}: {info.summary}\nCondition: {info.condition}\nPage: {page_of(reason)}")
    return 0
